"""Texts that go on from remembered keys and values have the logits of those computed again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from llm_dynamics.model import cached
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from tests.model import decoder_test
from tests.model.decoder_test import FAMILIES

LLAMA = dataclasses.replace(FAMILIES["llama"], use_bias=False)
LATER: dict[str, ModelConfig] = {
    "qwen3": dataclasses.replace(LLAMA, qk_norm="head", head_dim=12),
    "olmo2": dataclasses.replace(LLAMA, qk_norm="whole", norm_order="after"),
    "gemma3": dataclasses.replace(
        LLAMA, num_layers=4, mlp="geglu_tanh", qk_norm="head", norm_order="both", window=3,
        global_every=2, local_rotary_base=100.0, query_scalar=20.0, scale_embeddings=True,
        tie_embeddings=True,
    ),
    "local": dataclasses.replace(LLAMA, window=3, attention="xla"),
}  # fmt: skip
LENGTH, START_B = 12, np.array([3, 7, 1], np.int32)  # tokens of each prompt


class CachedTest(parameterized.TestCase):
    @parameterized.named_parameters(
        *((name, FAMILIES[name]) for name in ("gpt2", "neox", "llama")), *LATER.items()
    )
    def test_same_logits_as_computed_again(self, config):
        """Five more tokens of prompts of three lengths; behind them the rows hold other tokens."""
        params, decoder = decoder_test._params(config), Decoder(config)
        whole_BxM = np.random.default_rng(0).integers(0, 64, (3, LENGTH)).astype(np.int32)
        behind_BxM = np.arange(LENGTH)[None] >= START_B[:, None]

        @jax.jit
        def both(params):
            h_BxMxD = decoder.apply({"params": params}, whole_BxM)
            memory = cached.read(decoder, params, jnp.where(behind_BxM, 0, whole_BxM))

            def step(memory, t):
                found, memory = cached.next_logits(
                    decoder, params, memory, whole_BxM, START_B - 1 + t
                )
                return memory, found

            found_TxBxV = jax.lax.scan(step, memory, jnp.arange(6))[1]
            return found_TxBxV, decoder.apply({"params": params}, h_BxMxD, method="unembed")

        found_TxBxV, again_BxMxV = map(np.asarray, both(params))
        columns_TxB = START_B - 1 + np.arange(6)[:, None]
        expected_TxBxV = again_BxMxV[np.arange(3), columns_TxB]
        np.testing.assert_allclose(found_TxBxV, expected_TxBxV, atol=1e-5)
        self.assertGreater(expected_TxBxV.std(), 0.1)

    def test_holds_what_the_layers_have(self):
        """K heads of E, of every layer, in the dtype of activations."""
        config = dataclasses.replace(LATER["gemma3"], compute_dtype="bfloat16")
        tokens_BxM = np.zeros((3, LENGTH), np.int32)
        memory = jax.eval_shape(
            lambda p: cached.read(Decoder(config), p, tokens_BxM), decoder_test._params(config)
        )
        for leaf in jax.tree.leaves(memory.layers):
            self.assertEqual((leaf.shape, leaf.dtype), ((4, 3, LENGTH, 2, 8), jnp.bfloat16))
