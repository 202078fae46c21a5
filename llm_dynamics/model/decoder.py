"""The decoder: embedding, scanned layers, final norm, unembedding.

Axes: B rows, L positions, M key positions, D width, N layers, V vocabulary.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from llm_dynamics.errors import UserError
from llm_dynamics.model import dropping, windows
from llm_dynamics.model.attention import Attention
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.dropping import Kept
from llm_dynamics.model.layers import Mlp, Norm, pick, small_std, weight

_REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Layer(nn.Module):
    """Attention and MLP around the residual stream, in sequence or side by side.

    Norms stand before both parts, behind them (`post_norm`), or on both sides; see `norm_order`.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, h_BxMxD, mask, angles, kept=None, kind=None, columns_BxL=None):
        """The next residual stream, at the columns `columns_BxL` of each row or at all.

        What is not `kept`, a `dropping.LayerKept`, skips the layer; all columns are then computed.
        Mask and angles are those of its `kind`, see `windows`.
        """
        config = self.config

        def before(part: str, x: jax.Array) -> jax.Array:
            return x if config.norm_order == "after" else Norm(config, name=f"{part}_norm")(x)

        def after(part: str, x: jax.Array) -> jax.Array:
            return x if config.norm_order == "before" else Norm(config, name=f"{part}_post_norm")(x)

        mask_BxMxM, angles = windows.seen(mask, angles, kind)
        mask_BxMxM = dropping.visible(mask_BxMxM, kept)
        normed_BxMxD = before("attention", h_BxMxD)
        h_BxLxD = pick(h_BxMxD, columns_BxL)
        attention = Attention(config, name="attention")
        update_BxLxD = attention(normed_BxMxD, mask_BxMxM, angles, columns_BxL)
        attended_BxLxD = h_BxLxD + after("attention", update_BxLxD)
        mlp_in_BxLxD = h_BxLxD if config.parallel_residual else attended_BxLxD
        update_BxLxD = Mlp(config, name="mlp")(before("mlp", mlp_in_BxLxD))
        after_BxLxD = attended_BxLxD + after("mlp", update_BxLxD)
        h_BxLxD = dropping.mixed(h_BxLxD, after_BxLxD, kept)
        return nn.with_logical_constraint(h_BxLxD, ("batch", "length", None)), None


