"""Where the smoothed loss of a run first crosses a target, in whatever its cost is counted.

Smoothing makes the curve fall:

  isotonic   records that rise are pooled with those before them to their mean, at their mean cost,
             until none rises; between these points the curve is straight. A spike behind the growth
             counts.
  minimum    the least loss so far. It passes under spikes, and takes luck for progress.

Letters: S records of a run, K points of the smoothed curve.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize

from llm_dynamics.errors import UserError
from llm_dynamics.spec import nearest

ISOTONIC, MINIMUM = "isotonic", "minimum"
RULES = {
    ISOTONIC: "first crossing of the isotonic fit, interpolated",
    MINIMUM: "first crossing of the least loss so far, interpolated",
}


@dataclass(frozen=True, eq=False)
class Curve:
    """Losses of a run over its own cost, in any one unit.

    Attributes:
      cost_S: since the run began, rising; 0 is before its first update.
      loss_S: held out or of training, smoothed or not.
      schedule_end: cost at which the rate has come to the end of its schedule; None = a constant
        rate, of which no point is unfinished.

    Raises:
      UserError: other than two finite records or more, costs that do not rise.
    """

    cost_S: np.ndarray
    loss_S: np.ndarray
    schedule_end: float | None = None

    def __post_init__(self):
        cost_S, loss_S = (np.asarray(x, float) for x in (self.cost_S, self.loss_S))
        if cost_S.ndim != 1 or cost_S.shape != loss_S.shape or len(cost_S) < 2:
            raise UserError(
                "expected as many costs as losses, at least two, got shapes "
                f"{cost_S.shape} and {loss_S.shape}; give one of each a record"
            )
        if not (np.isfinite(cost_S).all() and np.isfinite(loss_S).all()):
            raise UserError(
                "expected finite costs and losses, got others; leave out a run that diverged"
            )
        if cost_S[0] < 0 or (np.diff(cost_S) <= 0).any():
            raise UserError(
                "expected costs that rise from 0 or more, got "
                f"{cost_S[:3].tolist()}...; give what was spent in all until each record"
            )
        if self.schedule_end is not None and not self.schedule_end > 0:
            raise UserError(
                f"expected a positive end of the schedule, got {self.schedule_end}; give None for "
                "a constant rate"
            )
        object.__setattr__(self, "cost_S", cost_S)
        object.__setattr__(self, "loss_S", loss_S)

    @property
    def end(self) -> float:
        """Cost of the last record."""
        return float(self.cost_S[-1])

    def times(self, factor: float) -> "Curve":
        """The curve in another unit, of which one of this one's is `factor`.

        Raises:
          UserError: a factor that is not positive.
        """
        if not 0 < factor < math.inf:
            raise UserError(f"expected a positive factor, got {factor}; give cost per unit of cost")
        end = None if self.schedule_end is None else factor * self.schedule_end
        return Curve(factor * self.cost_S, self.loss_S, end)


class Crossing(NamedTuple):
    """Where a curve reaches a loss.

    Attributes:
      cost: until then; None where it is not reached.
      at_start: the first record is there already, so `cost` is at most that.
    """

    cost: float | None
    at_start: bool = False


def crossing(curve: Curve, target: float, smoother: str = ISOTONIC) -> Crossing:
    """Where the smoothed curve first crosses a loss.

    Args:
      curve: of a run.
      target: loss, in the unit of the curve's.
      smoother: "isotonic" or "minimum", see above.

    Raises:
      UserError: a target that is no number, or an unknown smoother.
    """
    if not math.isfinite(target):
        raise UserError(f"expected a finite target, got {target}; give a loss")
    cost_K, loss_K = _smooth(curve, smoother)
    if target >= loss_K[0] and (target > loss_K[0] or cost_K[0] == curve.cost_S[0]):
        return Crossing(float(curve.cost_S[0]), True)
    if target < loss_K[-1]:
        return Crossing(None)
    k = int(np.argmax(loss_K <= target))
    if k == 0:
        return Crossing(float(cost_K[0]))
    share = (loss_K[k - 1] - target) / (loss_K[k - 1] - loss_K[k])
    return Crossing(float(cost_K[k - 1] + share * (cost_K[k] - cost_K[k - 1])))


def loss_at(curve: Curve, cost: float, smoother: str = ISOTONIC) -> float:
    """Loss of the smoothed curve at a cost within that of its records."""
    cost_K, loss_K = _smooth(curve, smoother)
    return float(np.interp(cost, cost_K, loss_K))


def scatter_at_end(curve: Curve) -> float:
    """Scatter of the losses of the last half, over how far the last fifth of the cost lowers them.

    Where it is not small, the last loss is a lucky one: the smoothed curve ends below the loss
    that another evaluation would find.
    """
    late_S = curve.cost_S >= curve.end / 2
    fit_S = optimize.isotonic_regression(curve.loss_S, increasing=False).x
    scatter = float(np.std((curve.loss_S - fit_S)[late_S]))
    fall = loss_at(curve, 0.8 * curve.end) - loss_at(curve, curve.end)
    if scatter == 0:
        return 0.0
    return scatter / fall if fall > 0 else math.inf


def _smooth(curve: Curve, smoother: str) -> tuple[np.ndarray, np.ndarray]:
    """Points of a falling curve, K of them: costs and losses."""
    if smoother == MINIMUM:
        return curve.cost_S, np.minimum.accumulate(curve.loss_S)
    if smoother != ISOTONIC:
        raise UserError(f"unknown smoother {smoother!r}; {nearest(smoother, RULES)}")
    fit = optimize.isotonic_regression(curve.loss_S, increasing=False)
    first_K = fit.blocks[:-1]
    count_K = np.diff(fit.blocks)
    return np.add.reduceat(curve.cost_S, first_K) / count_K, fit.x[first_K]
