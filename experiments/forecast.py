"""What a fact will hold later, from the log of a short run.

    python -m experiments.forecast --log=runs/facts-laptop --encounters=12 --after=1000
    python -m experiments.forecast --log=runs/facts-laptop --level=0.1 --every_tokens=2e6
                                                           # which interval and which batch keep it
    python -m experiments.forecast --log=runs/facts-laptop --until=330   # check on the rest

Fits how much an encounter adds and how it is retained to the control-subtracted gains, in three
forms (power, power with a floor, logarithm), and prints the forecast, the intervals between
encounters that keep a level, and the interval beyond which nothing accumulates. One law for each
wording: arms that repeat one text share theirs, arms that bring another wording each time have
theirs; `--arms` names the arms of a single law instead. `--every_tokens` asks for the smallest
batch that keeps the level of a fact met once in so many training tokens. With `--until` the fit
sees no later step, and what was measured after it stands beside the forecast of each arm. The law
takes learning rate and batch as constant; a run whose rate changes is warned of.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from experiments import cli
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.facts import cells, estimates
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.estimates import Study
from llm_dynamics.facts.forecast_rows import forecast_rows
from llm_dynamics.facts.kernel import FORMS, Kernel
from llm_dynamics.facts.kernel_fit import fit, observe_table
from llm_dynamics.facts.statistics import Estimate
from llm_dynamics.facts.timetable import resolve_window, schedule
from llm_dynamics.probe.log import open_log
from llm_dynamics.report.numbers import estimate, number
from llm_dynamics.train import metrics
from llm_dynamics.train.run_folder import RunFolder, read_spec

_RESAMPLES = 1000  # of what is measured
_FITS = 200  # of them that a law is fitted to as well
_CHECKS = 4  # steps at which a forecast is compared, evenly spaced
_MATCHED = (
    "gain_fact is that of one fact less the mean control; these facts are matched, and most of its "
    "spread is that of their answers, which a control of the same answer would take away"
)
_STEADY = 1.05  # ratio of the highest to the lowest learning rate that passes for constant


@dataclass(frozen=True)
class Law:
    """One law in every form.

    Attributes:
      name: of the wording, or of the arms when they were chosen.
      arms: that it was fitted to.
      kernels: one of each form.
    """

    name: str
    arms: tuple[str, ...]
    kernels: tuple[Kernel, ...]

    @property
    def best(self) -> Kernel:
        """The form with the smallest residual."""
        return min(self.kernels, key=lambda kernel: kernel.residual)

    def describe(self) -> str:
        facts = self.best.facts
        each = ", ".join(f"{arm} ({facts[arm]} facts)" for arm in self.arms)
        return f"{each}, less control ({facts[CONTROL]})"


def groups(config: FactsConfig, chosen: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """The arms of each law by its name: those of one wording, or the chosen ones in one law.

    Raises:
      UserError: an arm that is not injected in this run.
    """
    wording_of = {arm.name: arm.wording for arm in config.treatments if arm.injected}
    for arm in chosen:
        if arm not in wording_of:
            raise UserError(f"expected --arms among {', '.join(wording_of)}, got {arm!r}")
    if chosen:
        arms = tuple(dict.fromkeys(chosen))
        return {"+".join(arms): arms}
    found: dict[str, tuple[str, ...]] = {}
    for arm, wording in wording_of.items():
        found[wording] = (*found.get(wording, ()), arm)
    return found


def law(study: Study, name: str, arms: Sequence[str], depth: str, beta1: float, until: int) -> Law:
    """One law of every form, fitted to arms at a depth in the replicates of the study."""
    times = {fact: met for arm in arms for fact, met in study.times(arm).items()}
    observed, control_SxC = observe_table(study.table, times, depth, arms)
    weights = {arm: study.weights[arm][: _FITS + 1] for arm in (*arms, CONTROL)}
    sizes = {one.arm: one.score_SxK.shape[1] for one in observed}
    sizes[CONTROL] = 0 if control_SxC is None else control_SxC.shape[1]
    for arm, size in sizes.items():
        if size != weights[arm].shape[1]:
            raise UserError(
                f"expected a probe of depth {depth} for each of the {weights[arm].shape[1]} facts "
                f"of arm {arm}, got them for {size}; take a depth that all have"
            )
    kernels = [
        fit(observed, control_SxC, form, beta1, until=until or None, weights=weights)
        for form in FORMS
    ]
    return Law(name, tuple(arms), tuple(kernels))


def check(study: Study, law: Law, depth: str, until: int) -> list[dict[str, Any]]:
    """The forecast beside what was measured later, a row for each arm and step.

    All intervals are 95 % over facts. That of the forecast covers those of every form and is the
    law's alone: a mean of few facts strays from it with the noise of the step it is measured at.
    That of the difference, measured less the forecast of the best form, has this noise in it and
    takes both in the same replicates, so what the same facts have in common before and after
    cancels. Rows share facts and steps, so the share of hits among them is no coverage.
    """
    steps_S = study.table.steps_S
    wanted = until + (int(steps_S[-1]) - until) * np.arange(1, _CHECKS + 1) / _CHECKS
    rows = []
    for arm in law.arms:
        times = dict(sorted(study.times(arm).items()))
        first = min(met[0] for met in times.values())
        gain = _measured(study, arm, depth)
        before = gain.then(lambda r: r[:, [_row_of(steps_S, until)]])
        for s in np.unique(np.searchsorted(steps_S, wanted)):
            step = int(steps_S[s])
            if step <= first:
                continue
            measured = gain.then(lambda r, s=s: r[:, [s]])
            told = [
                _foretold(kernel, list(times.values()), step, study.weights[arm])
                for kernel in law.kernels
            ]
            best = told[law.kernels.index(law.best)]
            value, low, high = _ends(best)
            low = min(low, *(_ends(one)[1] for one in told))
            high = max(high, *(_ends(one)[2] for one in told))
            differ = _ends(measured.thinned(_FITS) - best)
            known = math.isfinite(low) and math.isfinite(high)
            rows.append(
                {
                    "law": law.name,
                    "arm": arm,
                    "depth": depth,
                    "step": step,
                    "after": step - max(t for met in times.values() for t in met if t < step),
                    "decades": max(math.log10((step - first) / law.best.longest), 0.0),
                    "form": law.best.form,
                    "forecast": _listed(value, low, high),
                    "measured": _listed(*_ends(measured)),
                    "difference": _listed(*differ),
                    "at_until": _ends(before)[0],
                    "inside": bool(low <= _ends(measured)[0] <= high) if known else None,
                    "difference_shown": bool(differ[1] > 0 or differ[2] < 0) if known else None,
                    "n": measured.n,
                }
            )
    return rows


def _measured(study: Study, arm: str, depth: str) -> Estimate:
    """The control-subtracted gain of an arm at every recorded step, R x S."""
    cell, control = study.cell(arm, depth), study.cell(CONTROL, depth, arm)
    return study.mean(cell, cell.change_SxP) - study.mean(control, control.change_SxP)


def _foretold(kernel: Kernel, times: Sequence[tuple[int, ...]], step: int, weights_RxK) -> Estimate:
    """The mean gain of facts at a step by one law, the facts weighed as in each replicate."""
    different = list(dict.fromkeys(times))
    gain_RxG = kernel.gains(different, np.full((len(different), 1), step))[:, :, 0]
    gain_RxK = gain_RxG[:, [different.index(met) for met in times]]
    weights_RxK = weights_RxK[: len(gain_RxK)]
    return kernel.estimate(((gain_RxK * weights_RxK).sum(1) / weights_RxK.sum(1))[:, None])


def _row_of(steps_S: np.ndarray, until: int) -> int:
    """The last row up to a step."""
    return int(np.searchsorted(steps_S, until, side="right")) - 1


def _ends(found: Estimate) -> tuple[float, float, float]:
    return tuple(float(v[0]) for v in found.interval())


def _listed(*values: float) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the forecasts fared together, in lines."""
    known = [row for row in rows if row["inside"] is not None]
    found = np.array([row["measured"][0] for row in rows])

    def error(values) -> str:
        return number(float(np.sqrt(np.mean((np.array(values) - found) ** 2))), 2)

    told = error([row["forecast"][0] for row in rows])
    kept, gone = error([row["at_until"] for row in rows]), error(np.zeros(len(rows)))
    return [
        f"inside the interval of the law: {sum(row['inside'] for row in known)} of {len(known)}; "
        f"shown to differ from the forecast: {sum(row['difference_shown'] for row in known)} of "
        f"{len(known)} (rows share facts and steps, so this is no coverage)",
        f"root mean square error, nats/token: forecast {told}, had nothing changed since the last "
        f"fitted step {kept}, had nothing been left {gone}",
    ]


