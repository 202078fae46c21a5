"""The random graph of skills and text-pieces, as a function of a seed and a piece's number.

Every piece needs k skills, drawn independently from a measure mu_1 (with repetition, as in Arora &
Goyal 2023, Definition 5), or k distinct ones. All pieces weigh the same. What piece i needs depends
on (seed, i) alone, so any part of a graph can be made when it is needed and forgotten, and chunks
of any size give the same graph to the bit. `adversaries.draw` keeps edges as 16 bits each where
they fit into 2 GiB (10^8 pieces of 8 skills are 1.6 GB), and else makes them again, chunk by chunk,
in every pass, which takes many times as long.

Axes: P pieces, K skills a piece, S skills, I items (skills, or unordered pairs of them), J items a
piece.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.errors import UserError

_MOST_SKILLS = 2**16  # a skill's number is kept in 16 bits
_MOST_ITEMS = 127  # of a piece, counted in 8 bits
_MOST_EDGES = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class SkillGraph:
    """How graphs are drawn.

    Attributes:
      pieces: N1.
      skills: N2.
      k: skills a piece.
      zipf: the r-th skill has mass in proportion to r^-zipf; 0 = all alike.
      distinct: no skill twice in a piece; only where all are alike.
      tuple_size: 1 to look at skills, 2 at unordered pairs of skills within a piece, of which a
        piece then has k (k - 1) / 2; these need distinct skills.
    """

    pieces: int
    skills: int
    k: int
    zipf: float = 0.0
    distinct: bool = False
    tuple_size: int = 1

    def __post_init__(self):
        if not 2 <= self.skills <= _MOST_SKILLS:
            raise UserError(f"expected between 2 and {_MOST_SKILLS:,} skills, got {self.skills:,}")
        if self.pieces < 1 or self.k < 1 or not 0 <= self.zipf < math.inf:
            raise UserError(
                "expected at least 1 piece, 1 skill a piece and a Zipf exponent of at least 0, got "
                f"{self.pieces}, {self.k} and {self.zipf}"
            )
        if self.tuple_size not in (1, 2):
            raise UserError(f"expected tuples of 1 or 2 skills, got {self.tuple_size}")
        if self.tuple_size == 2 and not (self.distinct and self.k >= 2):
            raise UserError("pairs within a piece need distinct=true and k of at least 2")
        if self.distinct and (self.zipf or self.k > self.skills):
            raise UserError(
                "distinct skills need zipf=0 and k of at most the number of skills, got "
                f"zipf={self.zipf} and k={self.k} of {self.skills}"
            )
        if self.per_piece > _MOST_ITEMS:
            raise UserError(
                f"expected at most {_MOST_ITEMS} skills or pairs a piece, got {self.per_piece}"
            )
        if self.pieces * self.per_piece > _MOST_EDGES:
            raise UserError(
                f"expected at most {_MOST_EDGES:,} edges, got {self.pieces:,} pieces of "
                f"{self.per_piece}; lower pieces or k"
            )

    @property
    def items(self) -> int:
        """I: N2 skills, or their pairs."""
        return math.comb(self.skills, self.tuple_size)

    @property
    def per_piece(self) -> int:
        """J: items of a piece."""
        return math.comb(self.k, self.tuple_size)

    @property
    def mass_I(self) -> np.ndarray:
        """Measure of each item, summing to 1."""
        weight_I = np.arange(1, self.items + 1, dtype=float) ** -self.zipf
        return weight_I / weight_I.sum()

    def skills_of(self, key: jax.Array, piece_P: jax.Array) -> jax.Array:
        """The skills of some pieces, K x P, uint16; a pure JAX function."""

        def bits_of(piece):
            return jax.random.bits(jax.random.fold_in(key, piece), (self.k,))

        bits_KxP = jax.vmap(bits_of, out_axes=1)(piece_P)
        if self.distinct:
            return self._distinct(bits_KxP)
        skill_KxP = _scaled(bits_KxP, self.skills)
        if self.zipf:
            limit_S, other_S = _alias(self.skills, self.zipf)
            # What the scaling left over says where in its slot the draw fell.
            place_KxP = bits_KxP * jnp.uint32(self.skills)
            stay_KxP = place_KxP <= jnp.asarray(limit_S)[skill_KxP]
            skill_KxP = jnp.where(stay_KxP, skill_KxP, jnp.asarray(other_S)[skill_KxP])
        return skill_KxP.astype(jnp.uint16)

    def items_of(self, skill_KxP: jax.Array) -> jax.Array:
        """From the skills of pieces to their items, J x P: the same, or the numbers of pairs."""
        if self.tuple_size == 1:
            return skill_KxP
        a, b = np.triu_indices(self.k, 1)
        skill_KxP = skill_KxP.astype(jnp.int32)
        return pair_number(skill_KxP[a], skill_KxP[b])

    def _distinct(self, bits_KxP: jax.Array) -> jax.Array:
        """K different skills, every set alike (Floyd's algorithm)."""
        chosen = []
        for j in range(self.k):
            last = self.skills - self.k + j
            drawn_P = _scaled(bits_KxP[j], last + 1)
            taken_P = functools.reduce(
                jnp.logical_or, [drawn_P == before for before in chosen], jnp.bool_(False)
            )
            chosen.append(jnp.where(taken_P, last, drawn_P))
        return jnp.stack(chosen).astype(jnp.uint16)


def pair_number(a, b):
    """The number of the unordered pair of two different skills: b (b - 1) / 2 + a for a < b."""
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    return high * (high - 1) // 2 + low


def _scaled(bits: jax.Array, size: int) -> jax.Array:
    """floor(bits * size / 2^32) in 32-bit arithmetic, for a size of at most 2^16."""
    high, low = bits >> 16, bits & 0xFFFF
    return ((high * jnp.uint32(size) + ((low * jnp.uint32(size)) >> 16)) >> 16).astype(jnp.int32)


@functools.cache
def _alias(skills: int, zipf: float) -> tuple[np.ndarray, np.ndarray]:
    """Walker's alias table: per slot the largest place that stays, and where the others go."""
    weight = np.arange(1, skills + 1, dtype=float) ** -zipf
    share = weight / weight.sum() * skills
    other = np.arange(skills, dtype=np.int32)
    small = [i for i in range(skills) if share[i] < 1]
    large = [i for i in range(skills) if share[i] >= 1]
    while small and large:
        low, high = small.pop(), large[-1]
        other[low] = high
        share[high] -= 1 - share[low]
        if share[high] < 1:
            small.append(large.pop())
    limit = np.floor(np.clip(share, 0, 1) * (2**32 - 1))
    return limit.astype(np.uint32), other
