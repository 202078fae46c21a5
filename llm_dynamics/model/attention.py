"""Causal, segment-isolated attention: one module, four implementations, one function each.

Axes: B rows, L query positions, M key positions, H query heads, K key/value heads, G = H / K,
E head dimension.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_dynamics.errors import UserError
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.layers import Dense, HeadNorm, pick, residual_std, rotate, small_std

MEMORY = "memory"  # the collection of keys and values that `cached` keeps of each layer

Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def attention_mask(segment_ids_BxL: jax.Array) -> jax.Array:
    """Which keys each query may read: not later, and of the same segment. B x L x M, bool.

    Padding (segment 0) reads padding, so every row has a key and no value becomes NaN.
    """
    length = segment_ids_BxL.shape[1]
    causal_LxM = jnp.tril(jnp.ones((length, length), bool))
    same_BxLxM = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
    return same_BxLxM & causal_LxM[None]


def branch_mask(until_BxL: jax.Array) -> jax.Array:
    """Which keys each query may read in rows of texts that branch. B x L x M, bool.

    Args:
      until_BxL: the columns from a token's own up to this one go on from it; a text lies depth
        first, so these are all its continuations.
    """
    column_L = jnp.arange(until_BxL.shape[1])
    earlier_LxM = column_L[:, None] >= column_L[None]
    return earlier_LxM[None] & (column_L[None, :, None] < until_BxL[:, None, :])


def _softmax(scores: jax.Array, mask: jax.Array, dtype: jnp.dtype) -> jax.Array:
    return jax.nn.softmax(jnp.where(mask, scores, -1e30), axis=-1).astype(dtype)


def reference(q_BxLxHxE, k_BxMxKxE, v_BxMxKxE, mask_BxLxM):
    """The definition, as an einsum; what the others are tested against."""
    B, L, H, E = q_BxLxHxE.shape
    K = k_BxMxKxE.shape[2]
    q_BxLxKxGxE = q_BxLxHxE.reshape(B, L, K, H // K, E)
    scores_BxKxGxLxM = jnp.einsum(
        "BLKGE,BMKE->BKGLM", q_BxLxKxGxE, k_BxMxKxE, preferred_element_type=jnp.float32
    )
    weights_BxKxGxLxM = _softmax(
        scores_BxKxGxLxM / math.sqrt(E), mask_BxLxM[:, None, None], v_BxMxKxE.dtype
    )
    out_BxLxKxGxE = jnp.einsum(
        "BKGLM,BMKE->BLKGE", weights_BxKxGxLxM, v_BxMxKxE, preferred_element_type=jnp.float32
    )
    return out_BxLxKxGxE.reshape(B, L, H, E).astype(q_BxLxHxE.dtype)


def _rows_first(x_BxLxKxGxE: jax.Array) -> jax.Array:
    """(B K) x (G L) x E: one matrix for every row and key head."""
    B, L, K, G, E = x_BxLxKxGxE.shape
    return jnp.einsum("BLKGE->BKGLE", x_BxLxKxGxE).reshape(B * K, G * L, E)


def _rows_last(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Undoes `_rows_first`; `shape` is B, L, K, G, E."""
    B, L, K, G, E = shape
    return jnp.einsum("BKGLE->BLKGE", x.reshape(B, K, G, L, E))


