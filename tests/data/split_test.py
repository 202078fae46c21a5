"""Documents keep their side, and no training text hides in validation."""

import time
from pathlib import Path

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data import split
from llm_dynamics.data.split import REMOVED, TRAIN, VALIDATION
from tests.data.fakes import FakeSource

WORDS = [f"word{k}" for k in range(5000)]


def _documents(count, seed=0, length=60):
    rng = np.random.default_rng(seed)
    return [
        (f"d{seed}-{k}", " ".join(WORDS[w] for w in rng.integers(0, len(WORDS), length)))
        for k in range(count)
    ]


def _sides(documents, fraction=0.2, threshold=0.5, seed=0):
    result = split.split_documents([FakeSource(documents)], fraction, threshold, seed)
    return {doc_id: side for (doc_id, _), side in zip(documents, result.sides[0], strict=True)}


class SidesTest(parameterized.TestCase):
    def test_fraction_is_met(self):
        sides = list(_sides(_documents(2000, length=8), 0.1).values())
        self.assertBetween(np.mean(np.array(sides) == VALIDATION), 0.08, 0.12)

    def test_side_does_not_depend_on_order_or_on_other_documents(self):
        documents = _documents(300)
        sides = _sides(documents)
        self.assertEqual(_sides(documents[::-1]), sides)
        more = _sides(_documents(50, seed=1) + documents)
        self.assertEqual({doc_id: more[doc_id] for doc_id in sides}, sides)

    def test_side_does_not_depend_on_the_document_id(self):
        documents = _documents(300)
        renamed = [(f"other {doc_id}", text) for doc_id, text in documents]
        self.assertEqual(list(_sides(renamed).values()), list(_sides(documents).values()))

    def test_larger_fraction_only_adds(self):
        documents = _documents(300)
        small, large = _sides(documents, 0.1), _sides(documents, 0.3)
        for doc_id, side in small.items():
            if side == VALIDATION:
                self.assertEqual(large[doc_id], VALIDATION)

    def test_seed_matters(self):
        documents = _documents(300)
        self.assertNotEqual(_sides(documents, seed=0), _sides(documents, seed=1))

    def test_nothing_is_held_out_at_fraction_zero(self):
        self.assertEqual(set(_sides(_documents(100), 0.0).values()), {TRAIN})

    @parameterized.parameters(1, 3)
    def test_a_source_keeps_one_training_document(self, count):
        sides = list(_sides(_documents(count), 0.999999).values())
        self.assertEqual(sides.count(TRAIN), 1)

    def test_golden(self):
        # The split decides what is trained on; if this changes, raise split._FORMAT.
        sides = _sides([(str(k), f"text number {k}") for k in range(24)], 0.25, 1.0)
        self.assertEqual([int(k) for k, side in sides.items() if side == VALIDATION], GOLDEN)


GOLDEN = [3, 5, 6, 7, 15, 19, 21]


