"""Replayed rows are the rows that an earlier run read, in order, on every host."""

import numpy as np
from absl.testing import parameterized

from llm_dynamics import spec
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.corpus_rows import CorpusRows, PlanSource, Replayed
from llm_dynamics.data.explain import format_explanation
from llm_dynamics.data.lineage import Lineage, ReadSource, Replay, Stage, ledgers, rows_replayed
from llm_dynamics.data.plan import Plan
from llm_dynamics.data.replay import additive_steps, parse_replays
from llm_dynamics.data.rows import TokenStream
from llm_dynamics.errors import UserError

L, B = 8, 6


def _source(name, tokens, weight=1.0, shift=0):
    """A source whose tokens are their own places, counted on from `shift`."""
    ends = np.array([0, tokens], np.int64)
    ids = np.frombuffer(name.encode(), np.uint8)
    stream = TokenStream(
        np.arange(shift, shift + tokens, dtype=np.uint32), ends, ids, np.array([0, len(ids)])
    )
    empty = TokenStream(stream.tokens[:0], ends[:1], ids[:0], ends[:1])
    return PlanSource(name, weight, f"print of {name}", stream, empty, f"licence of {name}")


OLD = [_source("a", 400, 3), _source("b", 200, 1, 10_000)]
NEW = [_source("c", 4000, 1, 20_000)]


def _plan(share=0.25, seen=60, offset=0, **others):
    past = Replayed("runs/old", CorpusRows(OLD, L, seed=5), share, seen, offset)
    return Plan(NEW, L, B, replayed=[past], **others)


def _replayed(plan, steps):
    """(rows of tokens, what `explain` says of them) of all replayed rows of some steps."""
    tokens, rows = [], []
    for step in steps:
        batch = plan.batch(step)
        for row in plan.explain(step):
            if "replayed" in row:
                tokens.append(batch.tokens_BxL[row["row"]])
                rows.append(row)
    return np.array(tokens), rows


