"""A checkpoint of theirs as a model of ours: read tensor by tensor into the stacked parameters.

With a mesh every device gets its part alone. In memory at once are the parameters made so far,
the one that is being stacked and one tensor.
"""

import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from llm_dynamics.errors import UserError
from llm_dynamics.hub.families import Family, read_config
from llm_dynamics.hub.folder import Folder, Stored
from llm_dynamics.hub.gguf_file import GgufFile
from llm_dynamics.hub.layouts import Tensor, unpack
from llm_dynamics.model import sharding
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig

_ALIGNED = 64  # bytes: JAX on CPU then takes a buffer over rather than copying it
_BLOCK = 256  # values along a side of what is transposed at once
_CHUNK = 1 << 20  # values looked at for infinities at once


class Source(Protocol):
    """Where a model is read from."""

    path: Path
    fields: dict[str, Any]  # of its config.json
    tensors: dict[str, Stored]

    @property
    def where(self) -> str: ...

    @property
    def dtypes(self) -> tuple[str, ...]: ...

    def read(self, name: str) -> np.ndarray: ...


def open_source(path: str | Path) -> Source:
    """A model on this machine, by its folder or .gguf file.

    Raises:
      UserError: see `Folder` and `GgufFile`.
    """
    return GgufFile(path) if str(path).endswith(".gguf") else Folder(path)


def load(
    folder: str | Path, mesh: Mesh | None = None, ignore: Iterable[str] = ()
) -> tuple[ModelConfig, Any]:
    """The model in a folder: its configuration and float32 parameters.

    Args:
      folder: as `save_pretrained` writes it, one file of safetensors or several with an index; or a
        .gguf file of a Llama.
      mesh: the devices that the parameters are laid out on; None = the first device.
      ignore: fields of config.json that are harmless though they are not known to be.

    Raises:
      UserError: what cannot be read, or is no model of ours; before any weights are read, but for
        NaN, infinities and a tied head that is not its embedding.
    """
    source = open_source(folder)
    family, config = read_config(source.fields, source.where, ignore)
    return config, read_params(source, family, config, mesh)


def read_params(source: Source, family: Family, config: ModelConfig, mesh: Mesh | None) -> Any:
    """The parameters of a model whose configuration was read, see `load`."""
    layout, stored = family.tensors(config), names(source, family)
    check(source, family, config)
    decoder = build_model(config)
    shapes = sharding.abstract_params(decoder)
    if mesh is None:
        here = SingleDeviceSharding(jax.devices()[0])
        placed = jax.tree.map(lambda _: here, shapes)
    else:
        rows = mesh.shape["data"] * mesh.shape["fsdp"]
        sharding.check_mesh(config, mesh, rows)
        placed = sharding.param_shardings(decoder, mesh)
    groups: dict[tuple, list[Tensor]] = {}
    for tensor in layout:
        groups.setdefault(tuple(part.path for part in tensor.parts), []).append(tensor)
    params: dict[str, Any] = {}
    for paths, tensors in groups.items():
        leaves = {p: _Leaf(_get(shapes, p).shape, _get(placed, p)) for p in paths}
        for tensor in tensors:
            array = _finite(source.read(stored[tensor.name]), stored[tensor.name], source)
            for part, values in unpack(tensor, array):
                leaves[part.path].put(part.layer, values)
            del array, values
        for path in paths:
            _set(params, path, leaves.pop(path).array())
    _check_tied(source, family, config, stored, params)
    return params


def names(source: Source, family: Family) -> dict[str, str]:
    """{name with the family's prefix: name as stored}."""
    found = list(source.tensors)
    if any(name.startswith(family.prefix) for name in found):
        return {name: name for name in found}
    return {name if name == family.head else family.prefix + name: name for name in found}


