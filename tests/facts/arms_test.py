"""Arms, schedules and doses: balanced, as published, refused when they cannot work."""

import collections
import dataclasses
import json

import pytest
from absl.testing import parameterized

from llm_dynamics import spec
from llm_dynamics.data.tokenizers import load_tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.facts import arms as arms_lib
from llm_dynamics.facts import dose, timetable
from llm_dynamics.facts import injections as injections_lib
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.audit import audit
from llm_dynamics.facts.facts import Fact, label_arms
from llm_dynamics.facts.generator import generate
from llm_dynamics.facts.injections import injections
from llm_dynamics.probe.probes import Probe

PAPER = FactsConfig(
    num_facts=130,
    arms=("paraphrase", "duplication", "once", "control"),
    sizes=(40, 40, 40, 10),
    assignment="ordered",
)


class WindowTest(parameterized.TestCase):
    @parameterized.parameters((0.9, 50), (0.0, 1), (0.8, 24), (0.95, 103), (0.001, 1))
    def test_window_from_beta1(self, beta1, window):
        self.assertEqual(timetable.window_from_beta1(beta1), window)

    def test_never_reaches_beyond_the_next_encounter(self):
        self.assertEqual(timetable.resolve_window(FactsConfig(interval=30), 0.9), 30)
        self.assertEqual(timetable.resolve_window(FactsConfig(interval=30, encounters=1), 0.9), 50)
        self.assertEqual(timetable.resolve_window(FactsConfig(window=7), 0.9), 7)


class AssignmentTest(parameterized.TestCase):
    def test_balanced_over_kinds_and_moved_by_the_seed(self):
        facts = generate(60)
        config = FactsConfig(num_facts=60)
        one = arms_lib.assign_arms(facts, config)
        self.assertEqual(list(one), [f.name for f in facts])
        counts = collections.Counter((f.kind, one[f.name]) for f in facts)
        self.assertEqual(set(counts.values()), {5})
        self.assertEqual(one, arms_lib.assign_arms(facts, config))
        other = arms_lib.assign_arms(facts, dataclasses.replace(config, seed=1))
        self.assertNotEqual(one, other)

    def test_sizes_and_remainders(self):
        facts = generate(31)
        config = FactsConfig(num_facts=31, sizes=(14, 9, 5, 3))
        counts = collections.Counter(arms_lib.assign_arms(facts, config).values())
        self.assertEqual(counts, {"duplication": 14, "paraphrase": 9, "once": 5, "control": 3})
        even = collections.Counter(arms_lib.assign_arms(facts, FactsConfig(num_facts=31)).values())
        self.assertEqual(sorted(even.values()), [7, 8, 8, 8])

    def test_ordered_is_the_published_assignment(self):
        facts = generate(130)
        arm_of = arms_lib.assign_arms(facts, PAPER)
        names = [arm_of[f.name] for f in facts]
        self.assertEqual(names[:40], ["paraphrase"] * 40)
        self.assertEqual(names[40:80], ["duplication"] * 40)
        self.assertEqual(names[80:120], ["once"] * 40)
        self.assertEqual(names[120:], ["control"] * 10)

    def test_probes_carry_their_arm(self):
        facts = generate(8)
        arm_of = arms_lib.assign_arms(facts, FactsConfig(num_facts=8))
        for probe in label_arms(facts, arm_of):
            self.assertEqual(probe.labels["arm"], arm_of[probe.labels["fact"]])


class BlocksTest(parameterized.TestCase):
    def test_each_block_is_balanced_and_drawn_anew(self):
        facts = generate(36)
        config = FactsConfig(num_facts=36, blocks=3)
        arms, blocks = arms_lib.assign_arms(facts, config), arms_lib.block_of(facts, config)
        counts = collections.Counter((blocks[f.name], arms[f.name]) for f in facts)
        self.assertEqual(set(counts.values()), {3})
        orders = {tuple(arms[f.name] for f in facts if blocks[f.name] == b) for b in range(3)}
        self.assertLen(orders, 3)

    def test_rotations_are_a_latin_square(self):
        facts = generate(24)
        runs = [
            arms_lib.assign_arms(facts, FactsConfig(num_facts=24, blocks=2, rotation=r))
            for r in range(4)
        ]
        for fact in facts:
            self.assertLen({run[fact.name] for run in runs}, 4)


