"""The published procedure to the letter on a log: of a run of ours, or of Chang et al. (2024).

    python -m experiments.reanalyse --log=runs/facts-laptop
    python -m experiments.reanalyse --log=experiments_step40000-unsharded.json --outliers=2.0

Prints effectivity, decay and x-intercept of every arm and depth, and what the comparison with the
published tables can say. Facts that were never injected go through the same procedure, on the
schedule of the arm met most often: what it reports for them nobody taught.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from absl import app, flags

from experiments import cli
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.facts import anchors, paper, published_log
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.timetable import resolve_window, schedule
from llm_dynamics.model import size
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.probe.log import open_log
from llm_dynamics.train.run_folder import RunFolder, read_spec

_FACTORS = {"1.5": 1.5, "2.0": 2.0, "none": None}


@dataclasses.dataclass(frozen=True)
class Source:
    """A log with what is needed to analyse it.

    Attributes:
      log: scores.
      schedule: arm -> updates, the control on that of the arm met most often.
      model: in words.
      out: where results go unless told otherwise.
      intervals: of the run's own results, by name.
      window: of those results.
    """

    log: xr.Dataset
    schedule: Mapping[str, Sequence[int]]
    model: str
    out: Path
    intervals: Mapping[str, tuple[float, float]]
    window: int = paper.WINDOW


def open_source(path: Path, tokens_per_step: int) -> Source:
    """A run folder of ours, or a published JSON log.

    Raises:
      UserError: neither.
    """
    if not path.exists():
        raise UserError(f"expected a run folder or a published JSON log at {path}, got nothing")
    if path.is_dir():
        return _run(path)
    if path.suffix != ".json":
        raise UserError(
            f"expected a run folder or a published log (.json), got the file {path}; give the "
            "folder that holds spec.json and probes/"
        )
    log = published_log.read_published_log(path, tokens_per_step)
    times = _with_control(published_log.SCHEDULE, log)
    return Source(log, times, "OLMo-7B, the published log", Path(f"runs/reanalyse-{path.stem}"), {})


def _run(path: Path) -> Source:
    folder = RunFolder(path)
    record = read_spec(folder.spec)["spec"]
    try:
        facts, model, beta1 = record["facts"], record["model"], record["optim"]["b1"]
    except (KeyError, TypeError):
        raise UserError(f"expected the run folder of a facts study, got {path}") from None
    config = specs.from_json(FactsConfig, facts, "facts")
    params = size.num_params(specs.from_json(ModelConfig, model, "model"))
    log = open_log(folder.probes)
    return Source(
        log,
        _with_control(schedule(config), log),
        f"{params:,} parameters",
        path,
        _intervals(folder.results),
        resolve_window(config, beta1),
    )


def _with_control(times: Mapping[str, Sequence[int]], log: xr.Dataset):
    """The arms of the log that have times of their own, the control on those of the most met."""
    present = set(log["arm"].values.tolist()) if "arm" in log.coords else set(times)
    longest = max((times[arm] for arm in times if arm in present), key=len, default=())
    return {arm: longest if arm == CONTROL else times[arm] for arm in times if arm in present}


def _intervals(path: Path) -> dict[str, tuple[float, float]]:
    """The intervals of a run's own results; none where there are no results."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {
            row["name"]: (row["low"], row["high"]) for row in rows if row.get("low") is not None
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"expected the results of the run in {path}, got a file that cannot be read as them "
            f"({type(error).__name__}); move it away or run the study again"
        ) from None


def shortest_interval(times: Mapping[str, Sequence[int]]) -> int:
    """Updates between the closest two encounters of any arm; the published window if none."""
    gaps = [gap for steps in times.values() for gap in np.diff(steps).tolist()]
    return min(gaps, default=paper.WINDOW)


