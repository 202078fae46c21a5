"""Checkpoints of theirs as runs of ours: started from, trained on, written back, asked."""

import contextlib
import dataclasses
import io
import json
import random
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import transformers
from absl.testing import parameterized

from llm_dynamics import hub
from llm_dynamics.data.build import build_plan
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.tokenizers import train_bpe
from llm_dynamics.errors import UserError
from llm_dynamics.hub.__main__ import main
from llm_dynamics.hub.families import family_of, read_config
from llm_dynamics.hub.runs import export_run, import_run
from llm_dynamics.model import logits, presets, sharding
from llm_dynamics.model.build import build_model
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.skillmix import own
from llm_dynamics.spec import override
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train import plan_lines, start
from llm_dynamics.train.config import RunSpec, StartConfig, TrainConfig
from llm_dynamics.train.finished import finished_run
from llm_dynamics.train.loop import train
from llm_dynamics.train.run_folder import RunFolder
from tests.hub import theirs

END = "<|endoftext|>"


def _texts(root):
    words = "lamp river lit evening boats home stone paper winter garden bridge tower".split()
    rng = random.Random(0)
    texts = [" ".join(rng.choices(words, k=30)) for _ in range(60)]
    path = root / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path, texts


def _bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


class RunsTest(parameterized.TestCase):
    """A tiny Llama with a tokenizer, imported once."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.corpus, texts = _texts(cls.root)
        cls.source = cls.root / "source"
        model = theirs.case(
            "Llama", **theirs.rope(), vocab_size=304, num_key_value_heads=2, eos_token_id=0
        ).model()
        model.save_pretrained(cls.source)
        (cls.source / "tokenizer.json").write_text(train_bpe(texts, 300))
        cls.made = import_run(cls.source, cls.root / "run")
        cls.config, cls.params = hub.load(cls.source)

    def _spec(self, steps=2, **begins):
        """A run from the imported one, by the settings that the import prints."""
        spec = RunSpec(
            model=presets.named("pocket-0.1m"),
            data=DataConfig(
                (str(self.corpus),),
                length=32,
                batch_size=8,
                validation_fraction=0,
                cache_dir=str(self.root / "cache"),
            ),
            optim=OptimConfig(),
            train=TrainConfig(steps, validate_every=0, tensorboard=False),
            probe=ProbeConfig(),
        )
        lines = (self.made.run / "hub" / "settings").read_text().splitlines()
        self.assertEqual(lines, self.made.settings())
        given = dict(line.split("=", 1) for line in lines)
        return override(spec, given | {f"train.start.{k}": v for k, v in begins.items()})

    def test_a_run_goes_on_from_it_and_is_written_back(self):
        spec = self._spec()
        folder = RunFolder(self.root / "child")
        parts = parts_lib.build(spec, folder)
        self.assertEqual(_bits(parts.first_state().params), _bits(self.params))
        plan = build_plan(spec.data, steps=2, lineage=parts.lineage)
        lines = "\n".join(plan_lines.describe(parts, plan))
        self.assertIn(f"start: step 0 of {self.made.run}; optimizer reset, schedule from st", lines)
        self.assertNotIn("is gone", lines)
        folder.claim(spec, plan.describe(), parts.origin)
        train(parts, plan, folder)
        folder._lock.close()

        family, step, has_tokenizer = export_run(folder.path, self.root / "out")
        self.assertEqual((family.name, step, has_tokenizer), ("llama", 2, True))
        loaded = transformers.AutoModelForCausalLM.from_pretrained(self.root / "out").eval()
        words = transformers.AutoTokenizer.from_pretrained(self.root / "out")
        ended = finished_run(folder.path)
        config, params = ended.config, ended.params(2)
        self.assertNotEqual(_bits(params), _bits(self.params))
        ids = words("lamp by the river", return_tensors="pt")["input_ids"]
        self.assertEqual(words.eos_token, END)
        self.assertEqual(loaded.config.eos_token_id, 0)
        np.testing.assert_allclose(
            logits(config, params, ids.numpy()),
            loaded(ids).logits.detach().numpy(),
            atol=1e-4,
            rtol=0,
        )

    def test_what_a_run_cannot_take_from_it_is_said(self):
        for settings, words in (
            ({"optimizer": "keep"}, "holds no moments.*train.start.optimizer=reset"),
            ({"data": "continue"}, "train.start.data=fresh"),
        ):
            with self.assertRaisesRegex(UserError, words):
                parts_lib.build(self._spec(**settings))
        other = dataclasses.replace(self._spec(), model=presets.named("pocket-0.1m"))
        with self.assertRaisesRegex(UserError, "holds another model"):
            parts_lib.build(other)
        self.assertEqual(StartConfig(run="x").step, -1)

    def test_a_schedule_that_goes_on_from_it_is_the_runs_own(self):
        parts = parts_lib.build(self._spec(continue_schedule=True))
        lines = "\n".join(start.joint_lines(parts.spec, parts.origin))
        self.assertNotIn("is gone", lines)
        rates = make_schedule(parts.spec.optim.schedule, parts.spec.train.steps)
        self.assertRegex(lines, rf"\n  1 +– +{float(rates(1)):.6g}")

    def test_it_can_be_asked_as_any_run(self):
        run = finished_run(self.made.run)
        self.assertEqual((run.config, run.steps), (self.config, (0,)))
        self.assertEqual(_bits(run.params(0)), _bits(self.params))
        self.assertEqual(own.from_run(self.made.run).name.split()[1:3], ["step", "0"])

    def test_there_and_back_on_the_command_line(self):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            main(["import", str(self.source), str(self.root / "second")])
            code = main(["export", str(self.root / "second"), str(self.root / "again")])
        self.assertEqual(code, 0)
        self.assertIn("model.num_kv_heads=2", said.getvalue())
        settings = self.root.resolve() / "second" / "hub" / "settings"
        self.assertIn(f"--settings={settings}", said.getvalue())
        for name in ("model.safetensors", "tokenizer.json"):
            self.assertEqual(
                (self.root / "again" / name).read_bytes(), (self.source / name).read_bytes()
            )

    def test_every_device_of_a_mesh_gets_its_part(self):
        mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
        _, params = hub.load(self.source, mesh)
        placed = sharding.param_shardings(build_model(self.config), mesh)
        self.assertEqual(jax.tree.map(lambda x: x.sharding, params), placed)
        self.assertEqual(_bits(params), _bits(self.params))

    @parameterized.parameters(
        ("gpt2-124m", "gpt2"), ("pythia-70m", "gpt_neox"), ("smollm2-135m", "llama"),
        ("olmo-1b", "olmo"), ("pocket-1m", "gpt_neox"),
        ("llama3.2-1b", "llama"), ("qwen2.5-0.5b", "qwen2"), ("qwen3-0.6b", "qwen3"),
        ("olmo2-1b", "olmo2"), ("gemma3-270m", "gemma3_text"),
    )  # fmt: skip
    def test_a_preset_has_its_family(self, name, family):
        config = presets.named(name)
        found = family_of(config)
        self.assertEqual(found.name, family)
        _, again = read_config(found.write(config) | {"model_type": family}, "it")
        self.assertEqual(again, found.as_written(config))

    def test_a_model_without_biases_is_the_same_function_with_zeros(self):
        config = presets.named("pocket-0.1m", vocab_size=97, max_length=64)
        draw = np.random.default_rng(0).standard_normal
        shapes = sharding.abstract_params(build_model(config))
        params = jax.tree.map(lambda x: 0.2 * draw(x.shape, np.float32), shapes)
        hub.export(config, params, self.root / "pocket")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(self.root / "pocket").eval()
        tokens_BxL = theirs.tokens_BxL()
        np.testing.assert_allclose(
            logits(config, params, tokens_BxL.numpy()),
            loaded(tokens_BxL).logits.detach().numpy(),
            atol=1e-4,
            rtol=0,
        )
