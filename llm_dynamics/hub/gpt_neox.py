"""GPT-NeoX, as in Pythia: queries, keys and values of a head side by side, partly rotated.

Source: Black et al. (2022) and the classes `GPTNeoXConfig` and `GPTNeoXForCausalLM` of
transformers.
"""

from typing import Any

from llm_dynamics.hub.fields import Fields, rope_scaling
from llm_dynamics.hub.gpt2 import ACTIVATIONS
from llm_dynamics.hub.layouts import Part, Tensor, linear, same, vector
from llm_dynamics.model.config import ModelConfig


def read(fields: Fields) -> ModelConfig:
    """The model of a config.json."""
    fields.only("attention_bias", True)
    width = fields.whole("hidden_size")
    return ModelConfig(
        vocab_size=fields.whole("vocab_size"),
        width=width,
        num_layers=fields.whole("num_hidden_layers"),
        num_heads=fields.whole("num_attention_heads"),
        mlp_width=fields.whole("intermediate_size"),
        max_length=fields.whole("max_position_embeddings", 2048),
        norm="layernorm",
        norm_eps=fields.number("layer_norm_eps", 1e-5),
        mlp=fields.choice("hidden_act", ACTIVATIONS, "gelu"),
        position="rotary",
        **fields.rope("rotary_emb_base", "rotary_pct", 0.25),
        parallel_residual=fields.flag("use_parallel_residual", True),
        use_bias=True,
        tie_embeddings=fields.flag("tie_word_embeddings", False),
    )


def write(config: ModelConfig) -> dict[str, Any]:
    """The fields of a config.json that say what the model is."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_width,
        "max_position_embeddings": config.max_length,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": "gelu_new" if config.mlp == "gelu_tanh" else "gelu",
        "rotary_emb_base": config.rotary_base,
        "rotary_pct": config.rotary_fraction,
        "use_parallel_residual": config.parallel_residual,
        "attention_bias": True,
        "tie_word_embeddings": config.tie_embeddings,
        **rope_scaling(config),
    }


def fits(config: ModelConfig) -> bool:
    """Whether the family has this model; biases that ours lacks can be zeros."""
    return (
        config.position == "rotary"
        and config.norm == "layernorm"
        and config.mlp in ("gelu", "gelu_tanh")
        and config.kv_heads == config.num_heads
        and config.head_size * config.num_heads == config.width
    )


def tensors(config: ModelConfig) -> list[Tensor]:
    """Every stored tensor."""
    D, F, H, E = config.width, config.mlp_width, config.num_heads, config.head_size
    embed = Part(("embed", "embedding"))
    found = [same("gpt_neox.embed_in.weight", embed, (config.vocab_size, D))]
    for n in range(config.num_layers):
        theirs = f"gpt_neox.layers.{n}."

        def part(*path: str, n: int = n) -> Part:
            return Part(("layers", *path), n)

        for name, ours in (
            ("input_layernorm", "attention_norm"),
            ("post_attention_layernorm", "mlp_norm"),
        ):
            found.append(same(f"{theirs}{name}.weight", part(ours, "scale"), (D,)))
            found.append(same(f"{theirs}{name}.bias", part(ours, "bias"), (D,)))
        qkv = ("query", "key", "value")
        kernels, biases = (
            tuple(part("attention", name, kind) for name in qkv) for kind in ("kernel", "bias")
        )
        name = f"{theirs}attention.query_key_value"
        found += [
            Tensor(f"{name}.weight", (3 * D, D), (H, 3, E, D), (2, 0, 1), kernels, dealt=1),
            Tensor(f"{name}.bias", (3 * D,), (H, 3, E), (0, 1), biases, dealt=1),
        ]
        for name, path, inputs, outputs in (
            ("attention.dense", ("attention", "out"), (H, E), (D,)),
            ("mlp.dense_h_to_4h", ("mlp", "up"), (D,), (F,)),
            ("mlp.dense_4h_to_h", ("mlp", "down"), (F,), (D,)),
        ):
            kernel, bias = part(*path, "kernel"), part(*path, "bias")
            found.append(linear(f"{theirs}{name}.weight", kernel, inputs, outputs))
            found.append(vector(f"{theirs}{name}.bias", bias, outputs))
    norm = "gpt_neox.final_layer_norm."
    found.append(same(f"{norm}weight", Part(("final_norm", "scale")), (D,)))
    found.append(same(f"{norm}bias", Part(("final_norm", "bias")), (D,)))
    if not config.tie_embeddings:
        head = Part(("unembed", "kernel"))
        found.append(linear("embed_out.weight", head, (D,), (config.vocab_size,)))
    return found
