"""The exactly solvable model of multitask sparse parity (Nam et al. 2024), in closed form.

The model is f = sum_k a_k b_k g_k with the target S sum_k g_k; R_k = a_k b_k is the strength of
skill k. Gradient flow on half the mean square error, at rate eta, from a_k = b_k, is

    dR_k/dt = 2 eta share_k R_k (S - R_k),    0 < R_k(0) < S,

a logistic curve of each skill for itself. share_k is P(k), or d_k / D where D examples were drawn
once and d_k of them are of task k. Time is in updates; loss is half the mean square error, so
S^2 / 2 before anything is learned. Letters: T times, K skills.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import stats

from llm_dynamics.errors import UserError

# What Nam et al. measured once, on one skill of their two-layer network, to predict all others.
NETWORK_TIME = 1 / 22  # B^2; the divisor in their published code's calibration of time
NETWORK_DATA = 800  # D_c, examples that one skill takes
NETWORK_NODES = 4  # N_c, hidden nodes that one skill takes


@dataclasses.dataclass(frozen=True)
class Flow:
    """Gradient flow of the multilinear model.

    Attributes:
      rate: eta, a step's learning rate.
      start: R_k(0), the same of all skills.
      target: S.
      slowed: factor of time, 1 for the model itself, `NETWORK_TIME` for the network that they fit.
    """

    rate: float
    start: float
    target: float = 1.0
    slowed: float = 1.0

    def __post_init__(self):
        if not (self.rate > 0 and self.slowed > 0):
            raise UserError(
                f"expected a rate and a factor of time above 0, got {self.rate}, {self.slowed}"
            )
        if not 0 < self.start < self.target:
            raise UserError(
                f"expected a start between 0 and the target {self.target}, where strengths grow, "
                f"got {self.start}"
            )

    def strength(self, t_T: np.ndarray, share_K: np.ndarray) -> np.ndarray:
        """R_k / S, TxK: 1 / (1 + (S/R_k(0) - 1) e^(-2 eta share_k S t)) (Nam et al.)."""
        return 1 / (1 + self._odds * np.exp(-self._exponent(t_T, share_K)))

    def lacking(self, t_T: np.ndarray, share_K: np.ndarray) -> np.ndarray:
        """1 - R_k / S, TxK, without loss of digits where little is lacking."""
        decay_TxK = self._odds * np.exp(-self._exponent(t_T, share_K))
        return decay_TxK / (1 + decay_TxK)

    def loss(
        self, t_T: np.ndarray, share_K: np.ndarray, known: int | None = None, beyond: float = 0.0
    ) -> np.ndarray:
        """The loss over time, T: S^2/2 (sum_k P(k) [k > N or 1 - R_k/S]^2).

        Args:
          t_T: updates.
          share_K: P(k).
          known: N, skills that the model has; None = all.
          beyond: probability of all tasks after the K-th, of which nothing is learned.
        """
        share_K = np.asarray(share_K, float)
        known = len(share_K) if known is None else known
        lacking_TxN = self.lacking(t_T, share_K[:known])
        missing = share_K[known:].sum() + beyond
        return self.target**2 / 2 * (lacking_TxN**2 @ share_K[:known] + missing)

    def emergence_time(self, share_K: np.ndarray, level: float = 0.5) -> np.ndarray:
        """Updates until R_k / S = level, K; ~ 1 / share_k, so ~ k^(a+1). 0 where it is above."""
        if not 0 < level < 1:
            raise UserError(f"expected a level between 0 and 1, got {level}")
        needed = max(np.log(self._odds * level / (1 - level)), 0.0)
        return needed / self._exponent(np.ones(1), share_K)[0]

    @property
    def _odds(self) -> float:
        return self.target / self.start - 1

    def _exponent(self, t_T: np.ndarray, share_K: np.ndarray) -> np.ndarray:
        speed = 2 * self.rate * self.target * self.slowed
        return speed * np.multiply.outer(np.asarray(t_T, float), np.asarray(share_K, float))


class Exponents(NamedTuple):
    """L ~ x^exponent of one resource where the others do not bind (Nam et al.).

    Attributes:
      time: -a/(a+1).
      data: -a/(a+1).
      parameters: -a; one parameter a skill.
      compute: -a/(a+2), C = T N with the best N.
    """

    time: float
    data: float
    parameters: float
    compute: float


def exponents(a: float) -> Exponents:
    """The exponents for P(k) ~ k^-(a+1).

    Skill k is learned once T P(k) reaches a constant, so T of time learn n ~ T^(1/(a+1)) skills
    and leave sum_(k>n) P(k) ~ n^-a. With N = n, C = T N ~ T^((a+2)/(a+1)).

    Raises:
      UserError: a <= 0, where the tail has no power law.
    """
    if not a > 0:
        raise UserError(f"expected a > 0, got {a}; else the rare tasks' share does not fall")
    return Exponents(-a / (a + 1), -a / (a + 1), -a, -a / (a + 2))


def data_loss(examples_D: np.ndarray, share_K: np.ndarray, target: float = 1.0) -> np.ndarray:
    """Expected loss when training on D examples never ends, D: S^2/2 sum_k P(k) (1 - P(k))^D.

    One example is enough for a skill; those that were never seen stay, and R_k(0) is left out.
    """
    share_K = np.asarray(share_K, float)
    unseen_DxK = np.exp(np.multiply.outer(np.asarray(examples_D, float), np.log1p(-share_K)))
    return target**2 / 2 * (unseen_DxK @ share_K)


def data_strength(seen: np.ndarray, needed: float = NETWORK_DATA) -> np.ndarray:
    """R_k / S of a network after d_k examples: 1 - sqrt(1 - d_k/D_c), 1 from d_k = D_c on.

    So a skill's loss falls linearly with its examples (Nam et al.).
    """
    return 1 - np.sqrt(np.maximum(1 - np.asarray(seen, float) / needed, 0.0))


def node_strength(nodes: float, skills: int, needed: float = NETWORK_NODES) -> np.ndarray:
    """R_k / S of a network of some hidden nodes, K.

    Frequent skills first, N_c nodes each; R_k / S rises linearly from 0 at (k-1) N_c nodes to 1 at
    k N_c (Nam et al.).
    """
    return np.clip(nodes / needed - np.arange(skills), 0.0, 1.0)


def compute_loss(
    flow: Flow, compute_C: np.ndarray, share_K: np.ndarray, beyond: float = 0.0
) -> np.ndarray:
    """The least loss over N at C = T N, for every C."""
    share_K = np.asarray(share_K, float)
    known_N = np.unique(np.geomspace(1, len(share_K), 400).astype(int))
    missing_N = beyond + np.append(np.cumsum(share_K[::-1])[::-1], 0.0)[known_N]
    losses_C = []
    for compute in np.asarray(compute_C, float):
        learned_N = [flow.lacking(compute / n, share_K[:n]) ** 2 @ share_K[:n] for n in known_N]
        losses_C.append((np.array(learned_N) + missing_N).min())
    return flow.target**2 / 2 * np.array(losses_C)


def rescaled(updates_S: np.ndarray, first_S: np.ndarray, share_K: np.ndarray) -> np.ndarray:
    """What the first skill's curve says of all, SxK: skill k at t is the first at t P(k) / P(1).

    True of every model whose skills learn independently from the same start, at a speed ~ P(k).

    Args:
      updates_S: rising, from 0.
      first_S: a measure of the first skill.
      share_K: P(k).
    """
    share_K = np.asarray(share_K, float)
    return np.interp(np.multiply.outer(updates_S, share_K / share_K[0]), updates_S, first_S)


def fitted_exponent(x_T: np.ndarray, loss_T: np.ndarray) -> float:
    """Slope of log loss on log x by least squares.

    Raises:
      UserError: fewer than two different x, or a number that has no logarithm.
    """
    x_T, loss_T = np.asarray(x_T, float), np.asarray(loss_T, float)
    fit = np.isfinite(x_T) & np.isfinite(loss_T) & (x_T > 0) & (loss_T > 0)
    if not fit.all() or len(np.unique(x_T)) < 2:
        raise UserError(
            "expected at least two different positive x with positive losses to fit a power to, "
            f"got x {x_T.tolist()} and losses {loss_T.tolist()}"
        )
    return float(stats.linregress(np.log(x_T), np.log(loss_T)).slope)
