"""The encoder: a BERT that fills in hidden tokens from both sides (Devlin et al. 2019).

Axes: B rows, L positions, M key positions, D width, V vocabulary.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_dynamics.errors import UserError
from llm_dynamics.model import dropping
from llm_dynamics.model.attention import Attention
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Table, scanned
from llm_dynamics.model.dropping import Kept
from llm_dynamics.model.layers import Dense, Mlp, Norm, declare, gelu, last_axis, small_std


class EncoderLayer(nn.Module):
    """Attention and MLP in sequence, each followed by a norm of its sum with the stream."""

    config: ModelConfig

    @nn.compact
    def __call__(self, h_BxLxD, mask_BxLxM, angles=None, kept=None, kind=None):
        """The next residual stream; what is not `kept`, a `dropping.LayerKept`, skips the layer."""
        del kind  # all layers of an encoder are of one
        config, before_BxLxD = self.config, h_BxLxD
        mask_BxLxM = dropping.visible(mask_BxLxM, kept)
        attended_BxLxD = Attention(config, name="attention")(h_BxLxD, mask_BxLxM, angles)
        h_BxLxD = Norm(config, name="attention_norm")(h_BxLxD + attended_BxLxD)
        h_BxLxD = Norm(config, name="mlp_norm")(h_BxLxD + Mlp(config, name="mlp")(h_BxLxD))
        h_BxLxD = dropping.mixed(before_BxLxD, h_BxLxD, kept)
        return nn.with_logical_constraint(h_BxLxD, ("batch", "length", None)), None


class Encoder(nn.Module):
    """A model of hidden tokens. Every parameter of a layer has a leading axis of N layers.

    Parameters: embed/embedding (V x D), positions/embedding, embed_norm/..., layers/...,
    transform/... (D x D) and head_norm/..., which make what the head reads out of the stream. The
    head is the transposed embedding, without a bias.
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        self.embed = Table(config.vocab_size, "vocab", config)
        self.positions = Table(config.max_length, "positions", config)
        self.embed_norm = Norm(config)
        self.layers = scanned(EncoderLayer, config)
        self.transform = Dense(
            (config.width,),
            (config.width,),
            ("embed", "transform"),
            small_std(config),
            config.use_bias,
            config.dtype,
        )
        self.head_norm = _HeadNorm(config)

    def __call__(
        self, tokens_BxL, segment_ids_BxL=None, positions_BxL=None, kept: Kept | None = None
    ) -> jax.Array:
        """What the head reads, B x L x D, in the compute dtype.

        Args:
          tokens_BxL: int32 token ids, some of them hidden.
          segment_ids_BxL: attention stays within equal ids; None = each row is one segment.
          positions_BxL: position of each token in its document; None = its index in the row.
          kept: what rows and tokens do not skip; None = they skip nothing.

        Raises:
          UserError: rows longer than the table of positions.
        """
        h_BxLxD, mask_BxLxM, _ = self.embedded(tokens_BxL, segment_ids_BxL, positions_BxL)
        kept = dropping.by_layer(kept, self.config.num_layers)
        h_BxLxD, _ = self.layers(h_BxLxD, mask_BxLxM, None, kept, None)
        tanh = self.config.mlp == "gelu_tanh"
        return self.head_norm(gelu(self.transform(h_BxLxD), approximate=tanh))

    def embedded(self, tokens_BxL, segment_ids_BxL=None, positions_BxL=None):
        """What the first layer reads: residual stream, attention mask, and None for angles."""
        config = self.config
        length = tokens_BxL.shape[1]
        if length > config.max_length:
            raise UserError(
                f"rows of {length} tokens do not fit max_length {config.max_length} "
                "(learned positions); shorten the rows or raise max_length"
            )
        if segment_ids_BxL is None:
            segment_ids_BxL = jnp.ones((1, length), jnp.int32)
        if positions_BxL is None:
            positions_BxL = jnp.arange(length, dtype=jnp.int32)[None]
        h_BxLxD = self.embed_norm(self.embed(tokens_BxL) + self.positions(positions_BxL))
        h_BxLxD = nn.with_logical_constraint(h_BxLxD, ("batch", "length", None))
        # Padding reads padding, so every row has a key.
        return h_BxLxD, segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :], None

    def normed(self, h: jax.Array) -> jax.Array:
        """Refused: a decoder's last step, before the log-probabilities that probes ask for.

        Raises:
          UserError: always.
        """
        raise UserError(
            "probes expect the log-probability of a token given those before it, which an encoder "
            "does not have; leave the probes out, or set model.kind=decoder"
        )

    def unembed(self, h: jax.Array) -> jax.Array:
        """Logits ... x V in float32 of what the head reads, ... x D."""
        head_DxV = self.head().astype(self.config.dtype)
        return jnp.dot(h.astype(head_DxV.dtype), head_DxV, preferred_element_type=jnp.float32)

    def head(self) -> jax.Array:
        """The unembedding matrix, D x V, float32."""
        return self.embed.table().T

    def _everything(self, tokens_BxL) -> jax.Array:
        return self.unembed(self(tokens_BxL))

    def new_params(self, key: jax.Array):
        """Fresh float32 parameters whose leaves are boxed with their logical axis names."""
        tokens_1x1 = jnp.zeros((1, 1), jnp.int32)
        return self.init(key, tokens_1x1, method="_everything")["params"]


class _HeadNorm(nn.Module):
    """LayerNorm of what the transform writes, which is an axis of its own."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        config = self.config
        plain = {"norm": "nonparametric_layernorm", "compute_dtype": "float32", "kind": "decoder"}
        y = Norm(dataclasses.replace(config, **plain))(x_BxLxD)
        ones = declare(nn.initializers.ones, ("transform",))
        zeros = declare(nn.initializers.zeros, ("transform",))
        y = y * last_axis(self.param("scale", ones, (config.width,), jnp.float32), y)
        y = y + last_axis(self.param("bias", zeros, (config.width,), jnp.float32), y)
        return y.astype(config.dtype)
