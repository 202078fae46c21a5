"""A run folder of ours that is asked afterwards: its model, checkpoints and tokenizer."""

import dataclasses
import functools
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
from llm_dynamics.spec import from_json
from llm_dynamics.train import checkpoint_reader as reader
from llm_dynamics.train.run_folder import RunFolder, read_spec


@dataclasses.dataclass(frozen=True)
class FinishedRun:
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
                "with; give the tokenizer.json of that run as tokenizer"
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
                f"cache {folder} nor can it be made again ({error}); give its tokenizer.json "
                "as tokenizer"
            ) from None

    def params(self, step: int) -> Any:
        """The parameters after so many updates, on the first device.

        Raises:
          UserError: no such checkpoint, or a damaged one.
        """
        if step not in self.steps:
            known = ", ".join(map(str, self.steps)) or "none"
            raise UserError(f"{self.folder.path} has no checkpoint of step {step}; it has {known}")
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes(self.config)
        )
        return reader.restore(self.folder.path, step, {"params": wanted})["params"]


@functools.lru_cache(maxsize=8)
def shapes(config: ModelConfig) -> Any:
    """Shapes and types of the parameters of a model."""
    return nn.unbox(jax.eval_shape(build_model(config).new_params, jax.random.key(0)))


def finished_run(path: str | Path, tokenizer: str = "") -> FinishedRun:
    """A run folder, read but for its parameters.

    Args:
      path: the run folder.
      tokenizer: in place of what the run's record names, see `tokenizers.load_tokenizer`.

    Raises:
      UserError: no run of one decoder.
    """
    folder = RunFolder(Path(path))
    record = read_spec(folder.spec)["spec"]
    if "model" not in record or "data" not in record:
        raise UserError(f"{folder.path} is no run of one model; name the run folder of a model")
    found = FinishedRun(
        folder.path.name, folder, record, tuple(reader.steps(folder.path, reader.NOTHING)),
        tokenizer,
    )  # fmt: skip
    if not found.config.causal:
        raise UserError(
            f"{folder.path} trained an encoder, which predicts no next token; name a decoder's run"
        )
    return found
