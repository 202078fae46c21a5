"""From files on disk to batches, and everything slow only once."""

import json
import pathlib
from unittest import mock

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data import build, opened, split, tokenizers
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.injection import Injection
from llm_dynamics.data.sources import Source
from llm_dynamics.data.tokenizers import train_bpe
from llm_dynamics.errors import UserError

WORDS = [f"w{k}" for k in range(300)]


class BuildTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        rng = np.random.default_rng(0)
        self.texts = [" ".join(rng.choice(WORDS, 30)) for _ in range(60)]
        self.path = self._jsonl("first.jsonl", self.texts)

    def _jsonl(self, name, texts):
        path = self.folder / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path

    def _config(self, *sources, **others):
        settings = {"tokenizer": "bytes", "length": 32, "batch_size": 4, "validation_fraction": 0.2}
        return DataConfig(
            sources=tuple(map(str, sources or (self.path,))),
            cache_dir=str(self.folder / "cache"),
            **(settings | others),
        )

    def test_a_plan_read_again_is_the_same_plan(self):
        injections = [Injection(2, "a fact", "f", {"arm": "once"})]
        first = build.build_plan(self._config(), injections=injections, steps=10)
        with (
            mock.patch.object(split, "split_documents", side_effect=AssertionError),
            mock.patch("llm_dynamics.data.rows._write", side_effect=AssertionError),
        ):
            again = build.build_plan(self._config(), injections=injections, steps=10)
        self.assertEqual(first.fingerprint, again.fingerprint)
        for a, b in zip(first.batch(2), again.batch(2), strict=True):
            self.assertEqual(a.tobytes(), b.tobytes())

    def test_explained_slices_are_the_tokens_of_the_batch(self):
        config = self._config()
        tokenizer = build.build_tokenizer(config)
        data = build.open_data(config)
        plan = build.build_plan(config, tokenizer, data=data)
        texts = dict(data.sources[0])
        batch = plan.batch(7)
        for b, row in enumerate(plan.explain(7)):
            ids = []
            for d in row["documents"]:
                document = [*tokenizer.encode(texts[d["id"]]), tokenizer.eos_id]
                ids += document[d["start"] : d["start"] + d["tokens"]]
            self.assertEqual(ids[:-1], batch.tokens_BxL[b].tolist())
            self.assertEqual(ids[1:], batch.targets_BxL[b].tolist())

    def test_training_and_validation_hold_different_documents(self):
        config = self._config(batch_size=1, length=16)
        plan = build.build_plan(config)
        description = plan.describe()["sources"][0]
        self.assertGreater(description["validation_documents"], 0)
        self.assertEqual(description["documents"] + description["validation_documents"], 60)
        seen = {
            d["id"] for s in range(description["rows"]) for d in plan.explain(s)[0]["documents"]
        }
        self.assertLen(seen, description["documents"])

    def test_near_duplicate_in_another_source_is_reported(self):
        copies = [f"{text} and more" for text in self.texts]
        other = self._jsonl("second.jsonl", copies)
        description = build.build_plan(self._config(self.path, other)).describe()
        self.assertGreater(description["near_duplicates_removed"], 0)
        by_source = [source["near_duplicates_removed"] for source in description["sources"]]
        self.assertEqual(sum(by_source), description["near_duplicates_removed"])

    def test_weights(self):
        other = self._jsonl("second.jsonl", [text[::-1] for text in self.texts])
        plan = build.build_plan(self._config(f"{self.path}@3", f"{other}@1"))
        sources = [row["source"] for step in range(10) for row in plan.explain(step)]
        self.assertEqual(sources.count(str(self.path)), 30)

    def test_the_same_documents_twice_are_refused(self):
        with self.assertRaisesRegex(UserError, "first.jsonl' and .*#text' with the same"):
            build.open_data(self._config(f"{self.path}@3", f"{self.path}#text@1"))

    def test_trained_tokenizer_sees_training_documents_only(self):
        config = self._config(tokenizer="bpe:300")
        data = build.open_data(config)
        seen = []

        def train(texts, size):
            seen.extend(texts)
            return train_bpe(seen, size)

        with mock.patch.object(tokenizers, "train_bpe", side_effect=train):
            tokenizer = build.build_tokenizer(config, data)
        self.assertEqual(tokenizer.vocab_size, 300)
        training = split.members(data.sources[0], data.split.sides[0], split.TRAIN)
        self.assertEqual(seen, [text for _, text in training])
        self.assertLess(len(seen), 60)

    def test_one_file_shorter_than_a_row(self):
        path = self.folder / "short.txt"
        path.write_text("short")
        with self.assertRaisesRegex(UserError, r"short.txt' has 6 tokens in 1 training doc.* 33"):
            build.build_plan(self._config(path))

    def test_schedule_that_does_not_fit(self):
        with self.assertRaisesRegex(UserError, "does not fit the run"):
            build.build_plan(self._config(), injections=[Injection(10, "x", "f")], steps=10)

    def test_progress(self):
        calls = []
        build.build_plan(self._config(), progress=lambda *call: calls.append(call))
        kinds = {what.partition(" ")[0] for what, _, _ in calls}
        self.assertEqual(kinds, {"splitting", "looking", "tokenising"})
        for what, done, total in calls:
            self.assertBetween(done, 1, total, what)


class RememberedTest(parameterized.TestCase):
    @parameterized.parameters((8, 1), (7, 3))
    def test_small_sources_are_read_once(self, characters, passes):
        documents = [("a", "abcd"), ("b", "efgh")]
        read = mock.Mock(side_effect=lambda: iter(documents))
        source = Source("s", 1.0, "f", "", "", {}, False, 2, read)
        again = opened.remembered(source, characters)
        for _ in range(3):
            self.assertEqual(list(again), documents)
        self.assertEqual(read.call_count, passes)

    def test_a_pass_that_was_not_finished_is_not_remembered(self):
        source = Source("s", 1.0, "f", "", "", {}, False, 2, lambda: iter([("a", "b"), ("c", "d")]))
        again = opened.remembered(source)
        next(iter(again))
        self.assertLen(list(again), 2)


class TokenArraysTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        rng = np.random.default_rng(0)
        self.documents = [rng.integers(0, 256, rng.integers(5, 40)) for _ in range(50)]

    def _plan(self, array, **others):
        np.save(self.folder / "tokens.npy", array)
        return build.build_plan(
            DataConfig(
                sources=(str(self.folder / "tokens.npy"),),
                tokenizer="bytes",
                length=16,
                batch_size=2,
                validation_fraction=0.2,
                cache_dir=str(self.folder / "cache"),
                **others,
            )
        )

    def test_corpus_end_to_end_is_cut_into_documents(self):
        joined = np.concatenate([[*document, 256] for document in self.documents])
        plan = self._plan(joined.astype(np.uint16))
        source = plan.describe()["sources"][0]
        self.assertGreater(source["validation_documents"], 0)
        self.assertEqual(source["documents"] + source["validation_documents"], 50)
        self.assertEqual(source["tokens"] + source["validation_tokens"], len(joined))
        for row in plan.explain(3):
            for piece in row["documents"]:
                first = int(piece["id"].rpartition("@")[2]) + piece["start"]
                found = plan.batch(3).tokens_BxL[row["row"]][piece["at"] :][: piece["tokens"]]
                np.testing.assert_array_equal(found, joined[first : first + len(found)])

    def test_ids_beyond_the_vocabulary(self):
        with self.assertRaisesRegex(UserError, "token id 257, but tokenizer 'bytes' has ids 0 to"):
            self._plan(np.array([1, 257] * 50, np.uint16))