def _batched_forward(q_BxLxHxE, k_BxMxKxE, v_BxMxKxE, mask_BxLxM):
    B, L, H, E = q_BxLxHxE.shape
    K = k_BxMxKxE.shape[2]
    dtype = q_BxLxHxE.dtype
    q = _rows_first((q_BxLxHxE / math.sqrt(E)).reshape(B, L, K, H // K, E))
    k, v = _rows_first(k_BxMxKxE[:, :, :, None]), _rows_first(v_BxMxKxE[:, :, :, None])
    scores = jnp.einsum("ULE,UME->ULM", q, k, preferred_element_type=jnp.float32)
    M = k_BxMxKxE.shape[1]
    scores = scores.reshape(B, K, H // K, L, M)
    weights = _softmax(scores, mask_BxLxM[:, None, None], dtype).reshape(B * K, -1, M)
    out = jnp.einsum("ULM,UME->ULE", weights, v, preferred_element_type=jnp.float32).astype(dtype)
    out_BxLxHxE = _rows_last(out, (B, L, K, H // K, E)).reshape(q_BxLxHxE.shape)
    return out_BxLxHxE, (q, k, v, weights, out)


def _batched_backward(saved, d_out_BxLxHxE):
    q, k, v, weights, out = saved
    B, L, H, E = d_out_BxLxHxE.shape
    K = k.shape[0] // B
    shape, dtype = (B, L, K, H // K, E), q.dtype

    def product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)

    d_out = _rows_first(d_out_BxLxHxE.reshape(shape))
    # sum_M weights * d_weights = sum_E out * d_out: the short axis, and no pass over the scores.
    pair = d_out.astype(jnp.float32), out.astype(jnp.float32)
    d_sum = jnp.sum(pair[0] * pair[1], axis=-1, keepdims=True)
    d_weights = product("ULE,UME->ULM", d_out, v)
    d_scores = (weights.astype(jnp.float32) * (d_weights - d_sum)).astype(dtype)
    d_q = (product("ULM,UME->ULE", d_scores, k) / math.sqrt(E)).astype(dtype)
    d_k = product("ULM,ULE->UME", d_scores, q).astype(dtype)
    d_v = product("ULM,ULE->UME", weights, d_out).astype(dtype)
    M = k.shape[1]
    d_k, d_v = (_rows_last(x, (B, M, K, 1, E)).reshape(B, M, K, E) for x in (d_k, d_v))
    return _rows_last(d_q, shape).reshape(d_out_BxLxHxE.shape), d_k, d_v, None


@jax.custom_vjp
def batched(q_BxLxHxE, k_BxMxKxE, v_BxMxKxE, mask_BxLxM):
    """One product over (rows x key heads), with its own gradient: the fastest form on CPU.

    The backward pass follows Dao et al. (2022), appendix B.2, without the tiles.
    """
    return _batched_forward(q_BxLxHxE, k_BxMxKxE, v_BxMxKxE, mask_BxLxM)[0]


batched.defvjp(_batched_forward, _batched_backward)


def xla(q_BxLxHxE, k_BxMxKxE, v_BxMxKxE, mask_BxLxM):
    """The attention of `jax.nn`, compiled by XLA."""
    return jax.nn.dot_product_attention(
        q_BxLxHxE, k_BxMxKxE, v_BxMxKxE, mask=mask_BxLxM[:, None], implementation="xla"
    )


def cudnn(q_BxLxHxE, k_BxMxKxE, v_BxMxKxE, mask_BxLxM):
    """cuDNN's fused attention, with the segments in the mask; bfloat16 on an NVIDIA GPU."""
    return jax.nn.dot_product_attention(
        q_BxLxHxE, k_BxMxKxE, v_BxMxKxE, mask=mask_BxLxM[:, None], implementation="cudnn"
    )


_IMPLEMENTATIONS: dict[str, Attend] = {
    "reference": reference,
    "batched": batched,
    "xla": xla,
    "cudnn": cudnn,
}


def resolve(config: ModelConfig, platform: str | None = None) -> Attend:
    """The attention function of a config on a platform (default: that of this process).

    Raises:
      UserError: cuDNN asked for where it cannot run.
    """
    platform = platform or jax.default_backend()
    fits_cudnn = config.compute_dtype == "bfloat16" and config.head_size % 8 == 0
    fits_cudnn = fits_cudnn and config.head_size <= 128
    name = config.attention
    if name == "auto":
        # cuDNN only when asked for: a path that leaks between segments would be silent, and its
        # isolation test needs a GPU (tests/model/attention_test.py).
        name = "batched" if platform == "cpu" else "xla"
    elif name == "cudnn" and (platform not in ("gpu", "cuda") or not fits_cudnn):
        raise UserError(
            "attention 'cudnn' expects an NVIDIA GPU, compute_dtype bfloat16 and a head size that "
            f"is a multiple of 8 up to 128; got {platform}, {config.compute_dtype} and "
            f"{config.head_size}; use attention 'auto'"
        )
    return _IMPLEMENTATIONS[name]


class Attention(nn.Module):
    """Multi-head attention with as many key/value heads as the config says."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxMxD, mask_BxLxM, angles, columns_BxL=None):
        """Each query's mix of values; queries at the columns `columns_BxL`, None = at all."""
        config = self.config
        size = config.head_size
        x_BxLxD = pick(x_BxMxD, columns_BxL)

        def project(name: str, x: jax.Array, heads: int) -> jax.Array:
            y = Dense(
                (config.width,),
                (heads, size),
                ("embed", f"{name}_heads", f"{name}_dim"),
                small_std(config),
                config.use_bias or config.qkv_bias,
                config.dtype,
                name=name,
            )(x)
            if config.qk_norm == "none" or name == "value":
                return y
            return HeadNorm(config, name, heads, name=f"{name}_norm")(y)

        q_BxLxHxE = project("query", x_BxLxD, config.num_heads)
        k_BxMxKxE = project("key", x_BxMxD, config.kv_heads)
        v_BxMxKxE = project("value", x_BxMxD, config.kv_heads)
        if config.position == "rotary":
            q_BxLxHxE = rotate(q_BxLxHxE, tuple(pick(a, columns_BxL) for a in angles))
            k_BxMxKxE = rotate(k_BxMxKxE, angles)
        if config.query_factor != 1:
            q_BxLxHxE = q_BxLxHxE * config.query_factor
        mask_BxLxM = pick(mask_BxLxM, columns_BxL)
        if self.is_mutable_collection(MEMORY) and not self.is_initializing():
            k_BxMxKxE, v_BxMxKxE = self._remembered(k_BxMxKxE, v_BxMxKxE, mask_BxLxM)
        out_BxLxHxE = resolve(config)(q_BxLxHxE, k_BxMxKxE, v_BxMxKxE, mask_BxLxM)
        return Dense(
            (config.num_heads, size),
            (config.width,),
            ("attended_heads", "attended_dim", "embed"),
            residual_std(config),
            config.use_bias,
            config.dtype,
            name="out",
        )(out_BxLxHxE)

    def _remembered(self, k_BxLxKxE, v_BxLxKxE, mask_BxLxM):
        """Keys and values of all columns, M, with those of one more token of each row, L = 1.

        The first call makes the memory out of what it is given, M = L.
        """
        first = not self.has_variable(MEMORY, "keys")
        keys = self.variable(MEMORY, "keys", lambda: k_BxLxKxE)
        values = self.variable(MEMORY, "values", lambda: v_BxLxKxE)
        if not first:
            # The last key that a query may read is its own.
            row_B, M = jnp.arange(len(mask_BxLxM)), mask_BxLxM.shape[-1]
            column_B = M - 1 - jnp.argmax(mask_BxLxM[:, 0, ::-1], axis=-1)
            keys.value = keys.value.at[row_B, column_B].set(k_BxLxKxE[:, 0])
            values.value = values.value.at[row_B, column_B].set(v_BxLxKxE[:, 0])
        return keys.value, values.value
