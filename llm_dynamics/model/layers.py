"""The small parts of a layer: linear maps, norms, the MLP, the rotary encoding.

Axes: B rows, L positions, D width, F MLP width, E head dimension, V vocabulary; see the axis
letters in WORKSPACE.md.
"""

import math

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from llm_dynamics.model import rotary
from llm_dynamics.model.config import ModelConfig


def small_std(config: ModelConfig) -> float:
    """Standard deviation of new weights: sqrt(2 / 5D), Nguyen & Salazar (2019)."""
    return math.sqrt(2 / (5 * config.width))


def residual_std(config: ModelConfig) -> float:
    """The same for maps that write to the residual stream, divided by sqrt(2N) as in GPT-2."""
    return small_std(config) / math.sqrt(2 * config.num_layers)


class Axes(nn.LogicallyPartitioned):
    """The box of a parameter: the logical names of its axes, and what growth has to know of it.

    The first `reads` axes (behind that of the layers) are those of its input, the others those of
    its output: a wider stream is written and read differently. `std` is the standard deviation of
    fresh weights; 0 = constants (1 for gains, 0 for biases). Sharding looks at the names alone.
    """

    reads: int = flax.struct.field(default=0, pytree_node=False)
    std: float = flax.struct.field(default=0.0, pytree_node=False)

    __eq__ = nn.LogicallyPartitioned.__eq__


def declare(
    init: nn.initializers.Initializer, axes: tuple[str, ...], reads: int = 0, std: float = 0.0
) -> nn.initializers.Initializer:
    """The initialiser, its parameter boxed in `Axes`."""
    return lambda *args: Axes(init(*args), axes, reads=reads, std=std)


def weight(std: float, axes: tuple[str, ...], reads: int) -> nn.initializers.Initializer:
    """Normal initialiser whose parameter carries the names of its axes; see `Axes`."""
    return declare(nn.initializers.normal(std), axes, reads, std)


def last_axis(vector: jax.Array, like: jax.Array) -> jax.Array:
    """`vector` with leading axes of size one, so that it broadcasts over the end of `like`."""
    return vector.reshape((1,) * (like.ndim - vector.ndim) + vector.shape)


def pick(x_BxMxD: jax.Array, columns_BxL: jax.Array | None) -> jax.Array:
    """The vectors at the given columns of each row, B x L x D; None = all of them."""
    if columns_BxL is None:
        return x_BxMxD
    x_BxMxD = jnp.broadcast_to(x_BxMxD, (len(columns_BxL), *x_BxMxD.shape[1:]))
    return jnp.take_along_axis(x_BxMxD, columns_BxL[:, :, None], axis=1)


class Dense(nn.Module):
    """A linear map from the trailing axes `inputs` to the axes `outputs`.

    The kernel has shape inputs + outputs and is stored in float32; the product takes operands in
    `dtype`, accumulates in float32 and returns `dtype`.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    axes: tuple[str, ...]  # logical names of inputs + outputs
    std: float
    use_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = self.inputs + self.outputs
        init = weight(self.std, self.axes, reads=len(self.inputs))
        kernel = self.param("kernel", init, shape, jnp.float32)
        lead = x.shape[: x.ndim - len(self.inputs)]
        y = jnp.dot(
            x.reshape(-1, math.prod(self.inputs)).astype(self.dtype),
            kernel.reshape(math.prod(self.inputs), -1).astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
        y = y.astype(self.dtype).reshape(lead + self.outputs)
        if self.use_bias:
            zeros = declare(nn.initializers.zeros, self.axes[len(self.inputs) :])
            bias = self.param("bias", zeros, self.outputs, jnp.float32)
            y = y + last_axis(bias.astype(self.dtype), y)
        return y


class Norm(nn.Module):
    """LayerNorm, RMSNorm or LayerNorm without parameters, in float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        config = self.config
        x = x_BxLxD.astype(jnp.float32)
        if config.norm != "rmsnorm":
            x = x - jnp.mean(x, axis=-1, keepdims=True)
        y = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + config.norm_eps)
        if config.norm != "nonparametric_layernorm":
            ones = declare(nn.initializers.ones, ("embed",))
            y = y * last_axis(self.param("scale", ones, (config.width,), jnp.float32), y)
        if config.norm == "layernorm":
            zeros = declare(nn.initializers.zeros, ("embed",))
            y = y + last_axis(self.param("bias", zeros, (config.width,), jnp.float32), y)
        return y.astype(config.dtype)


