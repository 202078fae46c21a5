"""Configurations, presets and their sizes."""

import math

import jax
from absl.testing import parameterized

from llm_dynamics import spec
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets, size
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.sharding import abstract_params

# Totals of the published checkpoints.
PUBLISHED = {
    "pythia-14m": 14_067_712,
    "pythia-31m": 30_494_720,
    "pythia-70m": 70_426_624,
    "pythia-160m": 162_322_944,
    "pythia-410m": 405_334_016,
    "pythia-1b": 1_011_781_632,
    "pythia-1.4b": 1_414_647_808,
    "olmo-1b": 1_176_764_416,
    "smollm2-135m": 134_515_008,
    "llama3.2-1b": 1_235_814_400,
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "olmo2-1b": 1_484_916_736,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "gpt2-124m": 124_439_808,
    # Less the table of two segment types and the output bias: 2 D and V.
    "bert-small": 35_099_962 - 2 * 512 - 30_522,
    "bert-base": 109_514_298 - 2 * 768 - 30_522,
    "bert-large": 335_174_458 - 2 * 1024 - 30_522,
}
# Fields that specs of earlier versions lack.
NEWER = (
    "norm_order", "qk_norm", "rotary_scaling", "query_scalar", "window", "global_every",
    "local_rotary_base", "qkv_bias", "scale_embeddings",
)  # fmt: skip
POCKET = {
    "pocket-0.1m": 0.1e6,
    "pocket-0.3m": 0.3e6,
    "pocket-1m": 1e6,
    "pocket-3m": 3e6,
    "pocket-10m": 10e6,
    "pocket-encoder-0.3m": 0.3e6,
    "pocket-encoder-1m": 1e6,
}


def _count(config):
    return sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_params(build_model(config))))


class PresetsTest(parameterized.TestCase):
    def test_every_preset_is_counted_here(self):
        self.assertEqual(set(presets.PRESETS), set(PUBLISHED) | set(POCKET))

    @parameterized.named_parameters((name, name, count) for name, count in PUBLISHED.items())
    def test_published_size(self, name, expected):
        config = presets.named(name)
        self.assertEqual(size.num_params(config), expected)
        self.assertEqual(_count(config), expected)

    @parameterized.named_parameters((name, name, count) for name, count in POCKET.items())
    def test_pocket_size(self, name, nominal):
        config = presets.named(name)
        self.assertEqual(size.num_params(config), _count(config))
        self.assertBetween(size.num_params(config) / nominal, 0.75, 1.4)

    @parameterized.named_parameters(
        ("grouped_biased_swiglu", {"num_kv_heads": 2, "mlp": "swiglu", "use_bias": True}),
        ("wide_heads", {"head_dim": 48, "norm": "rmsnorm"}),
        (
            "normed_all_over",
            {
                "norm": "rmsnorm",
                "norm_order": "both",
                "qk_norm": "whole",
                "num_kv_heads": 2,
                "mlp": "geglu_tanh",
            },
        ),
        ("biased_queries", {"qkv_bias": True, "qk_norm": "head"}),
        ("biased_twice", {"qkv_bias": True, "use_bias": True}),
    )
    def test_formula_off_the_beaten_track(self, changes):
        config = presets.named("pocket-1m", **changes)
        self.assertEqual(size.num_params(config), _count(config))

    def test_named_replaces_fields(self):
        self.assertEqual(presets.named("pocket-1m", vocab_size=512).vocab_size, 512)

    def test_unknown_preset_names_the_nearest(self):
        with self.assertRaisesRegex(UserError, "pythia-70m"):
            presets.named("pythia-70")

    def test_unknown_field_names_the_nearest(self):
        with self.assertRaisesRegex(UserError, "num_layers"):
            presets.named("pythia-70m", num_layer=3)


