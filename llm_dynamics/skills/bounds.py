"""How unevenly failed text-pieces can fall on skills: worst cases and chance.

A piece needs k skills, drawn independently from a measure mu_1. Pieces of total mass theta fail.
All skills but a mass alpha of mu_1 then have at most a share beta * theta of their pieces among
the failed ones. Every function here gives that beta: `beta_theorem` as Arora & Goyal 2023
(arXiv:2307.15936, Theorem 8) prove it, `beta_finite` for finitely many pieces, `beta_exact` the
least that holds for every way to fail, `beta_random` what failing by chance does. With skills of
equal weight alpha is the share of skills; otherwise it is their mass, and a few frequent skills
have as much of it as many rare ones. All take arrays, which are broadcast.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats
from scipy.optimize import elementwise

from llm_dynamics.errors import UserError

NO_SOLUTION = "no solution"
ABOVE_ONE = "above 1"
INFORMATIVE = "informative"
_ROUNDING = 1e-12  # a product beta * theta of exactly 1, computed


def entropy(x: ArrayLike) -> np.ndarray:
    """-x ln x - (1 - x) ln(1 - x), nats."""
    x = np.asarray(x, float)
    return special.entr(x) - special.xlog1py(1 - x, -x)


def divergence(p: ArrayLike, q: ArrayLike) -> np.ndarray:
    """KL(p || q) of two coins, p ln(p/q) + (1 - p) ln((1 - p)/(1 - q)), nats."""
    p, q = np.asarray(p, float), np.asarray(q, float)
    return special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)


def printed_condition(
    alpha: ArrayLike, beta: ArrayLike, theta: ArrayLike, k: ArrayLike
) -> np.ndarray:
    """Left side of the condition of Theorem 8 as it is printed; the theorem needs it below 0.

    Raises:
      UserError: as `condition`.
    """
    alpha, theta, k = checked(alpha, theta, k)
    x = _spread(alpha, beta)
    bracket = entropy(x) - x * np.log(1 / alpha) - (1 - x) * np.log(1 / (1 - alpha))
    return entropy(theta) + k * theta * bracket


def condition(alpha: ArrayLike, beta: ArrayLike, theta: ArrayLike, k: ArrayLike) -> np.ndarray:
    """The same as H(theta) - k theta KL(alpha beta || alpha).

    Args:
      alpha: mass of skills that are left out, in (0, 1).
      beta: above 1, alpha * beta below 1.
      theta: mass of failed pieces, in (0, 1).
      k: skills a piece, at least 1.

    Raises:
      UserError: a number outside of these.
    """
    alpha, theta, k = checked(alpha, theta, k)
    return entropy(theta) - k * theta * divergence(_spread(alpha, beta), alpha)


def beta_theorem(alpha: ArrayLike, theta: ArrayLike, k: ArrayLike) -> np.ndarray:
    """The least beta that Theorem 8 grants; NaN above `alpha_max`, where it grants none.

    Raises:
      UserError: alpha or theta outside of (0, 1), k not a whole number of at least 1.
    """
    alpha, theta, k = checked(alpha, theta, k)
    return _solve(alpha, _entropy_per_failure(theta) / k)


def alpha_max(theta: ArrayLike, k: ArrayLike) -> np.ndarray:
    """Where the curve of `beta_theorem` ends, exp(-H(theta) / (k theta)); beta is 1/alpha there.

    Raises:
      UserError: as `beta_theorem`.
    """
    _, theta, k = checked(0.5, theta, k)
    return np.exp(-_entropy_per_failure(theta) / k)


def beta_finite(
    alpha: ArrayLike,
    theta: ArrayLike,
    k: ArrayLike,
    pieces_per_skill: ArrayLike,
    equal: bool = True,
) -> np.ndarray:
    """As `beta_theorem` with the sets of skills counted too, for a finite number of pieces.

    Solves H(theta) + (N2/N1) H(alpha) = k theta KL(alpha beta || alpha), which the union over
    failed sets and over sets of alpha N2 skills needs; NaN where nothing does.

    Args:
      alpha: mass of skills left out.
      theta: share of failed pieces.
      k: skills a piece.
      pieces_per_skill: N1/N2, above 0.
      equal: whether all skills weigh the same; if not, all 2^N2 sets of skills are counted, and
        ln 2 takes the place of H(alpha).

    Raises:
      UserError: a number outside of its range.
    """
    alpha, theta, k = checked(alpha, theta, k)
    ratio = _positive("pieces_per_skill", pieces_per_skill)
    sets = entropy(alpha) if equal else np.log(2)
    return _solve(alpha, (_entropy_per_failure(theta) + sets / (ratio * theta)) / k)


def beta_exact(alpha: ArrayLike, theta: ArrayLike, k: ArrayLike) -> np.ndarray:
    """The mean beta on the worst mass alpha if whoever fails pieces does the most harm.

    A piece has X ~ Bin(k, alpha) skills in a given set of that mass; failing the pieces with the
    largest X gives E[X | its top theta tail] / (k alpha), the atom at the quantile split. With
    many pieces per skill no way to fail exceeds it, and one attains it, so nothing below it holds
    without knowing how pieces fail. It exists for every alpha. It is 1/theta (error 100 %) where
    theta >= 1 - (1 - alpha)^k, the mass of pieces with any skill of the set, and 1/alpha for
    theta <= alpha^k, the mass of pieces with no other.

    Raises:
      UserError: as `beta_theorem`.
    """
    alpha, theta, k = checked(alpha, theta, k)
    top = int(k.max(initial=1))
    x = np.arange(top + 1)
    more = stats.binom.sf(x, k[..., None], alpha[..., None])
    here = stats.binom.pmf(x, k[..., None], alpha[..., None])
    taken = np.clip(theta[..., None] - more, 0, here)
    return (x * taken).sum(-1) / (theta * k * alpha)


def beta_random(alpha: ArrayLike, theta: ArrayLike, degree: ArrayLike) -> np.ndarray:
    """The mean beta on the worst skills if pieces fail by chance.

    Failures of one skill's D pieces are then binomial, and the worst share alpha of many skills
    lies 1 + m sqrt((1 - theta) / (theta D)) high, m the mean of the upper alpha tail of a
    standard normal. Good for theta D well above 1.

    Args:
      alpha: share of skills.
      theta: share of failed pieces.
      degree: D, pieces a skill (k N1/N2).

    Raises:
      UserError: a number outside of its range.
    """
    alpha, theta, _ = checked(alpha, theta, 1)
    degree = _positive("degree", degree)
    tail = stats.norm.pdf(stats.norm.isf(alpha)) / alpha
    return 1 + tail * np.sqrt((1 - theta) / (theta * degree))


def error_bound(beta: ArrayLike, theta: ArrayLike) -> np.ndarray:
    """beta * theta, the error of a skill, at most 1; NaN where there is no beta."""
    return np.minimum(np.asarray(beta, float) * theta, 1)


def standing(beta: ArrayLike, theta: ArrayLike) -> np.ndarray:
    """What a beta says: NO_SOLUTION, ABOVE_ONE (an error of 100 % or more), or INFORMATIVE."""
    beta, theta = np.broadcast_arrays(np.asarray(beta, float), np.asarray(theta, float))
    empty = beta * theta >= 1 - _ROUNDING
    return np.where(np.isnan(beta), NO_SOLUTION, np.where(empty, ABOVE_ONE, INFORMATIVE))


def checked(
    alpha: ArrayLike, theta: ArrayLike, k: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The three as arrays of one shape, k still whole.

    Raises:
      UserError: alpha or theta outside of (0, 1), k not a whole number of at least 1.
    """
    for name, given in (("alpha", alpha), ("theta", theta)):
        values = np.asarray(given, float)
        if not np.all((values > 0) & (values < 1)):
            raise UserError(f"expected {name} between 0 and 1, got {given}; both ends excluded")
    whole = np.asarray(k, float)
    if not np.all((whole >= 1) & (whole == np.floor(whole)) & np.isfinite(whole)):
        raise UserError(f"expected k, skills a piece, as a whole number of at least 1, got {k}")
    return tuple(
        np.broadcast_arrays(
            np.asarray(alpha, float), np.asarray(theta, float), whole.astype(np.int64)
        )
    )


