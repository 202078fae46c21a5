"""The four families, proved: a random transformers model and our decoder give the same logits."""

import flax.linen as nn
import jax
import numpy as np
import torch
import transformers
from absl.testing import parameterized

from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.model.rotary import RotaryScaling

V, D, N, H, F, LENGTH = 96, 32, 3, 4, 56, 20
SHAPE = {"vocab_size": V, "width": D, "num_layers": N, "num_heads": H, "mlp_width": F}


def _rows(state, pattern, shape):
    """Stacks a torch weight of every layer; torch keeps linear maps as (out, in)."""
    return np.stack([state[pattern.format(n)].numpy().reshape(shape) for n in range(N)])


def _linear(state, pattern, shape):
    kernels = [state[pattern.format(n) + ".weight"].numpy().T.reshape(shape) for n in range(N)]
    return np.stack(kernels)


def _scale_and_bias(state, pattern):
    scale, bias = (_rows(state, f"{pattern}.{part}", (D,)) for part in ("weight", "bias"))
    return {"scale": scale, "bias": bias}


def neox(parallel, fraction):
    model = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=V,
            hidden_size=D,
            num_hidden_layers=N,
            num_attention_heads=H,
            intermediate_size=F,
            max_position_embeddings=64,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 5000.0,
                "partial_rotary_factor": fraction,
            },
            use_parallel_residual=parallel,
            tie_word_embeddings=False,
        )
    )
    config = ModelConfig(
        **SHAPE,
        rotary_fraction=fraction,
        rotary_base=5000.0,
        parallel_residual=parallel,
        use_bias=True,
    )

    def convert(state):
        layer = "gpt_neox.layers.{}."
        E = D // H
        qkv = _linear(state, layer + "attention.query_key_value", (D, H, 3, E))
        qkv_bias = _rows(state, layer + "attention.query_key_value.bias", (H, 3, E))
        attention = {
            name: {"kernel": qkv[:, :, :, i], "bias": qkv_bias[:, :, i]}
            for i, name in enumerate(("query", "key", "value"))
        }
        attention["out"] = {
            "kernel": _linear(state, layer + "attention.dense", (H, E, D)),
            "bias": _rows(state, layer + "attention.dense.bias", (D,)),
        }
        mlp = {
            ours: {
                "kernel": _linear(state, layer + f"mlp.{theirs}", shape),
                "bias": _rows(state, layer + f"mlp.{theirs}.bias", shape[1:]),
            }
            for ours, theirs, shape in (
                ("up", "dense_h_to_4h", (D, F)),
                ("down", "dense_4h_to_h", (F, D)),
            )
        }
        return {
            "embed": {"embedding": state["gpt_neox.embed_in.weight"].numpy()},
            "unembed": {"kernel": model.get_output_embeddings().weight.detach().numpy().T},
            "final_norm": {
                "scale": state["gpt_neox.final_layer_norm.weight"].numpy(),
                "bias": state["gpt_neox.final_layer_norm.bias"].numpy(),
            },
            "layers": {
                "attention_norm": _scale_and_bias(state, layer + "input_layernorm"),
                "mlp_norm": _scale_and_bias(state, layer + "post_attention_layernorm"),
                "attention": attention,
                "mlp": mlp,
            },
        }

    return model, config, convert


def gpt2():
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=V, n_embd=D, n_layer=N, n_head=H, n_inner=F, n_positions=64
        )
    )
    config = ModelConfig(
        **SHAPE,
        max_length=64,
        mlp="gelu_tanh",
        position="learned",
        use_bias=True,
        tie_embeddings=True,
    )

    def convert(state):
        layer = "transformer.h.{}."
        E = D // H
        qkv = _rows(state, layer + "attn.c_attn.weight", (D, 3, H, E))  # Conv1D: (in, out)
        qkv_bias = _rows(state, layer + "attn.c_attn.bias", (3, H, E))
        attention = {
            name: {"kernel": qkv[:, :, i], "bias": qkv_bias[:, i]}
            for i, name in enumerate(("query", "key", "value"))
        }
        attention["out"] = {
            "kernel": _rows(state, layer + "attn.c_proj.weight", (H, E, D)),
            "bias": _rows(state, layer + "attn.c_proj.bias", (D,)),
        }
        mlp = {
            ours: {
                "kernel": _rows(state, layer + f"mlp.{theirs}.weight", shape),
                "bias": _rows(state, layer + f"mlp.{theirs}.bias", shape[1:]),
            }
            for ours, theirs, shape in (("up", "c_fc", (D, F)), ("down", "c_proj", (F, D)))
        }
        return {
            "embed": {"embedding": state["transformer.wte.weight"].numpy()},
            "positions": {"embedding": state["transformer.wpe.weight"].numpy()},
            "final_norm": {
                "scale": state["transformer.ln_f.weight"].numpy(),
                "bias": state["transformer.ln_f.bias"].numpy(),
            },
            "layers": {
                "attention_norm": _scale_and_bias(state, layer + "ln_1"),
                "mlp_norm": _scale_and_bias(state, layer + "ln_2"),
                "attention": attention,
                "mlp": mlp,
            },
        }

    return model, config, convert


