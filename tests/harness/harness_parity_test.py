"""The sentence this room stands on: through our adapter, and exported, the same numbers.

Both models of the harness are asked the same local tasks: ours through the adapter, and the
exported folder through `HFLM`, the harness's own way with transformers.
"""

import dataclasses
import logging
import math
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest
import torch
from absl.testing import parameterized

from llm_dynamics.harness import library, run, tasks

library.prepare(tempfile.gettempdir())

from lm_eval.models.huggingface import HFLM  # noqa: E402

from llm_dynamics import hub  # noqa: E402
from llm_dynamics.errors import UserError  # noqa: E402
from llm_dynamics.harness import adapter  # noqa: E402
from llm_dynamics.harness.adapter import CheckpointLM  # noqa: E402
from llm_dynamics.hub.series import open_members  # noqa: E402
from tests.harness import checkpoints  # noqa: E402


def likeliest(theirs):
    """Contexts with the token that a model finds likeliest, where that is a token as text too."""
    found = []
    for context in (*"abcdefghijklmnopqrstuvwxyz", "Ice is", "The capital of"):
        ids = theirs.tok_encode(context)
        new = int(theirs._model_call(torch.tensor([ids]))[0, -1].argmax())
        text = theirs.tok_decode([new])
        if theirs.tok_encode(context + text) == [*ids, new]:
            found.append((context, text))
    return found[:3]


class HarnessParityTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        logging.getLogger("lm_eval").setLevel(logging.ERROR)

    @parameterized.parameters(("gpt_neox", False), ("llama", True), ("gpt2", False))
    def test_the_same_numbers_as_the_exported_model(self, family, begins):
        self.same_numbers(checkpoints.CONFIGS[family], begins)

    @pytest.mark.slow
    def test_the_same_numbers_with_programs_of_several_lengths(self):
        longer = dataclasses.replace(checkpoints.NEOX, max_length=160)
        self.same_numbers(longer, begins=False)

    def same_numbers(self, config, begins):
        folder = checkpoints.exported(config, self.root, begins)
        ours = CheckpointLM.of_folder(folder)
        theirs = HFLM(str(folder), device="cpu", batch_size=4)
        self.assertEqual(ours.max_length, theirs.max_length)
        self.assertEqual(ours.prefix_token_id, theirs.prefix_token_id)
        greedy = likeliest(theirs)
        self.assertNotEmpty(greedy)
        names = checkpoints.write_tasks(self.root / "tasks", greedy)
        manager = tasks.manager([self.root / "tasks"])
        with mock.patch.object(adapter, "_PIECE", 6):  # half of what is to be written
            found = run.answered(ours, manager, names)
        expected = run.answered(theirs, manager, names)
        self.assertEqual([one.task for one in found], names)
        for one, other in zip(found, expected, strict=True):
            self.assertEqual(one.values.keys(), other.values.keys())
            for key, value in one.values.items():
                np.testing.assert_allclose(value, other.values[key], rtol=1e-5, err_msg=one.task)
            self.assertEqual(len(one.samples), len(other.samples))
            for sample, twin in zip(one.samples, other.samples, strict=True):
                self.assertEqual(sample.doc, twin.doc)
                if one.output_type == "generate_until":
                    self.assertEqual(list(sample.answers), list(twin.answers))
                    continue
                for answer, said in zip(sample.answers, twin.answers, strict=True):
                    value, is_greedy = answer if isinstance(answer, tuple) else (answer, None)
                    wanted, was_greedy = said if isinstance(said, tuple) else (said, None)
                    self.assertAlmostEqual(value, wanted, delta=1e-4)
                    self.assertEqual(is_greedy, was_greedy)
        texts = [sample.answers[0] for sample in found[-1].samples]
        self.assertTrue(any(texts))
        tricky = found[2]
        self.assertTrue(any(sample.answers[0][1] for sample in tricky.samples[-len(greedy) :]))
        self.assertFalse(all(sample.answers[0][1] for sample in tricky.samples))


class AdapterTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)

    def test_what_cannot_be_asked(self):
        folder = checkpoints.exported(checkpoints.NEOX, self.root)
        lm = CheckpointLM.of_folder(folder)
        long = "a b c d e f " * 30
        with self.assertRaisesRegex(UserError, "continuation of 1 to 32 tokens"):
            lm._loglikelihood_tokens([(("a", long), [1], lm.tok_encode(long))])
        with self.assertRaisesRegex(UserError, "below the model's 32 tokens, got 32"):
            lm._continued(["a"], {"max_gen_toks": 32})
        with self.assertRaisesRegex(UserError, "generation_kwargs of .*, got num_beams"):
            lm._continued(["a"], {"num_beams": 4})
        config, params = hub.load(folder)
        with self.assertRaisesRegex(UserError, "at most the model's 32, got 33"):
            CheckpointLM(config, params, lm.words, max_length=33)
        first = jax.tree.leaves(params)[0]
        diverged = jax.tree.map(lambda x: x * np.nan if x is first else x, params)
        with self.assertRaisesRegex(UserError, "^run, step 3: expected finite parameters"):
            CheckpointLM(config, diverged, lm.words, name="run, step 3")
        for value in (math.nan, -math.inf):
            with (
                mock.patch.object(lm._scorer, "score", return_value=[(-1.0, True), (value, True)]),
                self.assertRaisesRegex(UserError, "model: expected finite log-likelihoods"),
            ):
                lm._loglikelihood_tokens([(None, [1], [2]), (None, [1], [3])])
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()
        with self.assertRaisesRegex(
            UserError, r"expected a tokenizer \(tokenizer.json,.* found none"
        ):
            CheckpointLM.of_folder(folder)

    def test_another_tokenizer_in_place_of_the_one_beside_a_checkpoint(self):
        folder = checkpoints.exported(checkpoints.NEOX, self.root)
        other = checkpoints.tokenizer(self.root / "other", begins=True)
        said = CheckpointLM.of_folder(folder).tok_encode("Ice is cold")
        for asked, expected in (
            ("", said),
            (str(other), [290, *said]),  # the token that begins texts
            ("bytes", list(b"Ice is cold")),
        ):
            (member,) = open_members([folder], tokenizer=asked)
            lm = CheckpointLM.of_checkpoint(member.of, asked)
            self.assertEqual(lm.tok_encode("Ice is cold"), expected)
