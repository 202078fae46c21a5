"""How every role of a source becomes that of a wider target: one set of lifts a pattern.

A role is either the residual stream, which all layers write and read, or hidden: heads, their
dimensions, the units of the MLP, each written and read in one place. Attention ties roles together:
query head i reads key head i // group, and what the output map reads has a head for every query.
Sources are named where a pattern is defined; which of them are exact is in `presets`.
"""

import math
from collections.abc import Mapping

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth.axes import STREAM, Graph
from llm_dynamics.growth.maps import NEW, Gather, averaged, both, pad, same, shared, tile
from llm_dynamics.growth.operator import Lift
from llm_dynamics.growth.traits import Traits

HEADS = ("query_heads", "key_heads", "value_heads", "attended_heads")
DIMS = ("query_dim", "key_dim", "value_dim", "attended_dim")
Lifts = dict[str, Lift]


def grown_roles(source: Graph, target: Graph) -> list[str]:
    """The roles whose size differs."""
    return [role for role, size in source.sizes.items() if target.sizes[role] != size]


# ---- the stream ----------------------------------------------------------------------------------


def stream_padded(old: int, new: int, traits: Traits) -> Lift:
    """New dimensions carry nothing (RMSNorm), or the mean (LayerNorm); what reads them is drawn.

    A norm that subtracts the mean sees the same deviations where the new dimensions hold the mean
    of the old ones (the idea of LEMON, Wang et al. 2024), and their normed values are 0.
    """
    write = averaged(old, new) if traits.centred else pad(old, new)
    return Lift(write, pad(old, new), zero_written=True, norm=pad(old, new))


def stream_tiled(old: int, new: int) -> Lift:
    """The stream several times over; what reads it reads the mean of the copies."""
    return Lift(tile(old, new), shared(np.arange(new) % old))


# ---- heads ---------------------------------------------------------------------------------------


def heads_padded(source: Graph, target: Graph) -> Lifts:
    """New heads whose output nothing reads: the rest of them is drawn.

    A larger group gets its new query heads inside, where they read the same key head. A smaller
    one that divides it is made by repeating key heads first, which changes nothing.
    """
    if "query_heads" not in source.sizes:
        return {}
    queries, keys = _pairs(source, target, "query_heads"), _pairs(source, target, "key_heads")
    group, new_group = queries[0] // keys[0], queries[1] // keys[1]
    key = same(keys[0])
    if new_group < group:
        if group % new_group:
            raise UserError(
                f"expected a number of query heads for each key head that divides {group} or is "
                f"larger, got {new_group}: key heads can be split, not merged"
            )
        times = group // new_group
        key = Gather(np.repeat(np.arange(keys[0]), times), np.ones(keys[0] * times))
        group = new_group
        if keys[1] < key.size:
            raise UserError(
                f"expected at least {key.size} key heads, so that {new_group} query heads share "
                f"each, got {keys[1]}"
            )
    key = both(key, pad(key.size, keys[1]))
    heads = np.arange(queries[1])
    place, inside = heads // new_group, heads % new_group
    index = place * group + inside
    query = Gather(
        np.where((inside < group) & (index < queries[0]), index, NEW), np.ones(queries[1])
    )
    return {
        "query_heads": Lift(query, query),
        "key_heads": Lift(key, key),
        "value_heads": Lift(key, key),
        "attended_heads": Lift(query, query, zero_read=True),
    }


