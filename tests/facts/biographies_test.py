import dataclasses
import math
import re
from collections import Counter

import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import biographies as lib
from llm_dynamics.facts.biographies import ATTRIBUTES, BiographyConfig
from llm_dynamics.facts.biography_templates import TEMPLATES

SMALL = BiographyConfig(people=60, unseen=15, name_words=20, answers=6, texts=3)


def facts_of(text, people):
    """Reads (number, attribute, wording, answer) back out of a text by its templates alone."""
    by_name = {person.name: person.number for person in people}
    found = []
    for line in text.split("\n"):
        for attribute, (_, templates) in TEMPLATES.items():
            for index, template in enumerate(templates):
                pattern = re.escape(template).replace(r"\{n\}", r"(\w+ \w+)", 1)
                match = re.fullmatch(pattern.replace(r"\{x\}", r"(\w+)") + r"\.", line)
                if match:
                    found.append((by_name[match[1]], attribute, index, match[2]))
    return found


def read_corpus(people, seed=0):
    return [fact for _, text in lib.documents(people, seed) for fact in facts_of(text, people)]


class PopulationTest(parameterized.TestCase):
    def test_deterministic_in_the_seed_and_full_names_unique(self):
        people = lib.invent(SMALL)
        self.assertEqual(people, lib.invent(SMALL))
        self.assertEqual(lib.source(people, 0).fingerprint, lib.source(people, 0).fingerprint)
        other = lib.invent(dataclasses.replace(SMALL, seed=1))
        self.assertNotEqual([p.name for p in people], [p.name for p in other])
        self.assertLen({p.name for p in people}, 75)

    def test_unseen_people_are_never_in_the_corpus_but_every_word_of_their_names_is(self):
        people = lib.invent(SMALL)
        corpus = "\n".join(text for _, text in lib.documents(people, 0))
        words = set(re.findall(r"\w+", corpus))
        for person in people:
            self.assertEqual(person.name in corpus, person.group == "seen")
            self.assertContainsSubset(person.name.split(), words)

    @parameterized.parameters("person", "everyone")
    def test_held_out_wordings_are_never_in_a_text_about_the_person(self, held_out):
        config = dataclasses.replace(SMALL, held_out=held_out)
        people = lib.invent(config)
        read = {(number, attribute, index) for number, attribute, index, _ in read_corpus(people)}
        asked = {"training": 0, "held_out": 0}
        for probe in lib.probes(people, config):
            (fact,) = facts_of(f"{probe.text}.", people)
            asked[probe.labels["wording"]] += 1
            if probe.labels["group"] == "seen":
                self.assertEqual(fact[:3] in read, probe.labels["wording"] == "training")
            if held_out == "everyone" and probe.labels["wording"] == "held_out":
                self.assertNotIn(fact[1:3], {r[1:] for r in read})
        self.assertEqual(asked, {"training": 75 * 6, "held_out": 75 * 6})

    def test_every_document_tells_every_attribute_of_one_person_once(self):
        people = lib.invent(SMALL)
        for doc_id, text in lib.documents(people, 0):
            facts = facts_of(text, people)
            number = int(doc_id[7:12])
            self.assertEqual({n for n, *_ in facts}, {number})
            told = {attribute: answer for _, attribute, _, answer in facts}
            self.assertEqual(told, dict(zip(ATTRIBUTES, people[number].answers, strict=True)))
            self.assertLen(facts, len(ATTRIBUTES))

    def test_fixed_people_repeat_one_text_and_others_do_not(self):
        people = lib.invent(dataclasses.replace(SMALL, fixed_share=0.5))
        texts = {}
        for doc_id, text in lib.documents(people, 0):
            texts.setdefault(int(doc_id[7:12]), []).append(text)
        self.assertEqual(sum(p.is_fixed for p in people), 30)
        for number, own in texts.items():
            self.assertLen(own, 3)
            self.assertLen(set(own), 1 if people[number].is_fixed else 3)

    def test_zipf_exposure_follows_its_exponent_and_keeps_the_total(self):
        config = dataclasses.replace(
            SMALL, people=60, texts=101, exposure="zipf", zipf_exponent=0.7
        )
        counts = sorted((p.documents for p in lib.invent(config) if p.documents), reverse=True)
        self.assertEqual(sum(counts), 60 * 101)
        slope = np.polyfit(np.log(np.arange(1, 61)), np.log(np.array(counts) - 1), 1)[0]
        self.assertAlmostEqual(slope, -0.7, places=2)
        self.assertGreaterEqual(min(counts), 1)

    @parameterized.parameters(
        ({"name_words": 8}, "raise biographies.name_words"),
        ({"skew": 3.0}, "every answer to belong to someone"),
        ({"answers": 99}, "biographies.answers from 2"),
        ({"held_out_wordings": 6}, "held_out_wordings from 1 to 5"),
        ({"exposure": "ziph"}, "did you mean 'zipf'"),
        ({"probed": 61}, "probed from 0 to 60"),
    )
    def test_what_cannot_be_is_refused(self, changes, message):
        with self.assertRaisesRegex(UserError, message):
            dataclasses.replace(SMALL, **changes)


