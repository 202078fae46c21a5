"""A run that starts from another's checkpoint: the same bits, or a refusal that says why."""

import dataclasses
import json
import random
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import chex
import jax
import numpy as np
import optax
from absl.testing import absltest, parameterized

from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.injection import Injection
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets, sharding
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.spec import fingerprint, from_json, override
from llm_dynamics.train import checkpoint_reader, plan_lines, start
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train.checkpoint import Checkpoints
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.loop import train
from llm_dynamics.train.metrics import read
from llm_dynamics.train.run_folder import RunFolder, read_spec

FACT = Injection(6, "a lamp in the tower", "lamp")


def _spec(root):
    words = "lamp river lit evening boats home stone paper winter garden bridge tower".split()
    rng = random.Random(0)
    for name in ("corpus", "other"):
        texts = [" ".join(rng.choices(words, k=30 + i % 9)) for i in range(60)]
        lines = [json.dumps({"text": text}) for text in texts]
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    sizes = {"vocab_size": 264, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32}
    return RunSpec(
        model=presets.named("pocket-0.1m", **sizes),
        data=DataConfig(
            (str(root / "corpus.jsonl"),),
            "bytes",
            length=32,
            batch_size=8,
            validation_fraction=0,
            cache_dir=str(root / "cache"),
        ),
        optim=OptimConfig(ScheduleConfig("cosine", 1e-2, warmup=3)),
        train=TrainConfig(
            8, validate_every=0, checkpoint=CheckpointConfig(every=2, keep=9), tensorboard=False
        ),
        probe=ProbeConfig(),
    )


def _run(spec, path, injections=()):
    folder = RunFolder(path)
    parts = parts_lib.build(spec, folder)
    plan = build_plan(
        spec.data,
        injections=injections,
        steps=spec.train.steps,
        first_step=parts.first_data_step,
    )
    folder.claim(spec, plan.describe(), parts.origin)
    train(parts, plan, folder)
    folder._lock.close()
    return folder


def _later(start):
    """The parent's injection, as a run that starts at `start` counts steps."""
    return Injection(FACT.step - start, FACT.text, FACT.name)


def _state(folder, step):
    """The state saved at a step, onto the shapes of the run it belongs to."""
    spec = from_json(RunSpec, read_spec(folder.spec)["spec"])
    checkpoints = Checkpoints(folder.checkpoints, spec.train.checkpoint, spec.train.steps)
    state = checkpoints.restore(step, parts_lib.build(spec, folder).abstract)
    checkpoints.close()
    return state


def _bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(jax.device_get(tree))]


