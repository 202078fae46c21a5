"""Adam's moments of a grown model, out of those of its source.

An entry's gradient is r times that of its source entry (`gradients`), so m grows with r and v with
r^2 (carry and scale). If nothing of the target is new, rates and decays that go with it
(`multipliers`) make the grown model's training the source's own, for ever: `inexact` says what
stands against that.

Letters: N entries of a target's axis.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_dynamics.errors import UserError
from llm_dynamics.growth import width as width_lib
from llm_dynamics.growth.apply import flat, grow_param, tree
from llm_dynamics.growth.axes import Graph, Param
from llm_dynamics.growth.gradients import Axis, Chain, gather, group, mixed, rank
from llm_dynamics.growth.maps import NEW, Gather, Map, Mix
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
            chain = Chain(operator, source, target, head_norm)
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
    if reason := mixed(operator):
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
    chain = Chain(operator, source, target, head_norm)
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
    chain = Chain(operator, source, target, head_norm)

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
    chain = Chain(operator, source, target, "")

    def one(path: str) -> np.ndarray:
        axes = chain.axes(path)
        param = target.params[path]
        old = np.ones((1,) * len(param.shape), bool)
        for axis in axes:
            if not (first := rank(axis.index) == 0).all():
                old = old & first.reshape(_shape(axis.at, len(param.shape)))
        if param.layered and not (sourced := _sourced(operator, source.params[path])).all():
            old = old & sourced.reshape(_shape(0, len(param.shape)))
        return ~old

    return _each(target, one)


def inexact(operator: Operator, source: Graph, target: Graph) -> tuple[str, ...]:
    """Why the target's training under "scale" is not the source's own; () = it is, up to rounding.

    For () the target's optimizer needs the multipliers, too.
    """
    if reason := mixed(operator):
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
    if group(source) != group(target):
        found.append("copies of a key head are read by other queries, so they part")
    return tuple(found)


# ---- moments -------------------------------------------------------------------------------------


def _carried(chain: "Chain", path: str, old: jax.Array, policy: str, power: int) -> jax.Array:
    small, large, axes = chain.source.params[path], chain.target.params[path], chain.axes(path)
    scaled = policy in ("scale", "block_diagonal")
    terms = []
    for term in chain.operator.terms_of(small):
        for part in _parts(axes, policy, small, large):
            lifts: dict[str, Lift] = {}
            for axis, kept in zip(axes, part, strict=True):
                along = gather(chain.lift(term, axis.role).of(small, axis.reading))
                ratio = axis.ratio**power if scaled else np.ones(along.size)
                along = Gather(np.where(kept, along.index, NEW), ratio)
                both = lifts.get(axis.role, Lift(along, along))
                side = {"read": along} if axis.reading else {"write": along, "norm": along}
                lifts[axis.role] = dataclasses.replace(both, **side)
            terms.append(Term(term.depth, lifts))
    return grow_param(Operator("moments", tuple(terms)), small, large, old)


def _parts(
    axes: Sequence[Axis], policy: str, small: Param, large: Param
) -> Iterable[list[np.ndarray]]:
    """Sets of entries along every axis whose products have moments, disjoint."""
    ranks = [rank(axis.index) for axis in axes]
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


def _product(axes: Sequence[Axis], name: str) -> float | np.ndarray:
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
