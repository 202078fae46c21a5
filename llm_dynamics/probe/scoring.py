"""The log-probability of every probe's target, in one forward pass.

The last layer is computed at the predicting positions only.

Axes: R packed rows, L row length, Q predicting positions of the fullest row, D width, P probes,
W target tokens of the longest target, T target tokens of all probes, C chunk of T, V vocabulary,
and M measures (as the last axis only).
"""

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from llm_dynamics.model import sharding
from llm_dynamics.model.decoder import Decoder, hidden_at
from llm_dynamics.probe.packing import PackedProbes

DEFINITIONS: Mapping[str, str] = {
    "logprob_mean": "mean over the target's tokens of ln p(token | context and earlier target "
    "tokens); nats per token",
    "logprob_sum": "sum over the target's tokens of ln p(token | context and earlier target "
    "tokens); nats",
    "logprob_first": "ln p(first target token | context); nats",
    "rank_first": "1 + number of vocabulary entries with a larger logit than the first target "
    "token; 1 is best",
    "greedy_match": "1 if no vocabulary entry has a larger logit than the target's at any of its "
    "tokens, given the earlier ones, else 0",
}
MEASURES = tuple(DEFINITIONS)

_LOGITS_BUDGET = 2**24  # logits that exist at once, 64 MiB in float32


class Targets(NamedTuple):
    """The target tokens of all probes, without the padding of P x W.

    Attributes:
      columns_RxQ: the predicting positions of each row, in order; column 0 as padding.
      source_T: flat index of the predicting position in R x Q.
      token_T: the token to predict.
      slot_PxW: where in T each target token of each probe stands.
      mask_PxW: whether it exists.
    """

    columns_RxQ: jax.Array
    source_T: jax.Array
    token_T: jax.Array
    slot_PxW: jax.Array
    mask_PxW: jax.Array


def score(decoder: Decoder, params: Any, packed: PackedProbes) -> jax.Array:
    """Scores all probes: values P x M in the order of `MEASURES`, float32.

    The natural logarithm of a float32 softmax, whatever the compute dtype. Padding is told by a
    mask, never by a value, so a log-probability of exactly 0 counts. Non-finite logits give NaN
    in every measure they touch.
    """
    return _score(decoder, params, packed.rows, _compact(packed))


def make_scorer(
    decoder: Decoder,
    packed: PackedProbes,
    mesh: Mesh | None = None,
    param_shardings: Any = None,
) -> Callable[[Any], jax.Array]:
    """Builds `scorer(params) -> values_PxM`: one compilation, no donation, `score`'s values.

    Args:
      decoder: the model.
      packed: the probes; kept on the devices.
      mesh: rows are spread over its data axes (R a multiple of their size) and the values are
        replicated; None = the default device.
      param_shardings: shardings of the parameters; None = as they come.
    """
    rows, targets = packed.rows, _compact(packed)
    if mesh is None:
        scorer = jax.jit(partial(_score, decoder))
        rows, targets = jax.device_put((rows, targets))
    else:
        replicated = sharding.replicated(mesh)
        by_row = sharding.batch_sharding(mesh)
        of_targets = Targets(by_row, *(replicated for _ in Targets._fields[1:]))
        scorer = jax.jit(
            partial(_score, decoder),
            in_shardings=(param_shardings, by_row, of_targets),
            out_shardings=replicated,
        )
        rows = jax.tree.map(partial(_place, by_row), rows)
        targets = jax.tree.map(_place, of_targets, targets)

    def score_all(params):
        with sharding.activate(mesh) if mesh is not None else contextlib.nullcontext():
            return scorer(params, rows, targets)

    return score_all


def _place(where: NamedSharding, x: np.ndarray) -> jax.Array:
    """Spreads an array every process holds over the devices of all processes."""
    return jax.make_array_from_callback(x.shape, where, lambda index: x[index])


