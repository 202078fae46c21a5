"""The stated share of documents comes the stated number of times, and can be taken out again."""

import json
import pathlib
from unittest import mock

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data import build, near_duplicates
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.copies import order_with_copies

WORDS = [f"w{k}" for k in range(300)]


class OrderTest(parameterized.TestCase):
    @parameterized.product(count=[1, 7, 100], share=[0.01, 0.3, 1.0], copies=[2, 10])
    def test_counts_and_first_places(self, count, share, copies):
        order = order_with_copies(count, share, copies, "key")
        times = np.bincount(order, minlength=count)
        chosen = max(1, round(share * count))
        self.assertEqual(sorted(set(times)), [1, copies] if chosen < count else [copies])
        self.assertEqual((times == copies).sum(), chosen)
        _, first = np.unique(order, return_index=True)
        np.testing.assert_array_equal(order[np.sort(first)], np.arange(count))

    def test_copies_are_spread_over_what_follows(self):
        order = order_with_copies(20_000, 0.05, 5, "key")
        _, first = np.unique(order, return_index=True)
        further = np.setdiff1d(np.arange(len(order)), first)
        # Where each copy stands between its original (0) and the end (1), in documents passed.
        passed = np.searchsorted(np.sort(first), further)
        share = (passed - order[further]) / (20_000 - order[further])
        self.assertAlmostEqual(share.mean(), 0.5, delta=4 / np.sqrt(12 * len(share)))
        self.assertBetween(np.mean(share < 0.1), 0.08, 0.12)

    def test_another_key_is_another_choice(self):
        first, again, other = (order_with_copies(50, 0.2, 3, key).tolist() for key in "aab")
        self.assertEqual(first, again)
        self.assertNotEqual(first, other)

    def test_golden(self):
        # The copies are part of a run; if this changes, runs with copies cannot go on.
        self.assertEqual(order_with_copies(8, 0.25, 3, "key").tolist(), GOLDEN)


GOLDEN = [0, 1, 2, 3, 4, 5, 6, 5, 5, 7, 7, 7]


class PlanTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        rng = np.random.default_rng(0)
        texts = [" ".join(rng.choice(WORDS, 30)) for _ in range(60)]
        # Three natural repeats, one of them exact.
        self.texts = [*texts[:50], texts[3], f"{texts[4]} end", *texts[50:], f"start {texts[5]}"]
        self.path = self._write("corpus.jsonl", self.texts)

    def _write(self, name, texts):
        path = self.folder / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return str(path)

    def _plan(self, path=None, **others):
        settings = {"tokenizer": "bytes", "length": 32, "batch_size": 4, "validation_fraction": 0.2}
        cache = str(self.folder / "cache")
        config = DataConfig((path or self.path,), cache_dir=cache, **(settings | others))
        return build.build_plan(config)

    def _documents(self, plan):
        """The document ids of one epoch with the tokens read of each, by their place in it."""
        read = {}
        for step in range(-(-plan.describe()["sources"][0]["rows"] // plan.batch_size)):
            for row in plan.explain(step):
                for piece in row["documents"] if row["epoch"] == 0 else ():
                    read[piece["id"]] = read.get(piece["id"], 0) + piece["tokens"]
        return read

    def test_duplicated_corpus(self):
        plain, plan = self._plan(), self._plan(copies=4, copied_share=0.25)
        before, after = (p.describe()["sources"][0] for p in (plain, plan))
        chosen = round(0.25 * before["documents"])
        self.assertEqual(after["documents"], before["documents"] + 3 * chosen)
        self.assertEqual(after["copies_added"], 3 * chosen)
        self.assertEqual(after["tokens"], before["tokens"] + after["copied_tokens_added"])
        self.assertNotEqual(plan.fingerprint, plain.fingerprint)
        # Rows overlap by one token and the last incomplete one is not read: a fifth is enough.
        single, several = self._documents(plain), self._documents(plan)
        ratios = sorted(round(several[doc] / single[doc], 1) for doc in single)
        self.assertLen([r for r in ratios if 3.2 < r < 4.8], chosen)
        self.assertLen([r for r in ratios if 0.8 < r < 1.2], len(ratios) - chosen)
        for a, b in zip(plain.validation_batches(), plan.validation_batches(), strict=True):
            self.assertEqual(a.tokens_BxL.tobytes(), b.tokens_BxL.tobytes())

    def test_every_setting_is_another_plan(self):
        prints = [
            self._plan(**settings).fingerprint
            for settings in (
                {},
                {"copies": 2},
                {"copies": 3},
                {"copies": 2, "copied_share": 0.5},
                {"copies": 2, "seed": 1},
                {"near_duplicates": 0.5},
            )
        ]
        self.assertLen(set(prints), 6)
        # No copies, whatever their share.
        self.assertEqual(self._plan(copied_share=0.5).fingerprint, prints[0])

    def test_deduplicated_corpus(self):
        plain, plan = self._plan(), self._plan(near_duplicates=0.5)
        before, after = (p.describe()["sources"][0] for p in (plain, plan))
        removed = set(self._documents(plain)) - set(self._documents(plan))
        self.assertBetween(len(removed), 1, 3)  # others may have fallen to validation
        self.assertLessEqual(removed, {f"corpus.jsonl:{line}" for line in (51, 52, 63)})
        self.assertEqual(after["repeats_removed"], len(removed))
        self.assertEqual(after["documents"], before["documents"] - len(removed))
        self.assertEqual(after["tokens"], before["tokens"] - after["repeated_tokens_removed"])
        with mock.patch.object(near_duplicates, "find_repeats", side_effect=AssertionError):
            self.assertEqual(self._plan(near_duplicates=0.5).fingerprint, plan.fingerprint)

    def test_copies_and_removal_together_are_removal_alone(self):
        alone = self._plan(near_duplicates=0.5)
        both = self._plan(near_duplicates=0.5, copies=4, copied_share=0.25)
        self.assertEqual(both.describe(), alone.describe())
        for a, b in zip(both.batch(5), alone.batch(5), strict=True):
            self.assertEqual(a.tobytes(), b.tobytes())

    @parameterized.parameters(0.5, 1.0)
    def test_removal_undoes_copies_that_are_in_the_text(self, threshold):
        texts = self.texts[:50]  # without repeats of their own
        order = order_with_copies(50, 0.3, 5, "key")
        duplicated = self._write("duplicated.jsonl", [texts[d] for d in order])
        once = self._plan(self._write("once.jsonl", texts), validation_fraction=0.0)
        plan = self._plan(duplicated, validation_fraction=0.0, near_duplicates=threshold)
        entry = plan.describe()["sources"][0]
        self.assertEqual((entry["documents"], entry["repeats_removed"]), (50, 15 * 4))
        streams = [p._sources[0].train for p in (once, plan)]
        np.testing.assert_array_equal(streams[0].tokens, streams[1].tokens)
        np.testing.assert_array_equal(streams[0].starts, streams[1].starts)

    @parameterized.parameters({"copies": 3}, {"near_duplicates": 0.5})
    def test_the_trained_tokenizer_is_the_same(self, **settings):
        plans = [self._plan(tokenizer="bpe:300", **more) for more in ({}, settings)]
        self.assertEqual(plans[0].tokenizer_fingerprint, plans[1].tokenizer_fingerprint)