class TimetableTest(parameterized.TestCase):
    def _times(self, arm, **changes):
        config = FactsConfig(num_facts=8, arms=(arm, "control"), seed=3, **changes)
        facts = generate(8)
        arms = arms_lib.assign_arms(facts, config)
        times = timetable.timetable(facts, arms, config)
        return config, [times[name] for name, given in arms.items() if given != "control"]

    @parameterized.parameters(
        ("a:same/start=5/interval=10/encounters=4", (5, 15, 25, 35)),
        ("a:same/spacing=geometric/start=5/interval=10/encounters=4", (5, 15, 35, 75)),
        ("a:same/spacing=geometric/ratio=3/start=0/interval=1/encounters=4", (0, 1, 4, 13)),
    )
    def test_shared_times(self, arm, expected):
        config, times = self._times(arm)
        self.assertEqual(set(times), {expected})
        self.assertEqual(timetable.schedule(config), {"a": expected, "control": ()})
        self.assertEqual(timetable.last_encounter(config), expected[-1])

    def test_random_times_are_of_each_fact_and_within_the_span(self):
        arm = "a:same/spacing=random/start=50/interval=10/encounters=6"
        config, times = self._times(arm)
        self.assertLen(set(times), 4)
        for found in times:
            self.assertLen(set(found), 6)
            self.assertTrue(min(found) >= 50 and max(found) < 110 and sorted(found) == list(found))
        self.assertEqual(timetable.schedule(config)["a"], ())
        self.assertEqual(
            self._times("a:same/spacing=random/start=50/interval=10/encounters=6")[1], times
        )

    def test_zipf_counts(self):
        _, times = self._times("a:same/spacing=zipf/start=0/interval=10/encounters=12")
        self.assertEqual([len(found) for found in times], [12, 6, 4, 3])
        _, times = self._times("a:same/spacing=zipf/exponent=2/interval=10/encounters=12")
        self.assertEqual([len(found) for found in times], [12, 3, 1, 1])


class TextsTest(parameterized.TestCase):
    def test_permuted_keeps_the_sentences(self):
        fact = generate(1)[0]
        texts = injections_lib.texts_of(fact, "permuted", 5)
        self.assertEqual(texts[0], fact.passage)
        self.assertGreater(len(set(texts)), 1)
        parts = {tuple(sorted(text.rstrip(".").split(". "))) for text in texts}
        self.assertLen(parts, 1)

    def test_questions_hold_every_answer(self):
        fact = generate(1)[0]
        (text, same) = injections_lib.texts_of(fact, "question", 2)
        self.assertEqual(text, same)
        for probe in fact.probes:
            self.assertIn(f"Answer: {probe.target}.", text)


