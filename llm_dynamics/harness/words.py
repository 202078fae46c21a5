"""The tokenizer of a checkpoint with the conventions of transformers, which the harness follows.

transformers adds the special tokens that a tokenizer's files ask for, and reads special tokens
out of text; the tokenizer that a run is trained with does neither.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from llm_dynamics import files
from llm_dynamics.data.tokenizers import Tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.hub.families import family_of
from llm_dynamics.hub.folder import CONFIG
from llm_dynamics.hub.runs import tokenizer_of
from llm_dynamics.hub.tokenizer_files import MAIN, TokenizerFiles
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.train import checkpoint_reader as reader
from llm_dynamics.train.finished import FinishedRun

_WORDS = (MAIN, "tokenizer.model", "vocab.json")


class Words(Protocol):
    """What the adapter needs of a tokenizer."""

    bos_token_id: int | None
    eos_token_id: int

    def encode(self, text: str, **special: Any) -> list[int]: ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str: ...


class PlainWords:
    """A tokenizer of ours that has no files of transformers: no token is added or read."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id = tokenizer.eos_id

    def encode(self, text: str, **special: Any) -> list[int]:
        """Token ids; there is no special token that `special` could ask for."""
        return self._tokenizer.encode(text)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        """The text, without the end of a document if `skip_special_tokens`."""
        ids = [ids] if isinstance(ids, int) else ids
        kept = [i for i in ids if not (skip_special_tokens and i == self.eos_token_id)]
        return self._tokenizer.decode(kept)


def of_folder(folder: str | Path) -> Words:
    """The tokenizer beside a checkpoint, as transformers reads it.

    Raises:
      UserError: there is none, or it has no end of text.
    """
    import transformers

    path = files.expanded(folder)
    if not any((path / name).is_file() for name in _WORDS):  # it would make an empty one up
        raise UserError(
            f"expected a tokenizer ({', '.join(_WORDS)}) in {path}, found none; put the files of "
            "the model's own there"
        )
    try:
        words = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(
            f"transformers cannot read a tokenizer in {path} ({said}); put the model's own "
            "tokenizer.json and tokenizer_config.json there"
        ) from None
    if words.eos_token_id is None:
        raise UserError(
            f"expected an eos_token in the tokenizer_config.json of {path}, found none; name the "
            "token that ends a text"
        )
    return words


def of_run(run: FinishedRun, step: int) -> Words:
    """The tokenizer of a run, as transformers reads it from the folder that the run exports.

    A run that read with `gpt2` or `bytes` exports none: its own tokenizer is used.

    Raises:
      UserError: see `hub.runs.tokenizer_of`.
    """
    meta = reader.meta(run.folder.path, step, reader.NOTHING)
    spec = run.tokenizer_asked or tokenizer_of(run.data, meta.get("tokenizer", ""))
    return of_files(run.config, spec or "", run.tokenizer)


def of_files(config: ModelConfig, spec: str | Path, tokenizer: Tokenizer) -> Words:
    """The tokenizer of some files, as transformers reads it beside a model exported with them.

    Args:
      config: of the model.
      spec: of `data.tokenizer`, or a path; gpt2, bytes and "" have no files.
      tokenizer: used where there are none.

    Raises:
      UserError: see `TokenizerFiles`.
    """
    if spec in ("", "gpt2", "bytes"):
        return PlainWords(tokenizer)
    with _exported(config, spec) as folder:
        return of_folder(folder)


@contextlib.contextmanager
def _exported(config: ModelConfig, spec: str | Path) -> Iterator[Path]:
    """A folder with all that `hub.export` writes but the weights."""
    found = TokenizerFiles(spec, config.vocab_size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.suppress(UserError):  # a model of no family has no config.json of theirs
            family = family_of(config)
            said = {"model_type": family.name} | family.write(config) | found.ids()
            files.write_json(folder / CONFIG, said)
        found.copy(folder)
        yield folder
