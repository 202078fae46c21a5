"""Packing loses nothing, mixes nothing, and is the same every time."""

import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.probe.packing import best_length, fill, pack
from llm_dynamics.probe.probes import EncodedProbe


def probes(sizes, targets, seed=0):
    """Random probes of given numbers of tokens (the last one included) and target tokens."""
    rng = np.random.default_rng(seed)
    return [
        EncodedProbe(f"p{i}", tuple(int(t) for t in rng.integers(1, 50, n)), m)
        for i, (n, m) in enumerate(zip(sizes, targets, strict=True))
    ]


def reads(packed, row):
    """Which columns each column of a row reads, L x L, as `PackedProbes.until_RxL` says."""
    column_L = np.arange(packed.until_RxL.shape[1])
    return (column_L <= column_L[:, None]) & (column_L[:, None] < packed.until_RxL[row])


class PackTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("few", [5, 3, 8], [2, 1, 7], 8, 1),
        ("exact_rows", [9, 9, 5, 5], [1, 1, 4, 2], 8, 1),
        ("one", [2], [1], 4, 1),
        ("many", list(range(2, 41)) * 3, [1 + i % 3 if i else 1 for i in range(39)] * 3, 48, 4),
    )
    def test_every_probe_is_where_the_arrays_say(self, sizes, targets, length, multiple):
        encoded = probes(sizes, [min(m, n - 1) for m, n in zip(targets, sizes, strict=True)])
        self._check(encoded, length, multiple, shared=len(sizes) > 50)

    def test_what_probes_begin_with_is_there_once(self):
        """Nine texts of three beginnings, one of them inside another, one twice, targets apart."""
        one, two = probes([9, 7], [1, 1], seed=3)
        ends = [(1,), (2, 5), (2, 6), (3,)]
        texts = [one.ids[:6] + end for end in ends] + [one.ids[:3], one.ids]
        texts += [two.ids + end for end in ends[:2]] + [(*one.ids[:6], 1)]
        encoded = [EncodedProbe(f"p{i}", ids, 1 + i % 2) for i, ids in enumerate(texts)]
        packed = self._check(encoded, 32, 1, shared=True)
        distinct = {probe.ids[:k] for probe in encoded for k in range(1, len(probe.ids))}
        self.assertEqual((packed.segment_ids_RxL > 0).sum(), len(distinct))
        self.assertLess(len(distinct), sum(len(ids) - 1 for ids in texts) / 2)

    def test_trees_are_parted_where_a_row_ends(self):
        beginning = tuple(range(10))
        encoded = [EncodedProbe(f"p{i}", (*beginning, 10 + i, 9), 1) for i in range(20)]
        packed = self._check(encoded, 16, 1, shared=True)
        self.assertLen(packed.tokens_RxL, 4)  # six ends a row, not one

    def _check(self, encoded, length, multiple, shared):
        packed = pack(encoded, length, multiple, pad_id=49)
        rows = packed.tokens_RxL.shape[0]
        self.assertEqual(packed.tokens_RxL.shape, (rows, length))
        self.assertEqual(rows % multiple, 0)
        tokens, segments = packed.tokens_RxL.ravel(), packed.segment_ids_RxL.ravel()
        positions = packed.positions_RxL.ravel()
        seen = np.zeros(rows * length, bool)
        for p, probe in enumerate(encoded):
            m = int(packed.mask_PxW[p].sum())
            self.assertEqual(m, probe.num_target)
            self.assertTrue(packed.mask_PxW[p, :m].all())
            source, target = packed.source_PxW[p, :m], packed.target_PxW[p, :m]
            self.assertEqual(tuple(target), probe.ids[-m:])
            read = np.flatnonzero(reads(packed, source[-1] // length)[source[-1] % length])
            here = read + source[-1] // length * length
            self.assertEqual(tuple(tokens[here]), probe.ids[:-1])
            np.testing.assert_array_equal(here[-m:], source)
            np.testing.assert_array_equal(positions[here], np.arange(len(probe.ids) - 1))
            self.assertLen(set(segments[here]), 1)
            self.assertTrue(shared or not seen[here].any())
            seen[here] = True
        np.testing.assert_array_equal(seen, segments > 0)
        np.testing.assert_array_equal(tokens[~seen], 49)
        np.testing.assert_array_equal(positions[~seen], 0)
        for row, pad_L in enumerate(~seen.reshape(rows, length)):
            read_LxL = reads(packed, row)
            np.testing.assert_array_equal(read_LxL[pad_L], np.eye(length, dtype=bool)[pad_L])
            self.assertFalse(read_LxL[np.ix_(~pad_L, pad_L)].any())
        self.assertAlmostEqual(fill(packed), seen.mean())
        self.assertEqual(packed.mask_PxW.shape[1], max(e.num_target for e in encoded))
        return packed

    def test_first_fit_decreasing(self):
        # Sizes without the last token: 3, 7, 4, 2, 6, 2; the largest first into rows of 10.
        packed = pack(probes([4, 8, 5, 3, 7, 3], [1] * 6), 10)
        row_of = [int(s) // 10 for s in packed.source_PxW[:, 0]]
        self.assertEqual(row_of, [0, 0, 1, 2, 1, 2])

    def test_same_input_same_bytes(self):
        encoded = probes([7, 7, 5, 9, 7], [1, 2, 3, 4, 5])
        for a, b in zip(pack(encoded, 12), pack(list(encoded), 12), strict=True):
            self.assertEqual(a.tobytes(), b.tobytes())

    def test_two_thousand_probes_waste_little(self):
        rng = np.random.default_rng(1)
        encoded = probes(np.clip(rng.normal(27, 9, 1950), 8, 88).astype(int), [3] * 1950)
        length = best_length(encoded, 2048)
        self.assertGreaterEqual(length, max(len(e.ids) for e in encoded) - 1)
        self.assertLess(length, 160)
        packed = pack(encoded, length)
        self.assertGreater(fill(packed), 0.95)
        self.assertLess(packed.tokens_RxL.size, sum(len(e.ids) - 1 for e in encoded) / 0.95)

    def test_best_length_stays_within_the_limit(self):
        encoded = probes([18, 11], [1, 1])
        self.assertEqual(best_length(encoded, 128), 32)
        self.assertEqual(best_length(encoded, 20), 20)
        self.assertEqual(best_length(probes([33, 11], [1, 1]), 128), 32)
        self.assertEqual(best_length(probes([34, 11], [1, 1]), 128), 64)

    def test_best_length_counts_the_rows_that_fill_up_the_multiple(self):
        # Twelve probes of 24 positions: rows of 32 waste a quarter, rows of 96 hold four each.
        encoded = probes([25] * 12, [1] * 12)
        self.assertEqual(best_length(encoded, 128), 96)
        # Rows come in twelves: twelve rows of 96 would be mostly empty.
        self.assertEqual(best_length(encoded, 128, 12), 32)

    def test_too_long(self):
        with self.assertRaisesRegex(
            UserError, "'p1'.*at most 9 tokens.*got 10.*data.length=9 or more"
        ):
            pack(probes([9, 10], [1, 1]), 8)
        with self.assertRaisesRegex(UserError, "'p1'.*at most 9 tokens.*got 10"):
            best_length(probes([9, 10], [1, 1]), 8)

    def test_no_probe(self):
        with self.assertRaisesRegex(UserError, "at least one probe"):
            pack([], 8)

    def test_target_without_context_is_a_mistake_in_the_program(self):
        with self.assertRaises(ValueError):
            pack([EncodedProbe("p", (1, 2), 2)], 8)


if __name__ == "__main__":
    absltest.main()
