"""How many tuples of skills a corpus has seen: there are soon more than texts (derived).

A piece has k distinct skills of N2, all sets alike, and shows every k'-tuple among them. Counts
are whole numbers, exactly. Arora & Goyal 2023, Sec. 1.1, argue from such counts.
"""

import math
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike

from llm_dynamics.errors import UserError


def tuples(skills: int, size: int) -> int:
    """C(N2, k'), how many k'-tuples of skills there are.

    Raises:
      UserError: sizes that are not whole, below 1, or more than there are skills.
    """
    _check(skills, size, size)
    return math.comb(skills, size)


def chance(skills: int, k: int, size: int) -> Fraction:
    """Of one tuple in one piece, C(k, k') / C(N2, k').

    Raises:
      UserError: unless 1 <= k' <= k <= N2, all whole.
    """
    _check(skills, k, size)
    return Fraction(math.comb(k, size), math.comb(skills, size))


def seen_share(pieces: ArrayLike, skills: int, k: int, size: int) -> np.ndarray:
    """Expected share of tuples that occur in that many pieces, 1 - (1 - q)^n.

    Raises:
      UserError: as `chance`, or a number of pieces below 0.
    """
    pieces = np.asarray(pieces, float)
    if not np.all(pieces >= 0):
        raise UserError(f"expected a number of pieces of at least 0, got {pieces}")
    log_missed = _log_missed(skills, k, size)
    if math.isinf(log_missed):
        return np.where(pieces > 0, 1.0, 0.0)
    return -np.expm1(pieces * log_missed)


def half_coverage(skills: int, k: int, size: int) -> int:
    """The least number of pieces that show half of the tuples on average, about ln 2 / q.

    Raises:
      UserError: as `chance`.
    """
    return math.ceil(-math.log(2) / _log_missed(skills, k, size)) or 1


def full_coverage(skills: int, k: int, size: int) -> int:
    """The least number of pieces that miss at most one tuple on average, about ln C(N2, k') / q.

    Raises:
      UserError: as `chance`.
    """
    count = math.log(tuples(skills, size))
    return math.ceil(-count / _log_missed(skills, k, size)) or 1


def _log_missed(skills: int, k: int, size: int) -> float:
    """ln(1 - q)."""
    found = chance(skills, k, size)
    return -math.inf if found == 1 else math.log1p(-float(found))


def _check(skills: int, k: int, size: int) -> None:
    whole = all(isinstance(x, int | np.integer) for x in (skills, k, size))
    if not whole or not 1 <= size <= k <= skills:
        raise UserError(
            "expected whole numbers with 1 <= tuple size <= skills a piece <= skills, got "
            f"{size}, {k} and {skills}"
        )