def rate_caution(folder: RunFolder, first: int, last: int) -> str:
    """What to keep in mind where the learning rate changes over the fitted steps; "" where not."""
    rows = metrics.read(folder.metrics) if folder.metrics.exists() else []
    rates = [
        row["learning_rate"]
        for row in rows
        if "learning_rate" in row and first <= row["step"] <= last
    ]
    if not rates or max(rates) <= _STEADY * min(rates):
        return ""
    return (
        f"the learning rate goes from {rates[0]:.3g} to {rates[-1]:.3g} over the fitted steps "
        f"{first} to {last}: the law mixes rates and foretells none of them; fit it to a run with "
        "--config.optim.schedule.kind=constant"
    )


def run(
    run_dir: Path,
    depth: str = "memorization",
    wanted: tuple[int, int, int] = (10, 100, 1000),
    level: float = 0.5,
    until: int = 0,
    out: Path | None = None,
    arms: Sequence[str] = (),
    every_tokens: float | None = None,
) -> Path:
    """Fits, prints and writes the forecast; returns the path of its file.

    Args:
      wanted: encounters, interval and steps after the last one of the fact to forecast.
      level: nats per token to be kept just before the next encounter.
      until: last step the fit sees; 0 = all.
      arms: of one law; () = a law for each wording.
      every_tokens: training tokens between two encounters of a fact, to ask which batch keeps the
        level; None = not asked.

    Raises:
      UserError: not the folder of a facts run, one without a control, or one that ends before the
        window of its last encounter.
    """
    folder = RunFolder(run_dir)
    record = read_spec(folder.spec)["spec"]
    try:
        config = specs.from_json(FactsConfig, record["facts"], "facts")
        beta1 = record["optim"]["b1"]
    except (KeyError, TypeError):
        raise UserError(f"expected the folder of a facts run, got {run_dir}") from None
    log = open_log(folder.probes)
    if CONTROL not in config.names:
        raise UserError(
            "expected a run with a never-injected control, got none; add it to its arms"
        )
    window = resolve_window(config, beta1)
    study = estimates.open_study(log, schedule(config), window, config.seed, _RESAMPLES)
    end = int(study.table.steps_S[-1])
    if until and not 0 < until < end:
        raise UserError(
            f"expected --until above 0 and before the last step of the log, {end}, got {until}"
        )
    last = until or end
    per_step = cells.tokens_per_step(study.table)
    laws, rows, cautions, checked = [], [], [], []
    for name, members in groups(config, arms).items():
        one = law(study, name, members, depth, beta1, until)
        first = min(met[0] for arm in members for met in study.times(arm).values())
        doubts = [rate_caution(folder, first, last), _MATCHED if config.matched else ""]
        print(f"law {name!r}, fitted up to step {last} to {one.describe()}")
        for doubt in filter(None, doubts):
            print(f"caution: {doubt}")
        found = forecast_rows(
            one.kernels, per_step, [wanted], [level], every_tokens, f"{name}/{depth}"
        )
        for row in found:
            value, interval = estimate(row["value"], row["low"], row["high"])
            line = f"{row['name']:<56} {value:>10} {interval or '':<24} {row['unit']}"
            print(line + (f"   ({row['note']})" if row["note"] else ""))
        print()
        laws.append({"law": name, "arms": list(members), "facts": one.best.facts, "last": last})
        rows += found
        cautions += filter(None, doubts)
        checked += check(study, one, depth, until) if until else []
    for row in checked:
        told, found, differ = (
            estimate(*row[key]) for key in ("forecast", "measured", "difference")
        )
        verdict = {True: "inside", False: "NOT inside", None: "no interval"}[row["inside"]]
        print(
            f"{row['arm']}, step {row['step']}, {row['after']} after its last encounter: forecast "
            f"{told[0]} {told[1]}, measured {found[0]} {found[1]}: {verdict}; measured less "
            f"forecast {differ[0]} {differ[1]}" + (": differs" if row["difference_shown"] else "")
        )
    if checked:
        print("\n".join(summary(checked)))
    out = out or folder.path / "forecast.json"
    files.write_json(
        out,
        {
            "until": until,
            "laws": laws,
            "cautions": list(dict.fromkeys(cautions)),
            "rows": rows,
            "check": checked,
            "summary": summary(checked) if checked else [],
        },
    )
    print(f"written: {out}")
    return out


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    values = flags.FLAGS

    def work() -> None:
        if not values.log:
            raise UserError("expected --log=RUN, the folder of a facts run")
        run(
            Path(values.log),
            values.depth,
            (values.encounters, values.interval, values.after),
            values.level,
            values.until,
            Path(values.out) if values.out else None,
            values.arms,
            values.every_tokens,
        )

    cli.plainly(work)


if __name__ == "__main__":
    flags.DEFINE_string("log", "", "folder of a facts run")
    flags.DEFINE_string("depth", "memorization", "of the probes")
    flags.DEFINE_list("arms", [], "arms of one law, by commas; default: a law for each wording")
    flags.DEFINE_integer("encounters", 10, "of the fact to forecast")
    flags.DEFINE_integer("interval", 100, "steps between its encounters")
    flags.DEFINE_integer("after", 1000, "steps after the last encounter")
    flags.DEFINE_float("level", 0.5, "nats per token to be kept just before the next encounter")
    flags.DEFINE_float(
        "every_tokens",
        None,
        "training tokens between two encounters of a fact: asks which batch keeps the level",
    )
    flags.DEFINE_integer("until", 0, "last step the fit sees; 0 = all")
    flags.DEFINE_string("out", "", "JSON file; default RUN/forecast.json")
    app.run(main, argv=sys.argv)
