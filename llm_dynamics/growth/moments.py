"""Adam's moments of a grown model, out of those of its source.

Where the target computes what the source did, the gradient of an entry that comes from the source
is that of its source entry times a ratio, which follows from the chain rule:

    d loss / d W'[i, o] = (value of input i) (d loss / d output o) = r d loss / d W[i, o]
    r = forward[i] backward[o]

forward is what the operator multiplies a written entry by, as its readers see it (behind the norm);
backward is the share that its readers give it. So m grows with r and v with r^2 (carry and scale).
If nothing of the target is new, rates and decays that go with it (`multipliers`) make the grown
model's training the source's own, for ever: `inexact` says what stands against that.

Letters: N entries of a target's axis.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_dynamics.errors import UserError
from llm_dynamics.growth import width as width_lib
from llm_dynamics.growth.apply import flat, grow_param, tree
from llm_dynamics.growth.axes import STREAM, Graph, Param
from llm_dynamics.growth.maps import NEW, Gather, Map, Mix, same
from llm_dynamics.growth.operator import Lift, Operator, Term, check
from llm_dynamics.optim.multipliers import Multipliers
from llm_dynamics.spec import nearest

POLICIES: Mapping[str, str] = {
    "reset": "moments and counts are 0",
    "scale": "m r and v r^2 of the source entry, 0 in new entries",
    "asymmetric": "m and v as they are in first copies, 0 in all others (SPARKLING, 2026)",
    "corner": "the same by its older name (MSG, Yao et al. 2024): the old corner, and zeros",
    "block_diagonal": "m r and v r^2 where copies read themselves, 0 elsewhere (Shen et al. 2022)",
    "experimental": "means of the source's moments weighted by |operator|; for learned operators",
}

# What is written in an attention layer is read elsewhere; dimensions of queries and keys by each
# other.
_READ_AS = {"query_heads": "attended_heads"}
_KEYS = ("key_heads", "value_heads")
_SCORED = ("query_dim", "key_dim")


def grow_moments(
    operator: Operator,
    source: Graph,
    target: Graph,
    opt_state: Any,
    policy: str,
    head_norm: str = "",
) -> Any:
    """The optimizer's state of the target; pure, and can be jitted with the target's shardings.

    Counts are kept, but for "reset". A moment of 0 beside a count that is kept makes the first
    update of an entry (1 - b1) / sqrt(1 - b2) learning rates long: 0.4 at b2 = 0.95, but 3.2 at
    b2 = 0.999. Moments of a layer that is copied are copied with it in all policies but "reset";
    those of a layer without a source are 0.

    "scale" is exact for the gradients so far wherever the target computes what the source did, and
    for training that follows where `inexact` is (). For operators that change the function, and
    for norms that subtract the mean of a padded stream, it is a heuristic. So are the others:
    - "asymmetric" and "corner" part copies that would else stay alike for ever. They are published
      without the ratio, so gradients r times as large as before meet moments that are kept, and for
      some 1 / (1 - b2) updates old entries move by down to r of their learning rate.
    - "block_diagonal" keeps blocks apart that are not read across. Blocks that are the same stay
      the same: the state does not change when they are swapped.
    - "reset" leaves copies alike, too.

    Args:
      operator: that made the target's parameters.
      source: axis graph of the source.
      target: of the target.
      opt_state: of the source, with Adam's moments in it (`optim.optimizer.make_optimizer`).
      policy: one of POLICIES.
      head_norm: path of the norm that the head reads.

    Raises:
      UserError: no such policy, no or other moments, or an operator that the policy does not fit.
    """
    check_policy(operator, source, target, policy)
    grown = {}
    for name, power in (("mu", 1), ("nu", 2)):
        old = _moments(opt_state, name, source)
        if policy == "reset":
            new = {path: jnp.zeros(target.params[path].shape, x.dtype) for path, x in old.items()}
        elif policy == "experimental":
            means = _averaging(operator)
            new = {
                path: grow_param(means, source.params[path], target.params[path], x)
                for path, x in old.items()
            }
        else:
            chain = _Chain(operator, source, target, head_norm)
            new = {path: _carried(chain, path, x, policy, power) for path, x in old.items()}
        grown[name] = tree({path: new[path] for path in target.params})
    state = optax.tree_utils.tree_set(opt_state, **grown)
    return _from_zero(state) if policy == "reset" else state


def check_policy(operator: Operator, source: Graph, target: Graph, policy: str) -> None:
    """Refuses a policy that does not fit, before anything is computed.

    Raises:
      UserError: no such policy, a learned operator under another one than "reset" and
        "experimental", or axes that are no whole copies under "block_diagonal".
    """
    check(source, target)
    if policy not in POLICIES:
        raise UserError(f"unknown moments policy {policy!r}; {nearest(policy, POLICIES)}")
    if policy in ("reset", "experimental"):
        return
    if reason := _mixed(operator):
        raise UserError(
            f"moments policy {policy!r} cannot carry moments through operator {operator.name}: "
            f"{reason}, so that gradients are mixed by its transpose and squared ones by no rule "
            "at all; use 'reset' and warm up again, or 'experimental' for means of moments"
        )
    if policy == "block_diagonal":
        times = {target.sizes[r] / source.sizes[r] for r in width_lib.grown_roles(source, target)}
        if len(times) > 1 or any(factor != int(factor) for factor in times):
            raise UserError(
                "moments policy 'block_diagonal' expects all axes that grow to do so by one whole "
                f"factor, got {', '.join(f'{factor:g}' for factor in sorted(times))}; use 'scale'"
            )


def ratios(operator: Operator, source: Graph, target: Graph, head_norm: str = "") -> Any:
    """Gradients of the target's entries over those of their source entries.

    A tree like the target's parameters of numbers, or of arrays with a size of 1 along axes on
    which nothing depends. An axis along which an entry is new counts as 1.

    Raises:
      UserError: a learned operator.
    """
    chain = _Chain(operator, source, target, head_norm)
    return _each(target, lambda path: _product(chain.axes(path), "ratio"))


def multipliers(
    operator: Operator, source: Graph, target: Graph, head_norm: str = ""
) -> Multipliers:
    """What the target's AdamW is multiplied by so that its entries move as their source's would.

    An entry that is s times its source entry, with a gradient of r times its: the rate is times s,
    the decoupled decay times 1 / s, epsilon times r. For tiles of k copies, hidden matrices and an
    untied head have s = 1 / k; of r it is 1 / k for all but the untied head, which has 1, as has a
    final norm gain that is divided by k for a tied head. Gradients in the clipped norm are weighted
    so that all copies of an entry count as it did once. An axis along which an entry is new counts
    as 1.

    Returns:
      Trees of numbers or arrays, see `ratios`.

    Raises:
      UserError: a learned operator.
    """
    chain = _Chain(operator, source, target, head_norm)

    def trees(name: str) -> Any:
        return _each(target, lambda path: _product(chain.axes(path), name))

    return Multipliers(trees("scale"), trees("undone"), trees("ratio"), trees("weight"))


def multipliers_for(
    policy: str, operator: Operator, source: Graph, target: Graph, head_norm: str = ""
) -> Multipliers:
    """The multipliers that are published with a policy: those of `multipliers` with "scale".

    The others leave rates, decay and epsilon alone, and change the schedule: SPARKLING's
    "asymmetric" re-warms new entries (`new_entries`, `optim.multipliers.rewarmed`), Staged
    Training's "block_diagonal" and a "reset" re-warm all of them. A rate that is left alone is
    larger for the function: by k for tiles of k copies.
    """
    check_policy(operator, source, target, policy)
    if policy != "scale":
        return Multipliers()
    return multipliers(operator, source, target, head_norm)


def new_entries(operator: Operator, source: Graph, target: Graph) -> Any:
    """True for the entries that are 0 under "asymmetric": second copies and those without a source.

    A tree of bool like the target's parameters, with a size of 1 along axes on which nothing
    depends. Layers that are copied are no new ones.

    Raises:
      UserError: a learned operator.
    """
    chain = _Chain(operator, source, target, "")

    def one(path: str) -> np.ndarray:
        axes = chain.axes(path)
        param = target.params[path]
        old = np.ones((1,) * len(param.shape), bool)
        for axis in axes:
            if not (first := _rank(axis.index) == 0).all():
                old = old & first.reshape(_shape(axis.at, len(param.shape)))
        if param.layered and not (sourced := _sourced(operator, source.params[path])).all():
            old = old & sourced.reshape(_shape(0, len(param.shape)))
        return ~old

    return _each(target, one)


def inexact(operator: Operator, source: Graph, target: Graph) -> tuple[str, ...]:
    """Why the target's training under "scale" is not the source's own; () = it is, up to rounding.

    For () the target's optimizer needs the multipliers, too.
    """
    if reason := _mixed(operator):
        return (reason,)
    found = [f"the function changes ({reason})" for reason in operator.broken]
    missing = [
        path
        for path, param in target.params.items()
        if not all(np.all(x) for x in operator.reached(source.params[path], param))
    ]
    if missing:
        found.append(f"entries have no source and learn ({missing[0]}, {len(missing)} parameters)")
    if len(operator.terms) > 1:
        found.append("blocks that begin at 0 have the gradients of the others and learn")
    if _group(source) != _group(target):
        found.append("copies of a key head are read by other queries, so they part")
    return tuple(found)


# ---- the chain rule ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Axis:
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


class _Chain:
    """Forward and backward factors of every role, from the lifts of all terms."""

    def __init__(self, operator: Operator, source: Graph, target: Graph, head_norm: str):
        if reason := _mixed(operator):
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

    def axes(self, path: str) -> list[_Axis]:
        """Of a parameter, but for that of the layers."""
        param, head = self.source.params[path], self.operator.head_factor
        first, found = int(param.layered), []
        for at, role in enumerate(param.roles, first):
            reading = at - first < len(param.reads)
            lifts = [self.lift(term, role) for term in self.operator.terms]
            index, scale = _union([_gather(lift.of(param, reading)) for lift in lifts])
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
                _Axis(
                    at, role, reading, index, np.where(new, 1.0, scale), np.where(new, 1.0, ratio)
                )
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
            return queries.reshape(self.target.sizes[role], -1).sum(axis=1) / _group(self.source)
        if role == "value_dim":
            return self._together("attended_dim", reading=True).scale
        return self._shares(_READ_AS.get(role, role))

    def _shares(self, role: str) -> np.ndarray:
        """What is given to entries by all that reads them and writes the stream."""
        total = np.zeros(self.target.sizes[role])
        for term in self.operator.terms:
            read = _gather(self.lift(term, role).read)
            written = _gather(self.lift(term, STREAM).write)
            given = np.bincount(
                written.index[~written.new],
                (written.scale * self.stream)[~written.new],
                minlength=self.source.sizes[STREAM],
            )
            total += np.where(read.new, 0.0, read.scale * given.mean())
        return total

    def _together(self, role: str, reading: bool) -> Gather:
        lifts = [self.lift(term, role) for term in self.operator.terms]
        return Gather(*_union([_gather(x.read if reading else x.write) for x in lifts]))

    def lift(self, term: Term, role: str) -> Lift:
        """How a role grows, or does not."""
        unchanged = same(self.target.sizes[role])
        return term.lifts.get(role, Lift(unchanged, unchanged))


def _is_head(param: Param) -> bool:
    """Whether a parameter reads the stream behind all layers."""
    return not param.layered and param.kind == "weight" and STREAM in param.reads


def _group(graph: Graph) -> float:
    return graph.sizes.get("query_heads", 1) / graph.sizes.get("key_heads", 1)


def _union(maps: Sequence[Gather]) -> tuple[np.ndarray, np.ndarray]:
    """Where entries come from in the first map that has them, and with what factor."""
    index, scale = maps[0].index, maps[0].scale
    for other in maps[1:]:
        fill = (index == NEW) & (other.index != NEW)
        index, scale = np.where(fill, other.index, index), np.where(fill, other.scale, scale)
    return index, scale


def _gather(along: Map) -> Gather:
    """A map as copies; entries that are a mean of others have no moments of their own."""
    if isinstance(along, Gather):
        return along
    matrix = np.asarray(along.matrix)
    single = (matrix != 0).sum(axis=1) == 1
    index = np.where(single, np.abs(matrix).argmax(axis=1), NEW)
    return Gather(index, np.where(single, matrix.sum(axis=1), 1.0))


def _mixed(operator: Operator) -> str:
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


# ---- moments -------------------------------------------------------------------------------------


def _carried(chain: "_Chain", path: str, old: jax.Array, policy: str, power: int) -> jax.Array:
    small, large, axes = chain.source.params[path], chain.target.params[path], chain.axes(path)
    scaled = policy in ("scale", "block_diagonal")
    terms = []
    for term in chain.operator.terms_of(small):
        for part in _parts(axes, policy, small, large):
            lifts: dict[str, Lift] = {}
            for axis, kept in zip(axes, part, strict=True):
                along = _gather(chain.lift(term, axis.role).of(small, axis.reading))
                ratio = axis.ratio**power if scaled else np.ones(along.size)
                along = Gather(np.where(kept, along.index, NEW), ratio)
                both = lifts.get(axis.role, Lift(along, along))
                side = {"read": along} if axis.reading else {"write": along, "norm": along}
                lifts[axis.role] = dataclasses.replace(both, **side)
            terms.append(Term(term.depth, lifts))
    return grow_param(Operator("moments", tuple(terms)), small, large, old)


def _parts(
    axes: Sequence[_Axis], policy: str, small: Param, large: Param
) -> Iterable[list[np.ndarray]]:
    """Sets of entries along every axis whose products have moments, disjoint."""
    ranks = [_rank(axis.index) for axis in axes]
    grows = [small.shape[axis.at] != large.shape[axis.at] for axis in axes]
    if policy in ("asymmetric", "corner"):
        yield [rank == 0 for rank in ranks]
    elif policy == "block_diagonal" and any(grows):
        copies = 1 + max(rank.max() for rank, grown in zip(ranks, grows, strict=True) if grown)
        for i in range(copies):
            yield [
                rank == i if grown else np.ones(len(rank), bool)
                for rank, grown in zip(ranks, grows, strict=True)
            ]
    else:
        yield [np.ones(len(rank), bool) for rank in ranks]


def _rank(index: np.ndarray) -> np.ndarray:
    """Which copy of its source entry each entry is, from 0; -1 = none."""
    order = np.argsort(index, kind="stable")
    places = np.arange(len(index)) - np.searchsorted(index[order], index[order])
    rank = np.empty(len(index), int)
    rank[order] = places
    return np.where(index == NEW, -1, rank)


def _averaging(operator: Operator) -> Operator:
    """Weighted means by the size of the operator's numbers."""

    def mean(weights):
        size = jnp.abs(jnp.asarray(weights))
        return size / jnp.maximum(size.sum(axis=-1, keepdims=True), 1e-30)

    def along(found: Map | None) -> Map | None:
        if isinstance(found, Mix):
            return Mix(mean(found.matrix), found.along)
        return found if found is None else found.unscaled()

    terms = tuple(
        Term(
            {key: mean(weights) for key, weights in term.depth.items()},
            {
                role: dataclasses.replace(
                    lift, write=along(lift.write), read=along(lift.read), norm=along(lift.norm)
                )
                for role, lift in term.lifts.items()
            },
            term.without,
        )
        for term in operator.terms
    )
    return Operator("means", terms)