def table(cells: Sequence[paper.PaperCell]) -> list[str]:
    """The numbers as the paper lays them out, a line for each arm and depth."""
    lines = [
        f"{'arm':<12} {'depth':<14} {'E':>7} {'kept':>11} {'a':>7} {'+/-':>7} {'R2':>6} "
        f"{'x0 steps':>9} {'x0 tokens':>10}  {'no ratio':>8} {'negative':>8}"
    ]
    for cell in cells:
        fit = cell.decay
        numbers = (
            (fit.a, fit.stderr, fit.r2, cell.x_intercept_steps, cell.x_intercept_tokens)
            if fit
            else (None,) * 5
        )
        kept = f"{cell.effectivity_kept}/{cell.effectivity_total}"
        lines.append(
            f"{cell.arm:<12} {cell.depth:<14} {cell.effectivity:>7.3f} {kept:>11} "
            + " ".join(
                f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"
                for value, digits, width in zip(
                    numbers, (3, 4, 2, 2, 2), (7, 7, 6, 9, 10), strict=True
                )
            )
            + f"  {cell.without_ratio:>8} {cell.negative:>8}"
            + (f"  {cell.note}" if cell.note else "")
        )
    return lines


def comparison(rows: Sequence[anchors.Row]) -> list[str]:
    """What can be compared with the published tables, a line each."""
    return [
        f"  {row['name']:<58} {row['ours']:>8.3f}  {row['verdict']}"
        for row in rows
        if row["comparable"] and row["ours"] is not None
    ]


def run(path: Path, out: Path | None, window: int | None, outliers: str, tokens: int) -> Path:
    """Analyses, prints and writes paper.json. Returns its path."""
    source = open_source(path, tokens)
    closest = shortest_interval(source.schedule)
    window = min(paper.WINDOW, closest) if window is None else window
    factor = _FACTORS[outliers]
    cells = paper.analyse(source.log, source.schedule, window, factor)
    # The run's own intervals were computed with the paper's factor, and a window of their own.
    same = factor == 1.5 and window == source.window
    intervals = source.intervals if same else {}
    rows = anchors.compare(cells, source.model, intervals)
    published = anchors.load()
    last = int(cells[0].offsets_T[-1])
    print(
        f"{source.model}; window {window}, outliers {outliers}, line over t = 1 to {last} steps\n"
        "E: mean gain of an encounter, nats/token. a: share lost per factor of ten. +/-: the\n"
        "published error, too small as it takes steps for independent. x0: log10 of where the\n"
        "line reaches 0; meaningless where a is negative, an extrapolation beyond "
        f"{np.log10(max(last, 1)):.2f} (steps).\n"
    )
    print("\n".join(table(cells)))
    own = [arm for arm, steps in source.schedule.items() if not len(steps)]
    if own:
        print(f"\nleft out: {', '.join(own)} (facts with times of their own)")
    if any(cell.arm == CONTROL for cell in cells):
        print(
            "\ncontrol: never injected, on the schedule of the arm met most often; not in the paper"
        )
    print(f"\nbeside {published.model} ({published.status.partition(';')[0]}):")
    print("\n".join(comparison(rows)) or "  nothing: no arm of the published tables")
    target = (out or source.out) / "paper.json"
    files.write_json(
        target,
        {
            "command": shlex.join(["python", "-m", "experiments.reanalyse", *sys.argv[1:]]),
            "model": source.model,
            "window": window,
            "outliers": factor,
            "cells": [paper.as_record(cell) for cell in cells],
            "published": {"source": published.source, "status": published.status},
            "comparison": rows,
        },
    )
    print(f"\nresults: {target}")
    return target


def start() -> None:
    """Parses the flags and analyses the log."""
    flags.DEFINE_string("log", None, "a run folder of ours, or a published JSON log")
    flags.DEFINE_string("out", "", "folder for paper.json; default the run, or runs/reanalyse-NAME")
    flags.DEFINE_integer(
        "window", None, "steps; default 50, at most the shortest interval of the schedule"
    )
    flags.DEFINE_enum("outliers", "1.5", list(_FACTORS), "interquartile factor")
    flags.DEFINE_integer(
        "tokens_per_step", published_log.TOKENS_PER_STEP, "of a published log; ours know theirs"
    )

    def main(argv: list[str]) -> None:
        values = flags.FLAGS
        if len(argv) > 1:
            raise app.UsageError(f"unexpected argument {argv[1]!r}")

        def work() -> None:
            if not values.log:
                raise UserError("expected --log=RUN or --log=FILE.json, got none")
            if values.tokens_per_step < 1:
                raise UserError(
                    f"expected --tokens_per_step of at least 1, got {values.tokens_per_step}"
                )
            out = Path(values.out) if values.out else None
            run(Path(values.log), out, values.window, values.outliers, values.tokens_per_step)

        cli.plainly(work)

    app.run(main)


if __name__ == "__main__":
    start()