def _convert_llama(state, kv_heads, norms, tied):
    layer = "model.layers.{}."
    E = D // H
    params = {
        "embed": {"embedding": state["model.embed_tokens.weight"].numpy()},
        "layers": {
            "attention": {
                ours: {"kernel": _linear(state, layer + f"self_attn.{theirs}_proj", shape)}
                for ours, theirs, shape in (
                    ("query", "q", (D, H, E)),
                    ("key", "k", (D, kv_heads, E)),
                    ("value", "v", (D, kv_heads, E)),
                    ("out", "o", (H, E, D)),
                )
            },
            "mlp": {
                name: {"kernel": _linear(state, layer + f"mlp.{name}_proj", shape)}
                for name, shape in (("gate", (D, F)), ("up", (D, F)), ("down", (F, D)))
            },
        },
    }
    if not tied:
        params["unembed"] = {"kernel": state["lm_head.weight"].numpy().T}
    if norms:
        params["final_norm"] = {"scale": state["model.norm.weight"].numpy()}
        for ours, theirs in (
            ("attention_norm", "input_layernorm"),
            ("mlp_norm", "post_attention_layernorm"),
        ):
            params["layers"][ours] = {"scale": _rows(state, f"{layer}{theirs}.weight", (D,))}
    return params


def _their_shape(kv_heads, tied):
    return {
        "vocab_size": V,
        "hidden_size": D,
        "num_hidden_layers": N,
        "num_attention_heads": H,
        "num_key_value_heads": kv_heads,
        "intermediate_size": F,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
    }


def llama(kv_heads, tied, scaling=RotaryScaling(), **theirs):
    rope = {"rope_type": scaling.kind, "rope_theta": 10000.0, **theirs}
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            **_their_shape(kv_heads, tied), rms_norm_eps=1e-5, rope_parameters=rope
        )
    )
    config = ModelConfig(
        **SHAPE,
        num_kv_heads=kv_heads,
        norm="rmsnorm",
        mlp="swiglu",
        tie_embeddings=tied,
        rotary_scaling=scaling,
    )
    return model, config, lambda state: _convert_llama(state, kv_heads, True, tied)


def llama3():
    theirs = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling = RotaryScaling("llama3", 8.0, 12)
    return llama(2, True, scaling, factor=8.0, original_max_position_embeddings=12, **theirs)


def yarn():
    scaling = RotaryScaling("yarn", 8.0, 12)
    return llama(2, True, scaling, factor=8.0, original_max_position_embeddings=12)


def olmo(tied):
    model = transformers.OlmoForCausalLM(transformers.OlmoConfig(**_their_shape(H, tied)))
    config = ModelConfig(**SHAPE, norm="nonparametric_layernorm", mlp="swiglu", tie_embeddings=tied)
    return model, config, lambda state: _convert_llama(state, H, False, tied)


class FamiliesTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("pythia", lambda: neox(parallel=True, fraction=0.25)),
        ("neox_in_sequence", lambda: neox(parallel=False, fraction=0.5)),
        ("gpt2", gpt2),
        ("llama_grouped_untied", lambda: llama(kv_heads=2, tied=False)),
        ("llama_one_key_head_tied", lambda: llama(kv_heads=1, tied=True)),
        ("llama_linear", lambda: llama(2, True, RotaryScaling("linear", 4.0), factor=4.0)),
        ("llama3", llama3),
        ("llama_yarn", yarn),
        ("olmo_tied", lambda: olmo(tied=True)),
    )
    def test_same_logits_as_transformers(self, build):
        torch.manual_seed(0)
        model, config, convert = build()
        model.eval()
        with torch.no_grad():
            # The default initialisation is so small, and its biases so zero, that mistakes hide.
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight) * 0.15)
            tokens_BxL = torch.randint(0, V, (2, LENGTH))
            expected_BxLxV = model(tokens_BxL).logits.numpy()
        decoder = Decoder(config)
        params = convert(model.state_dict())
        ours = nn.unbox(jax.eval_shape(decoder.new_params, jax.random.key(0)))
        self.assertEqual(jax.tree.map(lambda x: x.shape, ours), jax.tree.map(np.shape, params))
        h_BxLxD = decoder.apply({"params": params}, tokens_BxL.numpy())
        logits_BxLxV = decoder.apply({"params": params}, h_BxLxD, method="unembed")
        self.assertGreater(expected_BxLxV.std(), 0.3)
        np.testing.assert_allclose(logits_BxLxV, expected_BxLxV, atol=1e-4, rtol=0)
