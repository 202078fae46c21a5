"""A classifier of images: patches as tokens, the decoder's layers without its causality.

Dosovitskiy et al. (2021), with the mean over patches instead of a class token (Beyer et al. 2022).

Axes: B images, Y rows and X columns of pixels, C channels, L patches, P numbers of a patch,
D width, U classes.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_dynamics.errors import UserError
from llm_dynamics.model import size
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Layer, Table, scanned
from llm_dynamics.model.layers import Dense, Norm, small_std


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Shape of the images and of the model. Zero in a field marked so means "derive it"."""

    image_size: int = 8  # pixels of a side
    channels: int = 1
    patch_size: int = 2  # pixels of a side
    classes: int = 10
    width: int = 48  # D
    num_layers: int = 4  # N
    num_heads: int = 3  # H
    head_dim: int = 0  # E; 0 = width // num_heads
    mlp_width: int = 192  # F
    norm: str = "layernorm"  # as of `ModelConfig`, like the next ones
    norm_eps: float = 1e-6
    mlp: str = "gelu"
    use_bias: bool = True
    compute_dtype: str = "float32"
    attention: str = "auto"
    scan_unroll: int = 0

    def __post_init__(self):
        for field in ("image_size", "channels", "patch_size"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} must be at least 1, got {getattr(self, field)}")
        if self.classes < 2:
            raise UserError(f"classes must be at least 2, got {self.classes}")
        if self.image_size % self.patch_size:
            raise UserError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}; "
                "change one of them"
            )
        self.layers()

    @property
    def patches(self) -> int:
        """L, of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def patch_numbers(self) -> int:
        """P, numbers of a patch."""
        return self.channels * self.patch_size**2

    def layers(self) -> ModelConfig:
        """The layers as a decoder's, with patches as positions and classes as vocabulary."""
        shared = {field.name for field in dataclasses.fields(ModelConfig)}
        return ModelConfig(
            vocab_size=self.classes,
            max_length=self.patches,
            position="learned",
            **{k: v for k, v in dataclasses.asdict(self).items() if k in shared},
        )


class ViT(nn.Module):
    """Patches, layers with norms before the branches, a norm, the mean over patches, a head.

    Parameters: patches/... (P x D), positions/embedding (L x D), layers/..., final_norm/...,
    head/... (D x classes).
    """

    config: ViTConfig

    def setup(self):
        config, layers = self.config, self.config.layers()
        std = small_std(layers)
        self.patches = Dense(
            (config.patch_numbers,), (config.width,), ("patch", "embed"), std, True, layers.dtype
        )
        self.positions = Table(config.patches, "positions", layers)
        self.layers = scanned(Layer, layers)
        self.final_norm = Norm(layers)
        self.head = Dense(
            (config.width,), (config.classes,), ("embed", "classes"), std, True, layers.dtype
        )

    def __call__(self, images_BxYxXxC: jax.Array) -> jax.Array:
        """Logits of the classes, B x classes, float32.

        Raises:
          UserError: images of another shape than the config's.
        """
        config = self.config
        wanted = (config.image_size, config.image_size, config.channels)
        if images_BxYxXxC.shape[1:] != wanted:
            raise UserError(
                f"expected images of {'x'.join(map(str, wanted))} (rows, columns, channels), got "
                f"{'x'.join(map(str, images_BxYxXxC.shape[1:]))}; set image_size and channels"
            )
        positions_1xL = jnp.arange(config.patches, dtype=jnp.int32)[None]
        h_BxLxD = self.patches(cut(images_BxYxXxC, config.patch_size))
        h_BxLxD = h_BxLxD + self.positions(positions_1xL)
        mask_1xLxL = jnp.ones((1, config.patches, config.patches), bool)
        h_BxLxD, _ = self.layers(h_BxLxD, mask_1xLxL, None, None, None)
        h_BxD = jnp.mean(self.final_norm(h_BxLxD), axis=1)
        return self.head(h_BxD).astype(jnp.float32)

    def new_params(self, key: jax.Array):
        """Fresh float32 parameters whose leaves are boxed with their logical axis names."""
        config = self.config
        shape = (1, config.image_size, config.image_size, config.channels)
        return self.init(key, jnp.zeros(shape, jnp.float32))["params"]


def cut(images_BxYxXxC: jax.Array, side: int) -> jax.Array:
    """The square patches of images row by row, B x L x P; in each, rows, columns, channels."""
    B, Y, X, C = images_BxYxXxC.shape
    parts = images_BxYxXxC.reshape(B, Y // side, side, X // side, side, C)
    return jnp.moveaxis(parts, 3, 2).reshape(B, -1, side * side * C)


def losses(model: ViT, params, images_BxYxXxC: jax.Array, labels_B: jax.Array) -> jax.Array:
    """Negative log-likelihood of the label of every image, nats, B."""
    logits_BxU = model.apply({"params": params}, images_BxYxXxC)
    label_Bx1 = jnp.take_along_axis(logits_BxU, labels_B[:, None], axis=1)
    return jax.nn.logsumexp(logits_BxU, axis=1) - label_Bx1[:, 0]


def loss(model: ViT, params, images_BxYxXxC: jax.Array, labels_B: jax.Array) -> jax.Array:
    """Their mean, for `jax.value_and_grad`."""
    return jnp.mean(losses(model, params, images_BxYxXxC, labels_B))


def accuracy(model: ViT, params, images_BxYxXxC: jax.Array, labels_B: jax.Array) -> jax.Array:
    """Share of images whose label has the largest logit."""
    logits_BxU = model.apply({"params": params}, images_BxYxXxC)
    return jnp.mean((jnp.argmax(logits_BxU, axis=1) == labels_B).astype(jnp.float32))


def flops_per_image(config: ViTConfig) -> float:
    """Training FLOPs an image, counted as in `size.flops_per_token`; the head reads one token."""
    layers = config.layers()
    weights = config.patches * config.num_layers * size.matrix_params_per_layer(layers)
    weights += config.patches * config.patch_numbers * config.width + config.width * config.classes
    scores = config.num_layers * config.num_heads * layers.head_size * config.patches**2
    return 6.0 * weights + 12.0 * scores
