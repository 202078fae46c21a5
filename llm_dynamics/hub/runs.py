"""A checkpoint of theirs as a run folder of ours that other runs start from, and the way back."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.data.cache import cache_folder
from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.tokenizers import Tokenizer, load_tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.hub.families import Family, read_config
from llm_dynamics.hub.folder import CONFIG
from llm_dynamics.hub.reading import Source, check, open_source, read_params
from llm_dynamics.hub.tokenizer_files import MAIN, TokenizerFiles, found_words
from llm_dynamics.hub.whole import free, whole_folder
from llm_dynamics.hub.writing import SHARD_BYTES, export
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train import checkpoint_reader as reader
from llm_dynamics.train.config import CheckpointConfig, RunSpec, TrainConfig
from llm_dynamics.train.finished import finished_run
from llm_dynamics.train.run_folder import RunFolder, versions
from llm_dynamics.train.start import COMPUTATION

_CHUNK = 64_000_000  # bytes of a parameter that are written together
HUB = "hub"  # below the run folder: config.json and the tokenizer as they came, and
SETTINGS = "settings"  # what a run that starts from it is told, a line each


@dataclasses.dataclass(frozen=True)
class Imported:
    """What became of a checkpoint."""

    family: str
    config: ModelConfig
    run: Path
    tokenizer: str  # what data.tokenizer has to be

    def settings(self) -> list[str]:
        """What a run that starts from it has to be told, KEY=VALUE."""
        model = {k: v for k, v in specs.to_json(self.config).items() if k not in COMPUTATION}
        model |= {"max_length": self.config.max_length}
        said = {f"model.{key}": value for key, value in specs.flatten(model)}
        said |= {
            "data.tokenizer": self.tokenizer,
            "train.start.run": str(self.run),
            "train.start.optimizer": "reset",
            "train.start.continue_schedule": False,
            "train.start.data": "fresh",
        }
        return [f"{key}={_word(value)}" for key, value in said.items()]


def import_run(
    source: str | Path, run: str | Path, tokenizer: str = "", ignore: Iterable[str] = ()
) -> Imported:
    """Makes a run folder whose only checkpoint, of step 0, holds the parameters and no moments.

    Args:
      source: the folder of the checkpoint, or a .gguf file.
      run: the run folder to make; new or empty. It is there whole or not at all.
      tokenizer: a tokenizer.json (PATH.json#TOKEN), its folder, "gpt2" or "bytes", in place of the
        one beside the checkpoint.
      ignore: fields of config.json that are harmless though they are not known to be.

    Raises:
      UserError: see `reading.load` and `TokenizerFiles`; before anything is written.
    """
    target, opened = free(run), open_source(source)
    family, config = read_config(opened.fields, opened.where, ignore)
    check(opened, family, config)
    if tokenizer in ("gpt2", "bytes"):
        loaded = load_tokenizer(tokenizer, None, cache_folder())
        return _import(opened, family, config, target, tokenizer, loaded, None)
    with found_words(opened, tokenizer, config.vocab_size) as words:
        name = words.spec(target / HUB / MAIN)
        return _import(opened, family, config, target, name, words.tokenizer, words)


def _import(
    opened: Source,
    family: Family,
    config: ModelConfig,
    target: Path,
    name: str,
    tokenizer: Tokenizer,
    words: TokenizerFiles | None,
) -> Imported:
    spec = RunSpec(
        model=config,
        data=DataConfig(tokenizer=name, length=min(DataConfig.length, config.max_length)),
        optim=OptimConfig(),
        train=TrainConfig(
            steps=1, validate_every=0, checkpoint=CheckpointConfig(steps=(0,)), tensorboard=False
        ),
        probe=ProbeConfig(),
    )
    origin = {
        "family": family.name,
        "config": opened.fields,
        "tensors": {n: [t.dtype, list(t.shape)] for n, t in sorted(opened.tensors.items())},
    }
    data = {
        "fingerprint": specs.fingerprint(origin),
        # What it read before is not known, and of it nothing was read here.
        "sources": [{"name": f"unknown ({family.name})", "rows": 1, "weight": 1.0}],
        "tokenizer": name,
        "imported": {"folder": opened.path.name, "family": family.name},
    }
    meta = {
        "spec": specs.to_json(spec),
        "data": data["fingerprint"],
        "tokenizer": tokenizer.fingerprint,
        "schedule": [0, 0],  # none was read, and none has to be gone on with
        "first_data_step": 0,
    }
    params = read_params(opened, family, config, None)
    with whole_folder(target) as temporary:
        folder = RunFolder(temporary)
        (temporary / HUB).mkdir()
        files.write_json(temporary / HUB / CONFIG, opened.fields)
        if words:
            words.copy(temporary / HUB)
        record = {"spec": specs.to_json(spec), "data": data, "parent": None}
        files.write_json(folder.spec, record | {"versions": versions()})
        made = Imported(family.name, config, target, name)
        files.write_text(temporary / HUB / SETTINGS, "\n".join(made.settings()) + "\n")
        _save(folder, params, meta)
    return made


def _save(folder: RunFolder, params: Any, meta: dict[str, Any]) -> None:
    """As `train.checkpoint` does, without the copy in memory that a state needs which changes."""
    numpy = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=ocp.type_handlers.create_type_handler_registry((np.ndarray, numpy)),
        use_compression=False,
    )
    state = {"step": np.zeros((), np.int32), "params": jax.tree.map(np.asarray, params)}
    chunks = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), state)
    items = {
        "state": (
            handler,
            ocp.args.PyTreeSave(state, save_args=chunks, ocdbt_target_data_file_size=_CHUNK),
        ),
        "meta": (ocp.JsonCheckpointHandler(), ocp.args.JsonSave(meta)),
    }
    with ocp.CheckpointManager(
        folder.checkpoints.absolute(),
        options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
        item_handlers={name: handler for name, (handler, _) in items.items()},
    ) as manager:
        manager.save(0, args=ocp.args.Composite(**{k: args for k, (_, args) in items.items()}))


def export_run(
    run: str | Path,
    folder: str | Path,
    step: int = -1,
    tokenizer: str = "",
    family: str = "",
    shard_bytes: int = SHARD_BYTES,
) -> tuple[Family, int, bool]:
    """Writes the model of a checkpoint of a run as `writing.export` does.

    Args:
      run: the run folder.
      folder: to write; new or empty.
      step: of the checkpoint; -1 = the last one.
      tokenizer: a tokenizer.json or its folder, in place of the one that the run read with.
      family: to write it as; "" = the first one that has such a model.
      shard_bytes: of weights in a file.

    Returns:
      The family, the step, and whether there is a tokenizer in the folder.

    Raises:
      UserError: no such run or checkpoint, or see `writing.export`.
    """
    free(folder)
    found = finished_run(run)
    step = (found.steps[-1] if found.steps else -1) if step == -1 else step
    params = found.params(step)
    words = tokenizer or tokenizer_of(
        found.data, reader.meta(found.folder.path, step, reader.NOTHING).get("tokenizer", "")
    )
    chosen = export(found.config, params, folder, words, family, shard_bytes)
    return chosen, step, bool(words)


def tokenizer_of(data: DataConfig, fingerprint: str) -> str | Path | None:
    """The files of the tokenizer that a run read with; None = it has none.

    Raises:
      UserError: its file is another one by now.
    """
    said = data.tokenizer
    if said.startswith("bpe:"):  # trained, and kept in the cache by what it was trained on
        cached = cache_folder(data.cache_dir)
        for path in sorted((cached / "tokenizers").glob(f"bpe-{said[4:]}-*/tokenizer.json")):
            if load_tokenizer(str(path), None, cached).fingerprint == fingerprint:
                return path
        return None
    if said in ("gpt2", "bytes"):
        return None
    path = files.expanded(said.rpartition("#")[0] or said)
    if not path.is_file():
        raise UserError(f"the run's tokenizer {path} is gone; name it by --tokenizer=PATH.json")
    found = load_tokenizer(said, None, cache_folder())
    if fingerprint and found.fingerprint != fingerprint:
        raise UserError(
            f"{path} is not the tokenizer that the run read with any more; name that one by "
            "--tokenizer=PATH.json"
        )
    return said


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
