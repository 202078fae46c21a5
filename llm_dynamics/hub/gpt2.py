"""GPT-2: learned positions, biases everywhere, maps stored as (in, out), queries to values in one.

Source: Radford et al. (2019) and the classes `GPT2Config` and `GPT2LMHeadModel` of transformers.
"""

from typing import Any

from llm_dynamics.hub.fields import Fields
from llm_dynamics.hub.layouts import Part, Tensor, linear, same, vector
from llm_dynamics.model.config import ModelConfig

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def read(fields: Fields) -> ModelConfig:
    """The model of a config.json."""
    fields.only("scale_attn_weights", True)
    fields.only("scale_attn_by_inverse_layer_idx", False)
    fields.only("add_cross_attention", False)
    fields.take("reorder_and_upcast_attn", False)  # the same function in another precision
    width = fields.whole("n_embd")
    return ModelConfig(
        vocab_size=fields.whole("vocab_size"),
        width=width,
        num_layers=fields.whole("n_layer"),
        num_heads=fields.whole("n_head"),
        mlp_width=fields.whole("n_inner", 4 * width),
        max_length=fields.whole("n_positions", 1024),
        norm="layernorm",
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        mlp=fields.choice("activation_function", ACTIVATIONS, "gelu_new"),
        position="learned",
        use_bias=True,
        tie_embeddings=fields.flag("tie_word_embeddings", True),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """The fields of a config.json that say what the model is."""
    return {
        "vocab_size": config.vocab_size,
        "n_embd": config.width,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.mlp_width,
        "n_positions": config.max_length,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": "gelu_new" if config.mlp == "gelu_tanh" else "gelu",
        "tie_word_embeddings": config.tie_embeddings,
    }


def fits(config: ModelConfig) -> bool:
    """Whether the family has this model; biases that ours lacks can be zeros."""
    return (
        config.position == "learned"
        and config.norm == "layernorm"
        and config.mlp in ("gelu", "gelu_tanh")
        and not config.parallel_residual
        and config.kv_heads == config.num_heads
        and config.head_size * config.num_heads == config.width
    )


def tensors(config: ModelConfig) -> list[Tensor]:
    """Every stored tensor."""
    D, F, H, E = config.width, config.mlp_width, config.num_heads, config.head_size
    found = [
        same("transformer.wte.weight", Part(("embed", "embedding")), (config.vocab_size, D)),
        same("transformer.wpe.weight", Part(("positions", "embedding")), (config.max_length, D)),
    ]
    for n in range(config.num_layers):
        theirs = f"transformer.h.{n}."

        def part(*path: str, n: int = n) -> Part:
            return Part(("layers", *path), n)

        for name, ours in (("ln_1", "attention_norm"), ("ln_2", "mlp_norm")):
            found.append(same(f"{theirs}{name}.weight", part(ours, "scale"), (D,)))
            found.append(same(f"{theirs}{name}.bias", part(ours, "bias"), (D,)))
        qkv = ("query", "key", "value")
        kernels, biases = (
            tuple(part("attention", name, kind) for name in qkv) for kind in ("kernel", "bias")
        )
        name = f"{theirs}attn.c_attn"
        found += [
            Tensor(f"{name}.weight", (D, 3 * D), (D, 3, H, E), (0, 1, 2), kernels, dealt=1),
            Tensor(f"{name}.bias", (3 * D,), (3, H, E), (0, 1), biases, dealt=0),
        ]
        for name, path, inputs, outputs in (
            ("attn.c_proj", ("attention", "out"), (H, E), (D,)),
            ("mlp.c_fc", ("mlp", "up"), (D,), (F,)),
            ("mlp.c_proj", ("mlp", "down"), (F,), (D,)),
        ):
            kernel, bias = part(*path, "kernel"), part(*path, "bias")
            found.append(linear(f"{theirs}{name}.weight", kernel, inputs, outputs, turned=False))
            found.append(vector(f"{theirs}{name}.bias", bias, outputs))
    found.append(same("transformer.ln_f.weight", Part(("final_norm", "scale")), (D,)))
    found.append(same("transformer.ln_f.bias", Part(("final_norm", "bias")), (D,)))
    if not config.tie_embeddings:
        head = Part(("unembed", "kernel"))
        found.append(linear("lm_head.weight", head, (D,), (config.vocab_size,)))
    return found
