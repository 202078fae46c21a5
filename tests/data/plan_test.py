"""A batch is a pure function of its step, and every token in it can be explained."""

import concurrent.futures
import dataclasses

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data.explain import format_explanation
from llm_dynamics.data.injection import Injection, place
from llm_dynamics.data.plan import Plan, PlanSource
from llm_dynamics.data.row_policies import Slot
from llm_dynamics.data.rows import TokenStream
from llm_dynamics.errors import UserError
from tests.data.fakes import FakeTokenizer

TOKENIZER = FakeTokenizer()
L, B = 8, 4
WEIGHTS = {"big": 3, "small": 1}
INJECTIONS = [
    Injection(3, "ABC", "fact a", {"arm": "duplication"}),
    Injection(3, "DE", "fact b", {"arm": "once"}),
    Injection(5, "ABC", "fact a", {"arm": "duplication"}),
]


def _stream(texts, prefix="doc"):
    pieces = [[*TOKENIZER.encode(text), TOKENIZER.eos_id] for text in texts]
    ids = [f"{prefix}{d}".encode() for d in range(len(texts))]
    ends = lambda parts: np.cumsum([0, *map(len, parts)], dtype=np.int64)  # noqa: E731
    tokens = np.array([t for piece in pieces for t in piece], np.uint16)
    return TokenStream(tokens, ends(pieces), np.frombuffer(b"".join(ids), np.uint8), ends(ids))


def _texts(count, seed, longest=20):
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return ["".join(rng.choice(letters, rng.integers(1, longest))) for _ in range(count)]


TEXTS = {"big": _texts(40, 0), "small": _texts(9, 1), "b-held": _texts(7, 2), "s-held": []}


def _plan(
    injections=(), sources=("big", "small"), length=L, batch_size=B, weights=WEIGHTS, **others
):
    parts = [
        PlanSource(
            name=name,
            weight=weights[name],
            fingerprint=f"print of {name}",
            train=_stream(TEXTS[name], f"{name}-"),
            validation=_stream(TEXTS[f"{name[0]}-held"], f"{name}-held-"),
            licence="CC0",
            attribution=f"makers of {name}",
            near_duplicates=2,
        )
        for name in sources
    ]
    placed = place(injections, TOKENIZER, batch_size, length + 1)
    return Plan(parts, length, batch_size, placed=placed, **others)


def _assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.dtype == y.dtype, (x.dtype, y.dtype)
        np.testing.assert_array_equal(x, y)


class PureTest(parameterized.TestCase):
    def test_batch_is_the_same_whatever_was_asked_before(self):
        expected = _plan(INJECTIONS).batch(3)
        plan = _plan(INJECTIONS)
        for step in (100, 0, 3, 4, 3):
            batch = plan.batch(step)
            if step == 3:
                _assert_equal(batch, expected)
        plan.validation_batches()
        plan.explain(3)
        _assert_equal(plan.batch(3), expected)

    def test_batch_is_the_same_from_several_threads(self):
        expected = [_plan(INJECTIONS).batch(step) for step in range(60)]
        plan = _plan(INJECTIONS)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for found, wanted in zip(pool.map(plan.batch, range(60)), expected, strict=True):
                _assert_equal(found, wanted)

    @parameterized.parameters((0, 4), (1, 3), (2, 2))
    def test_slices_of_hosts_are_the_global_batch(self, middle, end):
        plan = _plan(INJECTIONS)
        for step in (0, 3):
            parts = [plan.rows(step, *span) for span in [(0, middle), (middle, end), (end, B)]]
            joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
            _assert_equal(joined, plan.batch(step))

    def test_rows_do_not_depend_on_the_batch_size(self):
        small, large = _plan(batch_size=2), _plan(batch_size=6)
        parts = [small.batch(step).tokens_BxL for step in range(6)]
        np.testing.assert_array_equal(
            np.concatenate(parts), np.concatenate([large.batch(s).tokens_BxL for s in range(2)])
        )

    def test_rows_outside_the_batch(self):
        with self.assertRaises(ValueError):
            _plan().rows(0, 0, B + 1)
        with self.assertRaises(ValueError):
            _plan().batch(-1)

    def test_types_and_shapes(self):
        batch = _plan(INJECTIONS).batch(3)
        self.assertEqual([x.dtype for x in batch], [np.int32] * 4 + [np.float32])
        self.assertEqual({x.shape for x in batch}, {(B, L)})

    def test_far_steps(self):
        self.assertEqual(_plan().batch(10**11).tokens_BxL.shape, (B, L))