class InjectionTest(parameterized.TestCase):
    def test_paper_preset(self):
        facts = generate(130)
        planned = injections(facts, arms_lib.assign_arms(facts, PAPER), PAPER)
        counts = collections.Counter(i.step for i in planned)
        want = {0: 120} | {100 * i: 80 for i in range(1, 10)}
        self.assertEqual(counts, want)
        self.assertLen(planned, 840)
        self.assertEqual([i.step for i in planned], sorted(i.step for i in planned))
        # Row i takes passage i.
        self.assertEqual([i.name for i in planned[:120]], [f.name for f in facts[:120]])
        injected = {i.name for i in planned}
        self.assertLen([p for f in facts if f.name in injected for p in f.probes], 1080)

    def test_what_each_arm_reads(self):
        config = FactsConfig(num_facts=8, start=7, interval=20, encounters=4)
        facts = generate(8)
        arm_of = arms_lib.assign_arms(facts, config)
        planned = injections(facts, arm_of, config)
        for fact in facts:
            mine = [i for i in planned if i.name == fact.name]
            texts, steps = [i.text for i in mine], [i.step for i in mine]
            match arm_of[fact.name]:
                case "duplication":
                    self.assertEqual((texts, steps), ([fact.passage] * 4, [7, 27, 47, 67]))
                case "paraphrase":
                    self.assertEqual((texts, steps), (list(fact.wordings[:4]), [7, 27, 47, 67]))
                    self.assertEqual([i.labels["wording"] for i in mine], list("0123"))
                case "once":
                    self.assertEqual((texts, steps), ([fact.passage], [7]))
                case "control":
                    self.assertEmpty(mine)
            self.assertEqual([i.labels["encounter"] for i in mine], list("0123")[: len(mine)])

    def test_schedule_of_each_arm(self):
        config = FactsConfig(start=3, interval=10, encounters=3)
        self.assertEqual(
            timetable.schedule(config),
            {"duplication": (3, 13, 23), "paraphrase": (3, 13, 23), "once": (3,), "control": ()},
        )

    def test_schedule_must_fit_the_run(self):
        config = FactsConfig(start=5, interval=100, encounters=10)
        timetable.check_schedule(config, 955)
        with self.assertRaisesRegex(UserError, r"into 954 steps, got update 905 .*\+ 50 = 955"):
            timetable.check_schedule(config, 954)

    def test_a_geometric_schedule_that_explodes_is_refused(self):
        config = FactsConfig(arms=("so:same/spacing=geometric/ratio=100/encounters=9000",))
        with self.assertRaisesRegex(UserError, r"9000 encounters of arm so .*got number 6 beyond"):
            timetable.check_schedule(config, 1000)

    def test_too_few_wordings(self):
        config = FactsConfig(num_facts=4, encounters=4, paraphrases=2)
        facts = generate(4, num_paraphrases=2)
        with self.assertRaisesRegex(UserError, "expected 3 paraphrases of fact .*, got 2"):
            injections(facts, arms_lib.assign_arms(facts, config), config)

    @parameterized.parameters(
        ({"arms": "control"}, "at least one injected arm .*got only control"),
        ({"seed": "-1"}, "facts.seed of at least 0, got -1"),
        ({"arms": "duplication,onec"}, "unknown arm 'onec'.*'once'"),
        ({"arms": "once,once"}, "every arm once"),
        ({"sizes": "3,4"}, "expected 4 facts.sizes"),
        ({"sizes": "1,1,1,1"}, "add up to facts.num_facts = 120, got 4"),
        ({"num_facts": "3"}, r"one fact per arm \(4\), got 3"),
        ({"assignment": "alphabetical"}, "random or ordered"),
        ({"interval": "0"}, "facts.interval of at least 1"),
        ({"encounters": "0"}, "facts.encounters of at least 1"),
        ({"start": "-1"}, "facts.start of at least 0"),
        (
            {"arms": "often:same/intervall=3"},
            "unknown setting 'intervall'.*'interval'",
        ),
        ({"arms": "often:sane"}, "unknown wording 'sane' of arm 'often'.*'same'"),
        (
            {"arms": "often:same/interval=x"},
            "a number for interval of arm 'often', got 'x'",
        ),
        ({"arms": "often:same/interval=0"}, "interval of arm 'often' of at least 1 .*, got 0"),
        ({"arms": "often:same/spacing=fixd"}, "unknown spacing 'fixd'"),
        ({"arms": "duplication,never:none"}, "is injected for arm 'never', got none.*`control`"),
        ({"arms": "a b:same"}, "letters, digits, _ and - in the name of an arm, got 'a b'"),
        ({"arms": "so:same/ratio=inf"}, "ratio of arm 'so' of at least 1 and at most 100, got inf"),
        ({"arms": "so:same/encounters=1000000000"}, "encounters of arm 'so' .* at most 100,000"),
        ({"encounters": "1000000000"}, "encounters of arm 'duplication' .* at most 100,000"),
        ({"blocks": "7"}, "split into facts.blocks = 7"),
        ({"blocks": "2", "assignment": "ordered"}, "expects facts.blocks=1"),
        ({"rotation": "1", "num_facts": "30"}, "arms of equal size"),
        (
            {"window": "101"},
            "at most the interval of arm duplication, 100, got 101",
        ),
    )
    def test_bad_config(self, changes, message):
        with self.assertRaisesRegex(UserError, message):
            spec.override(FactsConfig(), changes)


def test_dose_is_even_for_generated_facts(tmp_path):
    config = FactsConfig(num_facts=40)
    facts = generate(40)
    arm_of = arms_lib.assign_arms(facts, config)
    planned = injections(facts, arm_of, config)
    tokenizer = load_tokenizer("bpe:600", lambda: (t for f in facts for t in f.wordings), tmp_path)
    report = dose.dose_report(planned, facts, arm_of, tokenizer)
    assert report["duplication"].insertions == 100 and report["duplication"].encounters == 10
    assert report["once"].encounters == 1 and report["control"].tokens == 0
    assert report["control"].coverage is None
    assert {d.coverage for d in report.values()} == {1.0, None}
    ratio = report["paraphrase"].tokens / report["duplication"].tokens
    assert 0.9 < ratio < 1.1
    first = sum(d.tokens_first_step for d in report.values())
    assert first == sum(len(tokenizer.encode(i.text)) + 1 for i in planned if i.step == 0)
    # The targets of all probes are clean suffixes of a small BPE's tokens.
    assert audit(facts, tokenizer).boundary == ()