def heads_copied(source: Graph, target: Graph, index_K: np.ndarray, uneven: float = 0.0) -> Lifts:
    """Copies of whole key heads with their queries; what the copies give is shared out.

    Args:
      source: axis graph of the source.
      target: of the target, with as many query heads for each key head.
      index_K: which key head of the source each of the target's is.
      uneven: see `maps.shared`.
    """
    if "query_heads" not in source.sizes:
        return {}
    group = source.sizes["query_heads"] // source.sizes["key_heads"]
    if target.sizes["query_heads"] != group * target.sizes["key_heads"]:
        raise UserError(
            f"copies of heads expect {group} query heads for each key head, as in the source, got "
            f"{target.sizes['query_heads']} for {target.sizes['key_heads']}"
        )
    query = (np.asarray(index_K)[:, None] * group + np.arange(group)).ravel()
    key, query = Gather(index_K, np.ones(len(index_K))), Gather(query, np.ones(len(query)))
    return {
        "query_heads": Lift(query, query),
        "key_heads": Lift(key, key),
        "value_heads": Lift(key, key),
        "attended_heads": Lift(query, shared(query.index, uneven)),
    }


def dims_padded(source: Graph, target: Graph, traits: Traits) -> Lifts:
    """Larger heads, exactly: rotary pair p moves to m p, whose frequency is the same.

    Queries are scaled by sqrt(E / e) where scores are divided by the root of the head's size.

    Raises:
      UserError: heads that are rotary and not a whole multiple of the source's.
    """
    if "query_dim" not in source.sizes:
        return {}
    old, new = _pairs(source, target, "query_dim")
    turned = _rotary(old, new, traits.rotary)
    query = Gather(turned.index, np.full(new, math.sqrt(new / old) if traits.by_size else 1.0))
    values = pad(*_pairs(source, target, "value_dim"))
    return {
        "query_dim": Lift(query, query, zero_written=True),
        "key_dim": Lift(turned, turned),
        "value_dim": Lift(values, values),
        "attended_dim": Lift(values, values, zero_read=True),
    }


def _rotary(old: int, new: int, rotary: int) -> Gather:
    """Where the dimensions of a head go; the leading `rotary` ones are turned in pairs."""
    if not rotary or old == new:
        return pad(old, new)
    if new % old:
        raise UserError(
            f"expected heads of a whole multiple of {old} dimensions under rotary positions, got "
            f"{new}: only then has every pair a place with its frequency"
        )
    times, half = new // old, rotary // 2
    index = np.full(new, NEW)
    pairs = np.arange(half)
    index[times * pairs] = pairs
    index[times * half + times * pairs] = half + pairs
    rest = np.arange(rotary, old)
    index[times * rotary + np.arange(len(rest))] = rest
    return Gather(index, np.ones(new))


# ---- units of the MLP ----------------------------------------------------------------------------


def units_padded(old: int, new: int) -> Lift:
    """New units that nothing reads."""
    return Lift(pad(old, new), pad(old, new), zero_read=True)


def units_copied(index: np.ndarray, uneven: float = 0.0) -> Lift:
    """Copies of units, whose output is shared out."""
    return Lift(Gather(index, np.ones(len(index))), shared(index, uneven))


# ---- other roles ---------------------------------------------------------------------------------


def others(source: Graph, target: Graph, known: Mapping[str, Lift]) -> Lifts:
    """Rows of tables: new ones are drawn.

    Raises:
      UserError: any other role that grows.
    """
    found = {}
    for role in grown_roles(source, target):
        if role in known:
            continue
        if role not in ("vocab", "positions"):
            raise UserError(
                f"the axis {role} grows from {source.sizes[role]} to {target.sizes[role]}, and "
                "the operator has no rule for it"
            )
        rows = pad(source.sizes[role], target.sizes[role])
        found[role] = Lift(rows, rows)
    return found


def stream_gain(old: int, new: int) -> float:
    """What gains are multiplied by when the stream is padded: its root mean square falls."""
    return math.sqrt(old / new)


def pairs_of(source: Graph, target: Graph, role: str) -> tuple[int, int]:
    """Sizes of a role in source and target."""
    return source.sizes[role], target.sizes[role]


_pairs = pairs_of
__all__ = [
    "DIMS", "HEADS", "STREAM", "dims_padded", "grown_roles", "heads_copied", "heads_padded",
    "others", "pairs_of", "stream_gain", "stream_padded", "stream_tiled", "units_copied",
    "units_padded",
]  # fmt: skip
