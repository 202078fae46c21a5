"""What cannot be read or written is refused in one sentence, before anything is written."""

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from absl.testing import parameterized
from safetensors.numpy import load_file, save_file

from llm_dynamics import hub
from llm_dynamics.data.tokenizers import train_bpe
from llm_dynamics.errors import UserError
from llm_dynamics.hub.__main__ import main
from llm_dynamics.hub.families import read_config
from llm_dynamics.hub.runs import import_run
from tests.hub import theirs

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 300,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
NEOX = LLAMA | {"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]}
OLMO = LLAMA | {"model_type": "olmo", "architectures": ["OlmoForCausalLM"]}
QWEN2 = LLAMA | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
GEMMA3 = LLAMA | {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
GPT2 = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 300,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
}


def _change(path, name, value):
    arrays = load_file(path)
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    save_file(arrays, path)


def _fields(folder, **changes):
    path = folder / "config.json"
    said = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in said.items() if v != "drop"}))


def _index(folder, **changes):
    path = folder / INDEX
    said = json.loads(path.read_text())
    said["weight_map"] |= changes
    path.write_text(json.dumps(said))


def _out(folder, name):
    """Moves a file out of the folder and links to it."""
    outside = folder.parent / f"outside-{name}"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(outside)


def _shard(folder):
    return sorted(folder.glob("model-*.safetensors"))[1]


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


NORM = "model.norm.weight"
BAD = {
    "no_config": (lambda f: (f / "config.json").unlink(), "expected the file config.json"),
    "config_of_half": (lambda f: _truncate(f / "config.json"), "is not complete JSON"),
    "truncated": (lambda f: _truncate(f / WEIGHTS), "is no whole file of safetensors"),
    "no_weights": (lambda f: (f / WEIGHTS).unlink(), "found neither"),
    "pickle": (
        lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"),
        "a pickle, which can run any program",
    ),
    "nan": (
        lambda f: _change(f / WEIGHTS, NORM, np.full(16, np.nan, np.float32)),
        f"{NORM} of .* holds NaN or infinities",
    ),
    "infinity": (
        lambda f: _change(f / WEIGHTS, NORM, np.full(16, -np.inf, np.float32)),
        "holds NaN or infinities",
    ),
    "float64": (
        lambda f: _change(f / WEIGHTS, NORM, np.ones(16)),
        f"{NORM} is of type F64, expected F32, BF16, F16",
    ),
    "whole_numbers": (
        lambda f: _change(f / WEIGHTS, NORM, np.ones(16, np.int8)),
        "is of type I8",
    ),
    "shape": (
        lambda f: _change(f / WEIGHTS, NORM, np.ones(17, np.float32)),
        r"has the shape \[17\], expected \[16\]",
    ),
    "missing": (lambda f: _change(f / WEIGHTS, NORM, None), f"the tensor {NORM} is missing"),
    "unknown": (
        lambda f: _change(f / WEIGHTS, "model.extra", np.ones(2, np.float32)),
        "model.extra is no tensor of such a llama",
    ),
    "more_layers": (lambda f: _fields(f, num_hidden_layers=2), "layers.1.* is missing"),
    "head_unlike_its_embedding": (
        lambda f: _fields(f, tie_word_embeddings=True),
        "lm_head.weight is not the same as model.embed_tokens.weight",
    ),
    "unknown_family": (lambda f: _fields(f, model_type="lama"), "did you mean 'llama'"),
    "no_family": (lambda f: _fields(f, model_type="drop"), "got None; known: gpt2, "),
    "another_head": (
        lambda f: _fields(f, architectures=["LlamaForSequenceClassification"]),
        "another head",
    ),
    "no_width": (lambda f: _fields(f, hidden_size="drop"), "has no hidden_size"),
    "word_for_a_width": (lambda f: _fields(f, hidden_size="16"), "hidden_size to be a whole"),
    "weights_linked_out": (lambda f: _out(f, WEIGHTS), "is a link that leads out of the folder"),
    "config_linked_out": (lambda f: _out(f, "config.json"), "is a link that leads out"),
    "tokenizer_linked_out": (lambda f: _out(f, "tokenizer.json"), "is a link that leads out"),
    "no_tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "expected a tokenizer.json in"),
    "tokenizer_of_half": (lambda f: _truncate(f / "tokenizer.json"), "is not complete JSON"),
    "tokenizer_too_large": (
        lambda f: (f / "tokenizer.json").write_text(_words(310)),
        "has 310 ids, the model only 300 embeddings",
    ),
    "end_that_is_no_token": (lambda f: _fields(f, eos_token_id=299), "eos_token_id 299 is no tok"),
}
BAD_SHARDS = {
    "file_gone": (lambda f: _shard(f).unlink(), "expected the file model-00002"),
    "shard_truncated": (lambda f: _truncate(_shard(f)), "is no whole file of safetensors"),
    "tensor_elsewhere": (
        lambda f: _index(f, **{"model.extra": _shard(f).name}),
        "holds the tensor model.extra, which it does not",
    ),
    "tensor_not_named": (
        lambda f: _change(_shard(f), "model.extra", np.ones(2, np.float32)),
        "model.extra, which model.safetensors.index.json does not name",
    ),
    "path_up": (
        lambda f: _index(f, **{NORM: "../model.safetensors"}),
        "expected files of this folder alone",
    ),
    "path_from_the_root": (
        lambda f: _index(f, **{NORM: "/etc/passwd"}),
        "expected files of this folder alone",
    ),
    "shard_linked_out": (lambda f: _out(f, _shard(f).name), "is a link that leads out"),
    "index_of_half": (lambda f: _truncate(f / INDEX), "is not complete JSON"),
    "index_of_nothing": (lambda f: (f / INDEX).write_text("{}"), "has no weight_map"),
}
FOREIGN = {
    "llama_activation": (LLAMA, {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    "llama_scaling": (
        LLAMA,
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "rope_scaling.rope_type 'dynamic'",
    ),
    "llama_half_of_the_biases": (LLAMA, {"mlp_bias": True}, "mlp_bias True"),
    "llama_partial": (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    "unknown_field": (LLAMA, {"logit_scale": 2.0}, "logit_scale 2.0.*--ignore"),
    "quantised": (LLAMA, {"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4}"),
    "own_code": (LLAMA, {"auto_map": {"AutoModel": "x.py"}}, "auto_map"),
    "olmo_clipping": (OLMO, {"clip_qkv": 8.0}, "clip_qkv 8.0"),
    "olmo_biases": (OLMO, {"attention_bias": True}, "attention_bias True"),
    "neox_without_biases": (NEOX, {"attention_bias": False}, "attention_bias False"),
    "neox_activation": (NEOX, {"hidden_act": "relu"}, "hidden_act 'relu'"),
    "qwen2_windows": (QWEN2, {"use_sliding_window": True}, "use_sliding_window True"),
    "qwen2_kinds": (QWEN2, {"layer_types": ["sliding_attention"]}, "layer_types .'sliding"),
    "gemma3_capped": (GEMMA3, {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0"),
    "gemma3_local_scaling": (
        GEMMA3,
        {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
        "rope_parameters.sliding_attention",
    ),
    "gemma3_irregular": (
        GEMMA3,
        {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 2 + ["sliding_attention"]},
        "layer_types .'full_attention'",
    ),
    "gpt2_scale": (GPT2, {"scale_attn_weights": False}, "scale_attn_weights False"),
    "gpt2_scale_by_layer": (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx"),
    "gpt2_cross_attention": (GPT2, {"add_cross_attention": True}, "add_cross_attention True"),
}


def _words(size):
    return train_bpe([" ".join(f"w{i}x{i * 7}" for i in range(200))], size)


class RefusalsTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.model = theirs.case(
            "Llama", **theirs.rope(), vocab_size=300, hidden_size=16, intermediate_size=24,
            num_hidden_layers=1, num_attention_heads=2,
        ).model()  # fmt: skip
        cls.words = _words(290)

    def setUp(self):
        super().setUp()
        self.root = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
        self.source = self.root / "source"

    def _save(self, **options):
        self.model.save_pretrained(self.source, **options)
        _fields(self.source, eos_token_id=0)
        (self.source / "tokenizer.json").write_text(self.words)

    def _refused(self, damage, words):
        damage(self.source)
        before = {p.name for p in self.root.iterdir()}
        with self.assertRaisesRegex(UserError, words):
            import_run(self.source, self.root / "run")
        self.assertEqual({p.name for p in self.root.iterdir()}, before)

    @parameterized.named_parameters((name, *case) for name, case in BAD.items())
    def test_a_damaged_checkpoint(self, damage, words):
        self._save()
        self._refused(damage, words)

    @parameterized.named_parameters((name, *case) for name, case in BAD_SHARDS.items())
    def test_a_damaged_checkpoint_of_several_files(self, damage, words):
        self._save(max_shard_size="4KB")
        self._refused(damage, words)

    @parameterized.named_parameters((name, *case) for name, case in FOREIGN.items())
    def test_a_field_that_changes_the_function(self, plain, changes, words):
        read_config(plain, "config.json")
        with self.assertRaisesRegex(UserError, words):
            read_config(plain | changes, "config.json")

    def test_all_of_them_at_once_and_what_the_user_takes_for_harmless(self):
        strange = LLAMA | {"hidden_act": "relu", "mlp_bias": True, "logit_scale": 2.0, "note": "x"}
        with self.assertRaisesRegex(UserError, "mlp_bias.*; hidden_act 'relu'.*logit_scale.*note"):
            read_config(strange, "config.json")
        read_config(LLAMA | {"note": "x"}, "config.json", ["note"])

    def test_a_folder_that_is_not_empty(self):
        self._save()
        (self.root / "run").mkdir()
        (self.root / "run" / "mine.txt").write_text("x")
        with self.assertRaisesRegex(UserError, "is not empty .found mine.txt"):
            import_run(self.source, self.root / "run")
        config, params = hub.load(self.source)
        with self.assertRaisesRegex(UserError, "is not empty"):
            hub.export(config, params, self.root / "run")
        (self.root / "file").write_text("x")
        with self.assertRaisesRegex(UserError, "got a file"):
            hub.export(config, params, self.root / "file")
        self.assertEqual([p.name for p in (self.root / "run").iterdir()], ["mine.txt"])

    def test_parameters_that_cannot_be_written(self):
        self._save()
        config, params = hub.load(self.source)
        target = self.root / "out"
        wrong = params | {"final_norm": {"scale": np.ones(17, np.float32)}}
        with self.assertRaisesRegex(UserError, r"final_norm/scale: expected float32\[16\]"):
            hub.export(config, wrong, target)
        wrong = params | {"final_norm": {"scale": np.full(16, np.nan, np.float32)}}
        with self.assertRaisesRegex(UserError, "final_norm/scale holds NaN"):
            hub.export(config, wrong, target)
        with self.assertRaisesRegex(UserError, "the family gpt2 has a model"):
            hub.export(config, params, target, family="gpt2")
        with self.assertRaisesRegex(UserError, "expected a tokenizer.json"):
            hub.export(config, params, target, tokenizer=self.root / "none.json")
        self.assertFalse(target.exists())

    def test_the_command_line_says_it_in_one_line(self):
        self._save()
        _fields(self.source, hidden_act="relu", num_key_value_heads=2)
        said, wrong = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(wrong):
            self.assertEqual(main(["import", str(self.source), str(self.root / "run")]), 2)
            self.assertEqual(main(["inspect", str(self.source)]), 0)
        self.assertRegex(wrong.getvalue(), "^error: .*hidden_act 'relu'.*\n$")
        self.assertRegex(said.getvalue(), "(?s)family +llama.*refused .*hidden_act 'relu'")
