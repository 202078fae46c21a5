"""What Ibrahim et al. 2024 (arXiv:2403.08763) lead one to expect of an arm, shown here or not.

Each expectation is a range for a number of which there is an interval over seeds: it is shown where
the whole interval lies in the range, the contrary where none of it does. One at a time, at 95 %.
"""

import itertools
import math
from collections.abc import Mapping

from llm_dynamics.continual.measures import DEFINITIONS, NATS, adaptation, average, forgetting
from llm_dynamics.continual.stage_log import Arm
from llm_dynamics.results import Row
from llm_dynamics.seeds import PerSeed, ratio_row, seed_row

SHOWN, CONTRARY, NOT_SHOWN = "shown", "the contrary is shown", "not shown"
LITTLE = 0.01  # of replay that removes half of the forgetting
RECIPES = (0.05, 0.25)  # of replay, re-warmed: chosen for the weak and for the strong shift
NEAR, COST = 0.01, 0.5  # of the union's average loss, and at most so much of its tokens


def expected_rows(
    shift: str,
    arms: Mapping[str, Arm],
    replayed: Mapping[float, str],
    peaks: Mapping[float, str],
    union: str = "union",
) -> list[Row]:
    """A row SHIFT/expected/WHAT for each expectation that the arms can be asked for.

    The note of a row begins with the verdict.

    Args:
      shift: the name.
      arms: variant -> arm; the old data set first.
      replayed: share -> variant of the re-warmed stage that replays so much.
      peaks: peak, of that of the first stage -> variant of the re-warmed stage without replay.
      union: the variant that was trained on old and new data at the cost of both stages.
    """
    rows = []
    if {0.0, LITTLE} <= set(replayed):
        rows.append(_removes(shift, arms[replayed[0.0]], arms[replayed[LITTLE]]))
    ladder = sorted(peaks)
    for low, high in itertools.pairwise(ladder):
        rows += _higher(shift, (low, high), arms[peaks[low]], arms[peaks[high]])
    for share in RECIPES:
        if share in replayed and union in arms:
            rows.append(_near_union(shift, share, arms[replayed[share]], arms[union]))
    return rows


def verdict_of(row: Row) -> str:
    """SHOWN, CONTRARY or NOT_SHOWN."""
    return next(word for word in (CONTRARY, NOT_SHOWN, SHOWN) if row["note"].startswith(word))


def judge(row: Row, low: float = -math.inf, high: float = math.inf, cost: str = "") -> Row:
    """The row, its note beginning with whether its value is shown to lie in low .. high.

    Args:
      row: with its interval.
      low, high: the range that is expected.
      cost: why the expectation fails whatever the value, if it does.
    """
    if row["low"] is None:
        found = NOT_SHOWN
    elif cost or row["high"] < low or row["low"] > high:
        found = CONTRARY
    elif low < row["low"] and row["high"] < high:
        found = SHOWN
    else:
        found = NOT_SHOWN
    return {**row, "note": "; ".join(filter(None, (found, cost, row["note"])))}


def _removes(shift: str, plain: Arm, little: Arm) -> Row:
    old = plain.datasets[0]
    without, kept = (forgetting(arm.matrix, old) for arm in (plain, little))
    row = ratio_row(
        f"{shift}/expected/replay_{LITTLE:g}_removes_half",
        without - kept,
        without,
        "1",
        f"{DEFINITIONS['replay_removes']}, at {LITTLE:.0%} of replay; expected: at least 0.5",
        "forgetting without replay is not shown to differ from 0",
    )
    return judge(row, low=0.5)


def _higher(shift: str, peaks: tuple[float, float], lower: Arm, higher: Arm) -> list[Row]:
    name = f"{shift}/expected/peak_{peaks[1]:g}_over_{peaks[0]:g}"
    words = f"at a peak of {peaks[1]:g} of the first stage's less that at {peaks[0]:g}, no replay"
    old = lower.datasets[0]
    learned = adaptation(higher.matrix) - adaptation(lower.matrix)
    lost = forgetting(higher.matrix, old) - forgetting(lower.matrix, old)
    rows = []
    for what, found, side, range_of in (
        ("adapts_more", learned, "adaptation", {"high": 0.0}),
        ("forgets_more", lost, "forgetting", {"low": 0.0}),
    ):
        end = "below" if "high" in range_of else "above"
        definition = f"{side} {words} ({DEFINITIONS[side]}); expected: {end} 0"
        row = seed_row(f"{name}_{what}", found, NATS, definition, contrast=False)
        rows.append(judge(row, **range_of))
    return rows


def _near_union(shift: str, share: float, arm: Arm, union: Arm) -> Row:
    final = {seed: float(log.losses_SxZ[-1].mean()) for seed, log in union.runs.items()}
    ratio = average(arm.matrix).paired(PerSeed(final), lambda a, b: a / b - 1)
    cost = arm.tokens[-1] / union.tokens[-1]
    row = seed_row(
        f"{shift}/expected/recipe_replay_{share:g}_near_union",
        ratio,
        "1",
        f"average loss, re-warmed with {share:.0%} of replay, over that of the union run at total "
        f"compute, less 1; the stage costs {cost:.1%} of that run's tokens; expected: at most "
        f"{NEAR:g} at no more than {COST:.0%} of the tokens",
        contrast=False,
    )
    dear = f"it costs {cost:.1%} of the union's tokens" if cost > COST else ""
    return judge(row, high=NEAR, cost=dear)
