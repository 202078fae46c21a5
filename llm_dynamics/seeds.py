"""Numbers per seed, their paired differences and ratios, and Student's intervals over seeds.

Runs of one seed share their first stage and the order of their data, so what they have in common
cancels in a difference: everything is computed seed by seed before a mean is taken. An interval
over n seeds holds for other seeds of the same study; below five it is wide, and honestly so.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, interval_row, note_not_shown

ONE_SEED = "one seed: no interval"


@dataclass(frozen=True)
class PerSeed:
    """A number of each of several runs.

    Attributes:
      values: seed -> number, finite; at least one.
    """

    values: Mapping[int, float]

    def __post_init__(self):
        if not self.values or not all(math.isfinite(v) for v in self.values.values()):
            raise UserError(
                f"expected a finite number of at least one seed, got {dict(self.values)}; "
                "leave out runs that did not end or diverged"
            )

    def __sub__(self, other: "PerSeed") -> "PerSeed":
        return self.paired(other, lambda a, b: a - b)

    def __add__(self, other: "PerSeed") -> "PerSeed":
        return self.paired(other, lambda a, b: a + b)

    def __neg__(self) -> "PerSeed":
        return self * -1

    def __mul__(self, factor: float) -> "PerSeed":
        return PerSeed({seed: factor * value for seed, value in self.values.items()})

    def paired(self, other: "PerSeed", function: Callable[[float, float], float]) -> "PerSeed":
        """A function of both numbers of every seed that has both.

        Raises:
          UserError: no seed has both.
        """
        common = sorted(set(self.values) & set(other.values))
        if not common:
            raise UserError(
                f"expected runs with the same seed on both sides, got seeds {sorted(self.values)} "
                f"and {sorted(other.values)}; give runs to be compared the same seeds"
            )
        return PerSeed({seed: function(self.values[seed], other.values[seed]) for seed in common})

    @property
    def n(self) -> int:
        """How many seeds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(np.mean(list(self.values.values())))

    def interval(self, level: float = 0.95) -> Interval:
        """The mean over seeds and Student's interval; NaN ends for one seed."""
        return _interval(self.mean, *self._half(level))

    def _half(self, level: float) -> tuple[float, float]:
        if self.n < 2:
            return (math.nan, math.nan)
        error = float(np.std(list(self.values.values()), ddof=1)) / math.sqrt(self.n)
        half = _quantile(level, self.n) * error
        return (self.mean - half, self.mean + half)


def ratio_interval(above: PerSeed, below: PerSeed, level: float = 0.95) -> Interval:
    """The ratio of two means over the same seeds, and Fieller's interval.

    The interval holds every r for which the mean of above - r * below is not shown to differ from
    0 by Student's t over seeds. It has two ends only where `below` is shown to differ from 0; NaN
    ends elsewhere, and for one seed (Fieller 1954).
    """
    a, b = (np.array(list(x.values())) for x in _common(above, below))
    n = len(a)
    value = a.mean() / b.mean() if b.mean() else math.nan
    if n < 2:
        return _interval(value, math.nan, math.nan)
    scale = _quantile(level, n) ** 2 / n
    var = scale * np.cov(a, b, ddof=1)
    # (a - r b)^2 <= var_a - 2 r cov + r^2 var_b, a parabola in r.
    second = b.mean() ** 2 - var[1, 1]
    first = a.mean() * b.mean() - var[0, 1]
    root = first**2 - second * (a.mean() ** 2 - var[0, 0])
    if second <= 0:
        return _interval(value, math.nan, math.nan)
    half = math.sqrt(max(root, 0.0))
    return _interval(value, (first - half) / second, (first + half) / second)


def jackknife_interval(value_S: np.ndarray, draws_RxS: np.ndarray) -> Interval:
    """Student's interval about a value, from what it is without each of R >= 2 seeds."""
    n = len(draws_RxS)
    error_S = np.sqrt((n - 1) / n * ((draws_RxS - draws_RxS.mean(axis=0)) ** 2).sum(axis=0))
    half_S = _quantile(0.95, n) * error_S
    return Interval(value_S, value_S - half_S, value_S + half_S)


def seed_row(
    name: str,
    found: PerSeed,
    unit: str,
    definition: str,
    note: str = "",
    contrast: bool = True,
    level: float = 0.95,
) -> Row:
    """A row of the mean over seeds.

    Args:
      name: of the row.
      found: a number per seed.
      unit: of it.
      definition: in words.
      note: what to keep in mind.
      contrast: whether 0 means that there is no difference, so that the note says where an
        interval includes it.
      level: of the interval.
    """
    if found.n < 2:
        note = "; ".join(filter(None, (note, ONE_SEED)))
    row = interval_row(name, found.interval(level), unit, found.n, definition, note)
    return note_not_shown(row) if contrast else row


def ratio_row(
    name: str, above: PerSeed, below: PerSeed, unit: str, definition: str, doubt: str
) -> Row:
    """A row of a ratio of means over seeds; `doubt` says what it means that it has no interval."""
    found = ratio_interval(above, below)
    n = len(set(above.values) & set(below.values))
    note = ""
    if math.isnan(found.low[0]):
        note = ONE_SEED if n < 2 else doubt
    return interval_row(name, found, unit, n, definition, note)


def _common(a: PerSeed, b: PerSeed) -> tuple[dict[int, float], dict[int, float]]:
    seeds = a.paired(b, lambda x, _: x).values
    return tuple({seed: side.values[seed] for seed in seeds} for side in (a, b))


def _interval(value: float, low: float, high: float) -> Interval:
    return Interval(*(np.array([x]) for x in (value, low, high)))


def _quantile(level: float, n: int) -> float:
    return float(stats.t.ppf((1 + level) / 2, n - 1))
