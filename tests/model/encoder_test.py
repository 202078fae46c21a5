"""The encoder: as BERT computes, from both sides, never from another segment."""

import math

import flax.linen as nn
import jax
import numpy as np
import torch
import transformers
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.model import presets, size, vit
from llm_dynamics.model.build import build_model, layer_of
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder, hidden_at
from llm_dynamics.model.encoder import Encoder
from llm_dynamics.model.sharding import abstract_params

V, D, N, H, F, LENGTH = 61, 24, 2, 3, 40, 12
CONFIG = ModelConfig(
    kind="encoder",
    vocab_size=V,
    width=D,
    num_layers=N,
    num_heads=H,
    mlp_width=F,
    max_length=16,
    norm_eps=1e-12,
    position="learned",
    use_bias=True,
    tie_embeddings=True,
    scan_unroll=1,
)


def _bert():
    """A random BERT with one segment type, its vector and the output bias 0."""
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=V,
            hidden_size=D,
            num_hidden_layers=N,
            num_attention_heads=H,
            intermediate_size=F,
            max_position_embeddings=16,
            hidden_act="gelu",
            layer_norm_eps=1e-12,
        )
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
        model.bert.embeddings.token_type_embeddings.weight.zero_()
        model.cls.predictions.bias.zero_()
    return model


