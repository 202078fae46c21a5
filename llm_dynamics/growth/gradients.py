"""Gradients of a grown model's entries, out of those of its source, by the chain rule.

Where the target computes what the source did, the gradient of an entry that comes from the source
is that of its source entry times a ratio:

    d loss / d W'[i, o] = (value of input i) (d loss / d output o) = r d loss / d W[i, o]
    r = forward[i] backward[o]

forward is what the operator multiplies a written entry by, as its readers see it (behind the norm);
backward is the share that its readers give it.

Letters: N entries of a target's axis.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth.axes import STREAM, Graph, Param
from llm_dynamics.growth.maps import NEW, Gather, Map, Mix, same
from llm_dynamics.growth.operator import Lift, Operator, Term

# What is written in an attention layer is read elsewhere; dimensions of queries and keys by each
# other.
_READ_AS = {"query_heads": "attended_heads"}
_KEYS = ("key_heads", "value_heads")
_SCORED = ("query_dim", "key_dim")


@dataclasses.dataclass(frozen=True)
class Axis:
    """One axis of a parameter: where its N entries come from, and what becomes of them."""

    at: int
    role: str
    reading: bool
    index: np.ndarray  # in any term
    scale: np.ndarray  # entry over source entry
    ratio: np.ndarray  # gradient over that of the source entry

    @property
    def undone(self) -> np.ndarray:
        """1 / scale."""
        return 1 / np.where(self.scale == 0, 1.0, self.scale)

    @property
    def weight(self) -> np.ndarray:
        """Of gradients, so that the squares of all copies add up to that of the source entry."""
        counts = np.bincount(self.index[self.index != NEW], minlength=1)
        copies = np.where(self.index == NEW, 1, counts[np.maximum(self.index, 0)])
        return 1 / (np.where(self.ratio == 0, 1.0, np.abs(self.ratio)) * np.sqrt(copies))


class Chain:
    """Forward and backward factors of every role, from the lifts of all terms."""

    def __init__(self, operator: Operator, source: Graph, target: Graph, head_norm: str):
        if reason := mixed(operator):
            raise UserError(f"operator {operator.name} has no ratios of gradients: {reason}")
        self.operator, self.source, self.target = operator, source, target
        self.head_norm = head_norm
        stream = self._together(STREAM, reading=False)
        # The norm divides by the root mean square, which falls where new dimensions are empty.
        filled = np.where(stream.index == NEW, 0.0, stream.scale)
        self.normed = operator.gains.get(STREAM, 1.0) / math.sqrt(np.mean(filled**2))
        tied = not any(_is_head(param) for param in source.params.values())
        read = stream if tied else self._together(STREAM, reading=True)
        self.stream = np.where(
            read.index == NEW, 1.0, read.scale * operator.head * self.normed
        )  # what the head gives to the stream

    def axes(self, path: str) -> list[Axis]:
        """Of a parameter, but for that of the layers."""
        param, head = self.source.params[path], self.operator.head_factor
        first, found = int(param.layered), []
        for at, role in enumerate(param.roles, first):
            reading = at - first < len(param.reads)
            lifts = [self.lift(term, role) for term in self.operator.terms]
            index, scale = _union([gather(lift.of(param, reading)) for lift in lifts])
            ratio = self._forward(role, param) if reading else self._backward(role, param)
            if param.kind in ("gain", "shift"):
                factor = self.operator.factor(param, self.head_norm)
                scale = scale * factor
                if role == STREAM and param.kind == "gain":
                    ratio = ratio * self._together(STREAM, reading=False).scale / factor
                elif role == STREAM:
                    ratio = ratio / (self.normed * head(param, self.head_norm))
            new = index == NEW
            found.append(
                Axis(at, role, reading, index, np.where(new, 1.0, scale), np.where(new, 1.0, ratio))
            )
        return found

    def _forward(self, role: str, param: Param) -> np.ndarray:
        written = self._together(role, reading=False).scale
        if role != STREAM:
            return written
        return written * self.normed * (self.operator.head if _is_head(param) else 1.0)

    def _backward(self, role: str, param: Param) -> np.ndarray:
        if role == STREAM:
            return self.stream
        if _is_head(param):
            return np.ones(self.target.sizes[role])
        if role in _SCORED:
            return 1 / self._together(role, reading=False).scale
        if role in _KEYS:
            queries = self._shares("attended_heads")
            return queries.reshape(self.target.sizes[role], -1).sum(axis=1) / group(self.source)
        if role == "value_dim":
            return self._together("attended_dim", reading=True).scale
        return self._shares(_READ_AS.get(role, role))

    def _shares(self, role: str) -> np.ndarray:
        """What is given to entries by all that reads them and writes the stream."""
        total = np.zeros(self.target.sizes[role])
        for term in self.operator.terms:
            read = gather(self.lift(term, role).read)
            written = gather(self.lift(term, STREAM).write)
            given = np.bincount(
                written.index[~written.new],
                (written.scale * self.stream)[~written.new],
                minlength=self.source.sizes[STREAM],
            )
            total += np.where(read.new, 0.0, read.scale * given.mean())
        return total

    def _together(self, role: str, reading: bool) -> Gather:
        lifts = [self.lift(term, role) for term in self.operator.terms]
        return Gather(*_union([gather(x.read if reading else x.write) for x in lifts]))

    def lift(self, term: Term, role: str) -> Lift:
        """How a role grows, or does not."""
        unchanged = same(self.target.sizes[role])
        return term.lifts.get(role, Lift(unchanged, unchanged))


def _is_head(param: Param) -> bool:
    """Whether a parameter reads the stream behind all layers."""
    return not param.layered and param.kind == "weight" and STREAM in param.reads


def group(graph: Graph) -> float:
    """Query heads for each key head."""
    return graph.sizes.get("query_heads", 1) / graph.sizes.get("key_heads", 1)


def _union(maps: Sequence[Gather]) -> tuple[np.ndarray, np.ndarray]:
    """Where entries come from in the first map that has them, and with what factor."""
    index, scale = maps[0].index, maps[0].scale
    for other in maps[1:]:
        fill = (index == NEW) & (other.index != NEW)
        index, scale = np.where(fill, other.index, index), np.where(fill, other.scale, scale)
    return index, scale


def gather(along: Map) -> Gather:
    """A map as copies; entries that are a mean of others have no moments of their own."""
    if isinstance(along, Gather):
        return along
    matrix = np.asarray(along.matrix)
    single = (matrix != 0).sum(axis=1) == 1
    index = np.where(single, np.abs(matrix).argmax(axis=1), NEW)
    return Gather(index, np.where(single, matrix.sum(axis=1), 1.0))


def mixed(operator: Operator) -> str:
    """What an operator mixes that is more than copies and plain means; "" = nothing."""
    for term in operator.terms:
        for key, weights in term.depth.items():
            if not isinstance(weights, np.ndarray) or ((weights != 0).sum(axis=1) > 1).any():
                return f"it blends layers ({key or 'all modules'})"
        for role, lift in term.lifts.items():
            for along in (lift.write, lift.read, lift.norm):
                if "+" in role or (isinstance(along, Mix) and not _means(along)):
                    return f"it mixes the entries of {role}"
    return ""


def _means(along: Mix) -> bool:
    """Whether every row is a copy or a plain mean."""
    if along.along or not isinstance(along.matrix, np.ndarray):
        return False
    rows = np.where(along.matrix == 0, np.nan, along.matrix)
    filled = (along.matrix != 0).sum(axis=1)
    spread = np.nanmax(rows, axis=1) - np.nanmin(rows, axis=1) if filled.all() else np.inf
    plain = np.isclose(np.nanmean(rows, axis=1) * filled, 1) if filled.all() else False
    return bool(np.all((filled == 1) | (np.isclose(spread, 0) & plain)))


def rank(index: np.ndarray) -> np.ndarray:
    """Which copy of its source entry each entry is, from 0; -1 = none."""
    order = np.argsort(index, kind="stable")
    places = np.arange(len(index)) - np.searchsorted(index[order], index[order])
    rank = np.empty(len(index), int)
    rank[order] = places
    return np.where(index == NEW, -1, rank)
