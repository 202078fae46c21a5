"""The decoder in numpy and float64, written from its definition: the oracle of exact growth."""

import numpy as np
from scipy.special import erf

from llm_dynamics.model import rotary


def logits(config, params, tokens_BxL):
    """Logits of tokens, B x L x V, in float64."""
    p = {k: _float64(v) for k, v in params.items()}
    length = tokens_BxL.shape[1]
    h = p["embed"]["embedding"][tokens_BxL]
    if config.position == "learned":
        h = h + p["positions"]["embedding"][:length]
    causal = np.tril(np.ones((length, length), bool))
    for n in range(config.num_layers):
        layer = _pick(p["layers"], n)
        normed = _norm(config, layer.get("attention_norm"), h)
        attended = h + _attention(config, layer["attention"], normed, causal)
        normed = _norm(config, layer.get("mlp_norm"), h if config.parallel_residual else attended)
        h = attended + _mlp(config, layer["mlp"], normed)
    h = _norm(config, p.get("final_norm"), h)
    head = p["embed"]["embedding"].T if config.tie_embeddings else p["unembed"]["kernel"]
    return h @ head


def _float64(node):
    if isinstance(node, dict):
        return {k: _float64(v) for k, v in node.items()}
    return np.asarray(node, np.float64)


def _pick(node, n):
    return {k: _pick(v, n) for k, v in node.items()} if isinstance(node, dict) else node[n]


def _norm(config, weights, x):
    if config.norm != "rmsnorm":
        x = x - x.mean(axis=-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + config.norm_eps)
    if config.norm != "nonparametric_layernorm":
        y = y * weights["scale"]
    return y + weights["bias"] if config.norm == "layernorm" else y


def _linear(weights, equation, x):
    y = np.einsum(equation, x, weights["kernel"])
    return y + weights["bias"] if "bias" in weights else y


def _attention(config, weights, x, causal):
    q, k, v = (_linear(weights[n], "BLD,DHE->BLHE", x) for n in ("query", "key", "value"))
    if config.position == "rotary":
        q, k = _rotate(config, q), _rotate(config, k)
    group = config.num_heads // config.kv_heads
    k, v = (np.repeat(y, group, axis=2) for y in (k, v))
    scores = np.einsum("BLHE,BMHE->BHLM", q, k) / np.sqrt(config.head_size)
    scores = np.where(causal, scores, -np.inf)
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weight = weight / weight.sum(axis=-1, keepdims=True)
    out = np.einsum("BHLM,BMHE->BLHE", weight, v)
    return _linear(weights["out"], "BLHE,HED->BLD", out)


def _rotate(config, x):
    size = config.rotary_size
    half = size // 2
    scaling = config.rotary_scaling
    frequency = rotary.frequencies(size, config.rotary_base, scaling)
    angle = np.arange(x.shape[1])[:, None, None] * frequency
    x = np.concatenate([x[..., :size] * scaling.size, x[..., size:]], axis=-1)
    first, second, rest = x[..., :half], x[..., half:size], x[..., size:]
    turned = (
        first * np.cos(angle) - second * np.sin(angle),
        second * np.cos(angle) + first * np.sin(angle),
        rest,
    )
    return np.concatenate(turned, axis=-1)


def _mlp(config, weights, x):
    up = _linear(weights["up"], "BLD,DF->BLF", x)
    if config.mlp == "swiglu":
        gate = _linear(weights["gate"], "BLD,DF->BLF", x)
        hidden = gate / (1 + np.exp(-gate)) * up
    elif config.mlp == "gelu":
        hidden = 0.5 * up * (1 + erf(up / np.sqrt(2)))
    else:
        hidden = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
    return _linear(weights["down"], "BLF,FD->BLD", hidden)
