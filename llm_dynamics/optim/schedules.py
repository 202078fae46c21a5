"""Learning-rate schedules: optax functions of the absolute step."""

import dataclasses

import optax

from llm_dynamics.errors import UserError
from llm_dynamics.spec import nearest

KINDS = ("cosine", "linear", "constant", "wsd", "inverse_sqrt")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """A schedule of one run. Steps are optimizer updates."""

    kind: str = "cosine"  # one of KINDS
    peak: float = 1e-3  # the highest learning rate
    warmup: int = 0  # steps of linear warm-up from 0 to the peak
    floor: float = 0.1  # the final learning rate as a fraction of the peak
    decay: int = 0  # wsd only: steps of the final linear decay
    horizon: int = 0  # steps of the whole schedule, of which a run may read a part; 0 = the run's

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"unknown schedule {self.kind!r}; {nearest(self.kind, KINDS)}")
        if self.peak <= 0 or not 0 <= self.floor <= 1:
            raise UserError(
                "a schedule expects peak > 0 and 0 <= floor <= 1, "
                f"got peak {self.peak} and floor {self.floor}"
            )
        if self.warmup < 0 or self.decay < 0 or self.horizon < 0:
            raise UserError(
                f"a schedule expects phases of 0 or more steps, got warmup {self.warmup}, "
                f"decay {self.decay} and horizon {self.horizon}"
            )


def make_schedule(
    config: ScheduleConfig, steps: int, first: int = 0, end: int = 0
) -> optax.Schedule:
    """The learning rate of update t of a run, for t = 0 .. steps - 1, as a function of t.

    The schedule is a function of s = first + t. Warm-up is linear from 0 at s = 0 to the peak at
    s = warmup; the peak is a value that is used. The decaying kinds reach `floor * peak` at
    s = horizon. `wsd` is Hu et al. 2024 (arXiv:2404.06395): constant, then linear decay over the
    last `decay` steps. `inverse_sqrt` is peak * sqrt(warmup / s) after the warm-up.

    Args:
      config: the schedule.
      steps: updates of the run.
      first: the schedule's step that update 0 reads.
      end: the horizon when the config names none; 0 = first + steps.

    Raises:
      UserError: the phases do not fit the schedule, or the run goes beyond its end.
    """
    last, steps = first + steps, config.horizon or end or first + steps
    if last > steps:
        raise UserError(
            f"the {config.kind} schedule ends at step {steps}, but the run reads it up to step "
            f"{last}; set optim.schedule.horizon to at least {last}, or shorten the run"
            + (", or begin it anew (train.start.continue_schedule=false)" if first else "")
        )
    whole = _whole(config, steps)
    return (lambda t: whole(first + t)) if first else whole


def _whole(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """The schedule from its own step 0 to its horizon `steps`."""
    phases = config.warmup + (config.decay if config.kind == "wsd" else 0)
    if phases > steps:
        raise UserError(
            f"the {config.kind} schedule needs {phases} steps (warmup {config.warmup}, decay "
            f"{config.decay}) but the run has {steps}; shorten the phases or lengthen the run"
        )
    peak, floor, rest = config.peak, config.floor * config.peak, steps - config.warmup
    if config.kind == "cosine":
        after = optax.cosine_decay_schedule(peak, max(rest, 1), alpha=config.floor)
    elif config.kind == "linear":
        after = optax.linear_schedule(peak, floor, max(rest, 1))
    elif config.kind == "constant":
        after = optax.constant_schedule(peak)
    elif config.kind == "inverse_sqrt":
        scale = max(config.warmup, 1)

        def after(t):
            return peak * (scale / (scale + t)) ** 0.5

    else:
        after = optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, floor, config.decay)],
            [rest - config.decay],
        )
    if not config.warmup:
        return after
    warmup = optax.linear_schedule(0.0, peak, config.warmup)
    return optax.join_schedules([warmup, after], [config.warmup])
