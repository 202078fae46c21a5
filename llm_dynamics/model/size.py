"""How large a model is: parameters and floating-point operations; by formula, not by building.

Letters: D width, N layers, H heads, K key/value heads, E head dimension, F MLP width, V vocabulary.
"""

import numpy as np

from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.windows import local_layers


def num_params(config: ModelConfig) -> int:
    """All parameters, embeddings included."""
    layer = matrix_params_per_layer(config) + _vector_params_per_layer(config)
    tables = config.vocab_size * config.width * (1 if config.tie_embeddings else 2)
    if config.position == "learned":
        tables += config.max_length * config.width
    return config.num_layers * layer + tables + _norm_params(config) + _transform_params(config)


def num_params_non_embedding(config: ModelConfig) -> int:
    """Parameters of the layers, the norm outside and an encoder's transform of what its head reads.

    N of Kaplan et al. (2020).
    """
    layer = matrix_params_per_layer(config) + _vector_params_per_layer(config)
    return config.num_layers * layer + _norm_params(config) + _transform_params(config)


def matrix_params_per_layer(config: ModelConfig) -> int:
    """Weights of a layer that take part in a product: 2 D (H + K) E + (2 or 3) D F."""
    attention = 2 * config.width * (config.num_heads + config.kv_heads) * config.head_size
    matrices = 3 if config.gated else 2
    return attention + matrices * config.width * config.mlp_width


def _norm_params(config: ModelConfig) -> int:
    return {"layernorm": 2, "rmsnorm": 1, "nonparametric_layernorm": 0}[config.norm] * config.width


def _transform_params(config: ModelConfig) -> int:
    """Map, bias and norm of an encoder before its head."""
    if config.causal:
        return 0
    return config.width * (config.width + int(config.use_bias)) + _norm_params(config)


def _vector_params_per_layer(config: ModelConfig) -> int:
    vectors = (4 if config.norm_order == "both" else 2) * _norm_params(config)
    if config.use_bias or config.qkv_bias:
        vectors += (config.num_heads + 2 * config.kv_heads) * config.head_size
    if config.use_bias:
        vectors += 2 * config.width + config.mlp_width * (2 if config.gated else 1)
    gains = {"none": 0, "head": 2, "whole": config.num_heads + config.kv_heads}
    return vectors + gains[config.qk_norm] * config.head_size


def keys_per_layer(config: ModelConfig, length: int) -> np.ndarray:
    """Keys that a query of a row of `length` tokens meets in each layer, N, as FLOPs count them.

    All of them, the masked half too, as is usual; in a local layer at most its window.
    """
    return np.where(local_layers(config), min(config.window, length), length)


def flops_per_token(config: ModelConfig, length: int) -> float:
    """Training FLOPs a token: 6 per weight in a product, plus attention, PaLM appendix B.

    6 (N P + D V) + 12 N H E L, with P the matrix weights of a layer, and L at most the window in a
    local layer: a multiply-add is two operations, the backward pass costs twice the forward pass.
    As is usual, the attention term counts the masked half too, and recomputation, norms and the
    embedding lookup do not count. An encoder has D D more weights before its head, which reads all
    tokens, hidden or not.
    """
    weights = config.num_layers * matrix_params_per_layer(config)
    weights += config.width * (config.vocab_size + (0 if config.causal else config.width))
    scores = config.num_heads * config.head_size * int(keys_per_layer(config, length).sum())
    return 6.0 * weights + 12.0 * scores
