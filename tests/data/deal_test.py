"""Replayed rows at their share at every prefix, and a ledger that is exact, in closed form."""

import tracemalloc

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data.corpus_rows import PlanSource
from llm_dynamics.data.deal import NEW, REPEATED, REPLAYED, Deal, Past
from llm_dynamics.data.plan import Plan
from tests.data.fakes import EndlessStream

B, L = 1104, 2048  # rows a step and tokens a row (Ibrahim et al. 2024)


def _deal(share=0.05, seen=10**12, offset=0, rows=10**12):
    return Deal([1], [rows], [Past(Deal([3, 1], [rows, rows]), share, seen, offset)])


def _counted(deal, first, last):
    """The tally of `Deal.tally`, by looking at every row."""
    dealt = deal.locate(np.arange(last))
    tally = np.zeros((deal.num_leaves, 3), np.int64)
    reached = {k: item.offset for k, item in enumerate(deal.past)}
    for g, (leaf, epoch, _, past) in enumerate(zip(*dealt, strict=True)):
        if past < 0:
            column = REPEATED if epoch else NEW
        else:
            column = REPEATED if reached[past] >= deal.past[past].seen else REPLAYED
            reached[past] += 1
        tally[leaf, column] += g >= first
    return tally


class ShareTest(parameterized.TestCase):
    @parameterized.parameters(0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 0.333333)
    def test_every_prefix_and_window_is_within_a_row(self, share):
        deal = _deal(share)
        for start in (0, 10**9 * B + 7):
            dealt = deal.locate(start + np.arange(20 * B))
            count = int(deal.past_rows(start)[0]) + np.cumsum(dealt.past >= 0)
            exact = share * (start + 1 + np.arange(20 * B))
            self.assertLessEqual(np.abs(count - exact).max(), 0.5 + 1e-3)
            steps = np.diff(count[B - 1 :: B])
            self.assertLess(np.abs(steps - share * B).max(), 1)
        self.assertEqual(int(deal.past_rows(10**6)[0]), share * 10**6)

    def test_five_per_cent_of_a_batch_is_55_or_56_rows(self):
        past = _deal().locate(np.arange(5 * B)).past.reshape(5, B)
        self.assertEqual((past >= 0).sum(axis=1).tolist(), [55, 55, 56, 55, 55])

    @parameterized.parameters(([0.03, 0.02],), ([0.1, 0.001],), ([0.04, 0.03, 0.02, 0.01],))
    def test_several_pasts(self, shares):
        rows = [10**12]
        deal = Deal([1, 1, 1], rows * 3, [Past(Deal([1], rows), x, 10**12, 0) for x in shares])
        dealt = deal.locate(np.arange(40 * B))
        for k, share in enumerate(shares):
            count = np.cumsum(dealt.past == k)
            self.assertLess(np.abs(count - share * (1 + np.arange(40 * B))).max(), 1.5)
        total = np.cumsum(dealt.past >= 0) - sum(shares) * (1 + np.arange(40 * B))
        self.assertLessEqual(np.abs(total).max(), 0.5 + 1e-6)
        own = np.bincount(dealt.leaf[dealt.past < 0])
        self.assertLess(np.ptp(own), 3)

    def test_what_is_left_keeps_its_proportions(self):
        deal = Deal([3, 1], [10**9] * 2, [Past(Deal([1], [10**9]), 0.2, 10**9, 0)])
        self.assertEqual(deal.own_rows(10**6).tolist(), [600_000, 200_000])
        self.assertEqual([float(share) for share in deal.shares], [0.6, 0.2])


class OrderTest(parameterized.TestCase):
    def test_a_past_comes_in_its_own_order_from_the_offset_and_round(self):
        past = Deal([3, 1], [7, 5])
        deal = Deal([1], [11], [Past(past, 0.25, seen=9, offset=4)])
        dealt = deal.locate(np.arange(200))
        at = np.flatnonzero(dealt.past == 0)
        self.assertLen(at, 50)
        wanted = past.locate((4 + np.arange(50)) % 9)
        for name in ("leaf", "epoch", "position"):
            found = getattr(dealt, name)[at] - (name == "leaf")
            np.testing.assert_array_equal(found, getattr(wanted, name))

    def test_rows_in_any_order(self):
        deal = _deal(0.3, seen=50, rows=40)
        rows = np.random.default_rng(0).permutation(500)
        for found, whole in zip(deal.locate(rows), deal.locate(np.arange(500)), strict=True):
            np.testing.assert_array_equal(found, whole[rows])


class TallyTest(parameterized.TestCase):
    def test_300b_at_five_per_cent_is_285b_and_15b(self):
        rows = 300 * 10**9 // 2000
        tally = _deal().tally(0, rows) * 2000
        self.assertEqual(tally[0].tolist(), [285 * 10**9, 0, 0])
        self.assertEqual(tally[1:].sum(axis=0).tolist(), [0, 15 * 10**9, 0])
        self.assertEqual(tally[1:, REPLAYED].tolist(), [11_250_000_000, 3_750_000_000])

    def test_200b_at_a_quarter_is_150b_and_50b(self):
        tally = _deal(0.25).tally(0, 10**8) * 2000
        self.assertEqual(tally.sum(axis=0).tolist(), [150 * 10**9, 50 * 10**9, 0])

    @parameterized.parameters(0, 3, 14, 40)
    def test_it_counts_what_is_dealt_also_over_pieces(self, offset):
        older = Deal([1], [30])
        old = Deal([2, 1], [13, 4], [Past(older, 0.2, 17, 2)])
        pasts = [Past(old, 0.2, 29, offset), Past(older, 0.1, 12, 0)]
        deal = Deal([1, 2], [25, 31], pasts)
        for first, last in [(0, 1), (0, 300), (17, 130)]:
            np.testing.assert_array_equal(deal.tally(first, last), _counted(deal, first, last))
        pieces = [deal.tally(a, b) for a, b in [(0, 40), (40, 41), (41, 300)]]
        np.testing.assert_array_equal(sum(pieces), deal.tally(0, 300))
        self.assertEqual(deal.tally(0, 300).sum(), 300)

    def test_a_past_that_is_used_up_is_repeated(self):
        tally = _deal(0.5, seen=30, offset=10).tally(0, 100)
        self.assertEqual(tally[1:].sum(axis=0).tolist(), [0, 20, 30])

    def test_what_earlier_stages_read_is_not_new(self):
        deal = Deal([1, 1], [30, 30], before=[20, 99])
        self.assertEqual(deal.tally(0, 50).tolist(), [[5, 0, 20], [0, 0, 25]])
        self.assertEqual(deal.tally(50, 80).tolist(), [[5, 0, 10], [0, 0, 15]])


class ConstantMemoryTest(parameterized.TestCase):
    def test_a_thousand_sources_of_a_thousand_million_rows(self):
        rows = 10**9
        sources = [
            PlanSource(f"s{z}", 1 + z % 7, f"print {z}", *[EndlessStream(rows * L + 1)] * 2)
            for z in range(1000)
        ]
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        plan = Plan(sources, L, 64, steps=10**6)
        batch = plan.batch(10**9)
        ledger = plan.ledger()
        plan.validation_batches(1)
        held, peak = tracemalloc.get_traced_memory()
        self.assertEqual(batch.tokens_BxL.shape, (64, L))
        self.assertGreater(len(np.unique(batch.tokens_BxL[:, 0])), 30)
        self.assertEqual(sum(entry["new"] for entry in ledger.values()), 10**6 * 64 * L)
        self.assertLess(held, 10 * 2**20)
        self.assertLess(peak, 60 * 2**20)