class Decoder(nn.Module):
    """A causal language model. Every parameter of a layer has a leading axis of N layers.

    Parameters: embed/embedding (V x D), positions/embedding (learned positions only), layers/...,
    final_norm/..., unembed/kernel (D x V, untied only).
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        self.embed = Table(config.vocab_size, "vocab", config)
        if config.position == "learned":
            self.positions = Table(config.max_length, "positions", config)
        self.layers = scanned(Layer, config)
        self.final_norm = Norm(config)
        if not config.tie_embeddings:
            self.unembedding = Head(config, name="unembed")

    def __call__(
        self, tokens_BxL, segment_ids_BxL=None, positions_BxL=None, kept: Kept | None = None
    ) -> jax.Array:
        """Hidden states after the final norm, B x L x D, in the compute dtype.

        Args:
          tokens_BxL: int32 token ids.
          segment_ids_BxL: attention stays within equal ids; None = each row is one segment.
          positions_BxL: position of each token in its document; None = its index in the row.
          kept: what rows and tokens do not skip; None = they skip nothing.

        Raises:
          UserError: rows longer than the table of learned positions.
        """
        h_BxLxD, mask, angles = self.embedded(tokens_BxL, segment_ids_BxL, positions_BxL)
        kept = dropping.by_layer(kept, self.config.num_layers)
        h_BxLxD, _ = self.layers(h_BxLxD, mask, angles, kept, windows.kinds(self.config))
        return self.final_norm(h_BxLxD)

    def embedded(self, tokens_BxL, segment_ids_BxL=None, positions_BxL=None, until_BxL=None):
        """What the first layer reads: residual stream, attention mask, rotary angles or None.

        Mask and angles are of both kinds of layers where there are two, see `windows.views`. Texts
        may branch (`until_BxL`, see `attention.branch_mask`); segments then say nothing more.
        """
        config = self.config
        length = tokens_BxL.shape[1]
        if config.position == "learned" and length > config.max_length:
            raise UserError(
                f"rows of {length} tokens do not fit max_length {config.max_length} "
                "(learned positions); shorten the rows or raise max_length"
            )
        if segment_ids_BxL is None:
            segment_ids_BxL = jnp.ones((1, length), jnp.int32)
        if positions_BxL is None:
            positions_BxL = jnp.arange(length, dtype=jnp.int32)[None]
        h_BxLxD = self.embed(tokens_BxL)
        if config.scale_embeddings:
            h_BxLxD = h_BxLxD * math.sqrt(config.width)
        if config.position == "learned":
            h_BxLxD = h_BxLxD + self.positions(positions_BxL)
        h_BxLxD = nn.with_logical_constraint(h_BxLxD, ("batch", "length", None))
        return h_BxLxD, *windows.views(config, segment_ids_BxL, positions_BxL, until_BxL)

    def normed(self, h: jax.Array) -> jax.Array:
        """The final norm of a residual stream ... x D."""
        return self.final_norm(h)

    def unembed(self, h: jax.Array) -> jax.Array:
        """Logits ... x V in float32 of hidden states ... x D."""
        head_DxV = self.head().astype(self.config.dtype)
        return jnp.dot(h.astype(head_DxV.dtype), head_DxV, preferred_element_type=jnp.float32)

    def head(self) -> jax.Array:
        """The unembedding matrix, D x V, float32."""
        return self.embed.table().T if self.config.tie_embeddings else self.unembedding()

    def _everything(self, tokens_BxL) -> jax.Array:
        return self.unembed(self(tokens_BxL))

    def new_params(self, key: jax.Array):
        """Fresh float32 parameters whose leaves are boxed with their logical axis names."""
        tokens_1x1 = jnp.zeros((1, 1), jnp.int32)
        return self.init(key, tokens_1x1, method="_everything")["params"]


def scanned(layer: type[nn.Module], config: ModelConfig) -> nn.Module:
    """N layers, their parameters stacked: called with (stream, mask, angles, kept, kinds).

    Mask and angles are shared; of what is kept, None or `dropping.by_layer`, and of its kind, None
    or `windows.kinds`, each has its own.
    """
    if config.remat != "none":
        layer = nn.remat(layer, policy=_REMAT_POLICIES[config.remat], prevent_cse=False)
    return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, nn.broadcast, 0, 0),
        length=config.num_layers,
        unroll=config.unroll,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )(config)


def hidden_at(decoder: Decoder, params: Any, rows: tuple, columns_BxL: jax.Array) -> jax.Array:
    """The decoder's output at some columns of each row only, B x L x D.

    Equal to the whole output picked at those columns, but the last layer, most of whose work is
    its MLP, is computed there alone.

    Args:
      decoder: the model.
      params: its parameters.
      rows: the arguments of `Decoder.embedded`, with rows of M tokens.
      columns_BxL: int32 columns, 0 to M - 1.
    """
    config, variables = decoder.config, {"params": params}
    h_BxMxD, mask, angles = decoder.apply(variables, *rows, method="embedded")
    kinds_N = windows.kinds(config)

    def layer(h, i, columns=None):
        # By index rather than a slice of all but the last, which would copy the weights.
        weights = jax.tree.map(lambda x: jnp.asarray(x)[i], params["layers"])
        kind = None if kinds_N is None else jnp.asarray(kinds_N)[i]
        inputs = h, mask, angles, None, kind, columns
        return Layer(config).apply({"params": weights}, *inputs)

    last = config.num_layers - 1
    h_BxMxD, _ = jax.lax.scan(
        layer, h_BxMxD, jnp.arange(last), unroll=max(1, min(config.unroll, last))
    )
    h_BxLxD, _ = layer(h_BxMxD, last, columns_BxL)
    return decoder.apply(variables, h_BxLxD, method="normed")


class Table(nn.Module):
    """Learned vectors looked up by index."""

    rows: int
    axis: str
    config: ModelConfig

    def setup(self):
        self.embedding = self.param(
            "embedding",
            weight(small_std(self.config), (self.axis, "embed"), reads=1),
            (self.rows, self.config.width),
            jnp.float32,
        )

    def __call__(self, index_BxL):
        # Gathered over fsdp first, as every weight is: a lookup of a row split by width would
        # leave the activations split by width too.
        table = nn.with_logical_constraint(jnp.asarray(self.embedding), (self.axis, None))
        return table[index_BxL].astype(self.config.dtype)

    def table(self):
        return self.embedding


class Head(nn.Module):
    """The unembedding of an untied model."""

    config: ModelConfig

    @nn.compact
    def __call__(self):
        config = self.config
        shape = (config.width, config.vocab_size)
        init = weight(small_std(config), ("embed", "vocab"), reads=1)
        return self.param("kernel", init, shape, jnp.float32)
