"""Stretched rotary frequencies against those of transformers, at the sizes of published models."""

import dataclasses

import numpy as np
import transformers
from absl.testing import parameterized
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llm_dynamics.errors import UserError
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.layers import rotary_angles
from llm_dynamics.model.rotary import RotaryScaling, frequencies
from llm_dynamics.spec import from_json, override, to_json

LLAMA = {"factor": 32.0, "original": 8192, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def theirs(head_size, base, kind, **numbers):
    """Frequencies and the factor of queries and keys."""
    if "original" in numbers:
        numbers["original_max_position_embeddings"] = numbers.pop("original")
    config = transformers.LlamaConfig(
        hidden_size=2 * head_size,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=131072,
        rope_parameters={"rope_type": kind, "rope_theta": base, **numbers},
    )
    table, size = ROPE_INIT_FUNCTIONS[kind](config, None)
    return table.numpy(), size


class FrequenciesTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("llama_3_2", 64, 500000.0, LLAMA, RotaryScaling("llama3", 32.0, 8192)),
        ("llama_3_1", 128, 500000.0, LLAMA | {"factor": 8.0}, RotaryScaling("llama3", 8.0, 8192)),
        ("linear", 256, 1e6, {"factor": 8.0}, RotaryScaling("linear", 8.0)),
        ("yarn", 128, 1e6, {"factor": 4.0, "original": 32768}, RotaryScaling("yarn", 4.0, 32768)),
        (
            "yarn_of_other_numbers",
            64,
            1e4,
            {
                "factor": 16.0, "original": 2048, "beta_fast": 20.0, "beta_slow": 2.0,
                "attention_factor": 1.5, "truncate": False,
            },
            RotaryScaling(
                "yarn", 16.0, 2048, beta_fast=20.0, beta_slow=2.0, truncate=False,
                attention_factor=1.5,
            ),
        ),
    )  # fmt: skip
    def test_those_of_transformers(self, head_size, base, numbers, scaling):
        expected, size = theirs(head_size, base, scaling.kind, **numbers)
        found = frequencies(head_size, base, scaling)
        np.testing.assert_allclose(found, expected, rtol=2e-6)
        plain = frequencies(head_size, base, RotaryScaling())
        self.assertGreater((plain / found).max(), 0.99 * scaling.factor)
        self.assertAlmostEqual(scaling.size, size, places=6)

    def test_the_layers_turn_by_them(self):
        scaling = RotaryScaling("yarn", 4.0, 64)
        config = ModelConfig(width=64, num_heads=2, rotary_fraction=0.5, rotary_scaling=scaling)
        positions_1xL = np.array([[0, 1, 7, 200]])
        cos, sin = rotary_angles(config, positions_1xL)
        angle = positions_1xL[..., None] * frequencies(16, 10000.0, scaling)
        np.testing.assert_allclose(cos, scaling.size * np.cos(angle), atol=1e-5)
        np.testing.assert_allclose(sin, scaling.size * np.sin(angle), atol=1e-5)
        self.assertAlmostEqual(float(cos[0, 0, 0]), 1.1386, places=4)

    def test_unscaled_ones_are_the_same(self):
        config = ModelConfig()
        positions_1xL = np.arange(50)[None]
        angle = positions_1xL[..., None] * frequencies(32, 10000.0, RotaryScaling())
        np.testing.assert_allclose(
            rotary_angles(config, positions_1xL)[0], np.cos(angle), atol=1e-5
        )


class RecordTest(parameterized.TestCase):
    def test_is_a_part_of_a_spec(self):
        config = override(
            ModelConfig(), {"rotary_scaling.kind": "linear", "rotary_scaling.factor": "2"}
        )
        self.assertEqual(config.rotary_scaling, RotaryScaling("linear", 2.0))
        self.assertEqual(from_json(ModelConfig, to_json(config)), config)
        older = to_json(ModelConfig())
        del older["rotary_scaling"]
        self.assertEqual(from_json(ModelConfig, older), ModelConfig())

    @parameterized.parameters(
        ({"kind": "dynamic"}, "default, linear, llama3, yarn, got 'dynamic'"),
        ({"kind": "longrope"}, "got 'longrope'"),
        ({"kind": "linear", "factor": 0.5}, "factor of at least 1"),
        ({"kind": "yarn", "attention_factor": -1.0}, "attention_factor of at least 0"),
        ({"kind": "llama3", "factor": 8.0}, "expects original_length"),
        ({"kind": "llama3", "original_length": 8, "low": 4.0}, "0 < low < high, got 4.0"),
        ({"kind": "yarn", "original_length": 8, "beta_fast": 1.0}, "beta_slow < beta_fast"),
    )
    def test_refuses(self, numbers, message):
        with self.assertRaisesRegex(UserError, message):
            RotaryScaling(**numbers)

    def test_needs_rotary_positions(self):
        with self.assertRaisesRegex(UserError, "expects position 'rotary'"):
            ModelConfig(position="learned", rotary_scaling=RotaryScaling("linear", 2.0))
        yarn = RotaryScaling("yarn", 2.0, 64)
        with self.assertRaisesRegex(UserError, "above 1 with yarn"):
            dataclasses.replace(ModelConfig(), rotary_scaling=yarn, rotary_base=1.0)
