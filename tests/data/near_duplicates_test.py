"""What is removed does repeat a kept document, and next to nothing that does is missed."""

import pathlib
import re
from unittest import mock

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data import near_duplicates, shingles

WORDS = np.array([f"word{k}" for k in range(3000)])


def _sets(texts):
    """The 5-word shingles of every text, word by word."""
    words = [re.findall(r"\w+", text.lower()) for text in texts]
    return [{tuple(w[k : k + 5]) for k in range(len(w) - 4)} for w in words]


def _similarity(a, b):
    return len(a & b) / len(a | b)


def _families(seed, families=40, members=6):
    """Texts in random order, those of a family being one text with up to 7 words exchanged."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(families):
        words = rng.choice(WORDS, rng.integers(30, 90))
        for _ in range(members):
            edited = words.copy()
            at = rng.integers(0, len(words), rng.integers(0, 8))
            edited[at] = rng.choice(WORDS, len(at))
            texts.append(" ".join(edited))
    return [texts[k] for k in rng.permutation(len(texts))]


class RepeatsTest(parameterized.TestCase):
    def _find(self, contents, threshold, **others):
        folder = pathlib.Path(self.create_tempdir().full_path)
        documents = contents if isinstance(contents, dict) else dict(enumerate(contents))
        return near_duplicates.find_repeats(documents.items(), threshold, folder, **others)

    @parameterized.product(threshold=[0.3, 0.5, 0.8, 1.0], seed=[0, 1])
    def test_removed_documents_repeat_a_kept_earlier_one_and_kept_ones_none(self, threshold, seed):
        texts = _families(seed)
        sets = _sets(texts)
        found = self._find(texts, threshold)
        removed = set(found.documents[:, 0].tolist())
        self.assertGreater(len(removed), 5)
        self.assertEqual(sorted(removed), found.documents[:, 0].tolist())
        for (repeat, kept), similarity in zip(found.documents, found.similarities, strict=True):
            self.assertLess(kept, repeat)
            self.assertNotIn(kept, removed)
            self.assertGreaterEqual(similarity, threshold)
            self.assertEqual(similarity, _similarity(sets[repeat], sets[kept]))
        kept = [d for d in range(len(texts)) if d not in removed]
        missed = sum(
            any(_similarity(sets[a], sets[b]) >= threshold for a in kept[:k])
            for k, b in enumerate(kept)
        )
        self.assertLessEqual(missed, 1 + (1 - near_duplicates.RECALL) * len(removed))

    def test_recall_at_the_threshold_and_nothing_below(self):
        # 64 shingles, of which another text shares all and has 16 more: 64/80; 17 more: 64/81.
        rng = np.random.default_rng(0)
        texts = [" ".join(rng.choice(WORDS, 68)) for _ in range(1000)]
        tails = [" ".join(rng.choice(WORDS, 16 + k % 2)) for k in range(1000)]
        longer = [f"{text} {tail}" for text, tail in zip(texts, tails, strict=True)]
        found = self._find(texts + longer, 0.8)
        self.assertEqual(set(found.similarities), {0.8})
        expected = {(1000 + k, k) for k in range(0, 1000, 2)}
        pairs = set(map(tuple, found.documents.tolist()))
        self.assertLessEqual(pairs, expected)
        self.assertGreaterEqual(len(pairs), 0.99 * len(expected))

    @parameterized.parameters((0.1, 128, 1), (0.5, 42, 3), (0.8, 21, 6), (0.9, 12, 10), (1, 1, 128))
    def test_banding(self, threshold, bands, rows):
        # The repeats of a corpus depend on it; if this changes, raise near_duplicates._FORMAT.
        self.assertEqual(near_duplicates.banding(threshold), (bands, rows))
        self.assertGreaterEqual(1 - (1 - threshold**rows) ** bands, near_duplicates.RECALL)

    def test_exact_copies_and_those_of_a_repeat(self):
        text = " ".join(WORDS[:40])
        edited = f"{text} end"
        texts = ["...", text, "other", edited, "...", edited, text.upper(), "other"]
        found = self._find(texts, 0.9)
        self.assertEqual(found.documents.tolist(), [[3, 1], [4, 0], [5, 1], [6, 1], [7, 2]])
        np.testing.assert_allclose(found.similarities, [36 / 37, 1, 36 / 37, 1, 1])

    def test_a_repeat_takes_nothing_with_it(self):
        # Each text shares 26 of 46 shingles with the next, and 16 of 56 with the one after.
        chain = [" ".join(WORDS[10 * k : 10 * k + 40]) for k in range(4)]
        self.assertEqual(_similarity(*_sets(chain[:2])), 26 / 46)
        self.assertEqual(self._find(chain, 0.5).documents.tolist(), [[1, 0], [3, 2]])

    def test_a_shingle_counts_once_however_often_it_comes(self):
        # Five shingles going round, and two more at the end that only the last text has.
        round_and_round = [" ".join(list("abcde") * n) for n in (2, 9)]
        found = self._find([*round_and_round, f"{round_and_round[1]} x y"], 0.7)
        self.assertEqual(found.documents.tolist(), [[1, 0], [2, 0]])
        np.testing.assert_array_equal(found.similarities, [1, 5 / 7])

    def test_short_documents(self):
        found = self._find(["a b", "A, b!", "a c", "b a"], 0.9)
        self.assertEqual(found.documents.tolist(), [[1, 0]])

    def test_token_arrays(self):
        rng = np.random.default_rng(0)
        arrays = [rng.integers(0, 1000, 60) for _ in range(20)]
        again = [np.append(array, 7).astype(np.uint16) for array in arrays]
        found = self._find(arrays + again + [arrays[3].astype(np.uint32)], 0.9)
        self.assertEqual(found.documents.tolist(), [*([20 + k, k] for k in range(20)), [40, 3]])

    def test_numbers_are_those_given(self):
        text = " ".join(WORDS[:40])
        self.assertEqual(
            self._find({3: text, 5: text, 9: f"{text} x"}, 0.5).documents.tolist(), [[5, 3], [9, 3]]
        )

    @parameterized.parameters([[]], [["..."]], [["a b c"]])
    def test_nothing_to_remove(self, texts):
        found = self._find(texts, 0.5)
        self.assertEqual((found.documents.shape, found.similarities.shape), ((0, 2), (0,)))

    def test_what_is_held_at_once_changes_nothing(self):
        texts, done = _families(3), []
        whole = self._find(texts, 0.5)
        with mock.patch.object(shingles, "_WORDS_AT_ONCE", 500):
            parts = self._find(texts, 0.5, progress=done.append)
        np.testing.assert_array_equal(whole.documents, parts.documents)
        self.assertGreater(len(done), 10)
        self.assertEqual((sorted(done), done[-1]), (done, len(texts)))


class CacheTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.texts, self.passes = _families(0, 10), 0

    def _documents(self):
        self.passes += 1
        return enumerate(self.texts)

    def _find(self, threshold=0.5, key="k"):
        return near_duplicates.cached_repeats(self._documents, threshold, self.folder, key)

    def test_found_once_for_each_corpus_and_threshold(self):
        first = self._find()
        again = self._find()
        np.testing.assert_array_equal(first.documents, again.documents)
        np.testing.assert_array_equal(first.similarities, again.similarities)
        self.assertEqual(self.passes, 1)
        self.assertNotEqual(len(self._find(threshold=1.0).documents), len(first.documents))
        self._find(key="other")
        self.assertEqual(self.passes, 3)
        names = {path.suffix for path in self.folder.iterdir()}
        self.assertEqual(names, {".npz", ".lock"})  # the shingles are gone

    @parameterized.parameters("truncated", "changed")
    def test_damaged_results_are_found_again(self, damage):
        first = self._find()
        (path,) = self.folder.glob("*.npz")
        data = bytearray(path.read_bytes())
        if damage == "truncated":
            del data[-30:]
        else:
            data[data.index(first.documents.tobytes())] ^= 1
        path.write_bytes(data)
        np.testing.assert_array_equal(self._find().documents, first.documents)
        self.assertEqual(self.passes, 2)