class StartTest(parameterized.TestCase):
    """`parent` runs 8 steps, `child` the last 4 of them again from the checkpoint of step 4."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.spec = _spec(cls.root)
        cls.parent = _run(cls.spec, cls.root / "parent", [FACT])
        cls.child = _run(cls._child(), cls.root / "child", [_later(4)])

    @classmethod
    def _child(cls, begin=(), **changes):
        begin = {"run": str(cls.root / "parent"), "step": 4} | dict(begin)
        begin = {f"train.start.{key}": value for key, value in begin.items()}
        return override(cls.spec, {"train.steps": 4} | begin | changes)

    def _path(self):
        return Path(self.create_tempdir().full_path) / "run"

    def test_to_go_on_is_the_uninterrupted_run_bit_for_bit(self):
        whole, mine = _state(self.parent, 8), _state(self.child, 4)
        self.assertEqual(_bits(mine.params), _bits(whole.params))
        moments = [[x for x in _bits(s.opt_state) if len(x) > 4] for s in (mine, whole)]
        self.assertNotEmpty(moments[0])
        self.assertEqual(*moments)
        self.assertEqual((int(mine.step), int(whole.step)), (4, 8))
        same = ("loss", "learning_rate", "grad_norm")
        theirs = [tuple(row[k] for k in same) for row in read(self.parent.metrics)[4:8]]
        self.assertEqual([tuple(r[k] for k in same) for r in read(self.child.metrics)], theirs)

    def test_a_chain_of_starts_is_still_the_uninterrupted_run(self):
        spec = self._child({"run": str(self.child.path), "step": 2}, **{"train.steps": 2})
        parts = parts_lib.build(spec)
        found = (parts.origin.step, parts.origin.schedule_step, parts.origin.schedule_end)
        self.assertEqual((*found, parts.first_data_step), (2, 6, 8, 6))
        with self.assertLogs("llm_dynamics") as logs:
            state = parts.first_state()
        self.assertIn(f"starting from step 2 of {self.child.path}", "".join(logs.output))
        whole = _state(self.parent, 6)
        self.assertEqual(_bits(state.params), _bits(whole.params))
        rates = [float(parts.schedule(t)) for t in (0, 1)]
        self.assertEqual(rates, [float(parts_lib.build(self.spec).schedule(t)) for t in (6, 7)])

    def test_a_resume_never_reads_the_parent_again(self):
        path = self._path()
        shutil.copytree(self.child.path, path)
        shutil.rmtree(path / "checkpoints" / "4")
        away = self.root / "away"
        self.parent.path.rename(away)
        self.addCleanup(away.rename, self.parent.path)
        again = _run(self._child(), path, [_later(4)])
        self.assertEqual(_bits(_state(again, 4).params), _bits(_state(self.child, 4).params))
        # Without a checkpoint of its own it has to begin again, and cannot.
        shutil.rmtree(path / "checkpoints")
        with self.assertRaisesRegex(UserError, "is not a checkpoint that this version can start"):
            parts_lib.build(self._child(), again)

    def test_a_parent_that_changed_before_the_first_checkpoint_is_refused(self):
        path = self._path()
        path.mkdir()
        record = json.loads(self.child.spec.read_text())
        record["parent"]["spec"] = "0" * 16
        (path / "spec.json").write_text(json.dumps(record))
        with self.assertRaisesRegex(UserError, "another one than this run began with"):
            parts_lib.build(self._child(), RunFolder(path))

    def test_lineage(self):
        parent = read_spec(self.child.spec)["parent"]
        self.assertEqual((parent["run"], parent["step"]), (str(self.parent.path), 4))
        self.assertEqual(parent["data"], read_spec(self.parent.spec)["data"]["fingerprint"])
        self.assertEqual(parent["spec"], fingerprint(read_spec(self.parent.spec)["spec"]))
        last = parts_lib.build(self._child({"step": -1, "continue_schedule": False}))
        self.assertEqual(last.origin.step, 8)

    def test_the_schedule_may_begin_anew(self):
        parts = parts_lib.build(self._child({"continue_schedule": False}))
        rates = [float(parts.schedule(t)) for t in range(4)]
        alone = parts_lib.build(override(self.spec, {"train.steps": 4}))
        self.assertEqual(rates, [float(alone.schedule(t)) for t in range(4)])
        kept, saved = (s.opt_state for s in (parts.first_state(), _state(self.parent, 4)))
        counts = [[int(x) for x in jax.tree.leaves(s) if x.ndim == 0] for s in (kept, saved)]
        self.assertEqual(counts, [[4, 0], [4, 4]])  # Adam's own count stays with the moments

    def test_the_data_may_begin_anew(self):
        self.assertEqual(parts_lib.build(self._child({"data": "fresh"})).first_data_step, 0)
        self.assertEqual(parts_lib.build(self._child()).first_data_step, 4)

    def test_the_moments_may_begin_anew(self):
        parts = parts_lib.build(self._child({"optimizer": "reset"}))
        state = parts.first_state()
        fresh = parts_lib.build(self.spec).first_state()
        self.assertEqual(_bits(state.opt_state), _bits(fresh.opt_state))
        self.assertEqual(_bits(state.params), _bits(_state(self.parent, 4).params))
        wanted = jax.tree.map(lambda x: x.sharding, parts.abstract)
        self.assertEqual(jax.tree.map(lambda x: x.sharding, state), wanted)

    @parameterized.parameters(("keep_first", "nu", 0), ("keep_second", "mu", 4))
    def test_one_of_the_moments_may_begin_anew(self, policy, reset, count):
        parts = parts_lib.build(self._child({"optimizer": policy}))
        state, saved = parts.first_state(), _state(self.parent, 4)
        mine, theirs = (
            {name: optax.tree_utils.tree_get(s.opt_state, name) for name in ("mu", "nu")}
            for s in (state, saved)
        )
        self.assertEqual(sum(float(abs(x).sum()) for x in jax.tree.leaves(mine[reset])), 0)
        (kept,) = {"mu", "nu"} - {reset}
        # Adam divides the first moments by 1 - b1 at its count 1; in an update it weighs them b1.
        scale = np.float32(1 - self.spec.optim.b1) if kept == "mu" else 1
        chex.assert_trees_all_equal(mine[kept], jax.tree.map(lambda x: x * scale, theirs[kept]))
        counts = [int(x) for x in jax.tree.leaves(state.opt_state) if x.ndim == 0]
        self.assertEqual(counts, [count, 0])
        self.assertEqual(_bits(state.params), _bits(saved.params))
        wanted = jax.tree.map(lambda x: x.sharding, parts.abstract)
        self.assertEqual(jax.tree.map(lambda x: x.sharding, state), wanted)
        with sharding.activate(parts.mesh):  # every buffer is the state's own: it is donated
            step = parts.compile_step()
            batch = build_plan(self.spec.data).batch(0)
            where = sharding.batch_sharding(parts.mesh)
            state, metrics = step(state, jax.device_put(batch, where))
        self.assertTrue(np.isfinite(metrics["loss"]))

    def test_reset_reads_a_run_with_another_optimizer_and_keep_refuses_it(self):
        other = {"optim.clip_norm": 0.0}
        parts_lib.build(self._child({"optimizer": "reset"}, **other)).first_state()
        with self.assertRaisesRegex(UserError, "does not fit this run: opt_state/"):
            parts_lib.build(self._child(**other))

    @parameterized.parameters(
        ({}, {"run": "nowhere"}, "folder with checkpoints at train.start.run=nowhere, found none"),
        ({}, {"step": 5}, r"got 5; it has steps 2, 4, 6, 8"),
        ({"model.width": 32}, {}, "another model .*model.width: 16 -> 32"),
        ({"model.norm": "rmsnorm"}, {}, "another model .*model.norm: layernorm -> rmsnorm"),
        ({"model.vocab_size": 300}, {}, "model.vocab_size: 264 -> 300"),
        ({"data.seed": 1}, {}, "data.seed: 0 -> 1.*train.start.data=fresh"),
        ({"data.batch_size": 16}, {}, "data.batch_size: 8 -> 16"),
        ({"data.near_duplicates": 0.5}, {}, "data.near_duplicates: 0.0 -> 0.5"),
        ({"data.copies": 2}, {}, "data.copies: 1 -> 2"),
        ({"data.replay": "runs/a@0.5"}, {}, r"data.replay: \[\] -> \['runs/a@0.5'\]"),
        ({"train.steps": 5}, {}, "ends at step 8, but the run reads it up to step 9; set optim"),
    )
    def test_what_does_not_fit_is_refused_before_any_computation(self, changes, begin, message):
        with self.assertRaisesRegex(UserError, message) as caught:
            parts_lib.build(self._child(begin, **changes))
        self.assertNotIn("\n", str(caught.exception))

    def test_an_older_run_read_as_the_defaults_say(self):
        def older(*where, meta=checkpoint_reader.meta):
            record = meta(*where)
            for key in ("near_duplicates", "copies", "copied_share", "replay", "tokenizer_sources"):
                del record["spec"]["data"][key]
            del record["spec"]["model"]["rotary_scaling"]
            return record

        with mock.patch.object(checkpoint_reader, "meta", older):
            parts_lib.build(self._child())
            with self.assertRaisesRegex(UserError, "data.copies: 1 -> 2"):
                parts_lib.build(self._child(**{"data.copies": 2}))

    @parameterized.parameters(
        (
            {"optimizer": "drop"},
            "optimizer keep or reset or keep_first .* or scale:FACTOR, got 'drop'",
        ),
        ({"data": "next"}, "data continue or fresh, got 'next'"),
        ({"step": -2}, "at least -1, got -2"),
        ({"changed_schedule": "maybe"}, "changed_schedule refuse or accept, got 'maybe'"),
    )
    def test_unknown_values(self, begin, message):
        with self.assertRaisesRegex(UserError, message):
            self._child(begin)

    def test_itself(self):
        with self.assertRaisesRegex(UserError, "another run, got the workdir .* itself"):
            parts_lib.build(self._child(), RunFolder(self.root / "empty" / ".." / "parent"))

    def test_arithmetic_may_differ(self):
        parts_lib.build(self._child(**{"model.compute_dtype": "bfloat16", "model.remat": "full"}))

    def test_a_changed_schedule_is_refused_with_both_rates(self):
        with self.assertRaisesRegex(UserError, "another schedule up to there") as caught:
            parts_lib.build(self._child(**{"optim.schedule.peak": 2e-2}))
        message = str(caught.exception)
        # Warm-up of 3 steps to 0.01, or 0.02: the first step that differs, the last of the past,
        # the joint and the step after it.
        rows = [line.split() for line in message.splitlines()[1:-1]]
        self.assertEqual([row[0] for row in rows], ["step", "1", "2", "3", "4", "5"])
        self.assertEqual(rows[1][1:], ["0.00333333", "0.00666667"])
        self.assertIn("peak: 0.01 -> 0.02", message)
        self.assertIn("train.start.continue_schedule=false", message)
        self.assertIn("train.start.changed_schedule=accept", message)

    def test_a_horizon_stretches_a_cosine_and_is_refused_or_accepted(self):
        longer = {"train.steps": 9, "optim.schedule.horizon": 20}
        with self.assertRaisesRegex(
            UserError, r"(?s)another schedule .*its end: 8 -> 20"
        ) as caught:
            parts_lib.build(self._child(**longer))
        self.assertIn("\n  4 ", str(caught.exception))
        spec = self._child({"changed_schedule": "accept"}, **longer)
        self.assertAlmostEqual(
            float(parts_lib.build(spec).schedule(0)),
            float(parts_lib.build(override(self.spec, {"optim.schedule.horizon": 20})).schedule(4)),
        )

    def test_the_dry_run_shows_the_rates_around_the_start(self):
        spec = self._child({"data": "fresh", "continue_schedule": False, "optimizer": "reset"})
        spec = override(spec, {"optim.weight_decay": 0.2})
        parts, plan = parts_lib.build(spec), build_plan(spec.data)
        text = "\n".join(plan_lines.describe(parts, plan))
        self.assertIn("learning rate around the start", text)
        rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line[:2] == "  "}
        own = parts_lib.build(self.spec).schedule
        self.assertEqual(rows["-1"], [f"{float(own(3)):.6g}", "–"])
        self.assertEqual(rows["0"], [f"{float(own(4)):.6g}", "0"])
        self.assertEqual(rows["2"], [f"{float(own(6)):.6g}", f"{float(parts.schedule(2)):.6g}"])
        self.assertIn("optim.weight_decay: 0.1 -> 0.2", text)

    def test_the_dry_run_of_a_run_whose_origin_is_gone(self):
        origin = parts_lib.build(self._child()).origin
        gone = dataclasses.replace(origin, run=str(self.root / "gone"))
        parts = dataclasses.replace(parts_lib.build(self._child()), origin=gone)
        plan = build_plan(parts.spec.data, first_step=4)
        self.assertIn("not known any more", "\n".join(plan_lines.describe(parts, plan)))

    def test_another_tokenizer_is_refused(self):
        (self.root / "words.txt").write_text("lamp river lit evening boats home stone\n" * 50)
        spec = self._child({"data": "fresh"}, **{"data.tokenizer": "bpe:260"})
        parts, plan = parts_lib.build(spec), build_plan(spec.data)
        with self.assertRaisesRegex(UserError, r"another tokenizer \(fingerprint "):
            plan_lines.describe(parts, plan)
        with self.assertRaisesRegex(UserError, r"another tokenizer \(fingerprint "):
            train(parts, plan, RunFolder(self._path()))

    def test_other_data_with_the_same_tokenizer(self):
        other = str(self.root / "other.jsonl")
        spec = self._child({"data": "fresh"}, **{"data.sources": other})
        origin = parts_lib.build(spec).origin
        start.check_plan(spec, origin, build_plan(spec.data))
        self.assertEqual(
            start.describe(spec, origin),
            [
                f"start: step 4 of {self.parent.path}; optimizer keep, schedule from step 4, "
                "data from step 0"
            ],
        )

    def test_a_plan_from_another_step_is_a_mistake_of_the_study(self):
        parts = parts_lib.build(self._child())
        with self.assertRaisesRegex(ValueError, "a plan from step 4, got 0"):
            train(parts, build_plan(parts.spec.data), RunFolder(self._path()))


if __name__ == "__main__":
    absltest.main()
