"""Learning-rate schedules: optax functions of the absolute step, made of phases."""

import dataclasses
import math

import jax.numpy as jnp
import optax

from llm_dynamics.errors import UserError
from llm_dynamics.optim.phases import SHAPES, Phase, join, parse
from llm_dynamics.spec import nearest

KINDS = {
    "cosine": "warm-up, cosine to the floor",
    "linear": "warm-up, straight line to the floor",
    "constant": "warm-up, the peak",
    "inverse_sqrt": "warm-up, peak * sqrt(warmup / s)",
    "wsd": "warm-up, the peak, `shape` to the floor in the last `decay` steps (Hu et al. 2024)",
    "wsd_s": "as wsd, and again from the peak after each of `cycles` (Wen et al. 2024)",
    "cosine_infinite": "warm-up, cosine to `constant` in `cooldown` steps, `constant`, anneal in "
    "the last `decay` steps (Ibrahim et al. 2024, section 7.2)",
    "inverse_sqrt_infinite": "the same with an inverse square root for the cosine",
    "piecewise": "`phases` one after another",
}
_OWN_SHAPE = {"wsd": "linear", "wsd_s": "inverse"}  # of the last phase; exponential otherwise


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """A schedule of one run. Steps are optimizer updates; rates are fractions of the peak."""

    kind: str = "cosine"  # one of KINDS
    peak: float = 1e-3  # the highest learning rate
    warmup: int = 0  # steps of linear warm-up to the peak
    initial: float = 0.0  # what the warm-up begins from
    floor: float = 0.1  # the final learning rate
    decay: int = 0  # wsd and infinite: steps of the final decay, "anneal"; 0 = none
    shape: str = ""  # of that decay, one of phases.SHAPES; "" = the kind's own
    cooldown: int = 0  # infinite: steps from the peak to the constant rate
    constant: float = 0.55  # infinite: the constant rate
    timescale: float = 10.0  # inverse_sqrt_infinite: alpha of its cool-down
    cycles: tuple[int, ...] = ()  # wsd_s: steps at which the earlier decays end
    phases: tuple[str, ...] = ()  # piecewise: SHAPE:STEPS:END, see phases.parse
    horizon: int = 0  # steps of the whole schedule, of which a run may read a part; 0 = the run's

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UserError(f"unknown schedule {self.kind!r}; {nearest(self.kind, KINDS)}")
        rates = (self.initial, self.floor, self.constant)
        if not (0 < self.peak < math.inf and all(0 <= rate <= 1 for rate in rates)):
            raise UserError(
                "a schedule expects peak > 0 and 0 <= initial, floor, constant <= 1, got peak "
                f"{self.peak}, initial {self.initial}, floor {self.floor} and constant "
                f"{self.constant}"
            )
        if min(self.warmup, self.decay, self.cooldown, self.horizon) < 0:
            raise UserError(
                f"a schedule expects phases of 0 or more steps, got warmup {self.warmup}, "
                f"decay {self.decay}, cooldown {self.cooldown} and horizon {self.horizon}"
            )
        if self.shape and self.shape not in SHAPES:
            raise UserError(
                f"unknown optim.schedule.shape {self.shape!r}; {nearest(self.shape, SHAPES)}"
            )
        if bool(self.phases) != (self.kind == "piecewise"):
            raise UserError(
                "optim.schedule.phases belongs to the kind piecewise, which needs it, got kind "
                f"{self.kind} and {len(self.phases)} phases"
            )
        if self.cycles and self.kind != "wsd_s":
            raise UserError(f"optim.schedule.cycles belongs to the kind wsd_s, got {self.kind}")