class SizeTest(parameterized.TestCase):
    def test_flops_by_hand(self):
        config = ModelConfig(vocab_size=10, width=4, num_layers=2, num_heads=2, mlp_width=8)
        # A layer: 4 * 4 * 4 attention + 2 * 4 * 8 MLP weights; attention reads 3 positions.
        self.assertEqual(size.flops_per_token(config, 3), 6 * (2 * 128 + 40) + 12 * 2 * 2 * 2 * 3)

    def test_a_window_costs_what_it_reads(self):
        config = ModelConfig(
            vocab_size=10, width=4, num_layers=3, num_heads=2, mlp_width=8, window=5, global_every=2
        )
        whole = size.flops_per_token(presets.override(config, {"window": 100}), 30)
        self.assertEqual(whole, 6 * (3 * 128 + 40) + 12 * 3 * 2 * 2 * 30)
        # The second of three layers reads all.
        self.assertEqual(size.flops_per_token(config, 30), whole - 12 * 2 * 2 * 2 * 25)
        self.assertEqual(size.keys_per_layer(config, 30).tolist(), [5, 30, 5])
        self.assertEqual(size.keys_per_layer(config, 4).tolist(), [4, 4, 4])

    def test_flops_match_the_compiler(self):
        """XLA counts the forward pass; the formula's third of it is close and never above."""
        config = ModelConfig(
            vocab_size=512, width=64, num_layers=2, num_heads=2, mlp_width=256, scan_unroll=2
        )
        decoder = build_model(config)
        tokens = jax.ShapeDtypeStruct((2, 64), "int32")

        def forward(params, tokens_BxL):
            h_BxLxD = decoder.apply({"params": params}, tokens_BxL)
            return decoder.apply({"params": params}, h_BxLxD, method="unembed")

        compiled = jax.jit(forward).lower(abstract_params(decoder), tokens).compile()
        measured = compiled.cost_analysis()["flops"] / (2 * 64)
        self.assertBetween(measured / (size.flops_per_token(config, 64) / 3), 1.0, 1.15)


class ConfigTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("zero_layers", {"num_layers": 0}, "num_layers"),
        ("heads_do_not_divide", {"num_heads": 3}, "num_heads 3"),
        ("kv_heads_do_not_divide", {"num_kv_heads": 3}, "num_kv_heads 3"),
        ("odd_rotary", {"rotary_fraction": 0.1}, "rotary_fraction"),
        ("norm", {"norm": "rms"}, "rmsnorm"),
        ("mlp", {"mlp": "swigluu"}, "swiglu"),
        ("dtype", {"compute_dtype": "float23"}, "float32"),
        ("remat", {"remat": "all"}, "known|did you mean"),
        ("negative_chunk", {"loss_chunk": -1}, "loss_chunk"),
        ("eps", {"norm_eps": 0.0}, "norm_eps"),
        ("norm_order", {"norm_order": "behind"}, "norm_order 'behind'"),
        ("qk_norm", {"qk_norm": "heads"}, "did you mean 'head'"),
        ("other_norms_behind", {"norm_order": "after"}, "'after' expects norm 'rmsnorm'"),
        ("negative_window", {"window": -1}, "window must not be negative"),
        ("no_window", {"global_every": 6}, "expect local layers, got window 0"),
        ("no_window_turns", {"local_rotary_base": 5.0}, "expect local layers"),
        ("query_scalar", {"query_scalar": -2.0}, "query_scalar must not be negative"),
        (
            "local_encoder",
            {"kind": "encoder", "position": "learned", "tie_embeddings": True, "window": 4},
            "with window 0, got 4",
        ),
    )
    def test_refuses(self, changes, message):
        with self.assertRaisesRegex(UserError, message):
            ModelConfig(**changes)

    def test_defaults_are_derived(self):
        config = ModelConfig(width=64, num_heads=4)
        self.assertEqual((config.kv_heads, config.head_size, config.rotary_size), (4, 16, 16))

    def test_older_specs_have_the_defaults(self):
        older = spec.to_json(ModelConfig(width=64))
        for field in NEWER:
            del older[field]
        self.assertEqual(spec.from_json(ModelConfig, older), ModelConfig(width=64))

    def test_remat_keeps_the_loop(self):
        self.assertEqual(ModelConfig(num_layers=3).unroll, 3)
        self.assertEqual(ModelConfig(num_layers=3, remat="full").unroll, 1)
        self.assertEqual(ModelConfig(num_layers=3, scan_unroll=7).unroll, 3)
