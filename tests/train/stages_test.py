"""Stages that replay what the ones before them read, and runs that may not."""

import dataclasses
import json
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.injection import Injection
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.spec import override
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train import plan_lines, replayed
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.metrics import read
from llm_dynamics.train.run_folder import RunFolder, read_spec
from llm_dynamics.train.start import Origin

B = 8


def _corpus(root, name):
    """Documents whose words say which source they are of."""
    rng = random.Random(name)
    texts = [" ".join(f"{name}{rng.randrange(99)}" for _ in range(20)) for _ in range(60)]
    path = root / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def _spec(root):
    sizes = {"vocab_size": 264, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32}
    return RunSpec(
        model=presets.named("pocket-0.1m", **sizes),
        data=DataConfig(
            (_corpus(root, "a"),),
            "bytes",
            length=32,
            batch_size=B,
            validation_fraction=0.2,
            cache_dir=str(root / "cache"),
        ),
        optim=OptimConfig(ScheduleConfig("constant", 1e-2)),
        train=TrainConfig(
            4,
            validate_every=2,
            validation_batches=1,
            checkpoint=CheckpointConfig(every=2, keep=9),
            tensorboard=False,
        ),
        probe=ProbeConfig(),
    )


class LineageTest(parameterized.TestCase):
    """Run folders as runs write them, without the training."""

    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path)
        self.spec = _spec(self.root)
        self.folders = {}

    def _stage(self, name, parent=None, steps=10, text=None, injections=(), **changes):
        """Writes a run of `steps` steps that starts from the end of `parent`; returns its plan."""
        origin, text = None, text or name
        changes = {"train.steps": steps, "data.sources": _corpus(self.root, text)} | changes
        if parent:
            changes |= {"train.start.run": str(self.root / parent)}
            changes = {"train.start.data": "fresh"} | changes
            plan = self.folders[parent]
            last = plan.first_step + plan.steps
            origin = Origin(
                str(self.root / parent), plan.steps, "", "", plan.tokenizer_fingerprint, 0, 0, last
            )
        spec = override(self.spec, changes)
        folder = RunFolder(self.root / name)
        lineage = replayed.find(spec, origin, folder)
        first = origin.data_step if origin and spec.train.start.data == "continue" else 0
        plan = build_plan(
            spec.data, None, injections, steps=steps, first_step=first, lineage=lineage
        )
        folder.claim(spec, plan.describe(), origin)
        folder._lock.close()
        self.folders[name] = plan
        return plan

    def _replay(self, **shares):
        return {"data.replay": tuple(f"{self.root / run}@{x}" for run, x in shares.items())}

    def _rows(self, plan, run=None):
        """The tokens of the rows of a plan that `run` read first, or of all its rows."""
        found = []
        for step in range(plan.steps):
            batch, rows = plan.batch(step), plan.explain(step)
            wanted = [r["row"] for r in rows if run in (None, Path(r.get("replayed", "")).name)]
            found.append(batch.tokens_BxL[wanted])
        return np.concatenate(found)

    def test_the_position_advances_over_three_stages(self):
        first = self._stage("a")
        second = self._stage("b", "a", **self._replay(a=0.25))
        third = self._stage("c", "b", 20, **self._replay(a=0.25, b=0.1))
        theirs = self._rows(first)
        np.testing.assert_array_equal(self._rows(second, "a"), theirs[:20])
        np.testing.assert_array_equal(self._rows(third, "a"), theirs[20:60])
        np.testing.assert_array_equal(self._rows(third, "b"), self._rows(second)[:16])
        ledger = third.describe()["ledger"]
        by_kind = {k: sum(e[k] for e in ledger.values()) for k in ("new", "replayed", "repeated")}
        self.assertEqual(by_kind["replayed"], 56 * 32)
        self.assertEqual(sum(by_kind.values()), 160 * 32)
        stages = third.describe()["stages"]
        self.assertEqual([Path(stage["run"]).name for stage in stages], ["a", "b"])
        self.assertEqual([stage["tokens"] for stage in stages], [80 * 32] * 2)
        for stage, plan in zip(stages, (first, second), strict=True):
            self.assertEqual(stage["ledger"], plan.ledger())

    def test_a_run_that_reads_on_goes_on_with_its_replay(self):
        first = self._stage("a")
        second = self._stage("b", "a", **self._replay(a=0.25))
        changes = {"train.start.data": "continue"} | self._replay(a=0.25)
        on = self._stage("b2", "b", text="b", **changes)
        self.assertEqual(on.first_step, 10)
        third = self._stage("c", "b2", **self._replay(a=0.5))
        theirs = self._rows(first)
        parts = [self._rows(plan, "a") for plan in (second, on, third)]
        self.assertEqual([len(part) for part in parts], [20, 20, 40])
        np.testing.assert_array_equal(np.concatenate(parts), theirs)

    def test_injected_passages_do_not_come_again(self):
        plain = self._stage("a")
        passage = Injection(0, "a lamp in the tower", "lamp")
        self._stage("with", None, text="a", injections=[passage])
        second = self._stage("b", "with", **self._replay(**{"with": 0.25}))
        np.testing.assert_array_equal(self._rows(second, "with"), self._rows(plain)[:20])

    def test_an_earlier_checkpoint_has_seen_less(self):
        self._stage("a")
        first = self.folders["a"]
        first.steps = 2  # the lineage goes on from step 2: what came after was another future
        second = self._stage("b", "a", **self._replay(a=0.25))
        theirs = self._rows(first)
        self.assertLen(theirs, 16)
        np.testing.assert_array_equal(self._rows(second, "a"), np.concatenate([theirs, theirs[:4]]))
        self.assertEqual(
            second.ledger()[first.describe()["sources"][0]["name"]]["repeated"], 4 * 32
        )

    def test_the_same_text_as_the_stage_before_is_not_new(self):
        self._stage("a")
        again = self._stage("again", "a", text="a")
        (entry,) = again.ledger().values()
        self.assertEqual(entry["new"], 0)
        self.assertEqual(entry["repeated"], 80 * 32)

    def test_a_resume_asks_no_other_folder(self):
        self._stage("a")
        plan = self._stage("b", "a", **self._replay(a=0.25))
        spec = override(
            self.spec,
            {"data.sources": _corpus(self.root, "b"), "train.start.run": str(self.root / "a")}
            | self._replay(a=0.25),
        )
        shutil.rmtree(self.root / "a")
        lineage = replayed.find(spec, None, RunFolder(self.root / "b"))
        self.assertEqual(
            build_plan(spec.data, steps=10, lineage=lineage).fingerprint, plan.fingerprint
        )

    def test_runs_of_earlier_versions(self):
        first = self._stage("a")
        path = self.root / "a" / "spec.json"
        record = json.loads(path.read_text())
        for key in ("lineage", "stages", "ledger", "replay", "also_validate"):
            del record["data"][key]
        for key in ("replay", "also_validate", "tokenizer_sources"):
            del record["spec"]["data"][key]
        for key in ("weight", "text"):
            del record["data"]["sources"][0][key]
        path.write_text(json.dumps(record))
        second = self._stage("b", "a", **self._replay(a=0.25))
        np.testing.assert_array_equal(self._rows(second, "a"), self._rows(first)[:20])

    def _refused(self, message, *stage, **changes):
        with self.assertRaisesRegex(UserError, message) as caught:
            self._stage(*stage, **changes)
        self.assertNotIn("\n", str(caught.exception))

    def test_what_was_never_trained_on_is_refused(self):
        self._stage("a")
        self._stage("x")
        self._stage("b", "a")
        self._refused("starts from fresh parameters, which were never", "c", **self._replay(a=0.1))
        message = f"/x, but this run's parameters were never .* comes from {self.root}/a and "
        self._refused(message, "c", "b", **self._replay(x=0.1))
        message = "nowhere .there is no run in that folder., but"
        self._refused(message, "c", "b", **self._replay(nowhere=0.1))

    def test_what_does_not_fit_is_refused(self):
        self._stage("a")
        self._refused("rows have 32 tokens, and this run's have 16; give this run data.length=32",
                      "b", "a", **self._replay(a=0.1) | {"data.length": 16})  # fmt: skip
        bpe = {"data.tokenizer": "bpe:260"}
        self._refused("trained with another tokenizer", "b", "a", **self._replay(a=0.1) | bpe)
        self.folders["a"].steps = 0
        self._refused("had read nothing at step 0", "b", "a", **self._replay(a=0.1))

    def test_one_stage_under_two_names_is_refused(self):
        self._stage("a")
        self._stage("a2", "a", text="a", **{"train.start.data": "continue"})
        self._refused("name the later one alone", "b", "a2", **self._replay(a=0.1, a2=0.1))

    def test_text_that_changed_is_refused(self):
        self._stage("a")
        path = Path(self.spec.data.sources[0])
        path.write_text(path.read_text().replace("a1 ", "a2 "))
        self._refused("which read other text than there", "b", "a", **self._replay(a=0.1))

    def test_text_that_a_study_made_itself_is_refused_and_counted(self):
        self._stage("a")
        path = self.root / "a" / "spec.json"
        record = json.loads(path.read_text())
        made = record["data"]["sources"][0] | {"name": "made", "text": "made"}
        record["data"]["sources"].append(made)
        path.write_text(json.dumps(record))
        self._refused("read 2 sources, and its settings name 1", "b", "a", **self._replay(a=0.1))
        (stage,) = self._stage("c", "a").describe()["stages"]
        self.assertIn("made", stage["ledger"])

    def test_a_stage_without_its_spec(self):
        self._stage("a")
        (self.root / "a" / "spec.json").unlink()
        self._refused("is not a run's spec", "b", "a", **self._replay(a=0.1))
        with self.assertLogs("llm_dynamics") as logs:
            plan = self._stage("b", "a")
        self.assertIn("the token ledger begins with this run", "".join(logs.output))
        self.assertEqual(plan.describe()["stages"], [])

    def test_a_plan_without_the_lineage_is_a_mistake_of_the_study(self):
        with self.assertRaisesRegex(ValueError, "a lineage that resolves"):
            build_plan(dataclasses.replace(self.spec.data, replay=("a@0.1",)))


