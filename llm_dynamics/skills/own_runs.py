"""The checkpoints of our own run folders, with the tokenizer that the run was trained with."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from llm_dynamics.data.cache import cache_folder
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.opened import build_tokenizer
from llm_dynamics.data.tokenizers import Tokenizer, check_vocabulary, load_tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.spec import fingerprint, from_json
from llm_dynamics.train import checkpoint_reader as reader
from llm_dynamics.train.run_folder import RunFolder, read_spec


@dataclasses.dataclass(frozen=True)
class OwnRun:
    """A run folder of ours, of a decoder."""

    name: str
    folder: RunFolder
    record: dict[str, Any]
    steps: tuple[int, ...]
    tokenizer_asked: str = ""

    @cached_property
    def config(self) -> ModelConfig:
        return from_json(ModelConfig, self.record["model"], "model")

    @cached_property
    def data(self) -> DataConfig:
        return from_json(DataConfig, self.record["data"], "data")

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the run was trained with.

        Raises:
          UserError: it cannot be found, or what was asked for is another one.
        """
        meta = reader.meta(self.folder.path, self.steps[-1], reader.NOTHING)
        trained = meta.get("tokenizer", "")
        found = self._tokenizer(trained)
        if trained and trained != found.fingerprint:
            raise UserError(
                f"the tokenizer {found.name!r} is not the one that {self.folder.path} was trained "
                "with; give the tokenizer.json of that run by --tokenizer"
            )
        check_vocabulary(found, self.config.vocab_size)
        return found

    def _tokenizer(self, trained: str) -> Tokenizer:
        folder = cache_folder(self.data.cache_dir)
        if self.tokenizer_asked:
            return load_tokenizer(self.tokenizer_asked, None, folder)
        # One that was trained is kept by what it was trained on, which a study may have invented.
        name = self.data.tokenizer
        kept = f"{name.replace(':', '-')}-*/tokenizer.json" if name.startswith("bpe:") else ""
        for path in sorted((folder / "tokenizers").glob(kept)) if kept else ():
            found = load_tokenizer(str(path), None, folder)
            if found.fingerprint == trained:
                return found
        try:
            return build_tokenizer(self.data)
        except UserError as error:
            raise UserError(
                f"the tokenizer {name!r} of {self.folder.path} is neither in the "
                f"cache {folder} nor can it be made again ({error}); give its tokenizer.json by "
                "--tokenizer"
            ) from None


@dataclasses.dataclass(frozen=True)
class OwnCheckpoint:
    """A `series.Checkpoint` of a run folder."""

    of: OwnRun
    step: int

    @property
    def run(self) -> str:
        return self.of.name

    @property
    def tokens(self) -> int:
        return self.step * self.of.data.batch_size * self.of.data.length

    @property
    def config(self) -> ModelConfig:
        return self.of.config

    @property
    def identity(self) -> str:
        # Imported parameters may differ under one spec, and training again writes a new folder.
        written = (self.of.folder.checkpoints / str(self.step)).stat().st_mtime_ns
        return fingerprint([self.of.record, self.step, written])

    @property
    def tokenizer(self) -> Tokenizer:
        return self.of.tokenizer

    def params(self) -> Any:
        new = build_model(self.config).new_params
        shapes = nn.unbox(jax.eval_shape(new, jax.random.key(0)))
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes
        )
        try:
            return reader.restore(self.of.folder.path, self.step, {"params": wanted})["params"]
        except UserError as error:
            raise UserError(
                f"the checkpoint of step {self.step} in {self.of.folder.path} cannot be read; "
                "leave it out by --steps"
            ) from error


def own_run(path: Path, tokenizer: str = "") -> OwnRun:
    """A run folder, read but for its parameters.

    Args:
      path: the run folder.
      tokenizer: in place of what the run's record names, see `tokenizers.load_tokenizer`.

    Raises:
      UserError: no run of one decoder.
    """
    folder = RunFolder(path)
    record = read_spec(folder.spec)["spec"]
    if "model" not in record or "data" not in record:
        raise UserError(f"{folder.path} is no run of one model; name the run folder of a model")
    found = OwnRun(
        folder.path.name, folder, record, tuple(reader.steps(folder.path, reader.NOTHING)),
        tokenizer,
    )  # fmt: skip
    if not found.config.causal:
        raise UserError(
            f"{folder.path} trained an encoder, which predicts no next token; name a decoder's run"
        )
    return found


def checkpoints(runs: Sequence[OwnRun], steps: Sequence[int] = ()) -> list[OwnCheckpoint]:
    """The checkpoints of runs, all of them or those of some steps.

    Raises:
      UserError: a run without checkpoints or one of the steps, or two runs of one name.
    """
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"expected runs of different names, got {twice[0]!r} twice; rename one")
    found = []
    for run in runs:
        if not run.steps:
            raise UserError(
                f"{run.folder.path} has no checkpoint; train it with train.checkpoint.every or "
                "train.checkpoint.steps"
            )
        for step in steps or run.steps:
            if step not in run.steps:
                known = ", ".join(map(str, run.steps))
                raise UserError(
                    f"{run.folder.path} has no checkpoint of step {step}; it has {known}"
                )
            found.append(OwnCheckpoint(run, step))
    return found
