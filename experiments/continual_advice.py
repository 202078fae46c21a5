"""What to do with new data: a short sweep of second stages, and what laws make of it.

    launch/local continual --advise            see experiments/continual.py

The sweep runs the recommended kind of stage for a part of its steps, at several peaks and shares of
replay, under every seed (Ibrahim et al. 2024: differences between shares show early, so sweep on a
short budget, then commit). A law of the curve is fitted to each seed's runs and asked for the whole
stage. The choice is by the average of the losses on old and new data.
"""

import dataclasses
import logging
from pathlib import Path

import numpy as np

from experiments.continual_runs import learn, read_arms
from experiments.continual_stages import OLD, Spec, stages
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.continual import advice
from llm_dynamics.continual.advice import Advice, Candidate, Trial
from llm_dynamics.continual.curve_fit import CurveFit, fit_curves
from llm_dynamics.continual.law_rows import DECAYS
from llm_dynamics.continual.stage_log import Arm
from llm_dynamics.errors import UserError
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.report.numbers import estimate
from llm_dynamics.results import Row
from llm_dynamics.train.run_folder import RunFolder

_log = logging.getLogger("llm_dynamics.continual")

PART = 0.25  # of the steps of the second stage that a run of the sweep has
SHARES = (0.0, 0.01, 0.05, 0.25, 0.5)
PEAKS = (1.0, 0.5, 2.0)
_SHOWN = 6  # candidates that are printed


def sweep(spec: Spec) -> Spec:
    """The study of short second stages that advice rests on."""
    return dataclasses.replace(
        spec,
        steps=max(2, round(PART * spec.steps)),
        replay=SHARES,
        peaks=PEAKS,
        schedules=("rewarm",),
        optimizers=spec.optimizers[:1],
        baselines=(),
        seeds=max(spec.seeds, 3),
    )


def run(spec: Spec, workdir: Path, command: str) -> list[str]:
    """Runs the sweep, or reads what is there, and returns the advice in lines.

    Writes WORKDIR/results.json: the measured losses of the sweep and the predicted ones.
    """
    short = sweep(spec)
    folder = RunFolder(workdir)
    planned = stages(short, folder.path)
    names = [stage.name for stage in planned]
    folder.claim(spec, {"fingerprint": specs.fingerprint([PART, names]), "command": command})
    for i, stage in enumerate(planned):
        _log.info("run %d of %d: %s", i + 1, len(names), stage.name)
        learn(short, stage, folder.path / "runs" / stage.name, command)
    arms = read_arms(short, planned, folder.path)
    settings = {(stage.shift, stage.variant): stage for stage in planned if stage.shift}
    lines: list[str] = []
    rows: list[Row] = []
    for shift, found in arms.items():
        shares = {variant: settings[shift, variant].share for variant in found}
        peaks = {variant: settings[shift, variant].spec.optim.schedule.peak for variant in found}
        before = advice.advise(advice.measured(trials(found, shares, peaks)))
        after = advice.advise(predicted(spec, found, shares, peaks))
        lines += say(spec, shift, before, after)
        for what, given in (("sweep", before), ("whole", after)):
            rows += [{**row, "name": f"{shift}/{what}/{row['name']}"} for row in given.rows]
    files.write_json(folder.results, rows)
    return lines


def trials(arms: dict[str, Arm], shares: dict[str, float], peaks: dict[str, float]) -> list[Trial]:
    """The final losses of every run of the sweep."""
    return [
        Trial("rewarm", peaks[variant], shares[variant], seed, *map(float, log.losses_SxZ[-1]))
        for variant, arm in arms.items()
        for seed, log in arm.runs.items()
    ]


def predicted(
    spec: Spec, arms: dict[str, Arm], shares: dict[str, float], peaks: dict[str, float]
) -> list[Candidate]:
    """Losses at the end of whole second stages, by laws fitted to each seed's sweep."""
    some = next(iter(arms.values()))
    fits: dict[int, tuple[CurveFit, CurveFit]] = {}
    for seed in some.runs:
        pair = []
        for which, dataset in zip(("old", "new"), some.datasets, strict=True):
            curves = [
                curve
                for i, (variant, arm) in enumerate(arms.items())
                for curve in arm.law_curves(dataset, shares[variant], first=i == 0)
                if curve.seed == seed
            ]
            pair.append(fit_curves(curves, which, DECAYS, resamples=0))
        fits[seed] = tuple(pair)
    first = next(iter(some.before.values())).rates_T
    rates = {
        ("rewarm", peak): np.concatenate([first, second_rates(spec, peak)])
        for peak in sorted(set(peaks.values()))
    }
    return advice.from_curves(fits, rates, len(first), sorted(set(shares.values())))


def second_rates(spec: Spec, peak: float) -> np.ndarray:
    """The learning rate of every update of a whole second stage."""
    relative = peak / spec.base.optim.schedule.peak
    whole = dataclasses.replace(spec, peaks=(relative,), replay=(0.0,), seeds=1, baselines=())
    stage = next(s for s in stages(whole, Path("WORKDIR")) if s.shift)
    schedule = make_schedule(stage.spec.optim.schedule, spec.steps)
    return np.array([float(schedule(np.int32(t))) for t in range(spec.steps)])


def say(spec: Spec, shift: str, before: Advice, after: Advice) -> list[str]:
    """The advice of one shift in lines."""
    if after.choice is None:
        raise UserError(f"expected a candidate for the shift {shift}, got none")
    choice, tokens = after.choice, spec.steps * spec.base.data.batch_size * spec.base.data.length
    lines = [
        f"{shift}: {spec.new_sources()[shift]} after {', '.join(spec.base.data.sources)}",
        f"  by the law, for {spec.steps:,} steps ({tokens:,} tokens): {after.words}",
        f"  measured after {max(2, round(PART * spec.steps)):,} steps: {before.words}",
        f"  replayed: {choice.share:.0%} = {choice.share * tokens:,.0f} tokens of the {OLD} data; "
        f"new: {(1 - choice.share) * tokens:,.0f}",
        f"  {'choice':<28} {'old':>22} {'new':>22} {'average':>22}",
    ]
    ranked = sorted((choice, *after.rivals), key=lambda c: c.average.mean)
    for candidate in ranked[:_SHOWN]:
        cells = []
        for found in (candidate.old, candidate.new, candidate.average):
            value, low, high = (float(end[0]) for end in found.interval())
            cells.append(" ".join(estimate(value, low, high)))
        lines.append(f"  {candidate.name:<28} " + " ".join(f"{cell:>22}" for cell in cells))
    lines.append(
        "  intervals: Student's t over seeds, of losses foretold by laws that are taken for right"
    )
    return lines