def _moments(opt_state: Any, name: str, source: Graph) -> dict[str, jax.Array]:
    found = optax.tree_utils.tree_get(opt_state, name)
    if found is None:
        raise UserError(
            f"expected an optimizer's state with Adam's moment {name!r}, found none; moments of "
            "other optimizers are not grown, use a fresh state"
        )
    found = flat(found)
    shapes = {path: tuple(leaf.shape) for path, leaf in found.items()}
    wanted = {path: param.shape for path, param in source.params.items()}
    if shapes != wanted:
        path = next(p for p in sorted({*shapes, *wanted}) if shapes.get(p) != wanted.get(p))
        raise UserError(
            f"moments are not those of the source: {path} is {wanted.get(path)} there and "
            f"{shapes.get(path)} in the optimizer's state"
        )
    return found


def _from_zero(state: Any) -> Any:
    """All counts 0."""

    def zero(keys, leaf):
        return jnp.zeros_like(leaf) if getattr(keys[-1], "name", "") == "count" else leaf

    return jax.tree_util.tree_map_with_path(zero, state)


# ---- trees ---------------------------------------------------------------------------------------


def _sourced(operator: Operator, param: Param) -> np.ndarray:
    return np.any(
        [(term.blend(param) != 0).any(axis=1) for term in operator.terms_of(param)], axis=0
    )


def _each(target: Graph, one: Any) -> Any:
    return tree({path: one(path) for path in target.params})


def _product(axes: Sequence[_Axis], name: str) -> float | np.ndarray:
    """Of numbers along the axes; a number where they are all the same."""
    total: float | np.ndarray = 1.0
    dims = 1 + max((axis.at for axis in axes), default=0)
    for axis in axes:
        values = getattr(axis, name)
        if np.all(values == values[0]):
            total = total * float(values[0])
        else:
            total = total * values.reshape(_shape(axis.at, dims))
    return total


def _shape(axis: int, dims: int) -> tuple[int, ...]:
    return tuple(-1 if i == axis else 1 for i in range(dims))
