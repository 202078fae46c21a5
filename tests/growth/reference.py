"""The decoder in numpy and float64, written from its definition: the oracle of exact growth."""

import numpy as np
from scipy.special import erf

from llm_dynamics.model import rotary


def logits(config, params, tokens_BxL):
    """Logits of tokens, B x L x V, in float64."""
    p = {k: _float64(v) for k, v in params.items()}
    length = tokens_BxL.shape[1]
    h = p["embed"]["embedding"][tokens_BxL]
    if config.scale_embeddings:
        h = h * np.sqrt(config.width)
    if config.position == "learned":
        h = h + p["positions"]["embedding"][:length]
    causal = np.tril(np.ones((length, length), bool))
    before, behind = config.norm_order != "after", config.norm_order != "before"
    for n in range(config.num_layers):
        layer = _pick(p["layers"], n)
        local = config.window and not (config.global_every and (n + 1) % config.global_every == 0)
        visible = np.triu(causal, 1 - config.window) if local else causal
        normed = _norm(config, layer.get("attention_norm"), h) if before else h
        update = _attention(config, layer["attention"], normed, visible, local)
        attended = h + (_norm(config, layer["attention_post_norm"], update) if behind else update)
        read = h if config.parallel_residual else attended
        update = _mlp(
            config, layer["mlp"], _norm(config, layer.get("mlp_norm"), read) if before else read
        )
        h = attended + (_norm(config, layer["mlp_post_norm"], update) if behind else update)
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


def _attention(config, weights, x, visible, local):
    q, k, v = (_linear(weights[n], "BLD,DHE->BLHE", x) for n in ("query", "key", "value"))
    if config.qk_norm != "none":
        axes = (-1,) if config.qk_norm == "head" else (-2, -1)
        rms = [np.sqrt((y * y).mean(axis=axes, keepdims=True) + config.norm_eps) for y in (q, k)]
        q, k = (
            q / rms[0] * weights["query_norm"]["scale"],
            k / rms[1] * weights["key_norm"]["scale"],
        )
    if config.position == "rotary":
        q, k = _rotate(config, q, local), _rotate(config, k, local)
    group = config.num_heads // config.kv_heads
    k, v = (np.repeat(y, group, axis=2) for y in (k, v))
    scores = np.einsum("BLHE,BMHE->BHLM", q, k)
    scores = scores / np.sqrt(config.query_scalar or config.head_size)
    scores = np.where(visible, scores, -np.inf)
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weight = weight / weight.sum(axis=-1, keepdims=True)
    out = np.einsum("BHLM,BMHE->BLHE", weight, v)
    return _linear(weights["out"], "BLHE,HED->BLD", out)


def _rotate(config, x, local=False):
    size = config.rotary_size
    half = size // 2
    base, scaling = config.rotary_base, config.rotary_scaling
    if local and config.local_rotary_base:
        base, scaling = config.local_rotary_base, rotary.RotaryScaling()
    frequency = rotary.frequencies(size, base, scaling)
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
    if config.mlp in ("swiglu", "geglu_tanh"):
        gate = _linear(weights["gate"], "BLD,DF->BLF", x)
        hidden = gate / (1 + np.exp(-gate)) * up if config.mlp == "swiglu" else _gelu(gate) * up
    elif config.mlp == "gelu":
        hidden = 0.5 * up * (1 + erf(up / np.sqrt(2)))
    else:
        hidden = _gelu(up)
    return _linear(weights["down"], "BLF,FD->BLD", hidden)


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
