"""Reads the published per-step logs (Chang et al. 2024) into the layout of our own probe log.

A file is one JSON list with an object per training step: `step`, and for each prefix mem, gen and
gen_hard (memorization, semantic, compositional) the lists `PREFIX_target`, `PREFIX_first` and
`PREFIX_full` of passages x probes, besides `def` of passages. Values are cross-entropies in nats:
the mean over the target's tokens, that of its first token, and means over probe and passage.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from llm_dynamics.errors import UserError
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.facts import DEPTHS
from llm_dynamics.probe.scoring import MEASURES

ARMS = (("paraphrase", 40), ("duplication", 40), ("once", 40), (CONTROL, 10))  # in file order
_EVERY = tuple(range(0, 1000, 100))
SCHEDULE = {"paraphrase": _EVERY, "duplication": _EVERY, "once": _EVERY[:1], CONTROL: ()}
TOKENS_PER_STEP = 2048 * 2048  # of the main runs; 128 * 2048 in the small-batch ones

_PREFIXES = dict(zip(DEPTHS, ("mem", "gen", "gen_hard"), strict=True))
_KEPT = {"target": "logprob_mean", "first": "logprob_first"}
_CHUNK = 1 << 20  # characters read at once
_LONGEST = 1 << 26  # characters of one step; the published ones have 213 thousand
_OPENING, _BETWEEN = re.compile(r"\s*\[\s*(?=\{)"), re.compile(r"\s*,\s*(?=\{)")
_POINTER = "version https://git-lfs"


def read_published_log(path: str | Path, tokens_per_step: int = TOKENS_PER_STEP) -> xr.Dataset:
    """A published log as `probe.log.open_log` returns ours; `SCHEDULE` holds its encounters.

    Log-probability is the negative cross-entropy. Measures that the file lacks are NaN, texts are
    empty and token counts of the targets 0. Steps count from the first row, the model before the
    first injection, whatever number the file gives it (attribute `first_step`). Passages 120 to
    129 were never injected and become the control.

    The scoring code behind these files left target tokens whose cross-entropy is exactly 0 out of
    the mean. That is in the data and cannot be undone here: such a probe reads less probable than
    it was, and one with only such tokens is NaN, which is refused.

    The file is read step by step: beside the result (S x P x 5 float64 values, 195 MB for 2,501
    steps of 1,950 probes) and the two values kept of each probe and step (78 MB) no more than one
    step is held.

    Args:
      path: the JSON file.
      tokens_per_step: tokens of one update.

    Raises:
      UserError: an unreadable, truncated or foreign file; steps that are missing, repeated or out
        of order; lists that are missing or of another size; a value that is no cross-entropy.
    """
    path = Path(path)
    rows: list[dict[str, np.ndarray]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    first = 0
    for record in _records(path):
        step = _step_of(record, path, len(rows))
        first = first if rows else step
        if step != first + len(rows):
            raise UserError(
                f"{path}: expected step {first + len(rows)} after {first + len(rows) - 1}, got "
                f"{step}; the steps must follow each other without a gap"
            )
        where = f"{path}, step {step}"
        lists = {key: _array(record, key, where) for key in _keys()}
        if not rows:
            shapes = {key: values.shape for key, values in lists.items()}
            _check_shapes(shapes, where)
        for key, values in lists.items():
            if values.shape != shapes[key]:
                raise UserError(
                    f"{where}: expected {_sizes(shapes[key])} in {key!r} as in step {first}, got "
                    f"{_sizes(values.shape)}"
                )
            if key.endswith("_target"):
                _check_values(values, key, where)
        rows.append(
            {
                kind: np.concatenate([lists[f"{p}_{kind}"] for p in _PREFIXES.values()], 1).ravel()
                for kind in _KEPT
            }
        )
    if not rows:
        raise UserError(f"{path}: expected an object per step, got an empty list")
    return _dataset(path, rows, shapes, first, tokens_per_step)


def _keys() -> list[str]:
    return [f"{prefix}_{kind}" for prefix in _PREFIXES.values() for kind in _KEPT]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of the list, one at a time; a step holds no objects itself."""
    decoder, rest, count = json.JSONDecoder(), "", 0

    def fault(what: str) -> UserError:
        where = f"after {count} steps" if count else "at its start"
        return UserError(
            f"expected a JSON list of one object per step in {path}, got {what} {where}"
        )

    try:
        with path.open(encoding="utf-8") as file:
            while True:
                while "}" not in rest and (more := file.read(_CHUNK)):
                    rest += more
                    if len(rest) > _LONGEST:
                        raise fault(f"more than {_LONGEST:,} characters without the end of a step")
                before = (_BETWEEN if count else _OPENING).match(rest)
                if before is None:
                    break
                try:
                    record, end = decoder.raw_decode(rest, before.end())
                except json.JSONDecodeError as error:
                    cut = "}" not in rest
                    raise fault("the end of a truncated file" if cut else error.msg) from None
                yield record
                rest, count = rest[end:], count + 1
    except FileNotFoundError:
        raise UserError(f"expected a published log at {path}, got nothing there") from None
    except OSError as error:
        raise UserError(f"expected a readable file at {path}, got: {error.strerror}") from None
    except UnicodeDecodeError:
        raise fault("bytes that are not UTF-8") from None
    left = "".join(rest[:100].split())
    if not count and rest.startswith(_POINTER):
        raise UserError(
            f"{path} is a Git LFS pointer, not the log itself; fetch the log with `git lfs pull`"
        )
    if left != ("]" if count else "[]"):
        raise fault("the end of a truncated file" if left in ("", ",", "[") else repr(left[:20]))


