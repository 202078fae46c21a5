"""A fact's gain as a superposition of its encounters: what each adds, and how that is retained.

    g(s) = sum over encounters u with t_u < s of e(g(t_u)) k(s - t_u)

e is what an encounter adds at its best moment, less for what is already held:
e = effect * exp(-saturation * g). k is the share of it that is left after a lag of d steps:
k = rise * fall, scaled to 1 at its maximum, with rise = 1 - beta1^d, the share of a gradient that
Adam's momentum has applied after d steps, and one of these forms of fall, x = 1 + d / onset:

    power        x^-exponent
    power_floor  floor + (1 - floor) x^-exponent
    logarithm    max(0, 1 - slope log10 x), linear in log d for d >> onset

`onset` is given, not fitted: 1 / (1 - beta1) steps by default, for a short log cannot tell it from
the rest. `slope` is the share lost per factor of ten, the a of Chang et al. 2024, Eq. 4. Only the
logarithm reaches 0, so the paper's threshold exists for it alone.

The law is that of one learning rate and batch size, and of a mean over facts.

Axes: R replicates of the parameters, Q parameters, K facts, U encounters, T points in time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.facts.statistics import Estimate
from llm_dynamics.spec import nearest

_COMMON = {"effect": (-np.inf, np.inf), "saturation": (0.0, 10.0)}
# The range of every parameter, in the order of Q.
FORMS: dict[str, dict[str, tuple[float, float]]] = {
    "power": {**_COMMON, "exponent": (0.0, 3.0)},
    "power_floor": {**_COMMON, "exponent": (0.0, 3.0), "floor": (0.0, 1.0)},
    "logarithm": {**_COMMON, "slope": (0.0, 3.0)},
}
UNITS = {
    "effect": "nats/token",
    "saturation": "token/nat",
    "exponent": "1",
    "floor": "1",
    "slope": "1/decade",
}
_NEVER = np.iinfo(np.int64).max // 4  # an encounter that does not take place
_PEAK = 10  # lags among which the maximum is sought, in units of the momentum's time


@dataclass(frozen=True)
class Kernel:
    """A fitted law of retention.

    Attributes:
      form: one of `FORMS`.
      beta1: of Adam's first moment.
      onset: steps.
      draws_RxQ: parameters in the order of `FORMS[form]`; row 0 fits the data, the others fit
        bootstrap resamples of the facts.
      facts: arm -> number of its facts, control included.
      longest: the longest lag between an encounter and a fitted point, steps.
      encounters: most encounters of one fact within the fitted steps.
      residual: root mean square of the fitted points about the fit, nats/token.
      fact_sd: standard deviation over facts of measured less fitted gain after the last encounter,
        drift of single facts included, nats/token; NaN where no arm has two facts of one schedule.
      doubts: parameter -> why it is not identified; empty when all are.
    """

    form: str
    beta1: float
    onset: float
    draws_RxQ: np.ndarray
    facts: Mapping[str, int]
    longest: int
    encounters: int
    residual: float
    fact_sd: float
    doubts: Mapping[str, str]

    def parameter(self, name: str) -> Estimate:
        """One parameter in every replicate."""
        return self.estimate(self.draws_RxQ[:, [list(FORMS[self.form]).index(name)]])

    def estimate(self, draws_RxT: np.ndarray) -> Estimate:
        """Anything computed from every replicate's parameters."""
        return Estimate(draws_RxT, self.facts)

    def retention(self, lag_T: np.ndarray) -> np.ndarray:
        """k at every lag, R x T."""
        return retention(self.form, self.draws_RxQ, lag_T, self.beta1, self.onset)

    def gains(self, encounters: Sequence[Sequence[int]], at_KxT: np.ndarray) -> np.ndarray:
        """Gains of K facts with these encounters at these steps, R x K x T, nats/token."""
        sums = Superposition(encounters, at_KxT)
        return sums.gains(self.form, self.draws_RxQ, self.beta1, self.onset)

    def crossing(self) -> Estimate:
        """The lag in steps at which nothing is left, R x 1; infinite where something always is."""
        if self.form != "logarithm":
            return self.estimate(np.full((len(self.draws_RxQ), 1), np.inf))
        with np.errstate(divide="ignore", over="ignore"):
            steps_R = self.onset * (np.power(10.0, 1 / self.draws_RxQ[:, 2]) - 1)
        return self.estimate(steps_R[:, None])


