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
from llm_dynamics.facts import dose
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.audit import audit
from llm_dynamics.facts.facts import Fact, label_arms
from llm_dynamics.facts.generator import generate
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
        self.assertEqual(arms_lib.window_from_beta1(beta1), window)

    def test_never_reaches_beyond_the_next_encounter(self):
        self.assertEqual(arms_lib.resolve_window(FactsConfig(interval=30), 0.9), 30)
        self.assertEqual(arms_lib.resolve_window(FactsConfig(interval=30, encounters=1), 0.9), 50)
        self.assertEqual(arms_lib.resolve_window(FactsConfig(window=7), 0.9), 7)


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


class InjectionTest(parameterized.TestCase):
    def test_paper_preset(self):
        facts = generate(130)
        planned = arms_lib.injections(facts, arms_lib.assign_arms(facts, PAPER), PAPER)
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
        planned = arms_lib.injections(facts, arm_of, config)
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
            arms_lib.schedule(config),
            {"duplication": (3, 13, 23), "paraphrase": (3, 13, 23), "once": (3,), "control": ()},
        )

    def test_schedule_must_fit_the_run(self):
        config = FactsConfig(start=5, interval=100, encounters=10)
        arms_lib.check_schedule(config, 955)
        with self.assertRaisesRegex(UserError, r"into 954 steps, got update 905 .*\+ 50 = 955"):
            arms_lib.check_schedule(config, 954)

    def test_too_few_wordings(self):
        config = FactsConfig(num_facts=4, encounters=4, paraphrases=2)
        facts = generate(4, num_paraphrases=2)
        with self.assertRaisesRegex(UserError, "expected 3 paraphrases of fact .*, got 2"):
            arms_lib.injections(facts, arms_lib.assign_arms(facts, config), config)

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
        ({"window": "101"}, "facts.window of at most facts.interval = 100, got 101"),
    )
    def test_bad_config(self, changes, message):
        with self.assertRaisesRegex(UserError, message):
            spec.override(FactsConfig(), changes)


def test_dose_is_even_for_generated_facts(tmp_path):
    config = FactsConfig(num_facts=40)
    facts = generate(40)
    arm_of = arms_lib.assign_arms(facts, config)
    planned = arms_lib.injections(facts, arm_of, config)
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
    report = dose.dose_report(arms_lib.injections(facts, arm_of, config), facts, arm_of)
    assert report["paraphrase"].coverage == 0.5 and report["paraphrase"].tokens is None
    found = dose.warnings(report)
    assert len(found) == 2
    assert "50%" in found[0] and "arm paraphrase" in found[0]
    assert "arm duplication has 7.0 words" in found[1]


def test_file_with_too_few_facts(tmp_path):
    path = tmp_path / "facts.json"
    lists = {
        f"{p}_{part}": ["a"] for p in ("mem", "gen", "hard_gen") for part in ("input", "target")
    }
    path.write_text(f"[{json.dumps({'train_context': 'a a.', **lists})}]")
    with pytest.raises(UserError, match="num_facts of at most 1, the records of"):
        arms_lib.load_facts(FactsConfig(file=str(path), num_facts=4))
