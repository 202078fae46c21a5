"""Learning rates of the stages of a continual study, and what of them cannot work."""

import dataclasses
from collections.abc import Sequence

from experiments.continual_spec import TRUNKS, Spec, Stage, warmup_steps
from llm_dynamics.errors import UserError
from llm_dynamics.optim.schedules import ScheduleConfig, make_schedule

COOLDOWN = 0.6  # of the steps of a trunk, from the peak to its constant rate (Ibrahim et al. 2024)
ANNEAL = 0.15  # of the last stage from a trunk


def trunk_schedule(spec: Spec, kind: str, steps: int) -> ScheduleConfig:
    """Of the stage that later ones of `kind` go on from: it ends in its constant phase."""
    first = spec.base.optim.schedule
    return dataclasses.replace(
        first,
        kind=TRUNKS[kind],
        warmup=first.warmup or warmup_steps(spec, steps),
        cooldown=0 if kind == "wsd" else round(COOLDOWN * steps),
        decay=0,
        cycles=(),
        phases=(),
    )


def branch_schedule(
    spec: Spec, kind: str, steps: int, peak: float = 1.0, anneal: bool = True
) -> ScheduleConfig:
    """Of a stage that goes on from such a trunk, at its rate."""
    first = spec.base.optim.schedule
    rate = 1.0 if kind == "wsd" else first.constant
    if not anneal:
        return ScheduleConfig("constant", first.peak * peak * rate)
    last = max(1, round(ANNEAL * steps))
    shape = "linear" if kind == "wsd" else "exponential"
    return ScheduleConfig(
        "piecewise",
        first.peak * peak,
        phases=(f"constant:{steps - last}:{rate}", f"{shape}:{last}:{first.floor}"),
    )


def second_schedule(spec: Spec, kind: str, steps: int, peak: float) -> ScheduleConfig:
    """Of a second stage of so many steps; `peak` is a fraction of that of the first stage.

    Raises:
      UserError: it would train at a rate of 0.
    """
    first = spec.base.optim.schedule
    if kind in TRUNKS:
        return branch_schedule(spec, kind, steps, peak)
    if kind == "floor":
        if not first.floor:
            raise UserError(
                "floor trains the second stage at the floor of the first, and "
                "base.optim.schedule.floor is 0: nothing would be learned; raise it, or leave "
                "floor out of schedules and baselines"
            )
        return ScheduleConfig("constant", first.peak * first.floor)
    shape = "cosine" if kind == "rewarm" else "constant"
    return ScheduleConfig(shape, first.peak * peak, warmup_steps(spec, steps), floor=first.floor)


def check(planned: Sequence[Stage]) -> None:
    """Refuses whatever cannot work in any stage, before any of them trains.

    Raises:
      UserError: two runs of one name, or learning rates that cannot be; it says of which run.
    """
    names = [stage.name for stage in planned]
    for stage in planned:
        if names.count(stage.name) > 1:
            raise UserError(f"two runs would be named {stage.name}; name the shifts otherwise")
        try:
            make_schedule(stage.spec.optim.schedule, stage.spec.train.steps)
        except UserError as error:
            raise UserError(f"the run {stage.name} cannot be trained: {error}") from None