def check_form(form: str, beta1: float) -> None:
    """Refuses an unknown form or a momentum that is none.

    Raises:
      UserError: with what is allowed.
    """
    if form not in FORMS:
        raise UserError(f"unknown form of retention {form!r}; {nearest(form, FORMS)}")
    if not 0 <= beta1 < 1:
        raise UserError(f"expected beta1 in [0, 1), got {beta1}")


def momentum_steps(beta1: float) -> float:
    """Mean lag at which Adam's momentum applies a gradient, 1 / (1 - beta1) steps."""
    return 1 / (1 - beta1)


def retention(
    form: str, draws_RxQ: np.ndarray, lag_T: np.ndarray, beta1: float, onset: float
) -> np.ndarray:
    """k at every lag, R x T; 0 at lags of 0 and below, 1 at its maximum over whole lags."""
    early_T = np.arange(1, int(_PEAK * momentum_steps(beta1)) + 2, dtype=float)
    peak_Rx1 = _unscaled(form, draws_RxQ, early_T, beta1, onset).max(axis=1, keepdims=True)
    lag_T = np.asarray(lag_T, float)
    shape_RxT = _unscaled(form, draws_RxQ, np.maximum(lag_T, 0), beta1, onset)
    return shape_RxT / np.maximum(peak_Rx1, 1e-12)


def _unscaled(form, draws_RxQ, lag_T, beta1, onset) -> np.ndarray:
    shape_QxRx1 = draws_RxQ.T[2:, :, None]
    far_T = np.log1p(lag_T / onset)
    if form == "logarithm":
        fall_RxT = np.maximum(1 - shape_QxRx1[0] * far_T / np.log(10), 0)
    else:
        fall_RxT = np.exp(-shape_QxRx1[0] * far_T)
        if form == "power_floor":
            fall_RxT = shape_QxRx1[1] + (1 - shape_QxRx1[1]) * fall_RxT
    # 0 ** 0 is 1: without momentum an encounter shows in full at lag 1.
    return fall_RxT * (1 - np.power(beta1, lag_T))


class Superposition:
    """Gains of facts with given encounters at given points; the lags are worked out once.

    Args:
      encounters: K sequences of updates in ascending order, one a fact.
      at_KxT: steps at which the gain is wanted; the parameters before update s, so an encounter
        at update t counts from s = t + 1.

    Raises:
      UserError: encounters that are not in ascending order.
    """

    def __init__(self, encounters: Sequence[Sequence[int]], at_KxT: np.ndarray):
        most = max((len(times) for times in encounters), default=0)
        met_KxU = np.full((len(encounters), most), _NEVER, np.int64)
        for row_U, times in zip(met_KxU, encounters, strict=True):
            row_U[: len(times)] = times
            if np.any(np.diff(row_U) < 0):
                raise UserError(f"expected encounters in ascending order, got {list(times)[:8]}")
        own_KxU = np.where(met_KxU == _NEVER, 0, met_KxU)
        self._before = _Lags(own_KxU[:, :, None] - met_KxU[:, None, :])
        self._after = _Lags(np.asarray(at_KxT)[:, :, None] - met_KxU[:, None, :])
        self._shape = met_KxU.shape

    def gains(self, form: str, draws_RxQ: np.ndarray, beta1: float, onset: float) -> np.ndarray:
        """R x K x T."""
        effect_Rx1, saturation_Rx1 = draws_RxQ[:, 0, None], draws_RxQ[:, 1, None]
        added_RxKxU = np.empty((len(draws_RxQ), *self._shape))
        added_RxKxU[...] = effect_Rx1[..., None]
        if draws_RxQ[:, 1].any():
            before_RxKxUxU = self._before.look_up(form, draws_RxQ, beta1, onset)
            for u in range(1, self._shape[1]):
                held_RxK = np.einsum(
                    "rku,rku->rk", before_RxKxUxU[:, :, u, :u], added_RxKxU[:, :, :u]
                )
                added_RxKxU[:, :, u] *= np.exp(-saturation_Rx1 * np.maximum(held_RxK, 0))
        after_RxKxTxU = self._after.look_up(form, draws_RxQ, beta1, onset)
        return np.einsum("rktu,rku->rkt", after_RxKxTxU, added_RxKxU)


class _Lags:
    """Lags of any shape; the kernel is computed once for each different one."""

    def __init__(self, lags: np.ndarray):
        self.different_T, where = np.unique(np.maximum(lags, 0), return_inverse=True)
        self._where = where.reshape(lags.shape)

    def look_up(self, form, draws_RxQ, beta1, onset) -> np.ndarray:
        kernel_RxT = retention(form, draws_RxQ, self.different_T, beta1, onset)
        return kernel_RxT[:, self._where]