class TrainedTest(absltest.TestCase):
    def test_two_stages_from_end_to_end(self):
        root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, root, ignore_errors=True)
        spec = _spec(root)
        a, b = spec.data.sources[0], _corpus(root, "b")
        self._run(spec, root / "first")
        begin = {
            "train.start.run": str(root / "first"),
            "train.start.data": "fresh",
            "train.start.continue_schedule": False,
        }
        data = {
            "data.sources": b,
            "data.replay": f"{root / 'first'}@0.25",
            "data.also_validate": (a, b),
        }
        refused = override(spec, begin | data | {"data.replay": f"{root / 'second'}@0.25"})
        with self.assertRaisesRegex(UserError, "never trained on"):
            parts_lib.build(refused)
        second = override(spec, begin | data)
        folder, lines = self._run(second, root / "second")
        text = "\n".join(lines)
        self.assertIn(f"replay: 25.00% of rows from {root / 'first'}, rows 0 to 7 of the 32", text)
        self.assertRegex(text, rf"ledger of {root / 'first'}:\n  {a}\s+new 32 rows")
        self.assertRegex(text, rf"ledger:\n  {b}\s+new 24 rows \(768 tokens\)")
        self.assertRegex(text, rf"  {a}\s+replayed 8 rows \(256 tokens\)")
        self.assertIn(f"also validated: {a}, ", text)

        rows = read(folder.metrics)
        both = [row for row in rows if "validation_loss" in row]
        self.assertEqual([row["step"] for row in both], [0, 2, 4])
        for row in both:
            # Trained on b alone, the run's own validation set is that of b.
            self.assertEqual(row["validation_loss"], row[f"validation_loss/{b}"])
            self.assertNotEqual(row["validation_loss"], row[f"validation_loss/{a}"])
        # The first stage ends where the second begins, on the same documents.
        last = read(root / "first" / "metrics.jsonl")[-1]["validation_loss"]
        self.assertAlmostEqual(both[0][f"validation_loss/{a}"], last, places=6)
        ledger = read_spec(folder.spec)["data"]["ledger"]
        self.assertEqual(ledger[a], {"new": 0, "replayed": 256, "repeated": 0})

        # Resumed from step 2, without the first stage, it reads the same rows again.
        shutil.rmtree(folder.checkpoints / "4")
        shutil.rmtree(root / "first")
        self._run(second, root / "second")
        again = read(folder.metrics)
        self.assertEqual([row.get("loss") for row in again], [row.get("loss") for row in rows])

    def _run(self, spec, path):
        folder = RunFolder(path)
        parts = parts_lib.build(spec, folder)
        plan = build_plan(
            spec.data,
            steps=spec.train.steps,
            first_step=parts.first_data_step,
            lineage=parts.lineage,
        )
        lines = plan_lines.describe(parts, plan)
        folder.claim(spec, plan.describe(), parts.origin)
        train(parts, plan, folder)
        folder._lock.close()
        return folder, lines


if __name__ == "__main__":
    absltest.main()