def _step_of(record: dict[str, Any], path: Path, index: int) -> int:
    step = record.get("step")
    if isinstance(step, str) and step.isdigit():
        return int(step)
    if isinstance(step, bool) or not isinstance(step, int):
        raise UserError(f"{path}: expected a whole number 'step' in object {index}, got {step!r}")
    return step


def _array(record: dict[str, Any], key: str, where: str) -> np.ndarray:
    """Passages x probes; null becomes NaN."""
    if key not in record:
        raise UserError(f"{where}: expected the list {key!r}, got none")
    try:
        values = np.array(record[key], dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: expected numbers in {key!r}, as many for each passage, got lists of unequal "
            "length or other values"
        ) from None
    if values.ndim != 2 or not values.size:
        raise UserError(
            f"{where}: expected passages x probes in {key!r}, got {_sizes(values.shape)}"
        )
    return values


def _check_shapes(shapes: dict[str, tuple[int, ...]], where: str) -> None:
    most = sum(size for _, size in ARMS)
    counts = {key: shape[0] for key, shape in shapes.items()}
    for key, count in counts.items():
        if count != next(iter(counts.values())) or count > most:
            raise UserError(
                f"{where}: expected as many passages in every list, and at most {most}, got "
                f"{', '.join(f'{k} {n}' for k, n in counts.items())}"
            )
        target = key.replace("_first", "_target")
        if shapes[key] != shapes[target]:
            raise UserError(
                f"{where}: expected {_sizes(shapes[target])} in {key!r} as in {target!r}, got "
                f"{_sizes(shapes[key])}"
            )


def _check_values(values: np.ndarray, key: str, where: str) -> None:
    bad = np.argwhere(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        passage, probe = bad[0]
        raise UserError(
            f"{where}: expected cross-entropies of at least 0 in {key!r}, got "
            f"{values[passage, probe]} for probe {probe} of passage {passage} and {len(bad) - 1} "
            "more; it was not scored, the run diverged, or every target token had a "
            "cross-entropy of exactly 0, which the logging code leaves out"
        )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) + " values"


def _dataset(path: Path, rows, shapes, first: int, tokens_per_step: int) -> xr.Dataset:
    arms = [arm for arm, size in ARMS for _ in range(size)]
    counts = {depth: shapes[f"{prefix}_target"] for depth, prefix in _PREFIXES.items()}
    passages = counts[DEPTHS[0]][0]
    probes = [
        (f"passage-{k:03d}", arms[k], depth, str(i))
        for k in range(passages)
        for depth, shape in counts.items()
        for i in range(shape[1])
    ]
    fact, arm, depth, attribute = (list(labels) for labels in zip(*probes, strict=True))
    # Measures outermost in memory: one of them is read without copying around the others.
    values_MxSxP = np.full((len(MEASURES), len(rows), len(probes)), np.nan)
    for kind, measure in _KEPT.items():
        for s, row in enumerate(rows):
            np.subtract(0.0, row[kind], out=values_MxSxP[MEASURES.index(measure), s])
    steps_S = np.arange(len(rows), dtype=np.int64)
    empty = [""] * len(probes)

    def per_probe(values):
        return "probe", np.array(values, dtype=str)

    return xr.Dataset(
        {"score": (("step", "probe", "measure"), np.moveaxis(values_MxSxP, 0, -1))},
        coords={
            "step": ("step", steps_S, {"units": "updates done"}),
            "tokens": ("step", steps_S * tokens_per_step, {"units": "training tokens seen"}),
            "probe": per_probe([f"{f}/{d}/{i}" for f, _, d, i in probes]),
            "measure": ("measure", np.array(MEASURES)),
            "context": per_probe(empty),
            "target": per_probe(empty),
            "num_target_tokens": ("probe", np.zeros(len(probes), np.int64)),
            "fact": per_probe(fact),
            "arm": per_probe(arm),
            "depth": per_probe(depth),
            "attribute": per_probe(attribute),
            "kind": per_probe(["passage"] * len(probes)),
            "candidates": per_probe(empty),
            "log_chance": per_probe(empty),
        },
        attrs={"source": path.name, "first_step": first},
    )
