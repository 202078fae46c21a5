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

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"unknown schedule {self.kind!r}; {nearest(self.kind, KINDS)}")
        if self.peak <= 0 or not 0 <= self.floor <= 1:
            raise UserError(
                "a schedule expects peak > 0 and 0 <= floor <= 1, "
                f"got peak {self.peak} and floor {self.floor}"
            )
        if self.warmup < 0 or self.decay < 0:
            raise UserError(
                f"a schedule expects phases of 0 or more steps, got warmup {self.warmup} "
                f"and decay {self.decay}"
            )


def make_schedule(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """The learning rate of update t, for t = 0 .. steps - 1, as a function of t.

    Warm-up is linear from 0 at t = 0 to the peak at t = warmup; the peak is a value that is used.
    The decaying kinds reach `floor * peak` at t = steps. `wsd` is Hu et al. 2024
    (arXiv:2404.06395): constant, then linear decay over the last `decay` steps. `inverse_sqrt` is
    peak * sqrt(warmup / t) after the warm-up.

    Args:
      config: the schedule.
      steps: updates of the whole run.

    Raises:
      UserError: the phases do not fit the run.
    """
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
