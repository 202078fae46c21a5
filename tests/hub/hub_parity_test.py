"""Every family: transformers' model and ours are one function; files go in and out unchanged."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
import transformers
from absl.testing import parameterized
from safetensors.numpy import load_file

from llm_dynamics import hub
from llm_dynamics.hub.families import FAMILIES
from llm_dynamics.model import logits
from llm_dynamics.model.generate import Sampling, generate
from tests.hub import theirs


def _bits(params):
    return {
        jax.tree_util.keystr(path): hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _stored(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return {
        name: (x.dtype, x.shape, hashlib.sha256(x.tobytes()).hexdigest())
        for name, x in found.items()
    }


class ParityTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)

    @parameterized.named_parameters((name, name) for name in theirs.CASES)
    def test_one_function_in_both_libraries_and_bit_for_bit_out_and_in(self, name):
        case = theirs.CASES[name]
        model, tokens_BxL = case.model(), theirs.tokens_BxL()
        model.save_pretrained(self.root / "theirs", max_shard_size="20KB")
        self.assertGreater(len(list((self.root / "theirs").glob("*.safetensors"))), 1)
        config, params = hub.load(self.root / "theirs")
        with torch.no_grad():
            expected_BxLxV = model(tokens_BxL).logits.numpy()
        logits_BxLxV = logits(config, params, tokens_BxL.numpy())
        self.assertGreater(expected_BxLxV.std(), 0.3)
        np.testing.assert_allclose(logits_BxLxV, expected_BxLxV, atol=1e-4, rtol=0)

        with theirs.float64(), torch.no_grad():
            wide = type(model)(model.config).double().eval()
            wide.load_state_dict(model.state_dict())
            exact_BxLxV = wide(tokens_BxL).logits.numpy()
            exact = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
            logits_BxLxV = logits(config, exact, tokens_BxL.numpy())
        self.assertEqual((logits_BxLxV.dtype, exact_BxLxV.dtype), (np.float64, np.float64))
        np.testing.assert_allclose(logits_BxLxV, exact_BxLxV, atol=1e-9, rtol=0)

        family = hub.export(config, params, self.root / "ours", shard_bytes=15_000)
        self.assertEqual(family, FAMILIES[case.config().model_type])
        self.assertEqual(_stored(self.root / "ours"), _stored(self.root / "theirs"))
        again, params_again = hub.load(self.root / "ours")
        self.assertEqual((again, _bits(params_again)), (config, _bits(params)))
        loaded = transformers.AutoModelForCausalLM.from_pretrained(self.root / "ours").eval()
        self.assertIs(type(loaded), type(model))
        with torch.no_grad():
            np.testing.assert_array_equal(loaded(tokens_BxL).logits.numpy(), expected_BxLxV)

    @parameterized.parameters(
        "gpt2", "neox", "llama", "olmo", "gemma3", "qwen2_tied", "qwen3_wide_heads", "olmo2"
    )
    def test_the_exported_folder_writes_the_same_greedy_text(self, name):
        theirs.CASES[name].model().save_pretrained(self.root / "theirs")
        config, params = hub.load(self.root / "theirs")
        hub.export(config, params, self.root / "ours")
        loaded = transformers.AutoModelForCausalLM.from_pretrained(self.root / "ours").eval()
        prompt, new = theirs.tokens_BxL()[:1, :6], 12
        text = loaded.generate(
            prompt, max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        ours = generate(
            config, params, prompt.tolist(), Sampling(0.0, max_new=new), [0], eos_id=-1, length=24
        )
        self.assertEqual(ours[0], text[0, 6:].tolist())

    @parameterized.parameters("bfloat16", "float16")
    def test_halves_are_read_as_the_numbers_they_are(self, dtype):
        model = theirs.CASES["llama"].model().to(getattr(torch, dtype))
        model.save_pretrained(self.root / "theirs")
        self.assertEqual(json.loads((self.root / "theirs/config.json").read_text())["dtype"], dtype)
        _, params = hub.load(self.root / "theirs")
        stored = model.state_dict()["model.layers.1.mlp.up_proj.weight"].float().numpy().T
        np.testing.assert_array_equal(params["layers"]["mlp"]["up"]["kernel"][1], stored)
