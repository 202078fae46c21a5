"""Later families, proved as the first four: the same logits as a random transformers model."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import torch
import transformers
from absl.testing import parameterized

from llm_dynamics.model import cached
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder, hidden_at
from llm_dynamics.model.rotary import RotaryScaling

V, D, H, K, E, F, LENGTH = 96, 32, 4, 2, 12, 56, 20
OURS = {
    "vocab_size": V,
    "width": D,
    "num_heads": H,
    "num_kv_heads": K,
    "mlp_width": F,
    "norm": "rmsnorm",
    "norm_eps": 1e-6,
    "mlp": "swiglu",
    "scan_unroll": 1,
}
THEIRS = {
    "vocab_size": V,
    "hidden_size": D,
    "num_attention_heads": H,
    "num_key_value_heads": K,
    "intermediate_size": F,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
}
NORMS = {
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


def qwen2():
    theirs = transformers.Qwen2Config(**THEIRS, num_hidden_layers=3, tie_word_embeddings=True)
    config = ModelConfig(**OURS, num_layers=3, qkv_bias=True, tie_embeddings=True)
    return transformers.Qwen2ForCausalLM(theirs), config


def qwen3():
    theirs = transformers.Qwen3Config(
        **THEIRS, num_hidden_layers=3, head_dim=E, tie_word_embeddings=False
    )
    config = ModelConfig(**OURS, num_layers=3, head_dim=E, qk_norm="head")
    return transformers.Qwen3ForCausalLM(theirs), config


def olmo2():
    theirs = transformers.Olmo2Config(**THEIRS, num_hidden_layers=3, tie_word_embeddings=False)
    config = ModelConfig(**OURS, num_layers=3, qk_norm="whole", norm_order="after")
    return transformers.Olmo2ForCausalLM(theirs), config


def gemma3(scaling=RotaryScaling(), **theirs):
    """Seven layers, of which the sixth reads everything; a window of 5 in rows of 20."""
    rope = {
        "full_attention": {"rope_type": scaling.kind, "rope_theta": 1e6, **theirs},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    theirs = transformers.Gemma3TextConfig(
        **THEIRS,
        num_hidden_layers=7,
        head_dim=E,
        query_pre_attn_scalar=20,
        sliding_window=5,
        rope_parameters=rope,
    )
    config = ModelConfig(
        **OURS | {"mlp": "geglu_tanh"},
        num_layers=7,
        head_dim=E,
        qk_norm="head",
        norm_order="both",
        rotary_base=1e6,
        rotary_scaling=scaling,
        query_scalar=20.0,
        window=5,
        global_every=6,
        local_rotary_base=1e4,
        scale_embeddings=True,
        tie_embeddings=True,
    )
    return transformers.Gemma3ForCausalLM(theirs), config


def gemma3_stretched():
    return gemma3(RotaryScaling("linear", 8.0), factor=8.0)


def convert(model, config):
    """The parameters of our decoder out of theirs, whose linear maps are (out, in)."""
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    gemma = "gemma" in model.config.model_type
    heads = {"query": config.num_heads, "key": config.kv_heads, "value": config.kv_heads}

    def layers(name, shape, linear=False):
        found = [state[f"model.layers.{n}.{name}"] for n in range(config.num_layers)]
        return np.stack([(x.T if linear else x).reshape(shape) for x in found])

    def gain(name, shape=(D,)):
        return {"scale": layers(f"{name}.weight", shape) + gemma}

    attention = {}
    for ours, count in heads.items():
        name, shape = f"self_attn.{ours[0]}_proj", (count, config.head_size)
        attention[ours] = {"kernel": layers(f"{name}.weight", (D, *shape), linear=True)}
        if config.qkv_bias:
            attention[ours]["bias"] = layers(f"{name}.bias", shape)
        if config.qk_norm != "none" and ours != "value":
            shape = shape if config.qk_norm == "whole" else shape[1:]
            attention[f"{ours}_norm"] = gain(f"self_attn.{ours[0]}_norm", shape)
    out = (config.num_heads, config.head_size, D)
    attention["out"] = {"kernel": layers("self_attn.o_proj.weight", out, linear=True)}
    shapes = {"gate": (D, F), "up": (D, F), "down": (F, D)}
    mlp = {
        name: {"kernel": layers(f"mlp.{name}_proj.weight", shape, linear=True)}
        for name, shape in shapes.items()
    }
    params = {
        "embed": {"embedding": state["model.embed_tokens.weight"]},
        "layers": {"attention": attention, "mlp": mlp},
        "final_norm": {"scale": state["model.norm.weight"] + gemma},
    }
    for ours, theirs in NORMS[config.norm_order].items():
        params["layers"][ours] = gain(theirs)
    if not config.tie_embeddings:
        params["unembed"] = {"kernel": state["lm_head.weight"].T}
    return params


@functools.lru_cache
def _built(family):
    """Config, parameters, tokens and the logits of transformers."""
    torch.manual_seed(0)
    model, config = family()
    model.eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
        tokens_BxL = torch.randint(0, V, (2, LENGTH))
        logits_BxLxV = model(tokens_BxL).logits.numpy()
    return config, convert(model, config), tokens_BxL.numpy().astype(np.int32), logits_BxLxV


FAMILIES = (
    ("qwen2", qwen2),
    ("qwen3", qwen3),
    ("olmo2", olmo2),
    ("gemma3", gemma3),
    ("gemma3_stretched", gemma3_stretched),
)


class LaterFamiliesTest(parameterized.TestCase):
    @parameterized.named_parameters(*FAMILIES)
    def test_same_logits_as_transformers(self, family):
        config, params, tokens_BxL, expected_BxLxV = _built(family)
        decoder = Decoder(config)
        fresh = nn.unbox(jax.eval_shape(decoder.new_params, jax.random.key(0)))
        self.assertEqual(jax.tree.map(lambda x: x.shape, fresh), jax.tree.map(np.shape, params))
        self.assertGreater(expected_BxLxV.std(), 0.3)
        # Each implementation of attention has to honour windows and the scale of queries.
        for attention in ("reference", "batched", "xla") if family is gemma3 else ("auto",):
            self._check(dataclasses.replace(config, attention=attention), params, tokens_BxL,
                        expected_BxLxV)  # fmt: skip

    def _check(self, config, params, tokens_BxL, expected_BxLxV):
        decoder = Decoder(config)

        @jax.jit
        def logits(params):
            h_BxLxD = decoder.apply({"params": params}, tokens_BxL)
            return decoder.apply({"params": params}, h_BxLxD, method="unembed")

        np.testing.assert_allclose(logits(params), expected_BxLxV, atol=1e-4, rtol=0)

    @parameterized.named_parameters(*FAMILIES[:4])
    def test_some_columns_alone(self, family):
        """Scoring and generation compute less of the model, and get the same."""
        config, params, tokens_BxL, expected_BxLxV = _built(family)
        decoder = Decoder(config)
        columns_BxL = np.array([[3, 9, 19], [0, 18, 7]])

        @jax.jit
        def some(params):
            h_BxLxD = hidden_at(decoder, params, (tokens_BxL,), columns_BxL)
            memory = cached.read(decoder, params, tokens_BxL)
            after_BxV, _ = cached.next_logits(
                decoder, params, memory, tokens_BxL, columns_BxL[:, 1]
            )
            return decoder.apply({"params": params}, h_BxLxD, method="unembed"), after_BxV

        found_BxLxV, after_BxV = some(params)
        picked_BxLxV = np.take_along_axis(expected_BxLxV, columns_BxL[..., None], 1)
        np.testing.assert_allclose(found_BxLxV, picked_BxLxV, atol=1e-4)
        np.testing.assert_allclose(after_BxV, picked_BxLxV[:, 1], atol=1e-4)
