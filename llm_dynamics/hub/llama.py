"""Llama (SmolLM2, TinyLlama) and OLMo 1, which is the same without parameters in its norms.

Source: Touvron et al. (2023), Groeneveld et al. (2024), and the classes `LlamaForCausalLM` and
`OlmoForCausalLM` of transformers.
"""

import dataclasses
from typing import Any

from llm_dynamics.hub.fields import Fields, rope_scaling
from llm_dynamics.hub.layouts import Part, Tensor, linear, same, vector
from llm_dynamics.model.config import ModelConfig

# Ours and theirs by `ModelConfig.norm_order`.
_NORMS = {
    "before": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    "after": {
        "attention_post_norm": "post_attention_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
    "both": {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
}
_OLMO_EPS = 1e-5  # written into its class, not its configuration


def read(fields: Fields) -> ModelConfig:
    """The model of a Llama's config.json."""
    bias = fields.flag("attention_bias", False)
    fields.only("mlp_bias", bias)  # ours has biases in both, or in neither
    fields.only("rope_interleaved", False)
    shape = shape_of(fields)
    return ModelConfig(
        **shape,
        head_dim=head_dim(fields, shape),
        norm="rmsnorm",
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        use_bias=bias,
    )


def read_olmo(fields: Fields) -> ModelConfig:
    """The model of an OLMo's config.json."""
    fields.only("attention_bias", False)
    fields.only("clip_qkv", None)
    return ModelConfig(
        **shape_of(fields), norm="nonparametric_layernorm", norm_eps=_OLMO_EPS, use_bias=False
    )


def shape_of(fields: Fields) -> dict[str, Any]:
    fields.only("hidden_act", "silu", "swish")
    rope = fields.rope()
    if rope["rotary_fraction"] != 1:
        fields.refuse("partial_rotary_factor", rope["rotary_fraction"], "1.0")
    return sizes(fields) | rope | {"mlp": "swiglu"}


def sizes(fields: Fields, tied: bool = False, length: int = 2048) -> dict[str, Any]:
    """What all families with Llama's names call the same, as fields of `ModelConfig`.

    Args:
      fields: of config.json.
      tied: whether the head is tied where nothing is said.
      length: of the context where nothing is said.
    """
    heads = fields.whole("num_attention_heads")
    kv_heads = fields.whole("num_key_value_heads", heads)
    return {
        "vocab_size": fields.whole("vocab_size"),
        "width": fields.whole("hidden_size"),
        "num_layers": fields.whole("num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": 0 if kv_heads == heads else kv_heads,
        "mlp_width": fields.whole("intermediate_size"),
        "max_length": fields.whole("max_position_embeddings", length),
        "position": "rotary",
        "tie_embeddings": fields.flag("tie_word_embeddings", tied),
    }


def head_dim(fields: Fields, shape: dict[str, Any], default: int = 0) -> int:
    """`ModelConfig.head_dim`, 0 where it is the width of a head's share."""
    share = shape["width"] // shape["num_heads"]
    found = fields.whole("head_dim", default or max(share, 1))
    return 0 if found * shape["num_heads"] == shape["width"] else found


def write(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Llama's config.json that say what the model is."""
    return write_olmo(config) | {
        "rms_norm_eps": config.norm_eps,
        "head_dim": config.head_size,
        "attention_bias": config.use_bias,
        "mlp_bias": config.use_bias,
    }


def write_olmo(config: ModelConfig) -> dict[str, Any]:
    """The fields of an OLMo's config.json that say what the model is."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.kv_heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_length,
        "hidden_act": "silu",
        "rope_theta": config.rotary_base,
        "attention_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        **rope_scaling(config),
    }


def _fits(config: ModelConfig) -> bool:
    return (
        config.position == "rotary"
        and config.rotary_fraction == 1
        and config.mlp == "swiglu"
        and not config.parallel_residual
    )


def fits(config: ModelConfig) -> bool:
    """Whether Llama has this model."""
    return _fits(config) and config.norm == "rmsnorm"


def fits_olmo(config: ModelConfig) -> bool:
    """Whether OLMo 1 has this model."""
    return (
        _fits(config)
        and config.norm == "nonparametric_layernorm"
        and config.norm_eps == _OLMO_EPS
        and not config.use_bias
        and config.head_size * config.num_heads == config.width
    )


def tensors(config: ModelConfig, offset: float = 0.0) -> list[Tensor]:
    """Every stored tensor of a family whose maps have Llama's names.

    Args:
      config: the model.
      offset: that gains of norms are larger here than they are stored.
    """
    D, F, H, K, E = (
        config.width,
        config.mlp_width,
        config.num_heads,
        config.kv_heads,
        config.head_size,
    )
    embed = Part(("embed", "embedding"))
    found = [same("model.embed_tokens.weight", embed, (config.vocab_size, D))]
    normed = config.norm == "rmsnorm"

    def gain(name: str, part: Part, shape: tuple[int, ...]) -> Tensor:
        return dataclasses.replace(vector(name, part, shape), offset=offset)

    for n in range(config.num_layers):
        theirs = f"model.layers.{n}."
        for ours, name in _NORMS[config.norm_order].items() if normed else ():
            found.append(gain(f"{theirs}{name}.weight", Part(("layers", ours, "scale"), n), (D,)))
        for name, path, inputs, outputs in (
            ("self_attn.q_proj", ("attention", "query"), (D,), (H, E)),
            ("self_attn.k_proj", ("attention", "key"), (D,), (K, E)),
            ("self_attn.v_proj", ("attention", "value"), (D,), (K, E)),
            ("self_attn.o_proj", ("attention", "out"), (H, E), (D,)),
            ("mlp.gate_proj", ("mlp", "gate"), (D,), (F,)),
            ("mlp.up_proj", ("mlp", "up"), (D,), (F,)),
            ("mlp.down_proj", ("mlp", "down"), (F,), (D,)),
        ):
            kernel, bias = (Part(("layers", *path, kind), n) for kind in ("kernel", "bias"))
            found.append(linear(f"{theirs}{name}.weight", kernel, inputs, outputs))
            reads = path[0] == "attention" and path[1] != "out"
            if config.use_bias or (config.qkv_bias and reads):
                found.append(vector(f"{theirs}{name}.bias", bias, outputs))
            if config.qk_norm != "none" and path[1] in ("query", "key"):
                part = Part(("layers", "attention", f"{path[1]}_norm", "scale"), n)
                shape = outputs if config.qk_norm == "whole" else outputs[1:]
                found.append(gain(f"{theirs}self_attn.{path[1][0]}_norm.weight", part, shape))
    if normed:
        found.append(gain("model.norm.weight", Part(("final_norm", "scale")), (D,)))
    if not config.tie_embeddings:
        head = Part(("unembed", "kernel"))
        found.append(linear("lm_head.weight", head, (D,), (config.vocab_size,)))
    return found
