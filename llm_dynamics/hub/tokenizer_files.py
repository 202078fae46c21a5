"""The files of a tokenizer, as they lie beside a model of theirs."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm_dynamics import files
from llm_dynamics.data.cache import cache_folder
from llm_dynamics.data.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.hub.folder import refuse_outside
from llm_dynamics.hub.gguf_file import GgufFile
from llm_dynamics.hub.reading import Source

MAIN, CONFIG = "tokenizer.json", "tokenizer_config.json"
BESIDE = (
    CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "tokenizer.model", "chat_template.jinja", "generation_config.json",
)  # fmt: skip


class TokenizerFiles:
    """A tokenizer.json with what lies beside it, fit for a model."""

    def __init__(self, path: str | Path, vocab_size: int, eos_id: int | None = None):
        """Reads the tokenizer.

        Args:
          path: a tokenizer.json (PATH.json#TOKEN names its end-of-document token), or the folder
            of one.
          vocab_size: of the model.
          eos_id: the end-of-document token that the model's configuration names.

        Raises:
          UserError: no such file, one that leads out of its folder, or more ids than the model.
        """
        found = files.expanded(path)
        name, hash_, token = str(found).rpartition("#")
        if hash_ and name.endswith(".json") and not found.exists():
            found = Path(name)
        else:
            token = ""
        self.folder = found if found.is_dir() else found.parent
        self.main = found / MAIN if found.is_dir() else found
        if not self.main.is_file():
            raise UserError(
                f"expected a tokenizer.json at {self.main}, found none; name one that was made for "
                "this model"
            )
        self._beside = []
        if self.main.name == MAIN:  # what lies beside another name belongs to something else
            self._beside = [self.folder / n for n in BESIDE if (self.folder / n).is_file()]
        for file in (self.main, *self._beside):
            refuse_outside(self.folder, file)
        self.eos = token or self._by_id(eos_id) or self._configured()
        self.tokenizer = self.load(self.main)
        check_vocabulary(self.tokenizer, vocab_size)

    def load(self, main: Path) -> Tokenizer:
        """The tokenizer, of `main` or a copy of it elsewhere."""
        return load_tokenizer(self.spec(main), None, cache_folder())

    def spec(self, main: Path) -> str:
        """What `data.tokenizer` says to use it."""
        return f"{main}#{self.eos}" if self.eos else str(main)

    def ids(self) -> dict[str, int]:
        """What config.json says of it."""
        return {"eos_token_id": self.tokenizer.eos_id}

    def copy(self, folder: Path) -> Path:
        """Copies the files; says what transformers needs to know where nothing says it."""
        for file in self._beside:
            shutil.copyfile(file, folder / file.name)
        shutil.copyfile(self.main, folder / MAIN)
        if not (folder / CONFIG).exists():
            said = {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": self.tokenizer.decode([self.tokenizer.eos_id]),
            }
            files.write_json(folder / CONFIG, said)
        return folder / MAIN

    def _by_id(self, eos_id: int | None) -> str:
        if eos_id is None:
            return ""
        said = _object(self.main)
        named = {token["id"]: token["content"] for token in said.get("added_tokens", [])}
        vocabulary = said.get("model", {}).get("vocab", {})
        if isinstance(vocabulary, dict):
            named = {number: token for token, number in vocabulary.items()} | named
        if eos_id not in named:
            raise UserError(
                f"the model's eos_token_id {eos_id} is no token of {self.main}; give its own "
                "tokenizer, or name the token as PATH.json#TOKEN"
            )
        return named[eos_id]

    def _configured(self) -> str:
        path = self.folder / CONFIG
        said: Any = _object(path).get("eos_token") if path in self._beside else None
        said = said.get("content") if isinstance(said, dict) else said
        return said if isinstance(said, str) else ""


@contextlib.contextmanager
def found_words(source: Source, asked: str, vocab_size: int) -> Iterator[TokenizerFiles]:
    """The tokenizer that is asked for, else the one beside a checkpoint or inside it.

    Args:
      source: the checkpoint.
      asked: a tokenizer.json or its folder; "" = none.
      vocab_size: of the model.

    Raises:
      UserError: there is none, or see `TokenizerFiles`.
    """
    if asked:
        yield TokenizerFiles(asked, vocab_size)
        return
    eos_id = source.fields.get("eos_token_id")
    eos_id = eos_id[0] if isinstance(eos_id, list) and eos_id else eos_id
    if isinstance(source, GgufFile):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, MAIN).write_text(source.tokenizer_json(), encoding="utf-8")
            yield TokenizerFiles(folder, vocab_size, eos_id)
        return
    if not (source.path / MAIN).exists():
        raise UserError(
            f"expected a {MAIN} in {source.path}, found none; name the model's own by "
            "--tokenizer=PATH.json, gpt2 or bytes"
        )
    yield TokenizerFiles(source.path, vocab_size, eos_id)


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return found
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not complete JSON ({error}); copy it again") from None
