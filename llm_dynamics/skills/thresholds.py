"""Where random graphs change at once: limits for many skills (derived, and standard results).

None of this is in the theorem on skills, which rests on large deviations; these are the transitions
that emergence is often likened to. The simulations beside them are in `random_graphs`.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from llm_dynamics.errors import UserError


def expected_isolated(c: ArrayLike) -> np.ndarray:
    """Mean of the Poisson number of isolated nodes of G(n, (ln n + c) / n), e^-c.

    The same for skills that occur in no piece, k N1 = N2 (ln N2 + c): the coupon collector.
    """
    return np.exp(-np.asarray(c, float))


def none_isolated(c: ArrayLike) -> np.ndarray:
    """Probability that no node is isolated, exp(-e^-c); also that the graph is connected."""
    return np.exp(-expected_isolated(c))


def pieces_for_all(skills: int, k: int, c: float = 0.0) -> float:
    """N1 = N2 (ln N2 + c) / k: pieces of k skills after which `none_isolated` is exp(-e^-c).

    Raises:
      UserError: fewer than one skill or skill a piece.
    """
    _at_least(1, skills=skills, k=k)
    return skills * (math.log(skills) + c) / k


def giant_share(c: ArrayLike) -> np.ndarray:
    """Share of nodes in the giant component of G(n, c/n): S = 1 - e^(-c S); 0 for c <= 1.

    Raises:
      UserError: c below 0.
    """
    c = _at_least(0, c=c)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = 1 + np.real(special.lambertw(-c * np.exp(-c))) / c
    return np.where(c > 1, share, 0.0)


def giant_skill_share(pieces_per_skill: ArrayLike, k: int) -> np.ndarray:
    """Share of skills in the giant component when every piece joins its k skills.

    S = 1 - exp(-d (1 - (1 - S)^(k-1))) with d = k N1/N2; 0 where d (k - 1) <= 1.

    Args:
      pieces_per_skill: N1/N2.
      k: skills a piece, at least 2.

    Raises:
      UserError: a number outside of its range.
    """
    ratio = _at_least(0, pieces_per_skill=pieces_per_skill)
    _at_least(2, k=k)

    def one(ratio):
        degree = k * ratio
        if degree * (k - 1) <= 1:
            return 0.0

        def gap(s):
            return s + math.expm1(degree * ((1 - s) ** (k - 1) - 1))

        low = 0.1
        while gap(low) >= 0:
            low /= 2
            if low < 1e-12:
                return 0.0
        return optimize.brentq(gap, low, 1)

    return np.vectorize(one, otypes=[float])(ratio)


def giant_skill_threshold(k: int) -> float:
    """Pieces per skill from which skills have a giant component, 1 / (k (k - 1)).

    Raises:
      UserError: k below 2.
    """
    _at_least(2, k=k)
    return 1 / (k * (k - 1))


def bipartite_threshold(first: float, second: float) -> float:
    """Probability of an edge from which a bipartite graph has a giant component.

    p^2 n1 n2 = 1, so 1 / sqrt(n1 n2).

    Raises:
      UserError: sizes below 1.
    """
    _at_least(1, first=first, second=second)
    return 1 / math.sqrt(first * second)


def unlearned_share(pieces_per_skill: ArrayLike, c: float) -> np.ndarray:
    """Share of skills left when pieces of Poisson(c) skills teach their last unknown one (peeling).

    The largest p with p = exp(-c R e^(-c p)), R pieces per skill, where density evolution from
    p = 1 stops.

    Raises:
      UserError: a negative number.
    """
    ratio = _at_least(0, pieces_per_skill=pieces_per_skill)
    _at_least(0, c=c)
    p = np.ones(ratio.shape)
    for _ in range(100_000):
        new = np.exp(-c * ratio * np.exp(-c * p))
        if np.max(p - new, initial=0) < 1e-12:
            break
        p = new
    return p


def peeling_jump(c: float) -> tuple[float, float, float] | None:
    """Where `unlearned_share` jumps, and from where to where; None for c <= e: nowhere.

    R* = e^y / (c y), y > 1 the root of ln y + 1/y = ln c; just below it p is y / c.

    Returns:
      R*, p just below, p just above.

    Raises:
      UserError: c not above 0.
    """
    if not c > 0:
        raise UserError(f"expected c, mean skills a piece, above 0, got {c}")
    if c <= math.e:
        return None
    y = optimize.brentq(lambda y: math.log(y) + 1 / y - math.log(c), 1 + 1e-12, c)
    ratio, before = math.exp(y) / (c * y), y / c

    def gap(log_p):  # ln p + c R e^(-c p), whose three roots meet two by two at R*
        return log_p + c * ratio * math.exp(-c * math.exp(log_p))

    # The other root lies below the second stationary point, -p c ln p = 1 at p = z / c, z < 1.
    z = optimize.brentq(lambda z: math.log(z) + 1 / z - math.log(c), 1e-3 / c, 1)
    after = math.exp(optimize.brentq(gap, -c * ratio - 1, math.log(z / c)))
    return ratio, before, after


def _at_least(least: float, **given: ArrayLike) -> np.ndarray:
    """The last of them as an array; all checked."""
    values = np.zeros(0)
    for name, value in given.items():
        values = np.asarray(value, float)
        if not np.all(values >= least):
            raise UserError(f"expected {name} of at least {least}, got {value}")
    return values
