"""What axes alone do not tell of a model, and exact growth has to know."""

import dataclasses

from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.vit import ViTConfig


@dataclasses.dataclass(frozen=True)
class Traits:
    """How the axes of a model work together.

    Attributes:
      centred: norms subtract the mean.
      gained: norms have a gain.
      eps: of the norms.
      before: norms stand before the branches, whose output is added as it is.
      group: query heads for each key head.
      rotary: leading dimensions of query and key heads that are turned, in pairs half of them
        apart; 0 = none.
      ramped: the frequency of a pair does not follow from its share of the turned dimensions alone.
      head_norm: path of the norm whose output the head reads; "" where there is none.
      tied: the head is the embedding transposed.
    """

    centred: bool
    gained: bool
    eps: float
    before: bool = True
    group: int = 1
    rotary: int = 0
    ramped: bool = False
    head_norm: str = ""
    tied: bool = False


def of_model(config: ModelConfig | ViTConfig) -> Traits:
    """The traits of the model that `model.build.build_model` makes."""
    if isinstance(config, ViTConfig):
        return of_vit(config)
    return of_decoder(config) if config.causal else of_encoder(config)


def of_decoder(config: ModelConfig) -> Traits:
    """The traits of `model.decoder.Decoder`."""
    return Traits(
        centred=config.norm != "rmsnorm",
        gained=config.norm != "nonparametric_layernorm",
        eps=config.norm_eps,
        group=config.num_heads // config.kv_heads,
        rotary=config.rotary_size if config.position == "rotary" else 0,
        ramped=config.rotary_scaling.kind == "yarn",
        head_norm="final_norm",
        tied=config.tie_embeddings,
    )


def of_encoder(config: ModelConfig) -> Traits:
    """The traits of `model.encoder.Encoder`."""
    return Traits(
        centred=True,
        gained=True,
        eps=config.norm_eps,
        before=False,
        group=config.num_heads // config.kv_heads,
        head_norm="head_norm",
        tied=True,
    )


def of_vit(config: ViTConfig) -> Traits:
    """The traits of `model.vit.ViT`: those of its layers, with a head of its own."""
    return of_decoder(config.layers())