def _compact(packed: PackedProbes) -> Targets:
    mask_PxW = np.asarray(packed.mask_PxW)
    slot_PxW = np.zeros(mask_PxW.shape, np.int32)
    slot_PxW[mask_PxW] = np.arange(mask_PxW.sum(), dtype=np.int32)
    token_T = np.asarray(packed.target_PxW)[mask_PxW]
    num_rows, length = packed.tokens_RxL.shape
    row_T, column_T = np.divmod(np.asarray(packed.source_PxW)[mask_PxW], length)
    order_T = np.argsort(row_T, kind="stable")
    count_R = np.bincount(row_T, minlength=num_rows)
    rank_T = np.empty_like(row_T)
    rank_T[order_T] = np.arange(len(row_T)) - (np.cumsum(count_R) - count_R)[row_T[order_T]]
    columns_RxQ = np.zeros((num_rows, count_R.max()), np.int32)
    columns_RxQ[row_T, rank_T] = column_T
    source_T = (row_T * columns_RxQ.shape[1] + rank_T).astype(np.int32)
    return Targets(columns_RxQ, source_T, token_T, slot_PxW, mask_PxW)


def _score(decoder: Decoder, params: Any, rows: tuple, targets: Targets) -> jax.Array:
    h_RxQxD = hidden_at(decoder, params, rows, targets.columns_RxQ)
    h_TxD = h_RxQxD.reshape(-1, h_RxQxD.shape[-1])[targets.source_T]
    logprob_T, rank_T = _token_scores(decoder, params, h_TxD, targets.token_T)

    mask_PxW = targets.mask_PxW
    logprob_PxW = jnp.where(mask_PxW, logprob_T[targets.slot_PxW], 0.0)
    rank_PxW = jnp.where(mask_PxW, rank_T[targets.slot_PxW], 1.0)
    sum_P = jnp.sum(logprob_PxW, axis=1)
    greedy_P = jnp.where(jnp.isnan(sum_P), jnp.nan, jnp.all(rank_PxW == 1.0, axis=1))
    values = {
        "logprob_mean": sum_P / jnp.sum(mask_PxW, axis=1),
        "logprob_sum": sum_P,
        "logprob_first": logprob_PxW[:, 0],
        "rank_first": rank_PxW[:, 0],
        "greedy_match": greedy_P,
    }
    return jnp.stack([values[name] for name in MEASURES], axis=1).astype(jnp.float32)


def _token_scores(decoder: Decoder, params: Any, h_TxD, token_T) -> tuple[jax.Array, jax.Array]:
    """Log-probability and rank of each token, a bounded number of logits at a time."""

    def chunk_scores(chunk):
        h_CxD, token_C = chunk
        logits_CxV = decoder.apply({"params": params}, h_CxD, method="unembed")
        logits_CxV = logits_CxV.astype(jnp.float32)
        logit_Cx1 = jnp.take_along_axis(logits_CxV, token_C[:, None], axis=1)
        logprob_C = logit_Cx1[:, 0] - jax.nn.logsumexp(logits_CxV, axis=1)
        rank_C = 1.0 + jnp.sum(logits_CxV > logit_Cx1, axis=1)
        return logprob_C, jnp.where(jnp.isnan(logprob_C), jnp.nan, rank_C)

    count = token_T.shape[0]
    size = max(_LOGITS_BUDGET // decoder.config.vocab_size, 16)
    if count <= size:
        return chunk_scores((h_TxD, token_T))
    padding = -count % size
    h_TxD = jnp.pad(h_TxD, ((0, padding), (0, 0)))
    token_T = jnp.pad(token_T, (0, padding))
    chunks = h_TxD.reshape(-1, size, h_TxD.shape[-1]), token_T.reshape(-1, size)
    logprob_NxC, rank_NxC = jax.lax.map(chunk_scores, chunks)
    return logprob_NxC.reshape(-1)[:count], rank_NxC.reshape(-1)[:count]
