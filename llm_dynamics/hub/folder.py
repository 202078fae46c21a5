"""A folder of safetensors: what it holds, checked before any tensor is read, and its tensors.

Every read opens its file anew: what stays mapped would count as memory of this process.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


@dataclasses.dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: Path
    dtype: str  # as the format writes it, "BF16"
    shape: tuple[int, ...]
    bytes: int  # there


class Folder:
    """A model as transformers' `save_pretrained` writes it; opening it reads no weights."""

    dtypes = tuple(DTYPES)  # that can be read

    def __init__(self, path: str | Path):
        """Opens the folder.

        Raises:
          UserError: a missing, damaged or foreign file, an index that does not fit the files, a
            path that leads out of the folder, or a pickle.
        """
        self.path = expanded(path).absolute()
        if not self.path.is_dir():
            raise UserError(f"expected a folder of a model at {path}, found none; check the path")
        self.fields = self._json(CONFIG)
        if not isinstance(self.fields, dict):
            raise UserError(f"{self.path / CONFIG} is not an object of fields; restore it")
        files, named = self._files()
        self.tensors: dict[str, Stored] = {}
        for name in files:
            self.tensors |= self._header(self._inside(name))
        if named is not None:
            self._compare(named)

    @property
    def where(self) -> str:
        """What its configuration is called in errors."""
        return str(self.path / CONFIG)

    def read(self, name: str) -> np.ndarray:
        """The values of a tensor, float32.

        Raises:
          UserError: it cannot be read any more.
        """
        stored = self.tensors[name]
        try:
            with safetensors.safe_open(stored.file, framework="numpy") as file:
                return file.get_tensor(name).astype(np.float32, copy=False)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(f"{stored.file} cannot be read ({error}); restore it") from None

    def _inside(self, name: str) -> Path:
        """The path of a file of the folder."""
        path = self.path / name
        if Path(name).name != name or name in ("", ".", ".."):
            raise UserError(
                f"{self.path / INDEX} names the file {name!r}; expected files of this folder alone"
            )
        try:
            real = path.resolve(strict=True)
        except OSError:
            raise UserError(
                f"expected the file {name} in {self.path}, found none; restore it"
            ) from None
        refuse_outside(self.path, path)
        if not real.is_file():
            raise UserError(f"expected {path} to be a file, got a folder")
        return path

    def _json(self, name: str) -> Any:
        path = self._inside(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not complete JSON ({error}); restore it") from None

    def _files(self) -> tuple[list[str], dict[str, str] | None]:
        """The files of weights, and which tensor the index says is where (None = no index)."""
        if (self.path / INDEX).exists() or (self.path / INDEX).is_symlink():
            index = self._json(INDEX)
            named = index.get("weight_map") if isinstance(index, dict) else None
            if not isinstance(named, dict) or not all(isinstance(v, str) for v in named.values()):
                raise UserError(f"{self.path / INDEX} has no weight_map of names; restore it")
            if not named:
                raise UserError(f"{self.path / INDEX} names no tensor; restore it")
            return sorted(set(named.values())), named
        if (self.path / WEIGHTS).exists() or (self.path / WEIGHTS).is_symlink():
            return [WEIGHTS], None
        others = sorted(p.name for p in self.path.iterdir())
        pickles = [n for n in others if n.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        if pickles:
            raise UserError(
                f"{self.path} holds {pickles[0]}, a pickle, which can run any program when it is "
                "opened; expected safetensors: load it where you trust it with transformers and "
                "save it with save_pretrained"
            )
        raise UserError(f"expected {WEIGHTS} or {INDEX} in {self.path}, found neither")

    def _header(self, path: Path) -> dict[str, Stored]:
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
                return {
                    name: _stored(path, part.get_dtype(), tuple(part.get_shape()))
                    for name, part in slices.items()
                }
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(
                f"{path} is no whole file of safetensors ({error}); fetch it again"
            ) from None

    def _compare(self, named: dict[str, str]) -> None:
        found = {name: stored.file.name for name, stored in self.tensors.items()}
        for name, file in named.items():
            if found.get(name) != file:
                raise UserError(
                    f"{self.path / INDEX} says that {file} holds the tensor {name}, which it does "
                    "not; fetch both again"
                )
        if more := sorted(set(found) - set(named)):
            raise UserError(
                f"{self.path / found[more[0]]} holds the tensor {more[0]}, which {INDEX} does not "
                "name; fetch both again"
            )


def refuse_outside(folder: Path, file: Path) -> None:
    """Refuses a link that leads out of a folder.

    A snapshot in the hub's cache, models--OWNER--NAME/snapshots/HASH, is links to the blobs of the
    same model: these belong to it.

    Raises:
      UserError: the file lies elsewhere.
    """
    home, real = folder.resolve(), file.resolve()
    homes = [home]
    if home.parent.name == "snapshots" and home.parent.parent.name.startswith("models--"):
        homes.append(home.parent.parent / "blobs")
    if not any(one in real.parents for one in homes):
        raise UserError(
            f"{file} is a link that leads out of the folder, to {real}; copy the folder with "
            "its files (cp -rL FROM TO) and give the copy"
        )


def _stored(path: Path, dtype: str, shape: tuple[int, ...]) -> Stored:
    size = np.dtype(DTYPES[dtype]).itemsize if dtype in DTYPES else 0
    return Stored(path, dtype, shape, size * int(np.prod(shape)))
