"""Small random models of transformers, saved, and both libraries in float64."""

import contextlib
import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import torch
import transformers

from llm_dynamics.model.config import ModelConfig

V, D, N, H, F, LENGTH = 97, 32, 2, 4, 56, 12
_SHAPE = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": N,
    "num_attention_heads": H,
    "intermediate_size": F,
    "max_position_embeddings": 64,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration of transformers by its class and fields."""

    kind: str  # "Llama"
    fields: tuple[tuple[str, object], ...]
    head: str = "ForCausalLM"

    def config(self):
        """The configuration."""
        return getattr(transformers, f"{self.kind}Config")(**dict(self.fields))

    def model(self, seed=0):
        """A model whose weights are so large, and biases and scales so odd, that mistakes show."""
        torch.manual_seed(seed)
        kind = self.kind.replace("Gemma3Text", "Gemma3")
        model = getattr(transformers, kind + self.head)(self.config()).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.15)
            if "Gemma" in self.kind:  # keeps gains less 1, which this makes exact
                for name, weight in model.named_parameters():
                    if "norm" in name:
                        weight.copy_(torch.round(weight * 1024) / 1024 + 0.0)  # no -0.0
        return model


def rope(base=10000.0, **more):
    """The fields of a plain rotary encoding."""
    return {"rope_parameters": {"rope_type": "default", "rope_theta": base} | more}


def case(kind, **fields):
    """A small one of a family with the words of most families."""
    return Case(kind, tuple((_SHAPE | fields).items()))


def gpt2(**fields):
    """A small GPT-2, which has words of its own."""
    shape = {"vocab_size": V, "n_embd": D, "n_layer": N, "n_head": H, "n_inner": F}
    return Case("GPT2", tuple((shape | {"n_positions": 64} | fields).items()), "LMHeadModel")


CASES = {
    "gpt2": gpt2(),
    "gpt2_untied_exact_gelu": gpt2(
        activation_function="gelu", tie_word_embeddings=False, layer_norm_epsilon=1e-4
    ),
    "neox": case("GPTNeoX", **rope(5000.0, partial_rotary_factor=0.25)),
    "neox_in_sequence_tied": case(
        "GPTNeoX",
        **rope(partial_rotary_factor=0.5),
        use_parallel_residual=False,
        tie_word_embeddings=True,
        hidden_act="gelu_new",
    ),
    "llama": case("Llama", **rope(), num_key_value_heads=2, rms_norm_eps=1e-5),
    "llama_biases_wide_heads": case(
        "Llama", **rope(), num_key_value_heads=4, attention_bias=True, mlp_bias=True, head_dim=16
    ),
    "llama_stretched_as_llama3": case(
        "Llama",
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 3.0,
            "original_max_position_embeddings": 16,
        },
    ),
    "llama_stretched_by_yarn": case(
        "Llama",
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 100.0,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
            "beta_fast": 4.0,
        },
    ),
    "neox_stretched": case(
        "GPTNeoX",
        rope_parameters={
            "rope_type": "linear",
            "rope_theta": 100.0,
            "factor": 3.0,
            "partial_rotary_factor": 0.5,
        },
    ),
    "olmo": case("Olmo", **rope(), num_key_value_heads=4),
    "olmo_grouped_tied": case("Olmo", **rope(), num_key_value_heads=2, tie_word_embeddings=True),
}

CASES |= {
    "qwen2_tied": case("Qwen2", **rope(1e6), num_key_value_heads=2, tie_word_embeddings=True),
    "qwen3_wide_heads": case("Qwen3", **rope(1e6), num_key_value_heads=2, head_dim=12),
    "olmo2": case("Olmo2", **rope(5e5), num_key_value_heads=2, rms_norm_eps=1e-6),
    "gemma3": case(
        "Gemma3Text",
        num_hidden_layers=4,
        num_key_value_heads=1,
        head_dim=12,
        query_pre_attn_scalar=20,
        sliding_window=5,
        sliding_window_pattern=3,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}


def tokens_BxL(seed=1):
    """Token ids."""
    return torch.randint(0, V, (2, LENGTH), generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def float64():
    """Both libraries compute in float64 also where they say float32 (norms, angles, softmax)."""
    with (
        jax.enable_x64(True),
        mock.patch.object(jnp, "float32", jnp.float64),
        mock.patch.object(ModelConfig, "dtype", property(lambda _: jnp.dtype("float64"))),
        mock.patch.object(torch, "float32", torch.float64),
        mock.patch.object(torch, "float", torch.float64),
        mock.patch.object(torch.Tensor, "float", torch.Tensor.double),
    ):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
