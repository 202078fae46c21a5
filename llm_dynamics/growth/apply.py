"""Operators applied: pure functions from the parameters of a source to those of a target.

Letters: n layers of the source, N of the target.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.growth.axes import Graph, Param, path_of
from llm_dynamics.growth.maps import NEW, Gather, Map, Mix
from llm_dynamics.growth.operator import Operator, Term, check

Flat = Mapping[str, jax.Array]


def grow(
    operator: Operator,
    source: Graph,
    target: Graph,
    params: Any,
    key: jax.Array | None = None,
    head_norm: str = "",
) -> Any:
    """The target's parameters: differentiable in `params` and in the operator's own arrays.

    Args:
      operator: the map.
      source: axis graph of `params`.
      target: axis graph of the result.
      params: of the source, a tree of dictionaries.
      key: for entries that are drawn; None = they are 0.
      head_norm: path of the norm that the head reads.

    Raises:
      UserError: parameters or sizes that the operator does not fit.
    """
    check(source, target)
    old = flat(params)
    return tree(
        {
            path: grow_param(operator, source.params[path], param, old[path], key, head_norm)
            for path, param in target.params.items()
        }
    )


def grow_sharded(
    operator: Operator,
    source: Graph,
    target: Graph,
    params: Any,
    shardings: Any,
    key: jax.Array | None = None,
    head_norm: str = "",
) -> Any:
    """The same, one parameter and in it one layer at a time, each born with its sharding.

    Besides source and target there is never more than a layer of one parameter.

    Args:
      shardings: a tree like the target's parameters of `jax.sharding.Sharding`.
    """
    check(source, target)
    old, where = flat(params), flat(shardings)
    grown = {}
    for path, param in target.params.items():

        def one(value, key, path=path, param=param):
            return _by_layer(operator, source.params[path], param, value, key, head_norm)

        grown[path] = jax.jit(one, out_shardings=where[path])(old[path], key)
    return tree(grown)


def grow_param(
    operator: Operator,
    source: Param,
    target: Param,
    old: jax.Array,
    key: jax.Array | None = None,
    head_norm: str = "",
) -> jax.Array:
    """One parameter of the target; see `grow`."""
    total = sum(_contract(old, term, source, target) for term in operator.terms_of(source))
    total = _scaled(total, operator.factor(source, head_norm))
    drawn = operator.drawn(source, target)
    if drawn is None or key is None:
        return total
    new = draw(target, key)
    return jnp.where(drawn, _scaled(new, operator.head_factor(source, head_norm)), total)


def draw(param: Param, key: jax.Array) -> jax.Array:
    """A fresh parameter, float32; layer by layer from keys of their own."""
    key = jax.random.fold_in(key, zlib.crc32(param.path.encode()))
    if not param.layered:
        return _fresh(param, key, param.shape)
    keys_N = jax.random.split(key, param.layers)
    return jax.vmap(lambda k: _fresh(param, k, param.shape[1:]))(keys_N)


def flat(params: Any) -> dict[str, Any]:
    """The leaves of a tree of dictionaries by path."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}


def tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Undoes `flat`."""
    root: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, last = path.split("/")
        node = root
        for name in above:
            node = node.setdefault(name, {})
        node[last] = leaf
    return root


def _fresh(param: Param, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    if param.std:
        return param.std * jax.random.normal(key, shape, jnp.float32)
    return jnp.full(shape, 1.0 if param.kind == "gain" else 0.0, jnp.float32)


def _scaled(x: jax.Array, factor: float) -> jax.Array:
    return x if factor == 1.0 else x * jnp.asarray(factor, x.dtype)


def _contract(old: jax.Array, term: Term, source: Param, target: Param) -> jax.Array:
    """One term of a parameter, all layers at once.

    Matrices along the width are applied on the side that has fewer layers, the source's, unless
    every layer of the target has matrices of its own.
    """
    x, blend, maps = jnp.asarray(old), term.blend(source), term.maps(source, target)
    mixes = [along for _, along in maps if isinstance(along, Mix)]
    width_first = bool(mixes) and not any(along.along == "target" for along in mixes)
    if blend is not None and not width_first:
        x = _blend(x, blend)
    x = _widen(x, maps, target.shape)
    return _blend(x, blend) if blend is not None and width_first else x


def _widen(x: jax.Array, maps: list[tuple[tuple[int, ...], Map]], shape) -> jax.Array:
    for axes, along in maps:
        first, last = axes[0], axes[-1] + 1
        if last - first == 1:
            x = along(x, first)
        else:
            joint = along(x.reshape(*x.shape[:first], -1, *x.shape[last:]), first)
            x = joint.reshape(*x.shape[:first], *shape[first:last], *x.shape[last:])
    return x


def _single(weights_Nxn) -> Gather | None:
    """The blend as copies of single layers, where that is all it does."""
    if not isinstance(weights_Nxn, np.ndarray):
        return None
    counts_N = (weights_Nxn != 0).sum(axis=1)
    if counts_N.max(initial=0) > 1:
        return None
    index_N = np.abs(weights_Nxn).argmax(axis=1)
    scale_N = np.take_along_axis(weights_Nxn, index_N[:, None], axis=1)[:, 0]
    return Gather(np.where(counts_N == 0, NEW, index_N), scale_N)


def _blend(x: jax.Array, weights_Nxn) -> jax.Array:
    if copies := _single(weights_Nxn):
        return copies(x, 0)
    return jnp.tensordot(jnp.asarray(weights_Nxn, x.dtype), x, (1, 0))


def _by_layer(
    operator: Operator,
    source: Param,
    target: Param,
    old: jax.Array,
    key: jax.Array | None,
    head_norm: str,
) -> jax.Array:
    """`grow_param`, a layer of the target at a time."""
    along_source = any(
        isinstance(along, Mix) and along.along == "source"
        for term in operator.terms_of(source)
        for _, along in term.maps(source, target)
    )
    if not source.layered or along_source:
        return grow_param(operator, source, target, old, key, head_norm)
    drawn = operator.drawn(source, target)
    factor, head = operator.factor(source, head_norm), operator.head_factor(source, head_norm)
    draws = drawn is not None and key is not None
    keys_N = None
    if draws:
        own = jax.random.fold_in(key, zlib.crc32(target.path.encode()))
        keys_N = jax.random.key_data(jax.random.split(own, target.layers))

    def layer(inputs):
        i, key_data = inputs
        total = 0
        for term in operator.terms_of(source):
            x = _blended_layer(old, term.blend(source), i)
            maps = [
                (tuple(a - 1 for a in axes), _of_layer(along, i))
                for axes, along in term.maps(source, target)
            ]
            total = total + _widen(x, maps, target.shape[1:])
        total = _scaled(total, factor)
        if not draws:
            return total
        fresh = _fresh(target, jax.random.wrap_key_data(key_data), target.shape[1:])
        mask = jnp.asarray(drawn)[i if drawn.shape[0] > 1 else 0]
        return jnp.where(mask, _scaled(fresh, head), total)

    return jax.lax.map(layer, (jnp.arange(target.layers), keys_N))


def _blended_layer(old: jax.Array, weights_Nxn, i: jax.Array) -> jax.Array:
    if copies := _single(weights_Nxn):
        scale = jnp.asarray(np.where(copies.new, 0.0, copies.scale), old.dtype)[i]
        return old[jnp.asarray(np.maximum(copies.index, 0))[i]] * scale
    return jnp.tensordot(jnp.asarray(weights_Nxn, old.dtype)[i], old, (0, 0))


def _of_layer(along: Map, i: jax.Array) -> Map:
    """A map of all layers as that of one."""
    if isinstance(along, Mix) and along.along:
        return Mix(jnp.asarray(along.matrix)[i])
    return along