def make_schedule(
    config: ScheduleConfig, steps: int, first: int = 0, end: int = 0
) -> optax.Schedule:
    """The learning rate of update t of a run, for t = 0 .. steps - 1, as a function of t.

    The schedule is a function of s = first + t. Warm-up is linear and reaches the peak at s =
    warmup; the peak is a value that is used. What decays last reaches `floor * peak` at s =
    horizon. Values do not depend on the horizon before the last phase, so a run that is made
    longer keeps its past where that phase lies ahead (all of it for constant, inverse_sqrt and
    infinite kinds without decay).

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
    whole = (
        _inverse_sqrt(config, steps)
        if config.kind == "inverse_sqrt"
        else join(phases_of(config, steps))
    )
    return (lambda t: whole(first + t)) if first else whole


def phases_of(config: ScheduleConfig, steps: float) -> list[Phase]:
    """The phases of a schedule of so many steps, real boundaries and all.

    Raises:
      UserError: phases that do not fit, or a shape that cannot reach its end.
    """
    peak, floor, constant = config.peak, config.floor * config.peak, config.constant * config.peak
    warmup = Phase("linear", config.warmup, config.initial * peak, peak)
    shape = config.shape or _OWN_SHAPE.get(config.kind, "exponential")
    if config.kind == "piecewise":
        return _piecewise(config, steps)
    if config.kind == "wsd_s":
        return [warmup, *_cycles(config, steps, shape)]
    ahead = [warmup]
    level = peak
    if config.kind.endswith("_infinite"):
        way = config.kind.removesuffix("_infinite")
        ahead.append(Phase(way, config.cooldown, peak, constant, config.timescale))
        level = constant
    decays = config.kind == "wsd" or config.kind.endswith("_infinite")
    decay = config.decay if decays else 0
    rest = steps - sum(phase.steps for phase in ahead) - decay
    _check_fit(config, steps, rest)
    if decays or config.kind == "constant":
        ahead.append(Phase("constant", rest, level, level))
        return [*ahead, Phase(shape, decay, level, floor)] if decay else ahead
    return [*ahead, Phase(config.kind, max(rest, 1), peak, floor)]


def _cycles(config: ScheduleConfig, steps: float, shape: str) -> list[Phase]:
    peak, floor, at, found = config.peak, config.floor * config.peak, config.warmup, []
    for end in (*config.cycles, steps):
        _check_fit(config, steps, end - config.decay - at)
        hold = Phase("constant", end - config.decay - at, peak, peak)
        found += [hold, Phase(shape, config.decay, peak, floor)]
        at = end
    return found


def _piecewise(config: ScheduleConfig, steps: float) -> list[Phase]:
    found, at = [], config.initial * config.peak
    for entry in config.phases:
        found.append(parse(entry, at, config.peak))
        at = found[-1].end
    total = sum(phase.steps for phase in found)
    if not math.isclose(total, steps, rel_tol=1e-9):  # lengths need not be whole
        raise UserError(
            f"expected the steps of optim.schedule.phases to add up to the schedule's {steps:g}, "
            f"got {total:g}; lengthen a phase, or set optim.schedule.horizon={total:g}"
        )
    return found


def _check_fit(config: ScheduleConfig, steps: float, rest: float) -> None:
    if rest < 0:
        needs = steps - rest
        raise UserError(
            f"the {config.kind} schedule needs {needs:g} steps (warmup {config.warmup}, cooldown "
            f"{config.cooldown}, decay {config.decay}) but the run has {steps:g}; shorten the "
            "phases or lengthen the run"
        )


def _inverse_sqrt(config: ScheduleConfig, steps: int) -> optax.Schedule:
    """peak * sqrt(warmup / s) after the warm-up; it has no end of its own."""
    _check_fit(config, steps, steps - config.warmup)
    scale = max(config.warmup, 1)

    def after(t):
        return config.peak * (scale / (scale + jnp.maximum(t, 0))) ** 0.5

    if not config.warmup:
        return after
    warmup = Phase("linear", config.warmup, config.initial * config.peak, config.peak)
    return optax.join_schedules([warmup, after], [config.warmup])


def autoregressive_peaks(rounds: int, peak: float, floor: float) -> tuple[float, ...]:
    """Peaks of successive rounds that follow one cosine (TiC-LM, Li et al. 2025, "AR").

    Round i peaks at the value, where its own warm-up ends, of the cosine from `peak` to `floor`
    over all steps up to the end of round i but those of warm-ups (arXiv:2504.02107). With rounds
    and warm-ups of equal length that is i / (i + 1) of it, whatever the lengths.

    Args:
      rounds: how many.
      peak, floor: learning rates, not fractions.
    """
    shares = (i / (i + 1) for i in range(rounds))
    return tuple(floor + (peak - floor) / 2 * (1 + math.cos(math.pi * p)) for p in shares)


def cosine_reaches(rate: float, floor: float) -> float:
    """The share of a cosine from 1 to `floor` after which it is at `rate`.

    For the switch of the blend when the rate has fallen to a fifth of the peak (Parmar et al.
    2024, arXiv:2407.07263: rate 0.2, floor 0.01, 0.7113).

    Raises:
      UserError: a rate that it does not pass.
    """
    if not 0 <= floor < 1 or not floor <= rate <= 1:
        raise UserError(f"expected 0 <= floor <= rate <= 1, floor < 1, got {floor} and {rate}")
    return math.acos(2 * (rate - floor) / (1 - floor) - 1) / math.pi