class NearDuplicatesTest(parameterized.TestCase):
    def _split_with_copy(self, edit, threshold=0.5):
        """One held-out document, and an edited copy of it placed in another, all-train source."""
        documents = _documents(60)
        before = _sides(documents)
        victim = next(d for d, (name, _) in enumerate(documents) if before[name] == VALIDATION)
        for attempt in range(100):  # until the copy's own hash puts it in training
            copy = ("copy", f"{edit(documents[victim][1])} unrelated{attempt}")
            other = FakeSource([*_documents(3, seed=9), copy])
            result = split.split_documents([FakeSource(documents), other], 0.2, threshold, 0)
            if result.sides[1][3] == TRAIN:
                return victim, result
        raise AssertionError("the copy never fell into training")

    @parameterized.named_parameters(
        ("exact", lambda text: text),
        ("case_and_punctuation", lambda text: text.upper().replace(" ", ", ")),
        ("inside_a_longer_text", lambda text: f"{_documents(1, 5, 500)[0][1]} {text}"),
        (
            "one_word_in_the_middle",
            lambda text: " ".join([*text.split()[:30], "x", *text.split()[31:]]),
        ),
    )
    def test_copy_across_sources_is_removed_from_validation(self, edit):
        victim, result = self._split_with_copy(edit)
        self.assertEqual(result.sides[0][victim], REMOVED)
        self.assertEqual(result.duplicates.tolist(), [[0, victim, 1, 3]])
        self.assertGreaterEqual(result.overlaps[0], 0.5)
        self.assertEqual(result.count(0, REMOVED), 1)

    def test_overlap_is_the_exact_share_of_shingles(self):
        # The first 34 of 60 words: 30 of 56 shingles.
        victim, result = self._split_with_copy(lambda text: " ".join(text.split()[:34]))
        self.assertEqual(result.sides[0][victim], REMOVED)
        self.assertAlmostEqual(result.overlaps[0], 30 / 56)

    def test_below_the_threshold_it_stays(self):
        half = lambda text: " ".join(text.split()[:34])  # noqa: E731
        victim, result = self._split_with_copy(half, threshold=0.54)
        self.assertEqual(result.sides[0][victim], VALIDATION)
        self.assertEmpty(result.duplicates)

    def test_training_documents_are_never_removed(self):
        documents = _documents(60)
        copies = [(f"copy {doc_id}", f"{text} end") for doc_id, text in documents]
        sides = _sides(documents + copies)
        alone = _sides(documents, threshold=1.0)
        for doc_id, side in alone.items():
            self.assertEqual(sides[doc_id] == TRAIN, side == TRAIN)

    def test_documents_shorter_than_a_shingle(self):
        documents = [(str(k), f"short {k % 50} .") for k in range(100)] + [("empty", "...")]
        sides = _sides(documents, 0.3)
        self.assertIn(VALIDATION, sides.values())
        self.assertNotIn(REMOVED, sides.values())  # exact copies are always on one side
        shouted = [(f"s{k}", f"SHORT {k}") for k in range(50)]
        self.assertIn(REMOVED, _sides(documents + shouted, 0.3).values())

    def test_token_arrays(self):
        rng = np.random.default_rng(0)
        documents = [(str(k), rng.integers(0, 1000, 40)) for k in range(50)]
        longer = [(f"{k}+", np.append(content, 7)) for k, content in documents]
        result = split.split_documents([FakeSource(documents + longer)], 0.3, 0.5, 0)
        sides = result.sides[0].reshape(2, 50)
        crossing = (sides[0] == TRAIN) != (sides[1] == TRAIN)
        self.assertTrue(crossing.any())
        np.testing.assert_array_equal(np.any(sides == REMOVED, axis=0), crossing)

    def test_five_megabytes_take_seconds(self):
        documents = _documents(10_000, length=78)
        start = time.perf_counter()
        _sides(documents, 0.02)
        self.assertLess(time.perf_counter() - start, 60)  # quadratic: hours


class CacheTest(parameterized.TestCase):
    def test_cached_split_is_read_back_and_rebuilt_when_damaged(self):
        folder = Path(self.create_tempdir().full_path)
        sources = [FakeSource(_documents(100)), FakeSource(_documents(10, seed=3))]
        make = lambda: split.cached_split(sources, 0.2, 0.5, 0, folder)  # noqa: E731
        first = make()
        (path,) = folder.glob("*.npz")
        stamp = path.stat().st_mtime_ns
        again = make()
        self.assertEqual(path.stat().st_mtime_ns, stamp)
        path.write_bytes(path.read_bytes()[:-30])
        rebuilt = make()
        self.assertGreater(path.stat().st_mtime_ns, stamp)
        for other in (again, rebuilt):
            for a, b in zip(first.sides, other.sides, strict=True):
                np.testing.assert_array_equal(a, b)
        self.assertEqual(first.key(0, TRAIN), rebuilt.key(0, TRAIN))

    def test_members(self):
        source = FakeSource([("a", "x"), ("b", "y"), ("c", "z")])
        sides = np.array([TRAIN, VALIDATION, TRAIN], np.uint8)
        self.assertEqual(list(split.members(source, sides, TRAIN)), [("a", "x"), ("c", "z")])
