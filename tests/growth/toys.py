"""Small decoders with trained-looking parameters, their graphs, and growth in float64."""

import dataclasses
import functools

import jax
import numpy as np
from flax import traverse_util

from llm_dynamics.growth import apply, axes, presets, traits
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.model.rotary import RotaryScaling

TOKENS = np.random.default_rng(1).integers(97, size=(2, 17)).astype(np.int32)

# The toy of the exactness table: three layers, grouped queries, gated units, RMSNorm.
BASE = ModelConfig(
    vocab_size=97,
    width=48,
    num_layers=3,
    num_heads=8,
    num_kv_heads=2,
    head_dim=12,
    mlp_width=64,
    max_length=32,
    norm="rmsnorm",
    mlp="swiglu",
)
FAMILIES = {
    "llama": {},
    "llama_tied": {"tie_embeddings": True},
    "neox": {
        "norm": "layernorm",
        "mlp": "gelu",
        "num_kv_heads": 8,
        "rotary_fraction": 1 / 3,
        "parallel_residual": True,
        "use_bias": True,
    },
    "gpt2": {
        "norm": "layernorm",
        "mlp": "gelu_tanh",
        "num_kv_heads": 8,
        "position": "learned",
        "use_bias": True,
        "tie_embeddings": True,
    },
    "llama3": {"rotary_scaling": RotaryScaling("llama3", 8.0, 8)},
    "yarn": {"rotary_scaling": RotaryScaling("yarn", 8.0, 200)},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": "head"},
    "olmo2": {"qk_norm": "whole", "norm_order": "after"},
    "gemma3": {
        "mlp": "geglu_tanh", "qk_norm": "head", "norm_order": "both", "query_scalar": 20.0,
        "window": 5, "global_every": 2, "local_rotary_base": 500.0, "scale_embeddings": True,
        "tie_embeddings": True,
    },
    "olmo": {"norm": "nonparametric_layernorm", "num_kv_heads": 8},
}  # fmt: skip


def source(family="llama", **changes):
    """A configuration of a family."""
    return dataclasses.replace(BASE, **{**FAMILIES[family], **changes})


@functools.lru_cache
def graph(config):
    """The axis graph of a decoder."""
    return axes.graph(jax.eval_shape(Decoder(config).new_params, jax.random.key(0)))


@functools.lru_cache
def params(config, seed=0):
    """Parameters in which nothing is at its neutral value, float32; numpy compiles nothing."""
    rng, found = np.random.default_rng(seed), {}
    for path, param in graph(config).params.items():
        neutral = 1.0 if param.kind == "gain" else 0.0
        spread = np.hypot(param.std, 0.05) if param.kind == "weight" else 0.3
        drawn = neutral + spread * rng.standard_normal(param.shape)
        found[path] = drawn.astype(np.float32)
    return traverse_util.unflatten_dict(found, sep="/")


def pair(small, large, seed=0):
    """What patterns are given."""
    return presets.Pair(
        graph(small), graph(large), traits.of_decoder(small), traits.of_decoder(large), seed
    )


def grown(operator, small, large, weights, key=0):
    """The grown parameters in float64, new entries drawn."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: np.asarray(x, np.float64), weights)
        found = apply.grow(
            operator, graph(small), graph(large), wide, jax.random.key(key), "final_norm"
        )
        return jax.tree.map(np.asarray, found)
