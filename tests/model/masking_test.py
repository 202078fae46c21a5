"""What is hidden from an encoder: how much, how, and that nothing but (seed, step) decides it."""

import dataclasses

import jax
import numpy as np
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.model import masking, presets

CONFIG = presets.named("pocket-encoder-0.3m", vocab_size=1001)
ROWS, LENGTH = 64, 256


def _batch():
    tokens_BxM = np.random.default_rng(0).integers(0, 1000, (ROWS, LENGTH + 1)).astype(np.int32)
    segments_BxL = np.ones((ROWS, LENGTH), np.int32)
    segments_BxL[:, 200:] = 0
    positions_BxL = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    mask_BxL = (segments_BxL > 0).astype(np.float32)
    return Batch(tokens_BxM[:, :-1], tokens_BxM[:, 1:], segments_BxL, positions_BxL, mask_BxL)


def _same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class MaskedTest(parameterized.TestCase):
    def test_shares(self):
        batch = _batch()
        found = masking.masked(batch, jax.random.key(0), CONFIG)
        np.testing.assert_array_equal(found.targets_BxL, batch.tokens_BxL)
        np.testing.assert_array_equal(found.segment_ids_BxL, batch.segment_ids_BxL)
        chosen_BxL = np.asarray(found.mask_BxL) > 0
        self.assertFalse(chosen_BxL[:, 200:].any())  # padding
        text = ROWS * 200
        np.testing.assert_allclose(chosen_BxL.sum() / text, 0.15, atol=0.012)
        old, new = batch.tokens_BxL, np.asarray(found.tokens_BxL)
        np.testing.assert_array_equal(new[~chosen_BxL], old[~chosen_BxL])
        hidden, stayed = new[chosen_BxL] == 1000, new[chosen_BxL] == old[chosen_BxL]
        np.testing.assert_allclose(hidden.mean(), 0.8, atol=0.03)
        np.testing.assert_allclose(stayed.mean(), 0.1, atol=0.03)
        drawn = new[chosen_BxL][~hidden & ~stayed]
        np.testing.assert_allclose(len(drawn) / chosen_BxL.sum(), 0.1, atol=0.03)
        self.assertGreater(len(np.unique(drawn)), 0.7 * len(drawn))
        self.assertEqual((found.mask_BxL.dtype, found.tokens_BxL.dtype), (np.float32, np.int32))

    def test_decided_by_seed_and_step(self):
        batch = _batch()
        objective = masking.objective(CONFIG, 3)
        first = objective(batch, 5)
        self.assertTrue(_same(first, jax.jit(masking.objective(CONFIG, 3))(batch, 5)))
        self.assertFalse(_same(first, objective(batch, 6)))
        self.assertFalse(_same(first, masking.objective(CONFIG, 4)(batch, 5)))

    def test_validation_hides_the_same_tokens(self):
        batch = _batch()
        first = masking.validation(CONFIG)(batch)
        self.assertTrue(_same(first, masking.validation(CONFIG)(batch)))
        self.assertFalse(_same(first, masking.objective(CONFIG, 0)(batch, 0)))

    def test_nothing_is_hidden_from_a_decoder(self):
        batch, config = _batch(), presets.named("pocket-0.3m")
        self.assertIs(masking.objective(config, 0)(batch, 0), batch)
        self.assertIs(masking.validation(config)(batch), batch)


class MaskTokenTest(parameterized.TestCase):
    def test_what_text_holds_is_refused(self):
        masking.check_mask_token(CONFIG, 1000, "bpe:1000")
        masking.check_mask_token(presets.named("pocket-0.3m"), 4096, "bpe:4096")
        masking.check_mask_token(presets.named("bert-base"), 30522, "bert/tokenizer.json#[SEP]")
        for config, ids in (
            (CONFIG, 1001),
            (dataclasses.replace(CONFIG, mask_token=7), 1000),
        ):
            with self.assertRaisesRegex(UserError, f"behind id {config.mask_id}.*at least"):
                masking.check_mask_token(config, ids, f"bpe:{ids}")
