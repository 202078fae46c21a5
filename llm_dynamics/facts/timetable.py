"""When each fact is met, and how long after an encounter its maximum is sought."""

import math
from collections.abc import Mapping, Sequence

from llm_dynamics.errors import UserError
from llm_dynamics.facts.arms import MOST_STEPS, Arm, FactsConfig
from llm_dynamics.facts.draws import shuffled
from llm_dynamics.facts.facts import Fact

REMAINDER = 0.0052  # share of the first moment left when a window ends: 0.9^50 (footnote 2)


def schedule(config: FactsConfig) -> dict[str, tuple[int, ...]]:
    """The updates at which each arm meets its facts.

    Empty for the control, and for arms whose facts have times of their own (`timetable`).
    """
    return {
        arm.name: _regular(arm) if arm.injected and not arm.per_fact else ()
        for arm in config.treatments
    }


def timetable(
    facts: Sequence[Fact], arms: Mapping[str, str], config: FactsConfig
) -> dict[str, tuple[int, ...]]:
    """The updates at which each fact is met, by its name; empty for the control."""
    treatments = {arm.name: arm for arm in config.treatments}
    ranks = dict.fromkeys(treatments, 0)
    times = {}
    for fact in facts:
        arm = treatments[arms[fact.name]]
        ranks[arm.name] += 1
        if not arm.injected:
            times[fact.name] = ()
        elif arm.per_fact:
            times[fact.name] = _drawn(arm, ranks[arm.name], config.seed, fact.name)
        else:
            times[fact.name] = _regular(arm)
    return times


def _regular(arm: Arm) -> tuple[int, ...]:
    ratio = arm.ratio if arm.spacing == "geometric" else 1.0
    times, at = [], float(arm.start)
    for i in range(arm.encounters):
        if at > MOST_STEPS:
            raise UserError(
                f"expected the {arm.encounters} encounters of arm {arm.name} within {MOST_STEPS:,} "
                f"updates, got number {i + 1} beyond; lower its encounters, interval or ratio"
            )
        times.append(round(at))
        at += arm.interval * ratio**i
    return tuple(times)


def _drawn(arm: Arm, rank: int, seed: int, fact: str) -> tuple[int, ...]:
    """Different updates from the span of the fixed schedule, the same for the same fact."""
    span = range(arm.start, arm.start + arm.interval * arm.encounters)
    count = arm.encounters
    if arm.spacing == "zipf":
        count = max(1, round(arm.encounters / rank**arm.exponent))
    return tuple(sorted(shuffled(span, seed, "times", fact)[:count]))


def last_encounter(config: FactsConfig) -> int:
    """The last update at which any fact can be met."""
    return max(
        arm.start + arm.interval * arm.encounters - 1 if arm.per_fact else _regular(arm)[-1]
        for arm in config.treatments
        if arm.injected
    )


def window_from_beta1(beta1: float) -> int:
    """The smallest t >= 1 with beta1^t <= 0.0052: how long an update echoes in Adam's momentum.

    0.9 gives 50 as published (footnotes 2 and 3: 1 without momentum).
    """
    if not 0 <= beta1 < 1:
        raise UserError(f"expected beta1 in [0, 1), got {beta1}")
    if beta1 <= REMAINDER:
        return 1
    return math.ceil(math.log(REMAINDER) / math.log(beta1))


def resolve_window(config: FactsConfig, beta1: float) -> int:
    """The window in steps: as given, else from `beta1`, but never beyond the next encounter.

    One window for all arms, so that their maxima are taken over as many values; where facts have
    times of their own, the measures end a window at the next encounter.
    """
    window = config.window or window_from_beta1(beta1)
    gaps = [
        arm.interval
        for arm in config.treatments
        if arm.injected and not arm.per_fact and arm.encounters > 1
    ]
    return min([window, *gaps])


def check_schedule(config: FactsConfig, steps: int, beta1: float = 0.9) -> None:
    """Refuses a schedule whose last maximum cannot be seen within a run of `steps` updates.

    Raises:
      UserError: with the numbers.
    """
    window, last = resolve_window(config, beta1), last_encounter(config)
    if last + window > steps:
        raise UserError(
            f"expected the last encounter and its window to fit into {steps} steps, got update "
            f"{last} + {window} = {last + window}; lengthen the run or lower facts.encounters, "
            f"facts.interval ({config.interval}) or facts.start ({config.start}), or those of "
            "the arm"
        )
