"""LiGO: a growth operator that is learned (Wang et al. 2023, arXiv:2303.00980).

    new[i] = sum_j w[i, j] B old[j] A^T,   A = B

with a matrix B for every role and weights w for every module, fitted by a hundred steps of the
large model's own loss while the small model's parameters stay as they are. The paper's text, its
Algorithm 1 and the released code are three operators; all are presets here.

Letters: n layers of the source, N of the target; d and D entries of a role.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth import depth as depth_lib
from llm_dynamics.growth import width as width_lib
from llm_dynamics.growth.axes import STREAM
from llm_dynamics.growth.maps import Mix
from llm_dynamics.growth.operator import Lift, Operator, Term, check
from llm_dynamics.growth.presets import Pair
from llm_dynamics.spec import nearest

VALUES = "value_heads+value_dim"
SHARING = ("shared", "source", "target")
WIDTH_STARTS = ("mean", "softmax", "select", "select_noisy", "tile")
DEPTH_STARTS = (
    "stack_noisy", "stack", "interpolate_noisy", "interpolate", "uniform", "softmax",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LigoConfig:
    """What of an operator is learned, and where that starts.

    Raises:
      UserError: an unknown word, or the start at which nothing is learned.
    """

    lifts: str = "shared"  # by all layers, or one a layer of the "source" or of the "target"
    corner: bool = False  # B = [I; C]: old entries stay as they are and only C is learned
    tied: bool = True  # readers use the writers' matrix
    bias_depth: bool = False  # biases and shifts are blended by weights of their own
    width_start: str = "mean"  # one of WIDTH_STARTS
    depth_start: str = "stack_noisy"  # one of DEPTH_STARTS
    seed: int = 0

    def __post_init__(self):
        if self.width_start == "zeros":
            raise UserError(
                "width_start 'zeros' is the one point where new rows of queries, keys, values and "
                "units have no gradient: they enter the loss as a product with themselves; use "
                "'mean'"
            )
        if self.corner and not self.tied:
            raise UserError(
                "corner keeps old entries as they are, so readers with a matrix of their own "
                "(tied=false) could not share out what copies write; set corner=false"
            )
        for field, known in (
            ("lifts", SHARING), ("width_start", WIDTH_STARTS), ("depth_start", DEPTH_STARTS),
        ):  # fmt: skip
            value = getattr(self, field)
            if value not in known:
                raise UserError(f"unknown {field} {value!r}; {nearest(value, known)}")


PRESETS: Mapping[str, LigoConfig] = {
    "shared": LigoConfig(),  # Algorithm 1
    "paper": LigoConfig(lifts="source"),  # the text of Sec. 3.3: B_Q, B_K, B_V, B_fc1 a layer
    "released": LigoConfig(lifts="target", corner=True, bias_depth=True),
    "untied": LigoConfig(tied=False, width_start="tile", depth_start="stack"),
}


def init(config: LigoConfig, pair: Pair) -> dict[str, Any]:
    """The learned numbers at the start: {"depth": module -> N x n, "write": role -> D x d, ...}.

    With `corner` only the new rows, D - d; with lifts of layers a leading axis of them, which the
    stream and heads of tables never have. Untied, "read" has the matrices of readers.

    Raises:
      UserError: sizes that do not grow into each other, or heads that cannot be mixed.
    """
    check(pair.source, pair.target)
    rng = np.random.default_rng(config.seed)
    found: dict[str, Any] = {"depth": {}, "write": {}}
    if pair.source.layers != pair.target.layers:
        for key in _depth_keys(config, pair):
            found["depth"][key] = _depth_start(config, pair, rng)
    for role, (old, new) in _learned(pair).items():
        layers = _layers_of(config, pair, role)
        drawn = [_width_start(config.width_start, old, new, rng) for _ in range(max(layers, 1))]
        rows = np.stack(drawn)[:, old:] if config.corner else np.stack(drawn)
        found["write"][role] = rows.astype(np.float32) if layers else rows[0].astype(np.float32)
    if not config.tied:
        found["read"] = {role: _shares(rows) for role, rows in found["write"].items()}
    return found


def operator(config: LigoConfig, pair: Pair, learned: Mapping[str, Any]) -> Operator:
    """The operator of learned numbers: differentiable in them."""
    depth = dict(learned["depth"])
    if not depth:
        depth = {"": depth_lib.one_hot(np.arange(pair.source.layers), pair.source.layers)}
    write = {role: _whole(config, pair, role, m) for role, m in learned["write"].items()}
    read = {role: _whole(config, pair, role, m) for role, m in learned.get("read", {}).items()}
    lifts: dict[str, Lift] = {}
    for role in write:
        along = config.lifts if _layers_of(config, pair, role) else ""
        reader = read.get(role, write[role])
        lifts[role] = Lift(Mix(write[role], along), Mix(reader, along))
    if VALUES in write:
        name, reader = _attended(pair, read.get(VALUES, write[VALUES]))
        along = lifts[VALUES].write.along
        lifts[name] = Lift(Mix(reader, along), Mix(reader, along))
    if "query_heads" in write:
        matrix = _grouped(write["query_heads"], pair.traits.group)
        lifts["query_heads"] = Lift(*[Mix(matrix, lifts["query_heads"].write.along)] * 2)
    covered = {role for key in lifts for role in key.split("+")}
    lifts |= width_lib.others(pair.source, pair.target, dict.fromkeys(covered))
    return Operator("ligo", (Term(depth, lifts),), broken=("the operator is learned",))


def num_learned(learned: Any) -> int:
    """How many numbers an operator has."""
    return sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(learned))


def travel(learned: Any, start: Any) -> dict[str, jax.Array]:
    """How far the operator is from its start, relative to the start's norm: ||M - M0|| / ||M0||."""
    found = {}
    for part in learned:
        moved, norm = (
            jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)) + 0.0)
            for tree in (jax.tree.map(jnp.subtract, learned[part], start[part]), start[part])
        )
        found[part] = moved / jnp.maximum(norm, 1e-30)
    return found


