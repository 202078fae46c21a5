"""Cross-entropy in chunks of tokens: per-token losses first, and never all logits at once.

Axes: B rows, L positions, D width, V vocabulary, C tokens of a chunk (some positions of every
row, so that rows may stay sharded).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_dynamics.batch import Batch
from llm_dynamics.model.build import Model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.dropping import Kept

_CHUNK_LOGITS = 2**22  # logits of a chunk when the config leaves it open: 16 MiB in float32


def token_losses(decoder: Model, params, batch: Batch) -> jax.Array:
    """Negative log-likelihood of every label in nats, B x L, float32, the mask not applied.

    Differentiable; the backward pass computes the logits again, chunk by chunk.
    """
    h_BxLxD, head_DxV = _states(decoder, params, batch)
    chunk = _positions_per_chunk(decoder.config, *batch.tokens_BxL.shape)
    return _token_losses(h_BxLxD, head_DxV, batch.targets_BxL, chunk)


def training_loss(
    decoder: Model,
    params,
    batch: Batch,
    count: jax.Array | None = None,
    kept: Kept | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The mean loss and the per-token losses, for `jax.value_and_grad(..., has_aux=True)`.

    The masked mean of `token_losses` (0 where no label counts), but the gradient is computed
    along with the loss, which saves one of the four products with the unembedding. Only the mean
    is differentiable.

    Args:
      count: what the masked sum is divided by; None = the number of counted tokens. Give the
        count of the whole batch when `batch` is one of several microbatches.
      kept: what rows and tokens of the batch do not skip; None = they skip nothing.
    """
    h_BxLxD, head_DxV = _states(decoder, params, batch, kept)
    chunk = _positions_per_chunk(decoder.config, *batch.tokens_BxL.shape)
    if count is None:
        count = jnp.sum(batch.mask_BxL)
    weights_BxL = batch.mask_BxL / jnp.maximum(count, 1.0)
    mean, loss_BxL = _weighted_loss(h_BxLxD, head_DxV, batch.targets_BxL, weights_BxL, chunk)
    return mean, jax.lax.stop_gradient(loss_BxL)


def _states(
    decoder: Model, params, batch: Batch, kept: Kept | None = None
) -> tuple[jax.Array, jax.Array]:
    variables = {"params": params}
    rows = batch.tokens_BxL, batch.segment_ids_BxL, batch.positions_BxL
    h_BxLxD = decoder.apply(variables, *rows, kept)
    return h_BxLxD, decoder.apply(variables, method="head")


