"""What axes alone do not tell of a model, and exact growth has to know."""

import dataclasses

from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.vit import ViTConfig
from llm_dynamics.model.windows import local_layers


@dataclasses.dataclass(frozen=True)
class Traits:
    """How the axes of a model work together.

    Attributes:
      centred: norms subtract the mean.
      gained: norms have a gain.
      eps: of the norms.
      before: the stream is a plain sum; else norms stand in it, behind the branches.
      after: an RMSNorm stands behind each branch, before its output is added.
      qk_norm: of queries and keys, see `ModelConfig`.
      by_size: scores are divided by the root of the head's size.
      scaled: embeddings are multiplied by the root of the width.
      local: which layers read a window; () = none.
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
    after: bool = False
    qk_norm: str = "none"
    by_size: bool = True
    scaled: bool = False
    local: tuple[bool, ...] = ()
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
        after=config.norm_order != "before",
        qk_norm=config.qk_norm,
        by_size=not config.query_scalar,
        scaled=config.scale_embeddings,
        local=tuple(map(bool, local_layers(config))) if config.window else (),
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
        qk_norm=config.qk_norm,
        by_size=not config.query_scalar,
        group=config.num_heads // config.kv_heads,
        head_norm="head_norm",
        tied=True,
    )


def of_vit(config: ViTConfig) -> Traits:
    """The traits of `model.vit.ViT`: those of its layers, with a head of its own."""
    return of_decoder(config.layers())