class CoverageTest(parameterized.TestCase):
    def _predicted(self, plan, rows, isolate):
        """(source, document, place) of every label that counts, over the first rows."""
        found = []
        for step in range(-(-rows // B)):
            batch = plan.batch(step)
            for row, mask_L in zip(plan.explain(step), batch.mask_BxL, strict=True):
                if step * B + row["row"] >= rows:
                    break
                owner = []
                for piece in row["documents"]:
                    places = range(piece["start"], piece["start"] + piece["tokens"])
                    owner += [(row["source"], piece["id"], place) for place in places]
                found += [owner[i + 1] for i in range(L) if mask_L[i]]
        return found

    @parameterized.parameters(True, False)
    def test_every_token_of_an_epoch_is_predicted_exactly_once(self, isolate):
        plan = _plan(sources=("big",), isolate_documents=isolate)
        stream = _stream(TEXTS["big"])
        rows = stream.num_rows(L)
        found = self._predicted(plan, rows, isolate)
        expected = {
            ("big", f"big-{d}", place)
            for d, text in enumerate(TEXTS["big"])
            for place in range(1 if isolate else 0, len(text) + 1)
            if 0 < stream.starts[d] + place <= rows * L
        }
        self.assertLen(found, len(set(found)))
        self.assertEqual(set(found), expected)

    def test_epochs_are_permutations_in_another_order(self):
        plan = _plan(sources=("big",), batch_size=1)
        rows = _stream(TEXTS["big"]).num_rows(L)
        seen = [plan.explain(step)[0] for step in range(3 * rows)]
        epochs = [[row["index"] for row in seen if row["epoch"] == e] for e in range(3)]
        for order in epochs:
            self.assertEqual(sorted(order), list(range(rows)))
        self.assertLen({tuple(order) for order in epochs}, 3)

    def test_a_batch_may_cross_epochs(self):
        rows = _stream(TEXTS["small"]).num_rows(L)
        plan, single = _plan(sources=("small",)), _plan(sources=("small",), batch_size=1)
        step = rows // B
        self.assertNotEqual(rows % B, 0)
        self.assertEqual({row["epoch"] for row in plan.explain(step)}, {0, 1})
        one_by_one = [single.batch(step * B + b).tokens_BxL[0] for b in range(B)]
        np.testing.assert_array_equal(plan.batch(step).tokens_BxL, one_by_one)

    def test_proportions_are_exact(self):
        plan = _plan()
        rows = [row["source"] for step in range(25) for row in plan.explain(step)]
        self.assertEqual((rows.count("big"), rows.count("small")), (75, 25))

    def test_seed_changes_the_order_only(self):
        plans = [_plan(sources=("big",), seed=seed) for seed in (0, 1)]
        self.assertFalse(np.array_equal(plans[0].batch(0)[0], plans[1].batch(0)[0]))

    def test_source_shorter_than_a_row(self):
        with self.assertRaisesRegex(UserError, r"'small' has \d+ tokens in 9 .* 501"):
            _plan(sources=("small",), length=500)


class SegmentsTest(parameterized.TestCase):
    def _row(self, **others):
        """One row, "cdef$gh$i" of "abcdef", "gh", "ijklmnop"."""
        stream = _stream(["abcdef", "gh", "ijklmnop"])
        moved = TokenStream(stream.tokens[2:], stream.starts - 2, stream.ids, stream.id_starts)
        source = PlanSource("s", 1.0, "f", dataclasses.replace(moved), _stream([]))
        return Plan([source], L, 1, **others)

    def test_labels_are_the_next_tokens(self):
        batch = self._row().batch(0)
        self.assertEqual(TOKENIZER.decode(batch.tokens_BxL[0]), "cdef$gh$")
        self.assertEqual(TOKENIZER.decode(batch.targets_BxL[0]), "def$gh$i")

    def test_isolated_documents(self):
        batch = self._row().batch(0)
        self.assertEqual(batch.segment_ids_BxL[0].tolist(), [1, 1, 1, 1, 1, 2, 2, 2])
        # Positions restart with each piece, also for one that begins in mid-document.
        self.assertEqual(batch.positions_BxL[0].tolist(), [0, 1, 2, 3, 4, 0, 1, 2])
        # The end token predicts nothing: what follows it is another document.
        self.assertEqual(batch.mask_BxL[0].tolist(), [1, 1, 1, 1, 0, 1, 1, 0])

    def test_without_isolation_a_row_is_one_segment(self):
        batch = self._row(isolate_documents=False).batch(0)
        self.assertEqual(batch.segment_ids_BxL[0].tolist(), [1] * 8)
        self.assertEqual(batch.positions_BxL[0].tolist(), list(range(8)))
        self.assertEqual(batch.mask_BxL[0].tolist(), [1] * 8)


class InjectionTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_injected_row(self, isolate):
        plain = _plan(isolate_documents=isolate)
        plan = _plan(INJECTIONS, isolate_documents=isolate)
        before, after = plain.batch(3), plan.batch(3)
        row = lambda batch, b: [*batch.tokens_BxL[b], batch.targets_BxL[b, -1]]  # noqa: E731
        for b, passage in enumerate(["ABC$", "DE$"]):
            expected = (passage + TOKENIZER.decode(row(before, b)))[: L + 1]
            self.assertEqual(TOKENIZER.decode(row(after, b)), expected)
        np.testing.assert_array_equal(after.tokens_BxL[:, 1:], after.targets_BxL[:, :-1])
        for x, y in zip(before, after, strict=True):  # untouched rows
            self.assertEqual(x[2:].tobytes(), y[2:].tobytes())
        for step in (2, 4):
            _assert_equal(plan.batch(step), plain.batch(step))

    def test_injected_passage_is_a_document_of_its_own(self):
        plain, batch = _plan().batch(3), _plan(INJECTIONS).batch(3)
        self.assertEqual(batch.segment_ids_BxL[0, :5].tolist(), [1, 1, 1, 1, 2])
        self.assertEqual(batch.positions_BxL[0, :5].tolist(), [0, 1, 2, 3, 0])
        self.assertEqual(batch.mask_BxL[0, :4].tolist(), [1, 1, 1, 0])
        np.testing.assert_array_equal(
            batch.segment_ids_BxL[0, 4:], 1 + plain.segment_ids_BxL[0, :-4]
        )
        np.testing.assert_array_equal(batch.positions_BxL[0, 4:], plain.positions_BxL[0, :-4])
        np.testing.assert_array_equal(batch.mask_BxL[0, 4:], plain.mask_BxL[0, :-4])

    def test_without_isolation_passage_and_remainder_are_both_trained_on(self):
        batch = _plan(INJECTIONS, isolate_documents=False).batch(3)
        self.assertEqual(batch.mask_BxL.sum(), B * L)
        self.assertEqual(set(batch.segment_ids_BxL.ravel()), {1})

    def test_two_passages_in_one_row(self):
        passages = [Injection(0, text, f"f{k}") for k, text in enumerate("PQRSTU")]
        plan = _plan(passages)
        batch = plan.batch(0)
        starts = ["".join(TOKENIZER.decode(row[:4])) for row in batch.tokens_BxL]
        self.assertEqual(starts[:2], ["P$T$", "Q$U$"])
        self.assertEqual(batch.segment_ids_BxL[0, :5].tolist(), [1, 1, 2, 2, 3])
        self.assertEqual([i["name"] for i in plan.explain(0)[1]["injected"]], ["f1", "f5"])

    def test_policy_that_puts_a_passage_inside_a_row(self):
        plan = _plan()
        placed = place(
            [Injection(1, "X", "f")], TOKENIZER, B, L + 1, policy=lambda *_: [Slot(2, 3)]
        )
        inside = Plan(plan._sources, L, B, placed=placed)
        before, after = plan.batch(1).tokens_BxL[2], inside.batch(1).tokens_BxL[2]
        expected = [*before[:3], ord("X"), TOKENIZER.eos_id, *before[3:-2]]
        self.assertEqual(after.tolist(), expected)


class ExplainTest(parameterized.TestCase):
    @parameterized.parameters(0, 3, 5, 40)
    def test_pieces_are_the_tokens_of_the_batch(self, step):
        plan = _plan(INJECTIONS)
        batch = plan.batch(step)
        texts = {f"{name}-{d}": text + "$" for name in TEXTS for d, text in enumerate(TEXTS[name])}
        passages = {"fact a": "ABC$", "fact b": "DE$"}
        for b, row in enumerate(plan.explain(step)):
            parts = [
                (d["at"], texts[d["id"]][d["start"] :][: d["tokens"]]) for d in row["documents"]
            ]
            parts += [(i["at"], passages[i["name"]][: i["tokens"]]) for i in row["injected"]]
            text = TOKENIZER.decode([*batch.tokens_BxL[b], batch.targets_BxL[b, -1]])
            self.assertEqual("".join(part for _, part in sorted(parts)), text)
            sizes = [piece["tokens"] for piece in row["documents"] + row["injected"]]
            self.assertEqual(sum(sizes), L + 1)

    def test_index_is_where_the_row_lies_in_the_text(self):
        plan = _plan()
        starts = {name: _stream(TEXTS[name]).starts for name in ("big", "small")}
        epochs = set()
        for step in (0, 7, 50):
            for row in plan.explain(step):
                first = row["documents"][0]
                begin = starts[row["source"]][int(first["id"].rpartition("-")[2])]
                self.assertEqual(begin + first["start"], row["index"] * L)
                epochs.add(row["epoch"])
        self.assertGreater(len(epochs), 2)

    def test_injected(self):
        rows = _plan(INJECTIONS).explain(5)
        self.assertEqual(
            rows[0]["injected"],
            [
                {
                    "name": "fact a",
                    "labels": {"arm": "duplication"},
                    "tokens": 4,
                    "at": 0,
                    "encounter": 2,
                }
            ],
        )
        self.assertEmpty(rows[1]["injected"])

    def test_printed(self):
        text = format_explanation(_plan(INJECTIONS).explain(3))
        self.assertLen([line for line in text.splitlines() if line.startswith("row ")], B)
        self.assertIn("INJECTED fact b  encounter 1  3 tokens  arm=once", text)
        self.assertRegex(text, r"small-\d+  tokens \d+ to \d+")


class ValidationTest(parameterized.TestCase):
    @parameterized.parameters(True, False)
    def test_every_label_once_and_padding_is_silent(self, isolate):
        batches = _plan(isolate_documents=isolate).validation_batches()
        stream = _stream(TEXTS["b-held"])
        boundaries = len(TEXTS["b-held"]) - 1 if isolate else 0
        self.assertEqual(sum(b.mask_BxL.sum() for b in batches), stream.num_tokens - 1 - boundaries)
        for batch in batches:
            self.assertEqual({x.shape for x in batch}, {(B, L)})
            self.assertEqual(batch.mask_BxL[batch.segment_ids_BxL == 0].sum(), 0)
        counted = np.concatenate([b.targets_BxL[b.mask_BxL > 0] for b in batches])
        expected = np.bincount(stream.tokens[1:], minlength=300)
        if isolate:
            first = stream.tokens[stream.starts[1:-1]]
            expected -= np.bincount(first, minlength=300)
        np.testing.assert_array_equal(np.bincount(counted, minlength=300), expected)

    def test_always_the_same_and_cut_from_the_front(self):
        plan = _plan()
        everything = plan.validation_batches()
        plan.batch(9)
        self.assertGreater(len(everything), 2)
        first = plan.validation_batches(2)
        self.assertLen(first, 2)
        for a, b in zip(first, everything, strict=False):
            _assert_equal(a, b)

    def test_does_not_depend_on_injections(self):
        for a, b in zip(
            _plan().validation_batches(), _plan(INJECTIONS).validation_batches(), strict=True
        ):
            _assert_equal(a, b)

    def test_nothing_held_out(self):
        self.assertEqual(_plan(sources=("small",)).validation_batches(), [])


class DescribeTest(parameterized.TestCase):
    def test_numbers(self):
        description = _plan(INJECTIONS, steps=50).describe()
        big, small = description["sources"]
        stream = _stream(TEXTS["big"])
        self.assertEqual(big["licence"], "CC0")
        self.assertEqual(big["attribution"], "makers of big")
        self.assertEqual((big["documents"], big["tokens"]), (40, stream.num_tokens))
        self.assertEqual((big["share"], small["share"]), (0.75, 0.25))
        self.assertEqual((big["rows_read"], small["rows_read"]), (150, 50))
        self.assertAlmostEqual(big["epochs"], 150 / stream.num_rows(L))
        self.assertEqual(description["tokens"], 50 * B * L)
        self.assertEqual(description["near_duplicates_removed"], 4)
        dose = description["doses"]["duplication"]
        self.assertEqual((dose["encounters"], dose["tokens"], dose["rows"]), (2, 8, 2))
        self.assertAlmostEqual(dose["token_share"], 8 / (50 * B * L))
        self.assertAlmostEqual(dose["row_share"], 2 / (50 * B))

    def test_without_steps(self):
        description = _plan().describe()
        self.assertIsNone(description["steps"])
        self.assertNotIn("epochs", description["sources"][0])

    def test_fingerprint(self):
        same = {_plan(INJECTIONS).fingerprint, _plan(INJECTIONS, steps=50).fingerprint}
        self.assertEqual(same, {"aa9f1acf79477578"})  # runs of earlier versions go on
        others = {
            _plan().fingerprint,
            _plan(INJECTIONS[:2]).fingerprint,
            _plan(INJECTIONS, seed=1).fingerprint,
            _plan(INJECTIONS, isolate_documents=False).fingerprint,
            _plan(INJECTIONS, batch_size=6).fingerprint,
            _plan(INJECTIONS, sources=("big",)).fingerprint,
            _plan(INJECTIONS, tokenizer_fingerprint="x").fingerprint,
            _plan(INJECTIONS, weights={"big": 2, "small": 1}).fingerprint,
        }
        self.assertLen(others | same, 9)