# ---- which numbers there are ---------------------------------------------------------------------


def _depth_keys(config: LigoConfig, pair: Pair) -> list[str]:
    """Modules, or parameters where biases are blended apart."""
    layered = [param for param in pair.source.params.values() if param.layered]
    keys = [param.path if config.bias_depth else param.module for param in layered]
    return list(dict.fromkeys(keys))


def _learned(pair: Pair) -> dict[str, tuple[int, int]]:
    """Roles with a matrix of their own, sizes in source and target; what grows and nothing else.

    Heads are mixed with their dimensions as one axis, as published, except queries and keys under
    rotary positions: there a matrix over heads leaves every dimension its frequency.
    """
    source, found = pair.source, {}
    if pair.grows(STREAM):
        found[STREAM] = pair.sizes(STREAM)
    if any(pair.grows(role) for role in (*width_lib.HEADS, *width_lib.DIMS)):
        if any(pair.grows(role) for role in width_lib.DIMS):
            raise UserError(
                "LiGO mixes heads and has no rule for larger ones: keep head_dim "
                f"({source.sizes['query_dim']}) and let the number of heads grow"
            )
        if pair.traits.group != pair.target_traits.group:
            raise UserError(
                f"LiGO expects {pair.traits.group} query heads for each key head as in the source, "
                f"got {pair.target_traits.group}"
            )
        dim = source.sizes["query_dim"]
        queries, keys = pair.sizes("query_heads"), pair.sizes("key_heads")
        if pair.traits.rotary:
            found["query_heads"] = keys  # the same for all queries of a key
            found["key_heads"] = keys
        elif pair.traits.group == 1:
            found["query_heads+query_dim"] = tuple(size * dim for size in queries)
            found["key_heads+key_dim"] = tuple(size * dim for size in keys)
        else:
            found["query_heads"] = found["key_heads"] = keys
        found[VALUES] = tuple(size * dim for size in keys)
    for role in width_lib.grown_roles(pair.source, pair.target):
        if role not in (STREAM, *width_lib.HEADS, *width_lib.DIMS, "vocab", "positions"):
            found[role] = pair.sizes(role)
    return found


