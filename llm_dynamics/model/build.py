"""The one place that makes a model out of its configuration."""

import functools
from typing import Any, overload

import jax

from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder, Layer
from llm_dynamics.model.encoder import Encoder, EncoderLayer
from llm_dynamics.model.vit import ViT, ViTConfig

# A model of text: apply(tokens, segments, positions) gives what the head reads, "head" the D x V
# matrix that reads it, "unembed" their product, "embedded" what the first layer reads;
# `new_params` gives fresh parameters that say their axes.
Model = Decoder | Encoder


@overload
def build_model(config: ModelConfig) -> Model: ...
@overload
def build_model(config: ViTConfig) -> ViT: ...


def build_model(config: ModelConfig | ViTConfig) -> Model | ViT:
    """The model of a configuration: a decoder or an encoder by its `kind`, or a ViT."""
    if isinstance(config, ViTConfig):
        return ViT(config)
    return Decoder(config) if config.causal else Encoder(config)


def layer_of(config: ModelConfig) -> Layer | EncoderLayer:
    """One layer of a model of text: apply(stream, attention mask, angles) gives (stream, None)."""
    return Layer(config) if config.causal else EncoderLayer(config)


@functools.partial(jax.jit, static_argnums=0)
def logits(config: ModelConfig, params: Any, tokens_BxL: jax.Array) -> jax.Array:
    """Logits B x L x V of the next token at every position, float32.

    Args:
      config: the decoder.
      params: its parameters.
      tokens_BxL: int32 token ids.
    """
    decoder, variables = build_model(config), {"params": params}
    h_BxLxD = decoder.apply(variables, tokens_BxL)
    return decoder.apply(variables, h_BxLxD, method="unembed")