class BaselineTest(parameterized.TestCase):
    @parameterized.product(skew=(0.0, 1.0), exposure=("uniform", "zipf"))
    def test_the_baseline_is_that_of_the_shares_counted_in_the_corpus(self, skew, exposure):
        config = dataclasses.replace(SMALL, skew=skew, exposure=exposure)
        people = lib.invent(config)
        count = Counter((attribute, answer) for _, attribute, _, answer in read_corpus(people))
        total = sum(p.documents for p in people)
        wanted = [
            [
                -math.log(count[attribute, answer] / total)
                for attribute, answer in zip(ATTRIBUTES, person.answers, strict=True)
            ]
            for person in people
        ]
        np.testing.assert_allclose(lib.baselines(people), wanted, rtol=1e-12)

    def test_no_predictor_blind_to_people_loses_less(self):
        people = lib.invent(dataclasses.replace(SMALL, skew=1.0))
        column = [person.answers[0] for person in people if person.group == "seen"]
        options, counts = np.unique(column, return_counts=True)
        baseline = lib.baselines(people)[: len(column), 0].mean()
        shares = counts / counts.sum()
        self.assertAlmostEqual(baseline, -(shares * np.log(shares)).sum(), places=12)
        rng = np.random.default_rng(0)
        for guess in rng.dirichlet(np.ones(len(options)), 5000) * 0.2 + shares * 0.8:
            self.assertGreater(-(shares * np.log(guess)).sum(), baseline)

    def test_answers_are_dealt_in_the_known_shares(self):
        config = dataclasses.replace(SMALL, people=200, name_words=30, skew=1.0)
        wanted = lib.distribution(config)
        np.testing.assert_allclose(wanted, np.array([60, 30, 20, 15, 12, 10]) / 147)
        for a in range(len(ATTRIBUTES)):
            dealt = Counter(p.answers[a] for p in lib.invent(config) if p.group == "seen")
            found = np.array(sorted(dealt.values(), reverse=True)) / 200
            np.testing.assert_allclose(found, wanted, atol=1 / 200)

    @parameterized.parameters(([1, 1, 1], 10, [4, 3, 3]), ([5, 3, 2], 10, [5, 3, 2]))
    def test_quotas(self, shares, total, wanted):
        self.assertEqual(lib.quotas(np.array(shares), total), wanted)

    def test_an_answer_that_begins_another_is_refused(self):
        lib.check_answers({"animal": {"rat": (1, 2), "cat": (1, 3), "rats": (2,)}})
        with self.assertRaisesRegex(UserError, "'rat' and 'rats'"):
            lib.check_answers({"animal": {"rat": (1, 2), "cow": (0,), "rats": (1, 2, 5)}})


if __name__ == "__main__":
    absltest.main()
