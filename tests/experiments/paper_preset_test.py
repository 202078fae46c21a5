"""The published protocol as a preset: what it injects, scores and reads, without computing it."""

import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from experiments import cli, facts, facts_presets
from llm_dynamics.data.injection import dose
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.spec import override
from llm_dynamics.train.parts import Parts

SOURCE = [494] * 94 + [495] * 26  # tokens with their end, 59,374 together as published
SOURCE[-1] += 59_374 - sum(SOURCE)


def _records(rng):
    """130 records of the published schema; a token is a byte, so passages have published sizes."""

    def text(size):
        letters = "".join(rng.choices("abcdefgh ", k=size - 1))
        return " ".join(letters.split()).ljust(size - 1, "x")

    sizes = SOURCE + [400] * 10
    for k, size in enumerate(sizes):
        probes = {}
        for kind in ("mem", "gen", "hard_gen"):
            probes[f"{kind}_input"] = [text(40) + f" {kind} {k} {i}" for i in range(5)]
            probes[f"{kind}_target"] = [text(9) for _ in range(5)]
        paraphrases = [text(300) for _ in range(9)] if k < 40 else []
        yield {"train_context": text(size), "paraphrases": paraphrases, **probes}


class PaperPresetTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        rng = random.Random(0)
        (cls.root / "facts.json").write_text(json.dumps(list(_records(rng))))
        words = [" ".join(rng.choices(["lamp", "river", "stone"], k=900)) for _ in range(40)]
        lines = [json.dumps({"text": text + str(i)}) for i, text in enumerate(words)]
        (cls.root / "corpus.jsonl").write_text("\n".join(lines) + "\n")
        cls.changes = {
            "facts.file": str(cls.root / "facts.json"),
            "data.sources": str(cls.root / "corpus.jsonl"),
            "data.tokenizer": "bytes",
            "data.cache_dir": str(cls.root / "cache"),
        }

    def _prepared(self, name):
        spec = cli.resolve(facts_presets.PRESETS[name](), "", self.changes)
        return spec, facts.prepare(spec)

    @parameterized.parameters(("paper", 2048, 0.014, 0.059), ("paper128", 128, 0.226, 0.94))
    def test_published_numbers(self, name, rows, token_share, row_share):
        spec, ready = self._prepared(name)
        self.assertEqual(
            (spec.data.batch_size, spec.data.length, spec.train.steps), (rows, 2048, 2500)
        )
        self.assertLen(ready.injections, 840)
        self.assertLen(ready.probes, 1800)
        self.assertEqual(ready.steps.tolist(), list(range(2501)))
        counts = np.unique([i.step for i in ready.injections], return_counts=True)
        self.assertEqual(counts[0].tolist(), list(range(0, 1000, 100)))
        self.assertEqual(counts[1].tolist(), [120] + [80] * 9)
        arms = [arm for arm in ready.arms.values()]
        self.assertEqual(arms, ["paraphrase"] * 40 + ["duplication"] * 40 + ["once"] * 40)
        first = dose([p for p in ready.plan._placed if p.injection.step == 0]).values()
        tokens, touched = (sum(d[k] for d in first) for k in ("tokens", "rows"))
        self.assertEqual((tokens, touched), (59_374, 120))
        self.assertAlmostEqual(tokens / ready.plan.tokens_per_step, token_share, delta=5e-4)
        self.assertAlmostEqual(touched / rows, row_share, delta=5e-3)

    def test_what_is_said_at_each_encounter(self):
        _, ready = self._prepared("paper128")
        texts = {}
        for injection in ready.injections:
            texts.setdefault(injection.name, []).append(injection.text)
        for k, fact in enumerate(ready.facts):
            said = texts[fact.name]
            self.assertEqual(said[0], fact.passage)
            expected = [*fact.paraphrases] if k < 40 else [fact.passage] * (9 if k < 80 else 0)
            self.assertEqual(said[1:], expected)

    def test_rows_begin_with_the_passages_and_nothing_is_masked(self):
        _, ready = self._prepared("paper128")
        batch, plain = ready.plan.batch(100), ready.plan.batch(101)
        self.assertEqual(batch.mask_BxL.mean(), 1)
        self.assertEqual(set(batch.segment_ids_BxL.ravel()), {1})
        for row, fact in enumerate(ready.facts[:80]):
            said = fact.paraphrases[0] if row < 40 else fact.passage
            expected = [*ready.tokenizer.encode(said), ready.tokenizer.eos_id]
            self.assertEqual(batch.tokens_BxL[row, : len(expected)].tolist(), expected)
        self.assertEqual(ready.plan.explain(100)[80]["injected"], [])
        self.assertEqual(plain.tokens_BxL.shape, (128, 2048))

    def test_learning_rates_of_the_stages(self):
        """Table 5: 0.000398, 0.000379 and 0.000230 at steps 40,000, 117,850 and about 358,000."""
        config = facts_presets.paper().optim.schedule
        rates = [
            float(make_schedule(config, 2500, first)(0)) for first in (40_000, 117_850, 358_000)
        ]
        np.testing.assert_allclose(rates, [3.98e-4, 3.79e-4, 2.30e-4], atol=1e-6)

    def test_settings(self):
        spec = facts_presets.paper()
        optim, start = spec.optim, spec.train.start
        self.assertEqual(
            (optim.b1, optim.b2, optim.weight_decay, optim.clip_norm, spec.facts.window),
            (0.9, 0.95, 0.1, 1.0, 50),
        )
        self.assertEqual((start.optimizer, start.continue_schedule), ("keep", True))
        small = facts_presets.paper128()
        self.assertEqual(
            (small.optim.schedule.kind, small.train.start.optimizer), ("constant", "reset")
        )
        self.assertEqual(spec.model.compute_dtype, "bfloat16")


class CautionsAtStartTest(parameterized.TestCase):
    def _found(self, name, first, **changes):
        spec = override(facts_presets.PRESETS[name](), changes)
        schedule = make_schedule(spec.optim.schedule, spec.train.steps)
        return facts.cautions_at_start(Parts(spec, None, None, schedule, None, None), first)

    def test_an_encounter_within_the_warm_up_is_told_with_its_learning_rate(self):
        self.assertEmpty(self._found("laptop", 30))
        (caution,) = self._found("laptop", 6)
        self.assertIn("at update 6, falls into the warm-up (it ends at update 30)", caution)
        self.assertIn("is 20.00% of its peak", caution)

    @parameterized.parameters("paper", "paper128")
    def test_a_protocol_that_goes_on_from_a_checkpoint_says_that_none_is_given(self, name):
        self.assertIn("starts from fresh parameters", self._found(name, 2000)[0])
        self.assertEmpty(self._found(name, 2000, **{"train.start.run": "other"}))


if __name__ == "__main__":
    absltest.main()
