"""A model of ours as a folder that transformers loads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from llm_dynamics import files
from llm_dynamics.errors import UserError
from llm_dynamics.hub.families import Family, family_of
from llm_dynamics.hub.folder import CONFIG, INDEX, WEIGHTS
from llm_dynamics.hub.layouts import Part, Tensor, pack
from llm_dynamics.hub.tokenizer_files import TokenizerFiles
from llm_dynamics.hub.whole import free, whole_folder
from llm_dynamics.model import sharding
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.train.checkpoint import differences, leaves

SHARD_BYTES = 2_000_000_000


def export(
    config: ModelConfig,
    params: Any,
    folder: str | Path,
    tokenizer: str | Path | None = None,
    family: str = "",
    shard_bytes: int = SHARD_BYTES,
) -> Family:
    """Writes config.json, float32 safetensors and the files of the tokenizer.

    Biases that a family always has and the model lacks are written as zeros: the same function.

    Args:
      config: the decoder.
      params: its parameters.
      folder: to write; new or empty. It is there whole or not at all.
      tokenizer: a tokenizer.json, or a folder that holds one with what belongs to it; None = none.
      family: to write it as; "" = the first one that has such a model.
      shard_bytes: of weights in a file; a tensor is never cut.

    Returns:
      The family it was written as.

    Raises:
      UserError: no family has such a model, parameters that are not its own or not finite, a
        tokenizer that cannot be read, or a folder that is not empty.
    """
    if shard_bytes < 1:
        raise UserError(f"expected files of at least 1 byte, got {shard_bytes}")
    chosen = family_of(config, family)
    target = free(folder)
    expected = leaves(sharding.abstract_params(build_model(config)))
    if wrong := differences(leaves(params), expected):
        raise UserError(f"the parameters are not those of the model: {wrong}")
    found = TokenizerFiles(tokenizer, config.vocab_size) if tokenizer else None
    _refuse_infinities(params)
    with whole_folder(target) as temporary:
        said = {"architectures": [chosen.architecture], "model_type": chosen.name}
        said |= chosen.write(config) | {"dtype": "float32"}
        said |= found.ids() if found else {}
        files.write_json(temporary / CONFIG, said)
        if found:
            found.copy(temporary)
        _write_weights(chosen, config, params, temporary, shard_bytes)
    return chosen


def _write_weights(
    family: Family, config: ModelConfig, params: Any, folder: Path, shard_bytes: int
) -> None:
    written = family.as_written(config)
    layout = family.tensors(written)
    shapes = sharding.abstract_params(build_model(written))
    shards = list(_shards(layout, shard_bytes))
    stem = WEIGHTS.removesuffix(".safetensors")
    where = {}
    for i, tensors in enumerate(shards):
        name = f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" if shards[1:] else WEIGHTS
        arrays = {
            tensor.name: pack(tensor, lambda part: _values(params, part, shapes))
            for tensor in tensors
        }
        safetensors.numpy.save_file(arrays, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(arrays, name)
    if shards[1:]:
        total = sum(_bytes(tensor) for tensor in layout)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))}
        files.write_json(folder / INDEX, index)


def _shards(layout: list[Tensor], shard_bytes: int) -> Iterator[list[Tensor]]:
    held, size = [], 0
    for tensor in layout:
        if held and size + _bytes(tensor) > shard_bytes:
            yield held
            held, size = [], 0
        held.append(tensor)
        size += _bytes(tensor)
    yield held


def _bytes(tensor: Tensor) -> int:
    return 4 * int(np.prod(tensor.shape))


def _values(params: Any, part: Part, shapes: Any) -> np.ndarray:
    """Of a part; the biases that the model lacks are zeros."""
    for key in part.path:
        params, shapes = params.get(key, {}), shapes[key]
    leaf = np.zeros(shapes.shape, np.float32) if isinstance(params, dict) else np.asarray(params)
    return leaf if part.layer is None else leaf[part.layer]


def _refuse_infinities(params: Any) -> None:
    def look(tree: Any, path: str) -> None:
        if isinstance(tree, dict):
            for key, value in tree.items():
                look(value, f"{path}/{key}" if path else key)
        elif not all(np.isfinite(np.asarray(row)).all() for row in tree):
            raise UserError(
                f"the parameter {path} holds NaN or infinities; export an earlier checkpoint"
            )

    look(params, "")
