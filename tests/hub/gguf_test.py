"""GGUF files: tiny ones written here, and SmolLM2 where its package has been fetched."""

import json
import shutil
import tempfile
from pathlib import Path

import gguf
import jax
import numpy as np
from absl.testing import parameterized
from tokenizers import Tokenizer

from llm_dynamics import hub
from llm_dynamics.data.cache import cache_folder
from llm_dynamics.data.fetch import packages_folder
from llm_dynamics.data.tokenizers import train_bpe
from llm_dynamics.errors import UserError
from llm_dynamics.hub import packaged
from llm_dynamics.hub.inspecting import describe
from llm_dynamics.hub.runs import import_run
from llm_dynamics.model import presets, size
from tests.hub import theirs

SMOLLM2 = "smollm2-135m-instruct"
HEADS, KV_HEADS = 4, 2
TEXT = "the lamp by the river"
WORDS = train_bpe([TEXT] * 9, 270)


def _pairs(rows, heads):
    """The rows of a query or key map as llama.cpp orders them: halves to pairs."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def _write(path, state, kind=gguf.GGMLQuantizationType.F32, arch="llama", **more):
    writer = gguf.GGUFWriter(path, arch)
    for name, value in (
        ("context_length", 64), ("embedding_length", 32), ("block_count", theirs.N),
        ("feed_forward_length", 64), ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS), ("rope.dimension_count", 8),
    ):  # fmt: skip
        writer.add_uint32(f"{arch}.{name}", value)
    writer.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{arch}.rope.freq_base", 10000.0)
    for name, value in more.items():
        writer.add_string(f"{arch}.{name}", value)
    words = json.loads(WORDS)["model"]
    vocabulary = sorted(words["vocab"], key=words["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3] + [1] * (len(vocabulary) - 1))
    writer.add_token_merges([" ".join(pair) for pair in words["merges"]])
    writer.add_eos_token_id(0)
    for name, array in state.items():
        array = array.numpy()
        for theirs_, mine in (
            ("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"),
            ("model.layers.", "blk."), ("self_attn.o_proj", "attn_output"),
            ("self_attn.", "attn_"), ("_proj", ""), ("mlp.", "ffn_"),
            ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
            ("lm_head", "output"),
        ):  # fmt: skip
            name = name.replace(theirs_, mine)
        for part, heads in (("attn_q", HEADS), ("attn_k", KV_HEADS)):
            array = _pairs(array, heads) if part in name else array
        raw = kind if array.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(array, raw), raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class GgufTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.root, ignore_errors=True)
        cls.model = theirs.case(
            "Llama", **theirs.rope(), vocab_size=288, intermediate_size=64, rms_norm_eps=1e-5,
            num_key_value_heads=KV_HEADS,
        ).model()  # fmt: skip
        cls.model.save_pretrained(cls.root / "folder")
        cls.config, cls.params = hub.load(cls.root / "folder")

    def _file(self, **changes):
        path = Path(tempfile.mkdtemp(dir=self.root)) / "model.gguf"
        _write(path, self.model.state_dict(), **changes)
        return path

    def test_plain_weights_are_those_of_the_folder_bit_for_bit(self):
        config, params = hub.load(self._file())
        self.assertEqual(config, self.config)
        jax.tree.map(np.testing.assert_array_equal, params, self.params)

    @parameterized.parameters("Q8_0", "Q4_1")
    def test_quantised_weights_are_near(self, kind):
        path = self._file(kind=gguf.GGMLQuantizationType[kind])
        _, params = hub.load(path)
        bound = {"Q8_0": 0.5 / 127, "Q4_1": 1 / 15}[kind] + 2**-9  # scales are halves

        def near(ours, exact):
            most = np.abs(exact).max()
            np.testing.assert_allclose(ours, exact, atol=bound * most, rtol=0)

        jax.tree.map(near, params, self.params)
        self.assertIn(kind, "\n".join(describe(str(path))))

    def test_a_run_is_made_of_it_with_its_tokenizer(self):
        made = import_run(self._file(), self.root / "run")
        self.assertTrue(made.tokenizer.endswith("run/hub/tokenizer.json#<|endoftext|>"))
        self.assertEqual(made.config, self.config)
        words = Tokenizer.from_file(made.tokenizer.partition("#")[0])
        expected = Tokenizer.from_str(WORDS).encode(TEXT).ids
        self.assertEqual(words.encode(TEXT, add_special_tokens=False).ids, expected)
        self.assertLess(len(expected), len(TEXT) / 2)

    def test_what_cannot_be_read_is_refused(self):
        with self.assertRaisesRegex(UserError, "architecture 'llama', got 'qwen2'"):
            hub.load(self._file(arch="qwen2"))
        with self.assertRaisesRegex(UserError, "llama.rope.scaling.type 'yarn'"):
            hub.load(self._file(**{"rope.scaling.type": "yarn"}))
        with self.assertRaisesRegex(UserError, "expected a .gguf file"):
            hub.load(self.root / "none.gguf")
        path = self._file()
        path.write_bytes(path.read_bytes()[:-4000])
        with self.assertRaisesRegex(UserError, "is no whole GGUF file"):
            hub.load(path)

    def test_a_model_that_no_package_carries_is_refused(self):
        with self.assertRaisesRegex(UserError, "expected one of smollm2-135m-instruct, got 'gpt5'"):
            packaged.extract("gpt5", self.root)

    def test_smollm2_is_what_its_preset_says(self):
        package = packaged.MODELS[SMOLLM2].package
        if not (packages_folder(cache_folder()) / package.filename).exists():
            self.skipTest(f"{package.requirement} is not in the cache")
        path = packaged.extract(SMOLLM2, self.root)
        config, params = hub.load(path)
        self.assertEqual(config, presets.named("smollm2-135m"))
        found = sum(leaf.size for leaf in jax.tree.leaves(params))
        self.assertEqual(found, size.num_params(config))
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "x").touch()
            with self.assertRaisesRegex(UserError, "is not empty"):
                import_run(path, folder)
