"""What a report reads of a run folder: the spec, the metrics by step, the results."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.train import metrics as metrics_lib
from llm_dynamics.train.run_folder import RunFolder, read_spec

FIELDS = ("name", "value", "low", "high", "unit", "n", "definition")


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
      spec, data, versions: as in spec.json.
      metrics: name -> (steps, values), of the steps that have it; empty without metrics.jsonl.
      results: the rows of results.json, in its order.
    """

    path: Path
    spec: Mapping[str, Any]
    data: Mapping[str, Any]
    parent: dict[str, Any] | None
    versions: Mapping[str, str]
    metrics: Mapping[str, tuple[np.ndarray, np.ndarray]]
    results: tuple[Mapping[str, Any], ...]


def read_run(run_dir: Path) -> Run:
    """Reads a run folder.

    Raises:
      UserError: it is not there, is no run, or its results are missing or damaged.
    """
    folder = RunFolder(run_dir)
    if not folder.path.is_dir():
        raise UserError(f"expected a run folder at {run_dir}, found none; check --workdir")
    record = read_spec(folder.spec)
    per_step = record["data"].get("tokens_per_step")
    if type(per_step) is not int or per_step < 1:
        raise UserError(
            f"expected data.tokens_per_step in {folder.spec}, got {per_step}; restore the file"
        )
    rows = metrics_lib.read(folder.metrics) if folder.metrics.exists() else []
    return Run(
        path=folder.path,
        metrics=_by_name(rows),
        results=_read_results(folder.results),
        **record,
    )


def _by_name(rows: list[dict[str, Any]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Turns lines by step into series by name; a step written twice counts with its last line."""
    series: dict[str, dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                series.setdefault(name, {})[int(row["step"])] = value
    return {
        name: (np.array(sorted(found)), np.array([found[step] for step in sorted(found)], float))
        for name, found in series.items()
    }


def _read_results(path: Path) -> tuple[Mapping[str, Any], ...]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return tuple({field: row[field] for field in FIELDS} | row for row in rows)
    except FileNotFoundError:
        raise UserError(
            f"expected {path}, found nothing; let the run finish, its results come before its page"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a list of results with {', '.join(FIELDS)} ({type(error).__name__}: "
            f"{error}); delete it and run the same command again"
        ) from None