class HeadNorm(nn.Module):
    """RMSNorm of queries or keys, of every head or of all heads as one vector, in float32."""

    config: ModelConfig
    role: str  # "query" or "key"
    heads: int

    @nn.compact
    def __call__(self, x_BxLxHxE: jax.Array) -> jax.Array:
        config = self.config
        shape, axes = (config.head_size,), (f"{self.role}_dim",)
        if config.qk_norm == "whole":
            shape, axes = (self.heads, *shape), (f"{self.role}_heads", *axes)
        x = x_BxLxHxE.astype(jnp.float32)
        normed = tuple(range(-len(shape), 0))
        y = x * jax.lax.rsqrt(jnp.mean(x * x, axis=normed, keepdims=True) + config.norm_eps)
        ones = declare(nn.initializers.ones, axes)
        y = y * last_axis(self.param("scale", ones, shape, jnp.float32), y)
        return y.astype(config.dtype)


def gelu(x: jax.Array, approximate: bool) -> jax.Array:
    """GELU, exact or with tanh; through erf, which XLA computes in half the time of erfc."""
    if approximate:
        return nn.gelu(x, approximate=True)
    return 0.5 * x * (1.0 + jax.lax.erf(x / math.sqrt(2.0)))


class Mlp(nn.Module):
    """The feed-forward part: up, nonlinearity (gated for SwiGLU and GEGLU), down."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        config = self.config

        def grow(name: str) -> jax.Array:
            return Dense(
                (config.width,),
                (config.mlp_width,),
                ("embed", "mlp"),
                small_std(config),
                config.use_bias,
                config.dtype,
                name=name,
            )(x_BxLxD)

        if config.mlp == "swiglu":
            hidden_BxLxF = nn.silu(grow("gate")) * grow("up")
        elif config.mlp == "geglu_tanh":
            hidden_BxLxF = gelu(grow("gate"), approximate=True) * grow("up")
        else:
            hidden_BxLxF = gelu(grow("up"), approximate=config.mlp == "gelu_tanh")
        return Dense(
            (config.mlp_width,),
            (config.width,),
            ("mlp", "embed"),
            residual_std(config),
            config.use_bias,
            config.dtype,
            name="down",
        )(hidden_BxLxF)


def rotary_angles(config: ModelConfig, positions_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of the rotary angles, float32, shape B x L x rotary_size / 2.

    Source: Su et al. (2021), eq. 15, with the halves layout of GPT-NeoX and Llama.
    """
    half, scaling = config.rotary_size // 2, config.rotary_scaling
    if scaling.kind == "default":
        frequency = config.rotary_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    else:
        table = rotary.frequencies(config.rotary_size, config.rotary_base, scaling)
        frequency = jnp.asarray(table, jnp.float32)
    angle = positions_BxL[..., None].astype(jnp.float32) * frequency[None, None]
    if scaling.size == 1:
        return jnp.cos(angle), jnp.sin(angle)
    # On the turned dimensions of queries and keys alike, so scores are multiplied by its square.
    return scaling.size * jnp.cos(angle), scaling.size * jnp.sin(angle)


def rotate(x_BxLxHxE: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the leading rotary dimensions of every head by the angles of its position."""
    half = angles[0].shape[-1]
    cos, sin = (a[:, :, None, None, :] for a in angles)
    x, rest = x_BxLxHxE[..., : 2 * half].astype(jnp.float32), x_BxLxHxE[..., 2 * half :]
    halves = x.reshape(*x.shape[:-1], 2, half)
    # A reversal instead of a concatenation of slices, which XLA on CPU does not vectorise.
    turned = halves * cos + halves[..., ::-1, :] * jnp.concatenate([-sin, sin], axis=-2)
    turned = turned.reshape(x.shape).astype(x_BxLxHxE.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned
