"""A GGUF file of the Llama architecture as if it were a folder of theirs; weights are dequantised.

llama.cpp keeps the rows of queries and keys in pairs, as its rotary encoding turns neighbours; ours
turns halves, so they are taken apart again. Needs the package gguf (the extra `gguf`).
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.hub.folder import Stored

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Keys below "llama." and what a config.json calls them.
_FIELDS = {
    "vocab_size": "vocab_size",
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_HEADS = {"q": "num_attention_heads", "k": "num_key_value_heads"}
_SPLITS_DIGITS = {"smollm": True, "gpt-2": False}  # tokenizer.ggml.pre
_CONTROL = 3  # type of a token that is in no text


class GgufFile:
    """A file of llama.cpp; opening it reads no weights."""

    def __init__(self, path: str | Path):
        """Opens the file.

        Raises:
          UserError: the package is missing, or a file that is damaged or of another architecture.
        """
        self.path = expanded(path).absolute()
        if not self.path.is_file():
            raise UserError(f"expected a .gguf file at {path}, found none; check the path")
        try:
            import gguf
        except ImportError:
            raise UserError(
                f"reading {self.path.name} needs the package gguf; run `pip install -e .[gguf]`"
            ) from None
        self._gguf = gguf
        try:
            reader = gguf.GGUFReader(self.path)
            self._said = {key: field.contents() for key, field in reader.fields.items()}
        except Exception as error:  # the library raises whatever numpy does
            raise UserError(
                f"{self.path} is no whole GGUF file ({type(error).__name__}: {error}); fetch it "
                "again"
            ) from None
        kind = self._said.get("general.architecture")
        if kind != "llama":
            raise UserError(
                f"expected a GGUF file of the architecture 'llama', got {kind!r}; load it with "
                "transformers, save it with save_pretrained, and import that folder"
            )
        self._held = {_theirs(tensor.name): tensor for tensor in reader.tensors}
        self.tensors = {
            name: Stored(
                self.path, t.tensor_type.name, tuple(int(n) for n in t.shape[::-1]), int(t.n_bytes)
            )
            for name, t in self._held.items()
        }
        self.fields = self._fields()

    @property
    def where(self) -> str:
        """What its configuration is called in errors."""
        return str(self.path)

    @cached_property
    def dtypes(self) -> tuple[str, ...]:
        """The types that can be read, as the format writes them."""
        return ("F32", "F16", *sorted(t.name for t in self._gguf.quants._type_traits))

    def read(self, name: str) -> np.ndarray:
        """The values of a tensor, float32, in the order of a folder of theirs."""
        tensor = self._held[name]
        array = self._gguf.dequantize(tensor.data, tensor.tensor_type)
        array = array.reshape(self.tensors[name].shape).astype(np.float32, copy=False)
        if found := re.search(r"self_attn\.([qk])_proj", name):
            heads = int(self.fields[_HEADS[found[1]]])
            pairs = array.reshape(heads, -1, 2, *array.shape[1:])
            array = pairs.swapaxes(1, 2).reshape(array.shape)
        return array

    def tokenizer_json(self) -> str:
        """The tokenizer as a tokenizer.json, byte-level BPE.

        Raises:
          UserError: another kind, or another way to cut text into words.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        kind, cut = (self._said.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
        if kind != "gpt2" or cut not in _SPLITS_DIGITS:
            raise UserError(
                f"{self.path}: expected a tokenizer of model 'gpt2' and pre "
                f"{' or '.join(map(repr, _SPLITS_DIGITS))}, got {kind!r} and {cut!r}; give the "
                "model's own by --tokenizer=PATH.json"
            )
        tokens, merges, types = (
            self._said.get(f"tokenizer.ggml.{key}", [])
            for key in ("tokens", "merges", "token_type")
        )
        vocabulary = {token: i for i, token in enumerate(tokens)}
        try:
            engine = Tokenizer(models.BPE(vocabulary, [tuple(m.split(" ", 1)) for m in merges]))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"the tokenizer of {self.path} is damaged ({error})") from None
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
        digits = pre_tokenizers.Digits(individual_digits=True)
        engine.pre_tokenizer = (
            pre_tokenizers.Sequence([digits, bytes_]) if _SPLITS_DIGITS[cut] else bytes_
        )
        engine.decoder = decoders.ByteLevel()
        control = [t for t, kind in zip(tokens, types, strict=False) if kind == _CONTROL]
        engine.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
        return engine.to_str()

    def _fields(self) -> dict[str, Any]:
        """What a config.json would say; keys that it cannot say keep their names."""
        found: dict[str, Any] = {"model_type": "llama"}
        for key, value in self._said.items():
            name = key.removeprefix("llama.")
            if name == key or name == "rope.dimension_count":
                continue
            # Stored in float32, which a number such as 1e-5 is not.
            value = float(str(np.float32(value))) if isinstance(value, float) else value
            found[_FIELDS.get(name, key)] = value
        found.setdefault("num_key_value_heads", found.get("num_attention_heads"))
        if "model.embed_tokens.weight" in self.tensors:
            found["vocab_size"] = self.tensors["model.embed_tokens.weight"].shape[0]
        value_length = found.pop("llama.attention.value_length", found.get("head_dim"))
        if value_length != found.get("head_dim"):
            found["llama.attention.value_length"] = value_length
        found |= self._rotated(found)
        found["tie_word_embeddings"] = "lm_head.weight" not in self.tensors
        for name in ("bos", "eos"):
            found[f"{name}_token_id"] = self._said.get(f"tokenizer.ggml.{name}_token_id")
        return found

    def _rotated(self, found: dict[str, Any]) -> dict[str, Any]:
        """The fraction of a head that is rotated, where that is not all of it."""
        turned = self._said.get("llama.rope.dimension_count")
        width, heads = (found.get(k) for k in ("hidden_size", "num_attention_heads"))
        size = found.get("head_dim") or (width // heads if width and heads else turned)
        return {} if turned in (None, size) else {"partial_rotary_factor": turned / size}


def _theirs(name: str) -> str:
    """The name of a tensor in a folder of theirs; a stranger keeps its own."""
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if found and found[2] in _PARTS:
        return f"model.layers.{found[1]}.{_PARTS[found[2]]}.{found[3]}"
    return _NAMES.get(name, name)