def _layers_of(config: LigoConfig, pair: Pair, role: str) -> int:
    """Matrices of a role: one a layer for roles that lie within layers; 0 = one for all."""
    if config.lifts == "shared":
        return 0
    first = role.split("+")[0]
    inside = all(param.layered for param in pair.source.params.values() if first in param.roles)
    if role == STREAM or not inside:
        return 0
    return pair.source.layers if config.lifts == "source" else pair.target.layers


# ---- where they start ----------------------------------------------------------------------------


def _width_start(start: str, old: int, new: int, rng: np.random.Generator) -> np.ndarray:
    """[I; C], D x d: rows of C are means of old rows with random weights, or single ones."""
    extra = new - old
    if start == "tile":
        rows = np.eye(old)[np.arange(extra) % old]
    elif start in ("select", "select_noisy"):
        rows = np.eye(old)[rng.integers(old, size=extra)]
        if start == "select_noisy":
            rows = _normed(rows + rng.uniform(0, 0.03, rows.shape))
    elif start == "softmax":
        rows = _normed(np.exp(rng.uniform(0, 1, (extra, old))))
    else:
        rows = _normed(rng.uniform(0, 1, (extra, old)))
    return np.concatenate([np.eye(old), rows])


def _depth_start(config: LigoConfig, pair: Pair, rng: np.random.Generator) -> np.ndarray:
    """N x n: rows that sum to 1, mostly of one layer where the pattern says so."""
    old, new = pair.source.layers, pair.target.layers
    start = config.depth_start
    if start in ("uniform", "softmax"):
        drawn = rng.uniform(0, 1, (new, old))
        return _normed(np.exp(drawn) if start == "softmax" else drawn).astype(np.float32)
    pattern = depth_lib.PATTERNS[start.removesuffix("_noisy")](old, new)
    weights = depth_lib.one_hot(pattern, old)
    if start.endswith("_noisy"):
        # As released: small positive noise, the chosen entry 1, rows divided by their sum.
        weights = _normed(np.where(weights == 1, 1.0, rng.uniform(0, 0.03, weights.shape)))
    return weights.astype(np.float32)


def _normed(rows: np.ndarray) -> np.ndarray:
    return rows / rows.sum(axis=-1, keepdims=True)


def _shares(rows: np.ndarray) -> np.ndarray:
    """Readers that undo the writers at the start: each row over the sum of its column's squares."""
    total = np.square(rows).sum(axis=-2, keepdims=True)
    return (rows / np.maximum(total, 1e-12)).astype(np.float32)


# ---- matrices of the operator --------------------------------------------------------------------


def _whole(config: LigoConfig, pair: Pair, role: str, rows: jax.Array) -> jax.Array:
    """B from what is learned of it: [I; C] with `corner`."""
    if not config.corner:
        return rows
    old = _learned(pair)[role][0]
    eye = jnp.broadcast_to(jnp.eye(old, dtype=jnp.result_type(rows)), (*rows.shape[:-2], old, old))
    return jnp.concatenate([eye, rows], axis=-2)


def _grouped(matrix: jax.Array, group: int) -> jax.Array:
    """A matrix over key heads as that over their query heads: B (x) I."""
    if group == 1:
        return matrix
    eye = jnp.eye(group, dtype=jnp.result_type(matrix))
    out = jnp.einsum("...Kk,gh->...Kgkh", matrix, eye)
    *lead, large, _, small, _ = out.shape
    return out.reshape(*lead, large * group, small * group)


def _attended(pair: Pair, values: jax.Array) -> tuple[str, jax.Array]:
    """What reads the attended heads: the values' matrix, for every query of a key head."""
    name, group = "attended_heads+attended_dim", pair.traits.group
    if group == 1:
        return name, values
    dim = pair.source.sizes["value_dim"]
    old, new = pair.sizes("value_heads")
    lead = values.shape[:-2]
    split = values.reshape(*lead, new, dim, old, dim)
    eye = jnp.eye(group, dtype=jnp.result_type(values))
    whole = jnp.einsum("...KEke,gh->...KgEkhe", split, eye)
    return name, whole.reshape(*lead, new * group * dim, old * group * dim)
