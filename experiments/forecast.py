"""What a fact will hold later, from the log of a short run.

    python -m experiments.forecast --log=runs/facts-laptop --encounters=12 --after=1000
    python -m experiments.forecast --log=runs/facts-laptop --until=330   # check on the rest

Fits how much an encounter adds and how it is retained to the control-subtracted gains, in three
forms (power, power with a floor, logarithm), and prints the forecast, the intervals between
encounters that keep a level, and the interval beyond which nothing accumulates. With `--until` the
fit sees no later step, and the gains measured at the end of the log stand beside the forecast of
each arm. The law takes learning rate and batch as constant.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from absl import app, flags

from experiments import cli
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.facts import cells, estimates
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.forecast import over_forms
from llm_dynamics.facts.forecast_rows import forecast_rows
from llm_dynamics.facts.kernel import FORMS, Kernel
from llm_dynamics.facts.kernel_fit import fit, observe
from llm_dynamics.facts.timetable import resolve_window, schedule
from llm_dynamics.probe.log import open_log
from llm_dynamics.report.numbers import estimate
from llm_dynamics.train.run_folder import RunFolder, read_spec


def law(log: xr.Dataset, config: FactsConfig, depth: str, beta1: float, until: int) -> list[Kernel]:
    """One law of every form, fitted to all injected arms at a depth."""
    table = cells.read_table(log)
    times = {}
    for arm, steps in schedule(config).items():
        times |= cells.times_of(table, arm, steps)
    observed, control_SxC = observe(log, {k: v for k, v in times.items() if v}, depth)
    return [
        fit(observed, control_SxC, form, beta1, until=until or None, seed=config.seed)
        for form in FORMS
    ]


def check(
    log: xr.Dataset, config: FactsConfig, depth: str, beta1: float, kernels: Sequence[Kernel]
) -> list[dict[str, Any]]:
    """The forecast for the end of the log beside what was measured there, an arm a row.

    Arms whose facts have times of their own are left out. Both intervals are 95 %; the rows are
    correlated, so the share of hits among them is no coverage.
    """
    times = schedule(config)
    study = estimates.open_study(log, times, resolve_window(config, beta1), config.seed, 1000)
    rows = []
    for arm in study.arms:
        steps, cell = times.get(arm, ()), study.cell(arm, depth)
        if arm == cells.CONTROL or not steps or cell is None:
            continue
        control = study.cell(cells.CONTROL, depth, arm)
        gaps = set(np.diff(steps).tolist())
        if len(gaps) > 1:
            continue
        measured = estimates.gain_at_end(study, cell) - estimates.gain_at_end(study, control)
        value, low, high = (float(v[0]) for v in measured.interval())
        after = int(study.table.steps_S[-1]) - steps[-1]
        told = over_forms(kernels, len(steps), *(gaps or {1}), after)
        rows.append(
            {
                "arm": arm,
                "depth": depth,
                "after": after,
                "forecast": [told.value, told.low, told.high],
                "measured": [value, low, high],
                "inside": bool(told.low <= value <= told.high),
                "note": told.note,
            }
        )
    return rows


def run(
    run_dir: Path,
    depth: str = "memorization",
    wanted: tuple[int, int, int] = (10, 100, 1000),
    level: float = 0.5,
    until: int = 0,
    out: Path | None = None,
) -> Path:
    """Fits, prints and writes the forecast; returns the path of its file.

    Args:
      wanted: encounters, interval and steps after the last one of the fact to forecast.
      level: nats per token to be kept just before the next encounter.
      until: last step the fit sees; 0 = all.

    Raises:
      UserError: not the folder of a facts run, or one without a control.
    """
    folder = RunFolder(run_dir)
    record = read_spec(folder.spec)["spec"]
    try:
        config = specs.from_json(FactsConfig, record["facts"], "facts")
        beta1 = record["optim"]["b1"]
    except (KeyError, TypeError):
        raise UserError(f"expected the folder of a facts run, got {run_dir}") from None
    log = open_log(folder.probes)
    if cells.CONTROL not in config.names:
        raise UserError(
            "expected a run with a never-injected control, got none; add it to its arms"
        )
    kernels = law(log, config, depth, beta1, until)
    per_step = cells.tokens_per_step(cells.read_table(log))
    rows = forecast_rows(kernels, per_step, [wanted], [level], prefix=depth)
    for row in rows:
        value, interval = estimate(row["value"], row["low"], row["high"])
        line = f"{row['name']:<52} {value:>10} {interval or '':<24} {row['unit']}"
        print(line + (f"   ({row['note']})" if row["note"] else ""))
    checked = check(log, config, depth, beta1, kernels) if until else []
    for row in checked:
        told, found = (estimate(*row[key]) for key in ("forecast", "measured"))
        print(
            f"{row['arm']}, {row['after']} steps after its last encounter: forecast {told[0]} "
            f"{told[1]}, measured {found[0]} {found[1]}: "
            + ("inside" if row["inside"] else "NOT inside")
        )
    out = out or folder.path / "forecast.json"
    files.write_json(out, {"until": until, "rows": rows, "check": checked})
    print(f"written: {out}")
    return out


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    values = flags.FLAGS

    def work() -> None:
        if not values.log:
            raise UserError("expected --log=RUN, the folder of a facts run")
        wanted = (values.encounters, values.interval, values.after)
        out = Path(values.out) if values.out else None
        run(Path(values.log), values.depth, wanted, values.level, values.until, out)

    cli.plainly(work)


if __name__ == "__main__":
    flags.DEFINE_string("log", "", "folder of a facts run")
    flags.DEFINE_string("depth", "memorization", "of the probes")
    flags.DEFINE_integer("encounters", 10, "of the fact to forecast")
    flags.DEFINE_integer("interval", 100, "steps between its encounters")
    flags.DEFINE_integer("after", 1000, "steps after the last encounter")
    flags.DEFINE_float("level", 0.5, "nats per token to be kept just before the next encounter")
    flags.DEFINE_integer("until", 0, "last step the fit sees; 0 = all")
    flags.DEFINE_string("out", "", "JSON file; default RUN/forecast.json")
    app.run(main, argv=sys.argv)
