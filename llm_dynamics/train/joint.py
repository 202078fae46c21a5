"""Where a run's learning rate goes on from another run's: their past compared, the joint shown."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.optim.schedules import ScheduleConfig, make_schedule
from llm_dynamics.train.config import RunSpec

_log = logging.getLogger(__name__)

_AROUND = 3  # updates shown on each side of a joint
_SAME = 1e-5  # of the highest rate: what rounding in another order of phases may differ by
_NONE = "–"


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A schedule over its own steps, 0 .. end; 0 = none was followed (an imported model)."""

    config: ScheduleConfig
    end: int

    def rates(self, count: int) -> np.ndarray:
        """The rates of its first `count` steps."""
        if not count:
            return np.zeros(0)
        whole = make_schedule(dataclasses.replace(self.config, horizon=0), self.end)
        return np.asarray(whole(jnp.arange(count)))


def saved(meta: Mapping[str, Any]) -> Schedule:
    """The schedule that the run of a checkpoint followed.

    Args:
      meta: of the checkpoint, see `start.record`.
    """
    _, end = meta.get("schedule", (0, meta["spec"]["train"]["steps"]))
    return Schedule(specs.from_json(ScheduleConfig, meta["spec"]["optim"]["schedule"]), end)


def asked(spec: RunSpec, end: int) -> Schedule:
    """The schedule that a run follows, which goes on to `end` or begins anew."""
    config = spec.optim.schedule
    goes_on = end and spec.train.start.continue_schedule
    return Schedule(config, config.horizon or (end if goes_on else spec.train.steps))


def check(where: str, meta: Mapping[str, Any], first: int, spec: RunSpec) -> None:
    """Refuses a run that goes on in a schedule whose past is not the one it had.

    Steps 0 .. first - 1 of the schedule are past: the rates of the run's schedule there have to be
    those of the schedule that the checkpoint's run followed. So does the rate at step `first`, the
    run's first update, unless the saved schedule ended there and says nothing of it. What comes
    later may differ: that is how an anneal branches off.

    Args:
      where: the checkpoint, in words.
      meta: its metadata.
      first: the schedule's step after it.
      spec: the run.

    Raises:
      UserError: with the two rates at the steps that matter; where the run says that it takes the
        jump (`train.start.changed_schedule`) they are logged.
    """
    if not first:
        return
    old = saved(meta)
    new = asked(spec, old.end)
    known = min(first + 1, old.end)
    old_S, new_S = old.rates(min(first + 2, old.end)), new.rates(first + 2)
    differs_S = np.abs(old_S[:known] - new_S[:known]) > _SAME * max(old_S.max(), new_S.max())
    if not differs_S.any():
        return
    steps = {int(differs_S.argmax()), *range(max(first - 2, 0), first + 2)}
    rows = [f"  {'step':<10}{'saved':<13}asked"]
    for step in sorted(steps):
        there = f"{old_S[step]:.6g}" if step < len(old_S) else _NONE
        rows.append(f"  {step:<10}{there:<13}{new_S[step]:.6g}")
    changes = specs.difference(
        {"optim.schedule": specs.to_json(old.config)}, {"optim.schedule": specs.to_json(new.config)}
    )
    if old.end != new.end:
        changes.append(f"its end: {old.end} -> {new.end}")
    message = (
        f"{where}, at step {first} of the schedule, was trained with another schedule up to there "
        f"than the one that this run goes on with: {differs_S.sum():,} of {known:,} learning "
        "rates differ, among them\n" + "\n".join(rows) + f"\n(there -> here: {'; '.join(changes)})"
    )
    if spec.train.start.changed_schedule == "accept":
        _log.warning("%s", message)
        return
    raise UserError(
        f"{message}. Give this run a schedule that has been the same so far, begin one anew with "
        "train.start.continue_schedule=false, or take the jump with "
        "train.start.changed_schedule=accept"
    )


def lines(meta: Mapping[str, Any], first: int, spec: RunSpec) -> list[str]:
    """The learning rate update by update around a start, and what else of `optim` changes there.

    A row is an update of the run: what it would have read had the run of the checkpoint gone on,
    and what it reads.

    Args:
      meta: of the checkpoint.
      first: the saved schedule's step after it.
      spec: the run.
    """
    old, steps = saved(meta), spec.train.steps
    new, at = asked(spec, old.end), first if spec.train.start.continue_schedule else 0
    known = min(first + _AROUND, old.end)
    old_S, new_S = old.rates(known), new.rates(at + steps)
    shown = [*range(max(-_AROUND, -first), min(_AROUND, steps))]
    found = ["learning rate around the start, by update: there, here"]
    for update in [*shown, *range(max(_AROUND, steps - 1), steps)]:
        step = first + update
        there = f"{old_S[step]:.6g}" if step < known else _NONE
        here = f"{new_S[at + update]:.6g}" if update >= 0 else _NONE
        found.append(f"  {update:<10}{there:<13}{here}")
    theirs, ours = (
        {k: v for k, v in settings.items() if k != "schedule"}
        for settings in (meta["spec"]["optim"], specs.to_json(spec.optim))
    )
    theirs = {key: theirs[key] for key in ours if key in theirs}
    changes = specs.difference({"optim": theirs}, {"optim": {key: ours[key] for key in theirs}})
    return found + [f"changed at the start: {change}" for change in changes]
