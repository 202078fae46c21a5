"""Qwen 2 and 3, OLMo 2 and Gemma 3 (its text model): Llama's names, and more norms or biases.

Source: the classes `Qwen2ForCausalLM`, `Qwen3ForCausalLM`, `Olmo2ForCausalLM` and
`Gemma3ForCausalLM` of transformers.
"""

from typing import Any

from llm_dynamics.errors import UserError
from llm_dynamics.hub import llama
from llm_dynamics.hub.fields import Fields
from llm_dynamics.hub.layouts import Tensor
from llm_dynamics.model.config import ModelConfig

_LOCAL, _GLOBAL = "sliding_attention", "full_attention"  # words of layer_types
_GEMMA_EVERY = 6  # layers, of which the last reads all, where nothing is said


def read_qwen2(fields: Fields) -> ModelConfig:
    """The model of a Qwen2's config.json; Qwen2.5 is one, too."""
    fields.only("use_mrope", False)
    _refuse_windows(fields)
    shape = llama.shape_of(fields)
    eps = fields.number("rms_norm_eps", 1e-6)
    return ModelConfig(**shape, norm="rmsnorm", norm_eps=eps, qkv_bias=True)


def read_qwen3(fields: Fields) -> ModelConfig:
    """The model of a Qwen3's config.json."""
    fields.only("attention_bias", False)
    _refuse_windows(fields)
    shape = llama.shape_of(fields)
    return ModelConfig(
        **shape,
        head_dim=llama.head_dim(fields, shape, 128),
        norm="rmsnorm",
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        qk_norm="head",
    )


def read_olmo2(fields: Fields) -> ModelConfig:
    """The model of an OLMo 2's config.json."""
    fields.only("attention_bias", False)
    fields.only("clip_qkv", None)
    return ModelConfig(
        **llama.shape_of(fields),
        norm="rmsnorm",
        norm_eps=fields.number("rms_norm_eps", 1e-5),
        norm_order="after",
        qk_norm="whole",
    )


def read_gemma3(fields: Fields) -> ModelConfig:
    """The model of a Gemma 3's config.json, of its text alone."""
    fields.only("attention_bias", False)
    fields.only("use_bidirectional_attention", False)
    fields.only("attn_logit_softcapping", None)
    fields.only("final_logit_softcapping", None)
    for name in ("hidden_activation", "hidden_act"):
        fields.only(name, "gelu_pytorch_tanh")
    shape = llama.sizes(fields, tied=True, length=131072)
    return ModelConfig(
        **shape,
        **_gemma_rope(fields),
        head_dim=llama.head_dim(fields, shape, 256),
        norm="rmsnorm",
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        norm_order="both",
        qk_norm="head",
        mlp="geglu_tanh",
        query_scalar=fields.number("query_pre_attn_scalar", 256),
        window=fields.whole("sliding_window", 4096),
        global_every=_every(fields, shape["num_layers"]),
        scale_embeddings=True,
    )


def write_qwen2(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Qwen2's config.json that say what the model is."""
    said = llama.write_olmo(config) | {"rms_norm_eps": config.norm_eps}
    return _without(said, "attention_bias") | {"use_sliding_window": False}


def write_qwen3(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Qwen3's config.json that say what the model is."""
    said = llama.write_olmo(config) | {"rms_norm_eps": config.norm_eps}
    return said | {"head_dim": config.head_size, "use_sliding_window": False}


def write_olmo2(config: ModelConfig) -> dict[str, Any]:
    """The fields of an OLMo 2's config.json that say what the model is."""
    return llama.write_olmo(config) | {"rms_norm_eps": config.norm_eps}


def write_gemma3(config: ModelConfig) -> dict[str, Any]:
    """The fields of a Gemma 3's config.json that say what the model is."""
    scalar = config.query_scalar or config.head_size
    every = config.global_every
    kinds = [_LOCAL, _GLOBAL]
    return _without(llama.write_olmo(config), "hidden_act") | {
        "rms_norm_eps": config.norm_eps,
        "head_dim": config.head_size,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "rope_local_base_freq": config.local_rotary_base or config.rotary_base,
        "sliding_window": config.window or config.max_length,
        "layer_types": [kinds[every > 0 and not (n + 1) % every] for n in range(config.num_layers)],
        **({"sliding_window_pattern": every} if every else {}),
    }


def gemma3_tensors(config: ModelConfig) -> list[Tensor]:
    """Every stored tensor; Gemma keeps how much larger than 1 its gains are."""
    return llama.tensors(config, offset=1.0)


def fits_gemma3(config: ModelConfig) -> bool:
    """Whether it is a model of Gemma's kind."""
    return config.norm == "rmsnorm" and config.mlp == "geglu_tanh" and config.position == "rotary"


def _without(said: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key != name}


def _refuse_windows(fields: Fields) -> None:
    fields.only("use_sliding_window", False)
    for unused in ("sliding_window", "max_window_layers"):
        fields.take(unused, None)
    kinds = fields.take("layer_types", [])
    if any(kind != _GLOBAL for kind in kinds):
        fields.refuse("layer_types", kinds, f"{_GLOBAL!r} in every layer")


def _gemma_rope(fields: Fields) -> dict[str, Any]:
    """Base and scaling of global layers, base of local ones."""
    nested, scaling = (fields.take(k, {}) for k in ("rope_parameters", "rope_scaling"))
    if not isinstance(nested, dict) or not isinstance(scaling, dict):
        raise UserError(f"{fields.where}: expected rope_parameters and rope_scaling to be objects")
    wide = dict(nested.get(_GLOBAL) or {}) | scaling
    near = dict(nested.get(_LOCAL) or {})
    for key in set(nested) - {_GLOBAL, _LOCAL}:
        fields.refuse(f"rope_parameters.{key}", nested[key], f"{_GLOBAL} and {_LOCAL}")
    base = fields.take("rope_theta", 1e6)
    local = fields.take("rope_local_base_freq", 1e4)
    found = {
        "rotary_base": fields.positive("rope_theta", wide.pop("rope_theta", base)),
        "local_rotary_base": fields.positive("rope_local_base_freq", near.pop("rope_theta", local)),
        "rotary_scaling": fields.scaling("rope_parameters.full_attention", wide),
    }
    if fields.scaling("rope_parameters.sliding_attention", near).kind != "default":
        fields.refuse("rope_parameters.sliding_attention", near, "no scaling")
    return found


def _every(fields: Fields, layers: int) -> int:
    """`ModelConfig.global_every` of the kinds of layers."""
    said = [fields.take(k, 0) for k in ("sliding_window_pattern", "_sliding_window_pattern")]
    kinds = fields.take("layer_types", [])
    if not kinds:
        return max(said) or _GEMMA_EVERY
    first = kinds.index(_GLOBAL) + 1 if _GLOBAL in kinds else 0
    for every in (max(said), first):
        expected = [_GLOBAL if every and not (n + 1) % every else _LOCAL for n in range(layers)]
        if kinds == expected:
            return every
    fields.refuse("layer_types", kinds, f"every so many-th layer {_GLOBAL}, the others {_LOCAL}")
    return 0
