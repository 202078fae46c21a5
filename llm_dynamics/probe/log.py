"""The probe log: one labelled step x probe x measure array, written by step.

A zarr store (format 2, every file replaced atomically) that `xarray.open_zarr` reads as it is.
Axes: S recorded steps, P probes, M measures.
"""

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import xarray as xr
import zarr

from llm_dynamics.errors import UserError, disk_full
from llm_dynamics.files import replacing, sync
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import DEFINITIONS

_CHUNK = 32  # steps in one file
_MAX_DIRTY = 8  # chunks held in memory before they are written unasked
_DIMS = ("step", "probe", "measure")
RESERVED = (*_DIMS, "score", "tokens", "context", "target", "num_target_tokens")
_ATTRS = {
    "step_convention": "row t is scored with the parameters before update t (update t sees batch "
    "t); the last row is the model after the last update",
    "unwritten": "NaN",
}


class _DurableStore(zarr.storage.LocalStore):
    """A local store whose files are synced to disk before they take their name."""

    async def set(self, key: str, value: zarr.core.buffer.Buffer) -> None:
        with replacing(Path(self.root) / key) as temporary:
            temporary.write_bytes(value.to_bytes())

    async def set_if_not_exists(self, key: str, value: zarr.core.buffer.Buffer) -> None:
        if not (Path(self.root) / key).exists():
            await self.set(key, value)