def _converted(model):
    state = {name: value.numpy() for name, value in model.state_dict().items()}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def linear(name, inputs, outputs):
        kernel = state[f"{name}.weight"].T.reshape(*inputs, *outputs)
        return {"kernel": kernel, "bias": state[f"{name}.bias"].reshape(outputs)}

    def layer(n):
        at = f"bert.encoder.layer.{n}."
        parts = {
            name: linear(f"{at}attention.self.{name}", (D,), (H, D // H))
            for name in ("query", "key", "value")
        }
        return {
            "attention": {**parts, "out": linear(f"{at}attention.output.dense", (H, D // H), (D,))},
            "attention_norm": norm(f"{at}attention.output.LayerNorm"),
            "mlp": {
                "up": linear(f"{at}intermediate.dense", (D,), (F,)),
                "down": linear(f"{at}output.dense", (F,), (D,)),
            },
            "mlp_norm": norm(f"{at}output.LayerNorm"),
        }

    return {
        "embed": {"embedding": state["bert.embeddings.word_embeddings.weight"]},
        "positions": {"embedding": state["bert.embeddings.position_embeddings.weight"]},
        "embed_norm": norm("bert.embeddings.LayerNorm"),
        "layers": jax.tree.map(lambda *x: np.stack(x), *map(layer, range(N))),
        "transform": linear("cls.predictions.transform.dense", (D,), (D,)),
        "head_norm": norm("cls.predictions.transform.LayerNorm"),
    }


def _logits(params, *rows):
    encoder = Encoder(CONFIG)
    hidden_BxLxD = encoder.apply({"params": params}, *rows)
    return encoder.apply({"params": params}, hidden_BxLxD, method="unembed")


class EncoderTest(parameterized.TestCase):
    def test_same_logits_as_transformers(self):
        model = _bert()
        params = _converted(model)
        ours = nn.unbox(jax.eval_shape(Encoder(CONFIG).new_params, jax.random.key(0)))
        self.assertEqual(jax.tree.map(lambda x: x.shape, ours), jax.tree.map(np.shape, params))
        tokens_BxL = np.random.default_rng(0).integers(V, size=(2, LENGTH))
        with torch.no_grad():
            expected_BxLxV = model(torch.tensor(tokens_BxL)).logits.numpy()
        self.assertGreater(expected_BxLxV.std(), 0.3)
        np.testing.assert_allclose(_logits(params, tokens_BxL), expected_BxLxV, atol=1e-4, rtol=0)

    def test_segments_are_read_whole_and_alone(self):
        """Two documents in a row, and padding, give what each gives in a row of its own."""
        params = _converted(_bert())
        tokens_1xL = np.random.default_rng(1).integers(V, size=(1, LENGTH))
        segments_1xL = np.array([[1] * 5 + [2] * 5 + [0] * 2])
        positions_1xL = np.array([[*range(5), *range(5), 0, 1]])
        packed = jax.jit(_logits)(params, tokens_1xL, segments_1xL, positions_1xL)
        alone = jax.jit(_logits)
        for part in (slice(0, 5), slice(5, 10)):
            single = alone(params, tokens_1xL[:, part])
            np.testing.assert_allclose(packed[:, part], single, atol=1e-5)
        # The first token sees the last of its segment.
        changed = tokens_1xL.copy()
        changed[0, 4] = (changed[0, 4] + 1) % V
        other = jax.jit(_logits)(params, changed, segments_1xL, positions_1xL)
        self.assertGreater(np.abs(other - packed)[0, 0].max(), 1e-3)
        np.testing.assert_array_equal(other[0, 5:], packed[0, 5:])

    def test_rows_longer_than_the_table_are_refused(self):
        with self.assertRaisesRegex(UserError, "rows of 17 tokens do not fit max_length 16"):
            jax.eval_shape(Encoder(CONFIG).init, jax.random.key(0), np.zeros((1, 17), np.int32))

    def test_layer_by_layer(self):
        params = _converted(_bert())
        tokens_BxL = np.random.default_rng(2).integers(V, size=(2, LENGTH))
        encoder, layer = Encoder(CONFIG), layer_of(CONFIG)

        @jax.jit
        def by_layer(params):
            h, mask, angles = encoder.apply({"params": params}, tokens_BxL, method="embedded")
            for n in range(N):
                weights = jax.tree.map(lambda x, n=n: x[n], params["layers"])
                h, _ = layer.apply({"params": weights}, h, mask, angles)
            return h

        def stream(encoder):
            h, mask, _ = encoder.embedded(tokens_BxL)
            return encoder.layers(h, mask, None, None, None)[0]

        whole = nn.apply(stream, encoder)({"params": params})
        np.testing.assert_allclose(by_layer(params), whole, atol=1e-5)

    def test_probes_are_refused(self):
        rows = np.zeros((1, 4), np.int32), None, None
        with self.assertRaisesRegex(UserError, "probes expect .* model.kind=decoder"):
            hidden_at(Encoder(CONFIG), _converted(_bert()), rows, np.zeros((1, 1), np.int32))


class BuildTest(parameterized.TestCase):
    def test_the_factory(self):
        self.assertIsInstance(build_model(CONFIG), Encoder)
        self.assertIsInstance(build_model(presets.named("pocket-0.1m")), Decoder)
        self.assertIsInstance(build_model(vit.ViTConfig()), vit.ViT)

    @parameterized.parameters(
        ({"kind": "encodr"}, "did you mean 'encoder'"),
        ({"position": "rotary"}, "position 'learned', got 'rotary'"),
        ({"norm": "rmsnorm"}, "norm 'layernorm', got 'rmsnorm'"),
        ({"tie_embeddings": False}, "tie_embeddings True, got False"),
        ({"parallel_residual": True}, "parallel_residual False, got True"),
        ({"mask_token": V}, "an id below vocab_size 61"),
    )
    def test_what_is_no_encoder(self, changes, words):
        with self.assertRaisesRegex(UserError, words):
            presets.override(CONFIG, changes)

    def test_the_mask_token(self):
        self.assertEqual(CONFIG.mask_id, V - 1)
        self.assertEqual(presets.named("bert-base").mask_id, 103)


class SizeTest(parameterized.TestCase):
    @parameterized.parameters(
        {},
        {"use_bias": False, "num_kv_heads": 1},
        {"mlp": "swiglu", "head_dim": 16},
    )
    def test_parameters_by_formula(self, **changes):
        config = presets.override(CONFIG, changes)
        leaves = jax.tree.leaves(abstract_params(build_model(config)))
        self.assertEqual(size.num_params(config), sum(math.prod(x.shape) for x in leaves))
        tables = (V + 16) * D
        self.assertEqual(size.num_params_non_embedding(config), size.num_params(config) - tables)

    def test_flops_count_the_weights_in_products(self):
        params = abstract_params(build_model(CONFIG))
        products = {"layers": params["layers"], "transform": params["transform"]}
        leaves = jax.tree_util.tree_flatten_with_path(products)[0]
        weights = sum(math.prod(x.shape) for path, x in leaves if path[-1].key == "kernel")
        expected = 6 * (weights + V * D) + 12 * N * D * LENGTH
        self.assertEqual(size.flops_per_token(CONFIG, LENGTH), expected)