def _positions_per_chunk(config: ModelConfig, rows: int, length: int) -> int:
    tokens = config.loss_chunk or max(256, _CHUNK_LOGITS // config.vocab_size)
    return min(length, max(1, tokens // rows))


def _split(x_BxLx: jax.Array, chunk: int) -> jax.Array:
    """Cuts axis 1 into chunks that become the leading axis; the last is filled with zeros."""
    rows, length = x_BxLx.shape[:2]
    fill = -length % chunk
    x = jnp.pad(x_BxLx, [(0, 0), (0, fill)] + [(0, 0)] * (x_BxLx.ndim - 2))
    return jnp.moveaxis(x.reshape(rows, -1, chunk, *x.shape[2:]), 1, 0)


def _join(x_NxBxCx: jax.Array, length: int) -> jax.Array:
    x = jnp.moveaxis(x_NxBxCx, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _heads(head_DxV, dtype):
    """The unembedding as it is used, D x V and V x D, gathered over fsdp as every weight is.

    A lookup of labels in rows split by width would be split by width too, unlike the states.
    """
    head_DxV = nn.with_logical_constraint(head_DxV.astype(dtype), (None, "vocab"))
    head_VxD = nn.with_logical_constraint(head_DxV.T, ("vocab", None))
    return head_DxV, jax.lax.optimization_barrier(head_VxD)


def _log_likelihood(h_CxD, head_DxV, head_VxD, targets_C):
    """Losses of a chunk, and what their gradient needs: exp(logits - max) and its sum.

    The logit of the label is taken as a product of its own, which spares a pass over C x V.
    """
    logits_CxV = jnp.dot(h_CxD, head_DxV, preferred_element_type=jnp.float32)
    label_CxD = head_VxD[targets_C].astype(jnp.float32)
    label_C = jnp.sum(h_CxD.astype(jnp.float32) * label_CxD, axis=-1)
    top_Cx1 = jnp.max(logits_CxV, axis=-1, keepdims=True)
    exp_CxV = jnp.exp(logits_CxV - top_Cx1)
    sum_Cx1 = jnp.sum(exp_CxV, axis=-1, keepdims=True)
    return (jnp.log(sum_Cx1) + top_Cx1)[:, 0] - label_C, exp_CxV, sum_Cx1


def _losses(h_BxLxD, head_DxV, targets_BxL, chunk: int) -> jax.Array:
    """Per-token losses alone."""
    head, head_VxD = _heads(head_DxV, h_BxLxD.dtype)

    def body(_, inputs):
        h_BxCxD, targets_BxC = inputs
        h_CxD = h_BxCxD.reshape(-1, h_BxCxD.shape[-1])
        loss_C, *_ = _log_likelihood(h_CxD, head, head_VxD, targets_BxC.reshape(-1))
        return None, loss_C.reshape(targets_BxC.shape)

    _, loss = jax.lax.scan(body, None, (_split(h_BxLxD, chunk), _split(targets_BxL, chunk)))
    return _join(loss, h_BxLxD.shape[1])


def _losses_and_gradients(h_BxLxD, head_DxV, targets_BxL, weights_BxL, chunk: int):
    """Per-token losses, and the gradients of their weighted sum by `h` and by the head."""
    dtype = h_BxLxD.dtype
    head, head_VxD = _heads(head_DxV, dtype)

    def body(d_head_DxV, inputs):
        h_BxCxD, targets_BxC, weights_BxC = inputs
        h_CxD = h_BxCxD.reshape(-1, h_BxCxD.shape[-1])
        targets_C = targets_BxC.reshape(-1)
        loss_C, exp_CxV, sum_Cx1 = _log_likelihood(h_CxD, head, head_VxD, targets_C)
        label_CxV = jax.lax.broadcasted_iota(jnp.int32, exp_CxV.shape, 1) == targets_C[:, None]
        weights_Cx1 = weights_BxC.reshape(-1, 1)
        d_logits_CxV = exp_CxV * (weights_Cx1 / sum_Cx1) - jnp.where(label_CxV, weights_Cx1, 0.0)
        d_logits_CxV = d_logits_CxV.astype(dtype)
        d_h_CxD = jnp.dot(d_logits_CxV, head_VxD, preferred_element_type=jnp.float32)
        d_head_DxV += jnp.dot(h_CxD.T, d_logits_CxV, preferred_element_type=jnp.float32)
        d_h_BxCxD = d_h_CxD.astype(dtype).reshape(h_BxCxD.shape)
        return d_head_DxV, (loss_C.reshape(targets_BxC.shape), d_h_BxCxD)

    inputs = tuple(_split(x, chunk) for x in (h_BxLxD, targets_BxL, weights_BxL))
    zero_DxV = jnp.zeros(head_DxV.shape, jnp.float32)
    d_head_DxV, (loss, d_h) = jax.lax.scan(body, zero_DxV, inputs)
    length = h_BxLxD.shape[1]
    return _join(loss, length), _join(d_h, length), d_head_DxV


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _token_losses(h_BxLxD, head_DxV, targets_BxL, chunk):
    return _losses(h_BxLxD, head_DxV, targets_BxL, chunk)


def _token_losses_forward(h_BxLxD, head_DxV, targets_BxL, chunk):
    return _losses(h_BxLxD, head_DxV, targets_BxL, chunk), (h_BxLxD, head_DxV, targets_BxL)


def _token_losses_backward(chunk, saved, d_loss_BxL):
    _, d_h_BxLxD, d_head_DxV = _losses_and_gradients(*saved, d_loss_BxL, chunk)
    return d_h_BxLxD, d_head_DxV, None


_token_losses.defvjp(_token_losses_forward, _token_losses_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _weighted_loss(h_BxLxD, head_DxV, targets_BxL, weights_BxL, chunk):
    loss_BxL = _losses(h_BxLxD, head_DxV, targets_BxL, chunk)
    return jnp.sum(loss_BxL * weights_BxL), loss_BxL


def _weighted_loss_forward(h_BxLxD, head_DxV, targets_BxL, weights_BxL, chunk):
    loss_BxL, d_h_BxLxD, d_head_DxV = _losses_and_gradients(
        h_BxLxD, head_DxV, targets_BxL, weights_BxL, chunk
    )
    return (jnp.sum(loss_BxL * weights_BxL), loss_BxL), (d_h_BxLxD, d_head_DxV)


def _weighted_loss_backward(chunk, saved, cotangents):
    del chunk
    d_mean, _ = cotangents
    d_h_BxLxD, d_head_DxV = saved
    return (d_h_BxLxD * d_mean).astype(d_h_BxLxD.dtype), d_head_DxV * d_mean, None, None


_weighted_loss.defvjp(_weighted_loss_forward, _weighted_loss_backward)