class ProbeLog:
    """Writes the scores of a run; use it on process 0 only, and as a context manager.

    Rows are buffered until `flush` (or `close`); whatever was flushed survives a kill at any
    moment. Writing a step twice, out of order or after reopening gives the same bytes on disk as
    writing every step once in one go.

    Args:
      path: the folder of the store; created, or opened when it exists.
      probes: in the order of the rows of `values_PxM`.
      num_target_tokens: tokens of each probe's target.
      steps: the steps that will be written, ascending.
      tokens: training tokens seen before each of those steps.
      attrs: further attributes of the store, JSON values.

    Raises:
      UserError: probe names or labels that cannot be coordinates, an existing store of another
        run (with the difference), an unreadable store, or a full disk.
    """

    def __init__(
        self,
        path: str | Path,
        probes: Sequence[Probe],
        num_target_tokens: Sequence[int],
        steps: Sequence[int],
        tokens: Sequence[int],
        attrs: Mapping[str, Any] | None = None,
    ):
        self._path = Path(path)
        self._steps = {int(step): row for row, step in enumerate(steps)}
        self._dirty: dict[int, np.ndarray] = {}
        table = _coordinates(probes, num_target_tokens, steps, tokens)
        table.attrs = {**_ATTRS, **(attrs or {})}
        fresh = self._path.with_name(self._path.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        if self._path.exists():
            _compare(open_log(self._path, scores=False), table)
            _remove_leftovers(self._path)
        else:
            with _full_disk(self._path, "nothing was stored yet"):
                _create(fresh, table)
                os.replace(fresh, self._path)
                sync(self._path.parent)
        with _readable(self._path):
            self._array = zarr.open_array(_DurableStore(self._path), path="score", mode="r+")

    def write(self, step: int, values_PxM: np.ndarray) -> None:
        """Buffers the row of a step, in place of any earlier one."""
        if step not in self._steps:
            raise ValueError(f"step {step} is not one of the {len(self._steps)} steps of this log")
        values_PxM = np.asarray(values_PxM, np.float32)
        if values_PxM.shape != self._array.shape[1:]:
            raise ValueError(f"expected values of {self._array.shape[1:]}, got {values_PxM.shape}")
        chunk, row = divmod(self._steps[step], _CHUNK)
        if chunk not in self._dirty:
            if len(self._dirty) >= _MAX_DIRTY:
                self.flush()
            self._dirty[chunk] = self._read(chunk)
        self._dirty[chunk][row] = values_PxM

    def flush(self) -> None:
        """Puts everything buffered on the disk, synced. What was flushed before is never at risk.

        Raises:
          UserError: the disk is full; the rows stay buffered.
        """
        for chunk in sorted(self._dirty):
            rows = self._dirty[chunk]
            start = chunk * _CHUNK
            steps = [step for step, row in self._steps.items() if row // _CHUNK == chunk]
            lost = f"the probe scores buffered for steps {steps[0]} to {steps[-1]} are not stored"
            with _full_disk(self._path, lost):
                self._array[start : start + len(rows)] = rows
            del self._dirty[chunk]

    def missing(self, stop: int) -> list[int]:
        """Steps below `stop` without a row, buffered or stored: what a resumed run lacks."""
        steps = [step for step in self._steps if step < stop]
        lacking = []
        for start in range(0, len(steps), _CHUNK):
            chunk = start // _CHUNK
            rows = self._dirty.get(chunk)
            rows = self._read(chunk) if rows is None else rows
            written = ~np.isnan(rows).all(axis=(1, 2))
            lacking += [
                step
                for step in steps[start : start + _CHUNK]
                if not written[self._steps[step] - start]
            ]
        return lacking

    def close(self) -> None:
        """Flushes; the log may still be read and written afterwards."""
        self.flush()

    def __enter__(self) -> "ProbeLog":
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def _read(self, chunk: int) -> np.ndarray:
        with _readable(self._path):
            return np.array(self._array[chunk * _CHUNK : (chunk + 1) * _CHUNK])


def open_log(path: str | Path, scores: bool = True) -> xr.Dataset:
    """Reads a probe log into memory: variable `score` (step, probe, measure) and its coordinates.

    Unwritten rows are NaN; text coordinates are the probes' names, texts and labels.

    Args:
      path: the folder of the store.
      scores: False leaves the scores on the disk.

    Raises:
      UserError: no log there, or one that is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"expected a probe log at {path}, found nothing; run the study first")
    with _readable(path):
        with warnings.catch_warnings():
            # Missing consolidated metadata is damage here, reported below in our words.
            warnings.simplefilter("ignore", RuntimeWarning)
            log = xr.open_zarr(path, chunks=None, consolidated=True)
        missing = [name for name in RESERVED if name not in log.variables]
        if missing or log["score"].dims != _DIMS:
            raise ValueError(f"without {', '.join(missing) or 'the dimensions ' + str(_DIMS)}")
        for name in log.variables:
            if scores or name != "score":
                log[name].load()
        return log


def refuse_other_probes(
    log: xr.Dataset, probes: Sequence[Probe], num_target_tokens: Sequence[int]
) -> None:
    """Refuses probes that are not those of a log, whatever its steps are.

    Raises:
      UserError: they are others, with the difference.
    """
    steps, tokens = log["step"].values, log["tokens"].values
    table = _coordinates(probes, num_target_tokens, steps, tokens)
    _compare(log, table.assign_attrs(log.attrs))


def _coordinates(probes, num_target_tokens, steps, tokens) -> xr.Dataset:
    """Everything about the log that is known before the first score."""
    names = [probe.name for probe in probes]
    if not names or len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"expected probes with unique names, got {twice or 'no probe'}")
    if not (len(names) == len(num_target_tokens) and len(steps) == len(tokens)):
        raise ValueError("expected one token count per probe and one per step")
    if not len(steps) or np.any(np.diff(steps) <= 0):
        raise ValueError("expected at least one step, in ascending order")
    labels = sorted({key for probe in probes for key in probe.labels})
    taken = [key for key in labels if key in RESERVED or not key.isidentifier()]
    if taken:
        raise UserError(
            f"probe label {taken[0]!r} cannot name a coordinate of the log; expected an identifier "
            f"other than {', '.join(RESERVED)}; rename the label"
        )

    def per_probe(values):
        return "probe", np.array(values, dtype=str)

    return xr.Dataset(
        coords={
            "step": ("step", np.asarray(steps, np.int64), {"units": "updates done"}),
            "tokens": ("step", np.asarray(tokens, np.int64), {"units": "training tokens seen"}),
            "probe": per_probe(names),
            "measure": ("measure", np.array(list(DEFINITIONS)), dict(DEFINITIONS)),
            "context": per_probe([probe.context for probe in probes]),
            "target": per_probe([probe.target for probe in probes]),
            "num_target_tokens": ("probe", np.asarray(num_target_tokens, np.int64)),
            **{k: per_probe([str(probe.labels.get(k, "")) for probe in probes]) for k in labels},
        }
    )


def _create(path: Path, table: xr.Dataset) -> None:
    """Writes the coordinates and an empty score array."""
    store = _DurableStore(path)
    table.to_zarr(store, zarr_format=2, consolidated=False)
    shape = tuple(table.sizes[dim] for dim in _DIMS)
    zarr.create_array(
        store,
        name="score",
        shape=shape,
        chunks=(min(_CHUNK, shape[0]), *shape[1:]),
        dtype="float32",
        fill_value=np.nan,
        compressors=numcodecs.Zstd(level=1),
        zarr_format=2,
        attributes={
            "_ARRAY_DIMENSIONS": list(_DIMS),
            "definitions": dict(DEFINITIONS),
        },
    )
    zarr.consolidate_metadata(store, zarr_format=2)


def _compare(old: xr.Dataset, new: xr.Dataset) -> None:
    """Refuses a store that was made for other probes, steps or measures."""
    differences = []
    for name in dict.fromkeys([*new.coords, *old.coords]):
        if name not in old.coords or name not in new.coords:
            where = "the stored log" if name in old.coords else "this run"
            differences.append(f"{name}: only in {where}")
            continue
        before, after = old[name].values, new[name].values
        if not np.array_equal(before, after):
            differences.append(f"{name}: {_first_difference(before, after)}")
    for key in dict.fromkeys([*new.attrs, *old.attrs]):
        if old.attrs.get(key) != new.attrs.get(key):
            differences.append(f"{key}: {old.attrs.get(key)!r} -> {new.attrs.get(key)!r}")
    if differences:
        raise UserError(
            "the probe log in this folder belongs to another run (stored -> now):\n  "
            + "\n  ".join(differences)
            + "\nchoose another workdir, or the settings of the stored run"
        )


def _first_difference(before: np.ndarray, after: np.ndarray) -> str:
    shared = min(len(before), len(after))
    unequal = np.flatnonzero(before[:shared] != after[:shared])
    at = int(unequal[0]) if len(unequal) else shared
    old, new = (str(x[at]) if at < len(x) else "(none)" for x in (before, after))
    return f"{len(before)} -> {len(after)} entries, entry {at}: {old} -> {new}"


def _remove_leftovers(path: Path) -> None:
    """Deletes the temporary files of a writer that was killed."""
    for leftover in path.rglob(".*"):
        if leftover.is_file() and not leftover.name.startswith(".z"):
            leftover.unlink()


@contextlib.contextmanager
def _full_disk(path: Path, lost: str) -> Iterator[None]:
    """Turns a full disk into a message that says what is lost."""
    try:
        yield
    except Exception as error:
        if not disk_full(error):
            raise
        raise UserError(
            f"the disk of {path} is full: {lost}, everything flushed before is intact; free some "
            "space and run the same command again"
        ) from error


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever a damaged store raises into one message."""
    try:
        yield
    except Exception as error:
        raise UserError(
            f"expected a probe log at {path}, got a folder that cannot be read as one "
            f"({type(error).__name__}: {' '.join(str(error).split())}); restore it from "
            "a copy, or move it away and run the study again from the start"
        ) from error