class RowsTest(parameterized.TestCase):
    @parameterized.parameters(0, 21)
    def test_they_are_the_rows_of_the_earlier_run_in_its_order(self, offset):
        # The earlier run had other batches; only the order of its rows matters.
        old = Plan(OLD, L, 4, seed=5)
        theirs = np.concatenate([old.batch(step).tokens_BxL for step in range(15)])
        found, rows = _replayed(_plan(offset=offset), range(24))
        self.assertLen(found, 24 * B // 4)
        np.testing.assert_array_equal(found, theirs[offset : offset + len(found)])
        self.assertEqual({row["replayed"] for row in rows}, {"runs/old"})
        names = [row["source"] for step in range(15) for row in old.explain(step)]
        self.assertEqual([row["source"] for row in rows], names[offset : offset + len(rows)])

    def test_they_begin_again_after_the_last_row_that_was_seen(self):
        old = Plan(OLD, L, 60, seed=5).batch(0).tokens_BxL
        found, _ = _replayed(_plan(offset=50), range(24))
        np.testing.assert_array_equal(found, np.concatenate([old[50:], old[:26]]))

    def test_other_rows_are_those_of_a_run_without_replay(self):
        plan, alone = _plan(), Plan(NEW, L, 9)
        tokens = np.concatenate([plan.batch(step).tokens_BxL for step in range(16)])
        own = tokens[tokens[:, 0] >= 20_000]
        theirs = np.concatenate([alone.batch(step).tokens_BxL for step in range(8)])
        np.testing.assert_array_equal(own, theirs)

    def test_slices_of_hosts_and_later_starts_are_the_same_run(self):
        plan, later = _plan(seen=9), _plan(seen=9, first_step=7)
        for step in range(10):
            batch = plan.batch(7 + step)
            parts = [later.rows(step, start, start + 2) for start in range(0, B, 2)]
            for whole, *pieces in zip(batch, *parts, strict=True):
                np.testing.assert_array_equal(whole, np.concatenate(pieces))

    def test_a_replayed_run_that_has_replayed(self):
        oldest = CorpusRows(OLD, L, seed=5)
        middle = CorpusRows(NEW, L, 1, [Replayed("first", oldest, 0.5, 40, 3)])
        newest = [_source("d", 4000, 1, 50_000)]
        plan = Plan(newest, L, B, replayed=[Replayed("second", middle, 0.5, 60, 10)])
        found, rows = _replayed(plan, range(12))
        tokens_RxL = middle.read(10 + np.arange(36)).tokens_BxM[:, :-1]
        np.testing.assert_array_equal(found, tokens_RxL)
        self.assertEqual({row["source"] for row in rows}, {"a", "b", "c"})

    def test_printed(self):
        text = format_explanation(_plan().explain(0))
        self.assertRegex(text, r"row \d  a  epoch 0  row \d+ of it  replayed of runs/old")


class DescribeTest(parameterized.TestCase):
    def test_ledger(self):
        plan = _plan(seen=20, offset=10, steps=40)
        ledger = plan.ledger()
        self.assertEqual(ledger["c"], {"new": 180 * L, "replayed": 0, "repeated": 0})
        old = [ledger[name][kind] for kind in ("replayed", "repeated") for name in "ab"]
        self.assertEqual((sum(old[:2]), sum(old[2:])), (10 * L, 50 * L))
        self.assertEqual(sum(map(sum, map(dict.values, ledger.values()))), 40 * B * L)
        self.assertEqual(plan.describe()["ledger"], ledger)
        halves = plan.ledger(15), _plan(seen=20, offset=10, first_step=15).ledger(25)
        for name, entry in ledger.items():
            for kind, tokens in entry.items():
                self.assertEqual(halves[0][name][kind] + halves[1][name][kind], tokens)

    def test_what_is_replayed(self):
        about = _plan(offset=10, steps=40, first_step=4).describe()
        (entry,) = about["replay"]
        self.assertEqual(entry.pop("sources")[0]["licence"], "licence of a")
        self.assertEqual(
            entry,
            {"run": "runs/old", "share": 0.25, "rows_seen": 60, "first_row": 16, "rows_read": 60},
        )
        self.assertEqual(
            (about["sources"][0]["share"], about["sources"][0]["rows_read"]), (0.75, 180)
        )
        self.assertEqual(Plan(NEW, L, B).describe()["replay"], [])

    def test_fingerprint(self):
        different = [_plan(), _plan(0.2), _plan(seen=61), _plan(offset=1), Plan(NEW, L, B)]
        self.assertLen({plan.fingerprint for plan in different}, 5)
        self.assertEqual(_plan().fingerprint, _plan(steps=9).fingerprint)


class ParseTest(parameterized.TestCase):
    def test_folders_and_shares(self):
        self.assertEqual(
            parse_replays(["runs/a@b@0.05", " /x/y@.25 "]), [("runs/a@b", 0.05), ("/x/y", 0.25)]
        )

    @parameterized.parameters(
        (("a@0",), "0 < SHARE < 1.*got 'a@0'"),
        (("a@1",), "0 < SHARE < 1"),
        (("a@-0.1",), "0 < SHARE < 1"),
        (("a@nan",), "0 < SHARE < 1"),
        (("a@1e-7",), "0 < SHARE < 1"),
        (("a",), "expects RUN_FOLDER@SHARE"),
        (("@0.5",), "expects RUN_FOLDER@SHARE"),
        (("a@0.5", "b@0.5"), "sum below 1, got 1; the rest"),
        (("a@0.9", "b@0.3"), "sum below 1, got 1.2"),
        (("a@0.1", "a@0.2"), "a is named more than once"),
    )
    def test_refused(self, entries, message):
        with self.assertRaisesRegex(UserError, message):
            DataConfig(replay=entries)

    def test_additive_accounting_keeps_the_new_text(self):
        # 5.3 % more at 5 %, 33.3 % more at 25 %.
        self.assertEqual(additive_steps(132_366, [0.05]), 139_333)
        self.assertEqual(additive_steps(300, [0.25]), 400)
        self.assertEqual(additive_steps(300, [0.15, 0.1]), 400)
        self.assertEqual(additive_steps(7, []), 7)


def _stage(run, name, seen, replays=(), continues=False, first=0, **data):
    config = DataConfig((name,), "bytes", length=L, batch_size=B, **data)
    source = ReadSource(name, 1000, 1.0, f"print of {name}")
    return Stage(run, config, "t", (source,), first, seen, continues, tuple(replays))


class LineageTest(parameterized.TestCase):
    def test_the_position_advances_over_stages(self):
        first = _stage("1", "a", 500)
        second = _stage("2", "b", 400, [Replay(0, 0.25, 0)])
        self.assertEqual(rows_replayed([first, second], 0), 100)
        third = _stage("3", "c", 300, [Replay(0, 0.1, 100), Replay(1, 0.2, 0)])
        stages = [first, second, third]
        self.assertEqual([rows_replayed(stages, k) for k in range(3)], [130, 60, 0])
        self.assertEqual(rows_replayed([first], 0), 0)

    def test_runs_that_read_on_count_once(self):
        first = _stage("1", "a", 500)
        second = _stage("2", "b", 100, [Replay(0, 0.25, 0)])
        on = _stage("3", "b", 400, [Replay(0, 0.25, 0)], True, 100)
        self.assertEqual(rows_replayed([first, second, on], 0), 100)
        begun, on = _stage("1", "b", 100), _stage("2", "b", 400, (), True, 100)
        last = _stage("3", "c", 100, [Replay(0, 0.5, 0)])
        self.assertEqual([rows_replayed([begun, on, last], k) for k in (0, 1)], [50, 50])

    def test_ledger_of_every_stage(self):
        stages = [
            _stage("1", "a", 1200),
            _stage("2", "b", 400, [Replay(0, 0.25, 0)]),
            _stage("3", "a", 1500, [Replay(1, 0.2, 0)]),  # its text is that of stage 1
            _stage("4", "a", 700, first=600, seed=1),
        ]
        tokens = [
            {
                name: [count // L for count in entry.values()]
                for name, entry in found["ledger"].items()
            }
            for found in ledgers(stages)
        ]
        self.assertEqual(tokens[0], {"a": [1000, 0, 200]})
        self.assertEqual(tokens[1], {"b": [300, 0, 0], "a": [0, 100, 0]})
        self.assertEqual(tokens[2], {"a": [0, 75, 1200], "b": [0, 225, 0]})
        self.assertEqual(tokens[3], {"a": [100, 0, 0]})  # in another order: taken to be new
        self.assertEqual([found["run"] for found in ledgers(stages)], list("1234"))
        self.assertEqual(ledgers(stages)[3]["tokens"], 100 * L)

    def test_a_lineage_survives_json(self):
        lineage = Lineage((_stage("1", "a", 5), _stage("2", "b", 4, [Replay(0, 0.25, 3)])))
        self.assertEqual(spec.from_json(Lineage, spec.to_json(lineage)), lineage)
