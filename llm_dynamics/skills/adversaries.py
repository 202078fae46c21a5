"""Who fails which pieces: chance, a set of skills aimed at, and a search for the worst set.

An adversary names a set Z of items and fails the theta N1 pieces with most of their items in Z; of
pieces with equally many, the first. Pieces are drawn independently, so the first ones are as random
as any, and chance is the adversary that aims at nothing. The search alternates: the worst items for
these failures, the worst failures for those items, until nothing changes.

A round costs two passes. One looks up every edge in a table of Z and counts how many pieces have
how many items in Z, which gives the threshold without sorting. The other takes only pieces that
fail, found from one bit a piece, and adds up the edges of each item. Axes as in `graph`; M failed
pieces, N chunks of C pieces.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.skills import bounds, targets
from llm_dynamics.skills.graph import SkillGraph

ROUNDS = 30
KEPT_BYTES = 2**31  # edges up to this size are kept, as 16 bits each
_CHUNK = 2**17
_WORD = 32
_SLOTS = 2**14  # failed pieces looked up at once
_ROW = 256


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A graph of one seed; `draw` makes it.

    Attributes:
      graph: how it was drawn.
      seed: of it.
      degree_I: edges of every item.
      kept_NxKxC: its skills, or None where they are made again in every pass.
      chunk: C.
    """

    graph: SkillGraph
    seed: int
    degree_I: np.ndarray
    kept_NxKxC: jax.Array | None
    chunk: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What failures did.

    Attributes:
      error_I: share of each item's edges that lie in failed pieces; 0 for an item without edges.
      theta: share of pieces that failed, a whole number of them.
      alpha: measure of the items in `worst_I`, at most the one asked for.
      worst_I: the items with the largest error that fit into that measure, bool.
      worst: mean error over them, by measure, divided by theta.
      aimed: the same over the set that was aimed at; NaN for chance.
      aimed_alpha: measure of that set; 0 for chance.
      quantile: the largest error outside of the worst, divided by theta: the theorem's beta.
      rounds: of the search; 1 without one.
    """

    error_I: np.ndarray
    theta: float
    alpha: float
    worst_I: np.ndarray
    worst: float
    aimed: float
    aimed_alpha: float
    quantile: float
    rounds: int


def draw(graph: SkillGraph, seed: int, chunk: int = _CHUNK, keep: bool | None = None) -> Drawn:
    """The graph of a seed.

    Args:
      graph: how to draw it.
      seed: of it.
      chunk: pieces at a time, a multiple of 256; changes nothing but memory and time.
      keep: whether to keep the edges or make them again in every pass; None = as they fit.

    Raises:
      UserError: a chunk that is not such a multiple.
    """
    if chunk < _ROW or chunk % _ROW:
        raise UserError(f"expected a chunk of a multiple of {_ROW} pieces, got {chunk}")
    chunk = min(chunk, -(-graph.pieces // _ROW) * _ROW)
    if keep is None:
        keep = 2 * graph.k * graph.pieces <= KEPT_BYTES
    if keep and graph.k * (graph.pieces + chunk) >= 2**31:
        raise UserError(f"too many edges to keep: {graph.pieces:,} pieces of {graph.k}; keep=False")
    kept, degree_I = _first_pass(graph, chunk, keep, jax.random.key(seed))
    return Drawn(graph, seed, np.asarray(degree_I), kept, chunk)


def fail_most(drawn: Drawn, aim_I: np.ndarray, theta: float) -> np.ndarray:
    """Edges of each item in the theta N1 pieces with most items in `aim_I` (bool), I.

    Raises:
      UserError: theta outside of (0, 1), or too few pieces for one to fail.
    """
    graph, chunk, kept = drawn.graph, drawn.chunk, drawn.kept_NxKxC
    failing, key = _failing(graph, theta), jax.random.key(drawn.seed)
    count_NxC, pieces_NxJ = _count(graph, chunk, key, kept, np.int8(aim_I))
    # Pieces with more than `level` items all fail, those with as many up to the piece `last`.
    pieces_NxJ = np.asarray(pieces_NxJ)
    atleast_J = np.append(pieces_NxJ.sum(0)[::-1].cumsum()[::-1], 0)
    level = int((atleast_J >= failing).sum()) - 1
    ties = failing - int(atleast_J[level + 1])
    before_N = pieces_NxJ[:, level].cumsum()
    n = int(np.searchsorted(before_N, ties))
    tied = np.flatnonzero(np.asarray(count_NxC[n]) == level)
    last = n * chunk + int(tied[ties - int(before_N[n]) - 1])
    return np.asarray(_inside(graph, chunk, key, kept, count_NxC, level, last, failing))


def by_chance(drawn: Drawn, theta: float, alpha: float) -> Outcome:
    """Pieces fail at random.

    Raises:
      UserError: theta or alpha outside of (0, 1), or too small for the graph.
    """
    nothing_I = np.zeros(drawn.graph.items, bool)
    return _outcome(drawn, nothing_I, fail_most(drawn, nothing_I, theta), theta, alpha, 1)


def aimed_at(drawn: Drawn, aim_I: np.ndarray, theta: float, alpha: float) -> Outcome:
    """Pieces fail by how many of their items are in a fixed set (bool, I).

    Raises:
      UserError: as `by_chance`.
    """
    return _outcome(drawn, aim_I, fail_most(drawn, aim_I, theta), theta, alpha, 1)


def search(
    drawn: Drawn, aim_I: np.ndarray, theta: float, alpha: float, rounds: int = ROUNDS
) -> Outcome:
    """Alternates worst failures and worst items from a first set, to a fixed point.

    The best round is returned: with weights of items, a round may be a step back.

    Raises:
      UserError: as `by_chance`.
    """
    best, made = None, 0
    while made < rounds:
        made += 1
        found = aimed_at(drawn, aim_I, theta, alpha)
        if best is None or found.worst > best.worst:
            best = found
        if np.array_equal(found.worst_I, aim_I):
            break
        aim_I = found.worst_I
    return dataclasses.replace(best, rounds=made)


def _failing(graph: SkillGraph, theta: float) -> int:
    bounds.checked(0.5, theta, 1)
    failing = round(theta * graph.pieces)
    if not 1 <= failing < graph.pieces:
        raise UserError(
            f"theta={theta} of {graph.pieces:,} pieces is {failing} of them; raise pieces"
        )
    return failing


def _outcome(
    drawn: Drawn, aim_I: np.ndarray, inside_I: np.ndarray, theta: float, alpha: float, rounds: int
) -> Outcome:
    graph, mass_I = drawn.graph, drawn.graph.mass_I
    theta = _failing(graph, theta) / graph.pieces
    error_I = inside_I / np.maximum(drawn.degree_I, 1)
    worst_I = targets.fitting(np.argsort(-error_I, kind="stable"), mass_I, alpha)

    def mean(set_I):
        return float(error_I[set_I] @ mass_I[set_I] / mass_I[set_I].sum()) / theta

    return Outcome(
        error_I,
        theta,
        float(mass_I[worst_I].sum()),
        worst_I,
        mean(worst_I),
        mean(aim_I) if aim_I.any() else float("nan"),
        float(mass_I[aim_I].sum()),
        float(error_I[~worst_I].max()) / theta,
        rounds,
    )


# ---- compiled ------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _first_pass(graph: SkillGraph, chunk: int, keep: bool, key: jax.Array):
    """The skills of all pieces where they are to be kept, and the edges of each item."""

    def one(degree_I, n):
        piece_C = n * chunk + jnp.arange(chunk, dtype=jnp.int32)
        skill_KxC = graph.skills_of(key, piece_C)
        item_JxC = graph.items_of(skill_KxC).astype(jnp.int32)
        there_C = (piece_C < graph.pieces).astype(jnp.int32)
        added_JxC = jnp.broadcast_to(there_C[None], item_JxC.shape)
        return degree_I.at[item_JxC].add(added_JxC), skill_KxC if keep else None

    chunks = jnp.arange(-(-graph.pieces // chunk), dtype=jnp.int32)
    degree_I, kept_NxKxC = jax.lax.scan(one, jnp.zeros(graph.items, jnp.int32), chunks)
    return kept_NxKxC, degree_I


@functools.partial(jax.jit, static_argnums=(0, 1))
def _count(graph: SkillGraph, chunk: int, key, kept_NxKxC, aim_I: jax.Array):
    """How many items of a piece are in `aim_I` (int8), and how many pieces have 0 .. J; by chunk.

    The counts of places behind the last piece are -1.
    """

    def one(n):
        piece_C = n * chunk + jnp.arange(chunk, dtype=jnp.int32)
        skills = graph.skills_of(key, piece_C) if kept_NxKxC is None else kept_NxKxC[n]
        item_JxC = graph.items_of(skills)
        count_C = aim_I.at[item_JxC].get(mode="promise_in_bounds").sum(0, dtype=jnp.int8)
        return jnp.where(piece_C < graph.pieces, count_C, jnp.int8(-1))

    chunks = jnp.arange(-(-graph.pieces // chunk), dtype=jnp.int32)
    count_NxC = jax.lax.map(one, chunks)
    return count_NxC, _histogram(count_NxC, graph.per_piece)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _inside(graph: SkillGraph, chunk: int, key, kept_NxKxC, count_NxC, level, last, failing):
    """Edges of each item in the failed pieces."""
    word_W = _bits(count_NxC, level, last)
    filled_W = jax.lax.population_count(word_W).astype(jnp.int32)
    sum_W = jnp.cumsum(filled_W)

    def add(step, inside_I):
        slot_M = step * _SLOTS + jnp.arange(_SLOTS, dtype=jnp.int32)
        valid_M = slot_M < failing
        slot_M = jnp.minimum(slot_M, failing - 1)
        n_M, c_M = _split(*_set_bit(word_W, filled_W, sum_W, slot_M), chunk)
        if kept_NxKxC is None:
            skill_KxM = graph.skills_of(key, n_M * chunk + c_M)
        else:
            place_KxM = chunk * jnp.arange(graph.k, dtype=jnp.int32)[:, None]
            place_KxM += (n_M * (graph.k * chunk) + c_M)[None]
            skill_KxM = kept_NxKxC.ravel().at[place_KxM].get(mode="promise_in_bounds")
        item_JxM = graph.items_of(skill_KxM).astype(jnp.int32)
        item_JxM = jnp.where(valid_M[None], item_JxM, graph.items)
        return inside_I.at[item_JxM].add(1, mode="promise_in_bounds")

    steps = (failing + _SLOTS - 1) // _SLOTS
    inside_I = jax.lax.fori_loop(0, steps, add, jnp.zeros(graph.items + 1, jnp.int32))
    return inside_I[:-1]


def _histogram(count_NxC: jax.Array, most: int) -> jax.Array:
    """How many counts are 0 .. most; sums of 8 bits first, over 32 rows, which vectorise."""
    count = count_NxC.reshape(len(count_NxC), _WORD, -1)

    def one(j):
        return (count == j).astype(jnp.int8).sum(1, dtype=jnp.int8).sum(-1, dtype=jnp.int32)

    return jax.lax.map(one, jnp.arange(most + 1, dtype=jnp.int8)).T


def _bits(count_NxC, level, last) -> jax.Array:
    """One bit a piece: whether it fails. Bit r of word l of a chunk is its piece r C/32 + l."""
    chunks, chunk = count_NxC.shape
    place = jnp.arange(chunks * chunk, dtype=jnp.int32).reshape(chunks, _WORD, -1)
    count = count_NxC.reshape(chunks, _WORD, -1)
    fails = (count > level) | ((count == level) & (place <= last))
    shift = jnp.arange(_WORD, dtype=jnp.uint32)[None, :, None]
    return (fails.astype(jnp.uint32) << shift).sum(1, dtype=jnp.uint32).ravel()


def _set_bit(word_W, filled_W, sum_W, slot_M) -> tuple[jax.Array, jax.Array]:
    """Word and bit of the slot-th bit that is set."""
    word_M = jnp.searchsorted(sum_W, slot_M, side="right").astype(jnp.int32)
    left_M = slot_M - (sum_W[word_M] - filled_W[word_M])

    def halve(step, state):  # loops, since unrolled steps take long to compile
        left_M, bits_M, bit_M = state
        half = jnp.uint32(16) >> step
        low_M = bits_M & ((jnp.uint32(1) << half) - 1)
        in_low_M = jax.lax.population_count(low_M).astype(jnp.int32)
        above_M = left_M >= in_low_M
        left_M = jnp.where(above_M, left_M - in_low_M, left_M)
        bits_M = jnp.where(above_M, bits_M >> half, low_M)
        return left_M, bits_M, jnp.where(above_M, bit_M + half.astype(jnp.int32), bit_M)

    state = (left_M, word_W[word_M], jnp.zeros_like(word_M))
    return word_M, jax.lax.fori_loop(0, 5, halve, state)[2]


def _split(word_M, bit_M, chunk: int) -> tuple[jax.Array, jax.Array]:
    """The chunk and the place in it that a bit stands for."""
    length = chunk // _WORD
    return word_M // length, bit_M * length + word_M % length
