"""Every token once an epoch, and a cache that is whole or built again."""

import pathlib

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data import rows as rows_lib
from llm_dynamics.errors import UserError
from tests.data.fakes import FakeTokenizer

DOCUMENTS = [("one", "abc"), ("zwei ä", "defgh"), ("empty", ""), ("four", "i")]
STREAM = "abc$defgh$$i$"


class StreamTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.tokenizer = FakeTokenizer()

    def _stream(self, documents=None, key="k"):
        documents = DOCUMENTS if documents is None else documents
        return rows_lib.cached_stream(lambda: documents, self.tokenizer, self.folder, key)

    def test_documents_end_to_end(self):
        stream = self._stream()
        self.assertEqual(self.tokenizer.decode(stream.tokens), STREAM)
        self.assertEqual(stream.starts.tolist(), [0, 4, 10, 11, 13])
        self.assertEqual([stream.doc_id(d) for d in range(4)], [name for name, _ in DOCUMENTS])
        self.assertEqual((stream.num_tokens, stream.num_documents), (13, 4))

    @parameterized.parameters((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32))
    def test_smallest_type_that_holds_the_vocabulary(self, vocab_size, dtype):
        self.tokenizer.vocab_size = vocab_size
        self.assertEqual(self._stream().tokens.dtype, dtype)

    def test_file_is_an_ordinary_npy(self):
        stream = self._stream()
        (path,) = self.folder.glob("*/tokens.npy")
        np.testing.assert_array_equal(np.load(path), stream.tokens)

    def test_more_documents_than_one_batch(self):
        documents = [(str(k), chr(97 + k % 26) * (k % 5)) for k in range(1200)]
        stream = self._stream(documents)
        expected = "".join(f"{text}$" for _, text in documents)
        self.assertEqual(self.tokenizer.decode(stream.tokens), expected)
        self.assertEqual(stream.doc_id(1199), "1199")

    def test_no_documents(self):
        stream = self._stream([])
        self.assertEqual((stream.num_tokens, stream.num_documents), (0, 0))
        self.assertEqual((stream.num_rows(4), stream.num_padded_rows(4)), (0, 0))

    def test_rows_predict_every_token_once(self):
        stream = self._stream()
        for length in (1, 3, 4, 12, 13):
            count = stream.num_rows(length)
            predicted = [j * length + 1 + i for j in range(count) for i in range(length)]
            self.assertEqual(predicted, list(range(1, count * length + 1)))
            self.assertLess(stream.num_tokens - 1 - len(predicted), length)

    def test_second_time_nothing_is_tokenised(self):
        self._stream()
        seen = self.tokenizer.texts_seen
        self._stream()
        self.assertEqual(self.tokenizer.texts_seen, seen)

    def test_another_key_or_tokenizer_is_another_stream(self):
        self._stream()
        self.assertEqual(self._stream([("a", "other")], key="k2").num_tokens, 6)
        self.tokenizer.fingerprint = "another"
        self.tokenizer.eos_id = 298
        self.assertEqual(self._stream().tokens[-1], 298)

    @parameterized.product(
        name=["tokens.npy", "starts.npy", "ids.npy", "id_starts.npy", "whole.json"],
        damage=["truncated", "changed", "gone"],
    )
    def test_damaged_cache_is_built_again(self, name, damage):
        self._stream()
        (path,) = self.folder.glob(f"*/{name}")
        data = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(
                data[:-2] if damage == "truncated" else data[:-3] + b"\x7f" + data[-2:]
            )
        self.assertEqual(self.tokenizer.decode(self._stream().tokens), STREAM)
        self.assertEqual(path.read_bytes(), data)

    def test_interrupted_build_leaves_nothing_behind(self):
        def documents():
            yield from [(str(k), "text") for k in range(600)]
            raise KeyboardInterrupt

        with self.assertRaises(KeyboardInterrupt):
            rows_lib.cached_stream(documents, self.tokenizer, self.folder, "k")
        self.assertEmpty([path for path in self.folder.iterdir() if path.is_dir()])
        self.assertEqual(self._stream().num_documents, 4)

    def test_token_arrays_are_closed_once(self):
        documents = [("a", np.array([5, 6])), ("b", np.array([7, 299]))]
        self.assertEqual(self._stream(documents).tokens.tolist(), [5, 6, 299, 7, 299])

    def test_token_arrays_of_another_vocabulary(self):
        with self.assertRaisesRegex(UserError, r"bad: token ids from 5 to 300.* 0 to 299"):
            self._stream([("bad", np.array([5, 300]))])


class OrderTest(parameterized.TestCase):
    @parameterized.parameters(1, 2, 10, 1000)
    def test_permutation(self, count):
        order = rows_lib.row_order("key", 0, 3, count)
        np.testing.assert_array_equal(np.sort(order), np.arange(count))

    def test_depends_on_key_seed_and_epoch(self):
        orders = [
            tuple(rows_lib.row_order(*arguments, 50))
            for arguments in [("a", 0, 0), ("b", 0, 0), ("a", 1, 0), ("a", 0, 1)]
        ]
        self.assertLen(set(orders), 4)

    def test_is_well_mixed(self):
        # Mean rank correlation of 40 epochs with text order: standard deviation 1/sqrt(40 n).
        orders = [rows_lib.row_order("a", 0, epoch, 400) for epoch in range(40)]
        mean = np.mean([np.corrcoef(order, np.arange(400))[0, 1] for order in orders])
        self.assertLess(abs(mean), 4 / np.sqrt(40 * 400))
        first = np.array([order[0] for order in orders])
        self.assertGreater(len(set(first)), 30)

    def test_golden(self):
        # The order of rows is part of a run; if this changes, raise plan._FORMAT.
        self.assertEqual(rows_lib.row_order("key", 7, 1, 8).tolist(), GOLDEN)


GOLDEN = [2, 3, 0, 6, 5, 1, 7, 4]


class ScatteredTest(parameterized.TestCase):
    @parameterized.parameters(1, 2, 3, 16, 17, 1000, 4097)
    def test_every_row_once(self, count):
        found = rows_lib.scattered_rows("key", 0, 3, count, np.arange(count))
        self.assertEqual(sorted(found.tolist()), list(range(count)))

    def test_it_depends_on_every_argument(self):
        places = np.arange(50)
        found = {
            tuple(rows_lib.scattered_rows(*arguments, 1000, places))
            for arguments in [("key", 0, 0), ("other", 0, 0), ("key", 1, 0), ("key", 0, 1)]
        }
        self.assertLen(found, 4)

    def test_neighbours_are_far_apart(self):
        rows = 10**9
        found = rows_lib.scattered_rows("key", 0, 0, rows, np.arange(100_000))
        self.assertBetween(found.mean() / rows, 0.495, 0.505)
        steps = np.abs(np.diff(found)) / rows
        self.assertBetween(steps.mean(), 0.33, 0.337)  # of independent places: a third
        self.assertLess(abs(np.corrcoef(found[1:], found[:-1])[0, 1]), 0.02)

    def test_places_may_be_asked_one_by_one(self):
        whole = rows_lib.scattered_rows("key", 0, 0, 10**9, np.arange(20))
        one = [rows_lib.scattered_rows("key", 0, 0, 10**9, np.array([k]))[0] for k in range(20)]
        self.assertEqual(whole.tolist(), one)

    def test_golden(self):
        # The order is part of a run.
        found = rows_lib.scattered_rows("key", 7, 1, 10**9, np.arange(4)).tolist()
        self.assertEqual(found, [314730877, 200580867, 746960833, 643488526])