def _spread(alpha: np.ndarray, beta: ArrayLike) -> np.ndarray:
    """alpha * beta, checked."""
    beta = np.asarray(beta, float)
    if not np.all((beta > 1) & (alpha * beta < 1)):
        raise UserError(f"expected beta above 1 and alpha * beta below 1, got {beta} and {alpha}")
    return alpha * beta


def _positive(name: str, given: ArrayLike) -> np.ndarray:
    values = np.asarray(given, float)
    if not np.all(values > 0):
        raise UserError(f"expected {name} above 0, got {given}")
    return values


def _entropy_per_failure(theta: np.ndarray) -> np.ndarray:
    """H(theta) / theta, for the smallest theta too."""
    return -np.log(theta) - special.xlog1py((1 - theta) / theta, -theta)


def _solve(alpha: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """The beta in [1, 1/alpha] with KL(alpha beta || alpha) = needed; NaN where there is none."""
    alpha, needed = np.broadcast_arrays(alpha, needed)
    most = -np.log(alpha)

    def excess(log_beta, alpha, needed):
        return divergence(np.minimum(alpha * np.exp(log_beta), 1), alpha) - needed

    found = elementwise.find_root(excess, (np.zeros(most.shape), most), args=(alpha, needed))
    beta = np.exp(np.clip(found.x, 0, most))
    return np.where(needed > most, np.nan, np.where(needed == most, 1 / alpha, beta))
