"""Stages with other sources: one tokenizer, and the same validation rows in each of them."""

import json
import pathlib

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data.build import build_plan, build_tokenizer
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.held_out import validation_batches
from llm_dynamics.errors import UserError
from tests.data.fakes import EndlessStream


class StagesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        rng = np.random.default_rng(0)
        first = [" ".join(f"w{k}" for k in rng.integers(0, 300, 30)) for _ in range(80)]
        second = [" ".join(f"v{k}" for k in rng.integers(0, 300, 30)) for _ in range(80)]
        # Half of the second text says again what the first says, and a little more.
        for name, texts in (
            ("first", first),
            ("second", second + [f"{text} and more" for text in first]),
        ):
            lines = [json.dumps({"text": text}) for text in texts]
            (self.folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        self.first, self.second = (str(self.folder / f"{n}.jsonl") for n in ("first", "second"))

    def _config(self, *sources, **others):
        settings = {"tokenizer": "bytes", "length": 32, "batch_size": 4, "validation_fraction": 0.2}
        return DataConfig(sources, cache_dir=str(self.folder / "cache"), **(settings | others))

    def _bytes(self, batches):
        return [array.tobytes() for batch in batches for array in batch]

    def test_a_source_has_the_same_validation_rows_whatever_is_trained_on(self):
        alone = build_plan(self._config(self.first))
        wanted = self._bytes(alone.validation_batches())
        for sources in ([self.first], [self.second], [f"{self.first}@3", self.second]):
            plan = build_plan(self._config(*sources, also_validate=(self.first, self.second)))
            found = plan.also_validated()
            self.assertEqual(list(found), [self.first, self.second])
            self.assertEqual(self._bytes(found[self.first]), wanted)
            self.assertEqual(self._bytes(plan.also_validated(1)[self.first]), wanted[:5])
        # Its part of a joint validation set is smaller: the other source repeats some of it.
        both = build_plan(self._config(self.first, self.second)).describe()["sources"][0]
        held = alone.describe()["sources"][0]
        self.assertGreater(both["near_duplicates_removed"], 0)
        self.assertEqual(
            both["validation_documents"] + both["near_duplicates_removed"],
            held["validation_documents"] + held["near_duplicates_removed"],
        )

    def test_what_is_validated_changes_no_training_row(self):
        plan = build_plan(self._config(self.first, also_validate=(self.second,)))
        joint = build_plan(self._config(self.first, self.second)).describe()["sources"][1]
        (entry,) = plan.describe()["also_validate"]
        self.assertGreaterEqual(entry["documents"], joint["validation_documents"])
        self.assertEqual(entry["name"], self.second)
        self.assertEqual(
            build_plan(self._config(self.first)).batch(3).tokens_BxL.tobytes(),
            plan.batch(3).tokens_BxL.tobytes(),
        )

    def test_the_fingerprint_knows_what_is_validated(self):
        plans = [self._config(self.first, also_validate=x) for x in ((), (self.second,))]
        self.assertLen({build_plan(config).fingerprint for config in plans}, 2)

    def test_nothing_held_out(self):
        path = self.folder / "one.jsonl"
        path.write_text(json.dumps({"text": "a single document"}) + "\n")
        with self.assertRaisesRegex(UserError, "nothing is held out at validation_fraction=0.2"):
            build_plan(self._config(self.first, also_validate=(str(path),)))

    def test_stages_share_a_tokenizer(self):
        begun = build_tokenizer(self._config(self.first, tokenizer="bpe:300"))
        named = {"tokenizer": "bpe:300", "tokenizer_sources": (self.first,)}
        for sources in ([self.second], [self.first, self.second]):
            config = self._config(*sources, **named)
            self.assertEqual(build_tokenizer(config).fingerprint, begun.fingerprint)
            self.assertEqual(build_plan(config).tokenizer_fingerprint, begun.fingerprint)
        other = build_tokenizer(self._config(self.second, tokenizer="bpe:300"))
        self.assertNotEqual(other.fingerprint, begun.fingerprint)

    @parameterized.parameters(
        ({"also_validate": ("a.txt@2",)}, "also_validate expects .* without a weight"),
        ({"also_validate": ("a.txt", "a.txt")}, "also_validate names 'a.txt' more than once"),
        (
            {"also_validate": ("a.txt",), "validation_fraction": 0.0},
            "also_validate expects a validation_fraction above 0",
        ),
        ({"tokenizer_sources": ("a.txt@1",)}, "tokenizer_sources expects .* without a weight"),
        (
            {"tokenizer": "bytes", "tokenizer_sources": ("a.txt",)},
            "tokenizer_sources is the text that bpe:N is trained on, and the tokenizer is 'bytes'",
        ),
    )
    def test_refused(self, changes, message):
        with self.assertRaisesRegex(UserError, message):
            DataConfig(**changes)


class BatchesTest(parameterized.TestCase):
    def test_more_rows_than_a_mixture_takes(self):
        class Held:
            fingerprint, validation = "f", EndlessStream(8 * 10**9 + 1)

        (batch,) = validation_batches([Held, Held], 8, 4, 0, True, max_batches=1)
        self.assertEqual(batch.tokens_BxL.shape, (4, 8))
        self.assertEqual(batch.mask_BxL.sum(), 32)