def problems(source: Source, family: Family, config: ModelConfig) -> list[str]:
    """What is wrong with the stored tensors, from their headers alone."""
    stored, wanted = names(source, family), {t.name: t for t in family.tensors(config)}
    said = []
    for name, tensor in wanted.items():
        if name not in stored:
            said.append(f"the tensor {name} is missing")
            continue
        found = source.tensors[stored[name]]
        if found.shape != tensor.shape:
            said.append(
                f"{stored[name]} has the shape {list(found.shape)}, expected {list(tensor.shape)}"
            )
        if found.dtype not in source.dtypes:
            said.append(
                f"{stored[name]} is of type {found.dtype}, expected {', '.join(source.dtypes)}"
            )
    for name in stored:
        spared = re.fullmatch(family.buffers, name) or (
            name == family.head and config.tie_embeddings
        )
        if name not in wanted and not spared:
            said.append(f"{stored[name]} is no tensor of such a {family.name}")
    return said


def check(source: Source, family: Family, config: ModelConfig) -> None:
    """Refuses tensors that are not those of the model.

    Raises:
      UserError: missing or unknown names, other shapes or types.
    """
    if said := problems(source, family, config):
        more = f"; and {len(said) - 5} more" if len(said) > 5 else ""
        raise UserError(
            f"{source.path} does not hold the {family.name} that its configuration says: "
            f"{'; '.join(said[:5])}{more}"
        )


def _finite(array: np.ndarray, name: str, source: Source) -> np.ndarray:
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        if not np.isfinite(flat[start : start + _CHUNK]).all():
            raise UserError(
                f"the tensor {name} of {source.path} holds NaN or infinities; fetch it again or "
                "take an earlier checkpoint"
            )
    return array


def _check_tied(
    source: Source, family: Family, config: ModelConfig, stored: dict[str, str], params: Any
) -> None:
    if not config.tie_embeddings or family.head not in stored:
        return
    head, embedding = (source.read(stored[name]) for name in (family.head, family.embedding))
    if not np.array_equal(head, embedding):
        raise UserError(
            f"{source.where} says tie_word_embeddings true, but {stored[family.head]} is not the "
            f"same as {stored[family.embedding]}; set the field to what the model was trained with"
        )


class _Leaf:
    """A parameter in the making: a buffer for every different part that a device here holds."""

    def __init__(self, shape: tuple[int, ...], placed: jax.sharding.Sharding):
        self._shape, self._placed = shape, placed
        self._where = placed.addressable_devices_indices_map(shape)
        self._buffers = {}
        for index in self._where.values():
            key = _key(index, shape)
            if key not in self._buffers:
                self._buffers[key] = _aligned(tuple(stop - start for start, stop in key))

    def put(self, layer: int | None, values: np.ndarray) -> None:
        for key, buffer in self._buffers.items():
            cut = key
            target = buffer
            if layer is not None:
                (start, stop), cut = key[0], key[1:]
                if not start <= layer < stop:
                    continue
                target = buffer[layer - start]
            _copy(target, values[tuple(slice(*part) for part in cut)])

    def array(self) -> jax.Array:
        parts = [
            jax.device_put(self._buffers[_key(index, self._shape)], device)
            for device, index in self._where.items()
        ]
        return jax.make_array_from_single_device_arrays(self._shape, self._placed, parts)


def _copy(target: np.ndarray, values: np.ndarray) -> None:
    """target[...] = values, in blocks that stay in the cache: a third of the time if transposed."""
    side = _BLOCK if values.ndim < 3 else _BLOCK // 4
    steps = [[slice(i, i + side) for i in range(0, size, side)] for size in values.shape]
    for block in itertools.product(*steps):
        target[block] = values[block]


def _key(index: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(s.indices(size)[:2] for s, size in zip(index, shape, strict=True))


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape)) * 4
    raw = np.empty(size + _ALIGNED, np.uint8)
    start = -raw.ctypes.data % _ALIGNED
    return raw[start : start + size].view(np.float32).reshape(shape)


def _get(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _set(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
