"""What a fact will hold: forecasts from a fitted law of retention, with intervals.

All of them take the law for that of any later time: the same learning rate, batch size and mixture
as in the log it was fitted to. Gains are control-subtracted, in nats per target token.

Axes: R replicates, I intervals, N encounters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.facts.kernel import Kernel
from llm_dynamics.results import Interval

OF = {"mean": "the mean of facts", "fact": "one fact"}
_NOISES = 20  # single facts drawn for each replicate
_GRID = 80  # intervals at which the level is computed before the crossing is interpolated
_DECADES = 3.0  # how far beyond the data an interval is sought
_STEADY = 0.05  # rise over the second half of the encounters that still counts as steady


@dataclass(frozen=True)
class Forecast:
    """A gain to come.

    Attributes:
      value, low, high: nats/token; the ends are NaN where there is no interval.
      of: "mean", whose interval is the uncertainty of the law, or "fact", which adds the spread of
        single facts.
      decades: factors of ten by which the longest lag lies beyond the data; 0 within.
      n: facts of the smallest arm the law was fitted to.
      note: what to keep in mind; "" for nothing.
    """

    value: float
    low: float
    high: float
    of: str
    decades: float
    n: int
    note: str


@dataclass(frozen=True)
class Keep:
    """How often a fact must be met to stay at a level.

    Attributes:
      level: nats/token, just before an encounter.
      steps, tokens: the longest interval; 0 where no interval keeps it, infinite where all that
        were tried do.
      batch_tokens: the smallest batch, in tokens, that keeps a fact met once in `every_tokens`;
        0 where all that were tried do, infinite where none does; None without `every_tokens`.
      decades: factors of ten by which the lags lie beyond the data; 0 within.
      n: facts.
      note: assumptions and doubts.
    """

    level: float
    steps: Interval
    tokens: Interval
    batch_tokens: Interval | None
    decades: float
    n: int
    note: str


@dataclass(frozen=True)
class Accumulation:
    """Whether a fact met at an interval builds up.

    Attributes:
      interval: steps.
      before: level just before encounters 2, 3, ..., nats/token.
      accumulates: whether the last of these is above 0; None where the interval leaves it open.
      threshold: steps beyond which it is not, infinite where the law has none.
      decades: factors of ten by which the threshold, if any, lies beyond the data.
      n: facts.
      note: what to keep in mind.
    """

    interval: int
    before: Interval
    accumulates: bool | None
    threshold: Interval
    decades: float
    n: int
    note: str


def forecast(
    kernel: Kernel, encounters: int, interval: int, after: int, of: str = "mean", seed: int = 0
) -> Forecast:
    """Gain of a fact met `encounters` times, `interval` steps apart, `after` steps after the last.

    Args:
      kernel: from `kernel_fit.fit`.
      of: "mean" or "fact", as in `Forecast`.
      seed: of the single facts drawn.

    Raises:
      UserError: counts below 1, or an unknown `of`.
    """
    _at_least_1(encounters=encounters, interval=interval, after=after)
    if of not in OF:
        raise UserError(f"expected a forecast of {' or '.join(OF)}, got {of!r}")
    times = tuple(interval * i for i in range(encounters))
    draws_R = kernel.gains([times], np.array([[times[-1] + after]]))[:, 0, 0]
    notes = _notes(kernel)
    if of == "fact":
        if math.isnan(kernel.fact_sd):
            notes.append("the spread of single facts is unknown and not included")
        else:
            drawn = np.random.default_rng(seed).standard_normal((len(draws_R) - 1, _NOISES))
            spread = (draws_R[1:, None] + kernel.fact_sd * drawn).ravel()
            draws_R = np.concatenate([draws_R[:1], spread])
    decades = _beyond(kernel, times[-1] + after, notes)
    if encounters > kernel.encounters:
        notes.append(f"extrapolated: the data have at most {kernel.encounters} encounters")
    estimate = kernel.estimate(draws_R[:, None])
    value, low, high = (float(v[0]) for v in estimate.interval())
    return Forecast(value, low, high, of, decades, estimate.n, "; ".join(notes))


def over_forms(
    kernels: Sequence[Kernel], encounters: int, interval: int, after: int, of: str = "mean"
) -> Forecast:
    """The forecast of the law that fits best, with the interval that covers those of all laws.

    Beyond the data the form matters more than its parameters: in simulations the interval of one
    wrong form missed the truth half a decade on in most logs.

    Raises:
      UserError: no law, or as `forecast`.
    """
    if not kernels:
        raise UserError("expected at least one law of retention, got none; fit one first")
    found = [forecast(kernel, encounters, interval, after, of) for kernel in kernels]
    best = found[int(np.argmin([kernel.residual for kernel in kernels]))]
    forms = f"covers the intervals of {', '.join(kernel.form for kernel in kernels)}"
    return Forecast(
        **{
            **vars(best),
            "low": min(one.low for one in found),
            "high": max(one.high for one in found),
            "decades": max(one.decades for one in found),
            "note": "; ".join(filter(None, (forms, best.note))),
        }
    )


def keep_at_least(
    kernel: Kernel,
    level: float,
    tokens_per_step: float,
    every_tokens: float | None = None,
    encounters: int = 100,
    horizon: float | None = None,
) -> Keep:
    """The longest interval at which a fact holds `level` just before its next encounter.

    A fact is met once in `every_tokens` of a given corpus, so the steps between its encounters are
    every_tokens / tokens of a batch: larger batches keep more. This takes effect and retention
    per step for independent of the batch size, although a fact has a smaller share of a larger
    batch, which lowers the effect.

    Args:
      level: nats/token, control-subtracted.
      tokens_per_step: of the log.
      every_tokens: training tokens between two encounters, for the batch size.
      encounters: after how many the level is taken; the steady state where there is one.
      horizon: steps of the run, which allow no more than horizon / interval encounters; None = any
        number of steps.

    Raises:
      UserError: a level or count that is not positive.
    """
    _at_least_1(encounters=encounters)
    given = {"level": level, "tokens_per_step": tokens_per_step}
    given |= {
        name: number
        for name, number in (("every_tokens", every_tokens), ("horizon", horizon))
        if number is not None
    }
    for name, number in given.items():
        if not 0 < number < math.inf:
            raise UserError(f"expected {name} above 0, got {number}")
    intervals_I = np.geomspace(1, kernel.longest * 10**_DECADES, _GRID)
    before_RxIxN = _before(kernel, intervals_I, encounters)
    met_I = np.full(_GRID, encounters)
    if horizon is not None:
        met_I = np.minimum(met_I, horizon // intervals_I).astype(int)
    held_RxI = before_RxIxN[:, np.arange(_GRID), met_I - 1] * (met_I > 0)
    steps = kernel.estimate(_last_crossing(intervals_I, held_RxI, level)[:, None])
    found = steps.interval()
    notes, decades = _notes(kernel), 0.0
    if found.value[0] == 0:
        notes.append("no interval keeps this level")
    else:
        at = max(int(np.searchsorted(intervals_I, found.value[0])) - 1, 0)
        if math.isinf(found.value[0]):
            notes.append(f"every interval up to {intervals_I[-1]:.3g} steps keeps it")
        decades = _beyond(kernel, float(intervals_I[at]), notes)
        path_N = before_RxIxN[0, at, : met_I[at]]
        if path_N[-1] > (1 + _STEADY) * path_N[(len(path_N) - 1) // 2]:
            notes.append(f"not a steady state: it still rises after {met_I[at]} encounters")
    batch = None
    if every_tokens is not None:
        with np.errstate(divide="ignore"):
            batch = steps.then(lambda r: every_tokens / r).interval()
        notes.append(
            f"batch size for one encounter in {every_tokens:g} tokens, effect and retention per "
            f"step taken for independent of the batch size (the log has {tokens_per_step:g} tokens "
            "a step)"
        )
        if math.isinf(found.value[0]):
            least = every_tokens / intervals_I[-1]
            notes.append(f"every batch tried keeps it, down to {least:.3g} tokens")
    tokens = steps.then(lambda r: r * tokens_per_step).interval()
    return Keep(level, found, tokens, batch, decades, steps.n, "; ".join(notes))


def accumulates(kernel: Kernel, interval: int, encounters: int = 10) -> Accumulation:
    """Whether the level before an encounter rises with the number of encounters.

    The learnability threshold of Chang et al. 2024, Sec. 4.3: beyond it nothing is left when a fact
    is met again. For the logarithm it is the zero crossing; the power laws have none.

    Raises:
      UserError: counts below 1, or a single encounter.
    """
    _at_least_1(interval=interval, encounters=encounters)
    if encounters < 2:
        raise UserError(f"expected at least 2 encounters, got {encounters}")
    estimate = kernel.estimate(_before(kernel, np.array([float(interval)]), encounters - 1)[:, 0])
    before, threshold = estimate.interval(), kernel.crossing().interval()
    answer = True if before.low[-1] > 0 else False if before.high[-1] <= 0 else None
    notes, decades = _notes(kernel), 0.0
    if kernel.form != "logarithm":
        notes.append(
            f"no threshold exists under {kernel.form}, which never reaches 0: longer intervals "
            "leave less, but never nothing"
        )
    elif math.isinf(threshold.value[0]):
        notes.append("no threshold: the fitted line does not fall")
    else:
        decades = _beyond(kernel, threshold.value[0], notes)
    return Accumulation(interval, before, answer, threshold, decades, estimate.n, "; ".join(notes))


def _before(kernel: Kernel, intervals_I: np.ndarray, encounters: int) -> np.ndarray:
    """Level before encounters 2 .. encounters + 1 at equal intervals, R x I x N."""
    lags_IxN = intervals_I[:, None] * np.arange(1, encounters + 1)
    left_RxIxN = kernel.retention(lags_IxN.ravel()).reshape(-1, *lags_IxN.shape)
    effect_Rx1, saturation_Rx1 = kernel.draws_RxQ[:, 0, None], kernel.draws_RxQ[:, 1, None]
    added_RxIxN, before_RxIxN = np.empty_like(left_RxIxN), np.empty_like(left_RxIxN)
    held_RxI = np.zeros(left_RxIxN.shape[:2])
    for n in range(encounters):
        added_RxIxN[:, :, n] = effect_Rx1 * np.exp(-saturation_Rx1 * np.maximum(held_RxI, 0))
        held_RxI = np.einsum("rin,rin->ri", added_RxIxN[:, :, n::-1], left_RxIxN[:, :, : n + 1])
        before_RxIxN[:, :, n] = held_RxI
    return before_RxIxN


def _last_crossing(intervals_I: np.ndarray, held_RxI: np.ndarray, level: float) -> np.ndarray:
    """The longest interval with at least `level`, interpolated in its logarithm; R."""
    enough_RxI = held_RxI >= level
    last_R = len(intervals_I) - 1 - enough_RxI[:, ::-1].argmax(axis=1)
    steps_R = np.where(enough_RxI.any(axis=1), np.inf, 0.0)
    within = np.flatnonzero(enough_RxI.any(axis=1) & ~enough_RxI[:, -1])
    at, log_I = last_R[within], np.log(intervals_I)
    above, below = held_RxI[within, at], held_RxI[within, at + 1]
    share = (above - level) / (above - below)
    steps_R[within] = np.exp(log_I[at] + share * (log_I[at + 1] - log_I[at]))
    return steps_R


def _beyond(kernel: Kernel, lag: float, notes: list[str]) -> float:
    """Decades by which a lag lies beyond the data, noted when it does."""
    decades = max(math.log10(lag / kernel.longest), 0.0) if lag > 0 else 0.0
    if decades > 0:
        notes.append(
            f"extrapolated by {decades:.2f} decades: the data have lags up to {kernel.longest} "
            f"steps, this needs {lag:.4g}"
        )
    return decades


def _notes(kernel: Kernel) -> list[str]:
    return [f"{name} {why}" for name, why in kernel.doubts.items() if why.startswith("not")]


def _at_least_1(**counts) -> None:
    for name, count in counts.items():
        if not isinstance(count, int | np.integer) or count < 1:
            raise UserError(f"expected {name} to be a whole number of at least 1, got {count!r}")