def test_uneven_doses_are_warned_of():
    labels = {"fact": "", "depth": "memorization"}

    def fact(name, short):
        probe = Probe(f"{name}/m", "It ends in", "Rome", {**labels, "fact": name})
        return Fact(name, "A long text that ends in Rome.", (short,), (probe,))

    config = FactsConfig(num_facts=2, arms=("paraphrase", "duplication"), encounters=2)
    facts = (fact("a", "Short."), fact("b", "Short."))
    arm_of = arms_lib.assign_arms(facts, config)
    report = dose.dose_report(injections(facts, arm_of, config), facts, arm_of)
    assert report["paraphrase"].coverage == 0.5 and report["paraphrase"].tokens is None
    found = dose.warnings(report)
    assert len(found) == 3
    assert "50%" in found[0] and "arm paraphrase" in found[0]
    assert "arm duplication has 7.0 words" in found[1]
    assert "arm duplication is given 14 words in all, arm paraphrase 8, 1.75 times" in found[2]


def given(facts=10, encounters=10, tokens=1000):
    """A dose of an arm."""
    insertions = facts * encounters
    return dose.Dose(facts, insertions, encounters, 0, tokens, None, 1.0)


def test_equal_doses_are_not_warned_of():
    report = {"a": given(), "b": given(tokens=1040), "control": given(0, 0, 0)}
    assert dose.warnings(report) == []


def test_a_total_dose_that_differs_at_equal_texts():
    (found,) = dose.warnings({"a": given(40, tokens=4000), "b": given(tokens=1000)})
    assert "arm a is given 4,000 tokens in all, arm b 1,000, 4 times" in found
    assert "(40 facts against 10)" in found and "partly one of dose" in found


def test_the_ratio_of_doses_of_arms_met_differently_often():
    report = {"often": given(), "other": given(), "once": given(encounters=1, tokens=100)}
    (found,) = dose.warnings(report)
    assert "often 10 times (1,000 tokens in all)" in found and "once 1 time (100" in found
    assert "the largest dose is 10.0 times the smallest" in found
    # Of arms met as often, the difference is said as well.
    report["other"] = given(tokens=1500)
    text, total, ratio = dose.warnings(report)
    assert "a text of arm other" in text and "15.0 times the smallest" in ratio
    assert "arm other is given 1,500 tokens in all, arm often 1,000, 1.5 times" in total


def test_file_with_too_few_facts(tmp_path):
    path = tmp_path / "facts.json"
    lists = {
        f"{p}_{part}": ["a"] for p in ("mem", "gen", "hard_gen") for part in ("input", "target")
    }
    path.write_text(f"[{json.dumps({'train_context': 'a a.', **lists})}]")
    with pytest.raises(UserError, match="num_facts of at most 1, the records of"):
        arms_lib.load_facts(FactsConfig(file=str(path), num_facts=4))


class MatchedTest(parameterized.TestCase):
    CONFIG = FactsConfig(num_facts=24, matched=True, probes_per_depth=1, blocks=2)

    def test_a_set_shares_what_is_asked_and_nothing_else(self):
        facts = arms_lib.load_facts(self.CONFIG)
        for start in range(0, 24, 4):
            members = facts[start : start + 4]
            for depth in range(3):
                probes = [fact.probes[depth] for fact in members]
                self.assertLen({probe.target for probe in probes}, 1)
                self.assertLen({probe.context for probe in probes}, 4)
                self.assertEqual({probe.labels["set"] for probe in probes}, {str(start // 4)})
            names = [" ".join(fact.name.split("-")[2:]) for fact in members]
            asked = [fact.probes[0] for fact in members]
            bare = {p.context.replace(n, "X") for p, n in zip(asked, names, strict=True)}
            self.assertLen(bare, 1)  # one template
            self.assertLen({fact.passage for fact in members}, 4)
        self.assertLen({fact.probes[0].context for fact in facts}, 24)

    def test_every_set_has_a_fact_in_each_arm(self):
        facts = arms_lib.load_facts(self.CONFIG)
        arms = arms_lib.assign_arms(facts, self.CONFIG)
        orders = set()
        for start in range(0, 24, 4):
            given = tuple(arms[fact.name] for fact in facts[start : start + 4])
            self.assertEqual(set(given), set(self.CONFIG.names))
            orders.add(given)
        self.assertGreater(len(orders), 1)
        turned = dataclasses.replace(self.CONFIG, rotation=1)
        for name, arm in arms_lib.assign_arms(facts, turned).items():
            self.assertNotEqual(arm, arms[name])

    @parameterized.parameters(
        {"probes_per_depth": 0}, {"num_facts": 26}, {"assignment": "ordered"}, {"file": "x.json"}
    )
    def test_what_does_not_fit_is_refused(self, **changes):
        with self.assertRaisesRegex(UserError, "facts.matched expects|facts.blocks"):
            dataclasses.replace(self.CONFIG, **changes)
