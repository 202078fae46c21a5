"""What to do with new data: a short sweep of second stages, and what laws make of it.

    launch/local continual --advise --base_run=RUN --config.shifts=mine=new.jsonl --config.tokens=N
                                       a model trained here, new data and a budget: what to do
    launch/local continual --advise --dry_run ...           what that would run and cost
    launch/local continual --advise --check=WORKDIR ...     how right it was, by full runs there

The sweep runs the recommended kinds of stage for a part of the steps, at several peaks and shares
of replay, under every seed (Ibrahim et al. 2024: differences between shares show early, so sweep on
a short budget, then commit). A law of the curve is fitted to each seed's runs and asked for what
the rest of the steps adds. What is recommended is among what was run; `advice.rule` says how.

Full runs to check against are those of a study with the same settings, or of this command with
`--config.part=1` in another workdir.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags

from experiments import cli
from experiments.continual_check import check
from experiments.continual_spec import OLD, Stage
from experiments.continual_sweep import (
    Costs,
    Question,
    choice_of,
    costs,
    learn,
    origin,
    own_curve,
    planned,
    prepare,
    question,
    rates,
    read,
)
from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.continual import advice
from llm_dynamics.continual.advice import Advice, Candidate, Trial
from llm_dynamics.continual.curve_fit import CurveFit, fit_curves
from llm_dynamics.continual.curve_law import REPLAY_NAMES, SETS
from llm_dynamics.continual.law_rows import DECAYS
from llm_dynamics.continual.stage_log import Arm
from llm_dynamics.data.explain import format_explanation
from llm_dynamics.errors import UserError
from llm_dynamics.report.numbers import estimate
from llm_dynamics.seeds import PerSeed
from llm_dynamics.train import plan_lines
from llm_dynamics.train.run_folder import RunFolder, read_spec

_log = logging.getLogger("llm_dynamics.continual")

_SPANS = 0.8  # lengths of the memory in a short stage, at least
_INNER = (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4)


class Found(NamedTuple):
    """What is advised for one shift.

    Attributes:
      measured: after the short stages.
      foretold: after the whole stage; None where no law could be fitted.
      why: there is none.
    """

    measured: Advice
    foretold: Advice | None
    why: str

    @property
    def last(self) -> Advice:
        """What is recommended."""
        return self.foretold or self.measured

    @property
    def named(self) -> dict[str, Advice]:
        """Both, by the names of their rows."""
        both = {"whole": self.foretold, "sweep": self.measured}
        return {name: given for name, given in both.items() if given}


# ---- the command ---------------------------------------------------------------------------------


def start(study: cli.Study) -> None:
    """The command line of the study, with --advise and what belongs to it."""
    flags.DEFINE_string("base_run", "", "with --advise: folder of the trained model to go on from")
    flags.DEFINE_string("check", "", "with --advise: workdir of full runs to compare it with")
    values = flags.FLAGS

    def preset(make):
        def made():
            if values.advise:
                return question(make(), values.base_run)
            for name in ("base_run", "check"):
                if values[name].value:
                    raise UserError(f"--{name} belongs to --advise, which is not given")
            return make()

        return made

    def asked(spec) -> bool:
        return isinstance(spec, Question)

    cli.start(
        dataclasses.replace(
            study,
            presets={name: preset(make) for name, make in study.presets.items()},
            describe=lambda spec: (describe if asked(spec) else study.describe)(spec),
            explain=lambda spec, step: (explain if asked(spec) else study.explain)(spec, step),
            advise=lambda spec, workdir, command: run(spec, workdir, command, values.check),
        )
    )


def run(asked: Question, workdir: Path, command: str, against: str = "") -> list[str]:
    """Runs the sweep, or reads what is there, and returns the advice in lines.

    Writes WORKDIR/results.json: losses, forgetting and adaptation, measured and foretold.

    Args:
      asked: what is asked.
      workdir: where the runs lie.
      command: that started it, for its record.
      against: workdir of full runs to compare with; "" = none.
    """
    folder = RunFolder(workdir)
    if against:
        read_spec(RunFolder(Path(against)).spec)  # refused now, not when the sweep has run
    runs = planned(asked, folder.path)
    names = [stage.name for stage in runs]
    folder.claim(asked, {"fingerprint": specs.fingerprint(names), "command": command})
    for i, stage in enumerate(runs):
        _log.info("run %d of %d: %s", i + 1, len(names), stage.name)
        learn(asked, stage, RunFolder(folder.path / "runs" / stage.name), command)
    _log.info("fitting the laws")
    spent = costs(asked, runs)
    lines, rows = cost_lines(asked, spent), []
    lines += rule_lines(asked, len({stage.variant for stage in runs if stage.shift}))
    for shift, arms in read(asked, runs, folder.path).items():
        found = answer(asked, arms, _settings(runs, shift))
        lines += ["", *say(asked, shift, found)]
        for what, given in found.named.items():
            rows += [{**row, "name": f"{shift}/{what}/{row['name']}"} for row in given.rows]
        if against:
            try:
                said, more = check(asked, shift, found.named, folder.path, Path(against))
            except UserError as error:  # the advice stands without it
                said, more = [f"  not checked: {error}"], []
            lines += said
            rows += more
    files.write_json(folder.results, rows)
    return lines


def describe(asked: Question) -> list[str]:
    """The sweep in lines: its runs, what they cost, and the plan of the first one in full."""
    runs = planned(asked, Path("WORKDIR"))
    per_step = asked.tokens_per_step
    lines = [
        f"advice for {asked.whole_steps:,} steps ({asked.whole_steps * per_step:,} tokens) of "
        f"{', '.join(asked.new_sources().values())} after {', '.join(asked.base.data.sources)}",
        f"{len(runs)} runs:",
    ]
    for stage in runs:
        if stage.seed:
            continue
        schedule, steps = stage.spec.optim.schedule, stage.spec.train.steps
        lines.append(
            f"  {stage.name}: {steps:,} steps, {steps * per_step:,} tokens of "
            f"{', '.join(stage.spec.data.sources)}"
            + (f" with {stage.share:.1%} replayed" if stage.share else "")
            + f"; {schedule.kind} to {schedule.peak:g}"
        )
    if asked.seeds > 1:
        lines.append(f"  and so under {asked.seeds} seeds")
    lines += cost_lines(asked, costs(asked, runs))
    lines += rule_lines(asked, len({stage.variant for stage in runs if stage.shift}))
    ready = prepare(asked, runs[0])
    return [*lines, "", f"{runs[0].name}:", *plan_lines.describe(ready.parts, ready.plan)]


def explain(asked: Question, step: int) -> str:
    """What every row of a step of the first run holds."""
    first = planned(asked, Path("WORKDIR"))[0]
    if not 0 <= step < first.spec.train.steps:
        raise UserError(f"expected --explain=0 to {first.spec.train.steps - 1}, got {step}")
    return format_explanation(prepare(asked, first).plan.explain(step))


# ---- the answer ----------------------------------------------------------------------------------


def answer(asked: Question, arms: Mapping[str, Arm], settings: Mapping[str, Stage]) -> Found:
    """The advice from what the runs of one shift measured.

    Args:
      asked: what is asked.
      arms: variant -> what its runs measured.
      settings: variant -> one of its planned runs.
    """
    first = next(iter(arms.values()))
    base, base_new = (
        PerSeed({seed: float(log.losses_SxZ[0, z]) for seed, log in first.runs.items()})
        for z in (0, 1)
    )

    def advised(candidates: list[Candidate]) -> Advice:
        return advice.advise(candidates, base=base, base_new=base_new, within=asked.within)

    short = advised(advice.measured(trials(arms, settings)))
    if asked.short_steps == asked.whole_steps:
        return Found(short, None, "the sweep has all steps")
    try:
        return Found(short, advised(foretold(asked, arms, settings)), "")
    except UserError as error:
        return Found(short, None, str(error))


def trials(arms: Mapping[str, Arm], settings: Mapping[str, Stage]) -> list[Trial]:
    """The final losses of every run of the sweep."""
    return [
        Trial(*choice_of(settings[variant]), seed, *map(float, log.losses_SxZ[-1]))
        for variant, arm in arms.items()
        for seed, log in arm.runs.items()
    ]


def foretold(
    asked: Question, arms: Mapping[str, Arm], settings: Mapping[str, Stage]
) -> list[Candidate]:
    """Losses at the end of whole second stages, by laws fitted to each seed's sweep.

    Raises:
      UserError: too little was measured for a law.
    """
    fits = {seed: laws(asked, arms, settings, seed) for seed in next(iter(arms.values())).runs}
    whole = {s.variant: s for s in planned(asked, Path("WORKDIR"), whole=True) if not s.seed}
    short_T, whole_T = {}, {}
    for variant, arm in arms.items():
        first_T = next(iter(arm.before.values())).rates_T
        for found, plan in ((short_T, settings), (whole_T, whole)):
            found[choice_of(plan[variant])] = np.concatenate([first_T, rates(plan[variant])])
    return advice.lengthened(trials(arms, settings), fits, short_T, whole_T, len(first_T))


def laws(
    asked: Question, arms: Mapping[str, Arm], settings: Mapping[str, Stage], seed: int
) -> tuple[list[CurveFit], list[CurveFit]]:
    """Laws of the old and of the new set that fit the sweep of a seed about as well."""
    found = []
    for which, dataset in zip(SETS, next(iter(arms.values())).datasets, strict=True):
        first, second = (
            [
                curve
                for i, (variant, arm) in enumerate(arms.items())
                for curve in arm.law_curves(
                    dataset, settings[variant].share, both and i == 0, variant
                )
                if curve.seed == seed
            ]
            for both in (True, False)
        )
        if asked.base_run:
            first += own_curve(asked, next(s.shift for s in settings.values()), dataset, seed)
        fits = [
            fit_curves(first, which, (decay,), resamples=0, form=form)
            for decay in memories(asked.short_steps)
            for form in REPLAY_NAMES
        ]
        found.append(advice.alike(fits, second))
    return tuple(found)


def memories(steps: int) -> list[float]:
    """Decays of the law's memory of earlier rates that a stage of so many steps can tell.

    One that lasts longer than the stage is hardly told from the learning rate itself, and what the
    law makes of it in a longer stage is a guess.
    """
    return [decay for decay in DECAYS if steps * (1 - decay) >= _SPANS] or [DECAYS[0]]


def between(asked: Question, given: Advice) -> Candidate | None:
    """What the rule would take among shares that were not run; None without a law of replay."""
    trials = [
        Trial(one.schedule, one.peak, one.share, seed, one.old.values[seed], one.new.values[seed])
        for one in given.candidates
        for seed in one.old.values
    ]
    try:
        return advice.advise(advice.between_shares(trials, _INNER), within=asked.within).choice
    except UserError:  # no peak was run with shares enough
        return None


def _settings(runs: Sequence[Stage], shift: str) -> dict[str, Stage]:
    return {stage.variant: stage for stage in runs if stage.shift == shift and not stage.seed}


# ---- in words ------------------------------------------------------------------------------------


def cost_lines(asked: Question, spent: Costs) -> list[str]:
    """What the sweep costs, what it is about costs, and what it saves."""

    def line(what: str, tokens: int, more: str = "") -> str:
        return (
            f"  {what:<34} {tokens:>18,} tokens {spent.flops_per_token * tokens:>10.3g} FLOPs{more}"
        )

    base = f"{asked.base.train.steps:,} steps, trained here"
    if asked.base_run:
        base = f"{asked.base_run} at step {origin(asked).step:,}"
    lines = ["cost in training, validation and probes aside:"]
    if spent.first:
        lines.append(line("first stages for the sweep", spent.first))
    times = f", {spent.sweep / spent.stage:.2g} times the stage"
    lines += [
        line("the sweep", spent.sweep, times),
        line(f"the stage, {asked.whole_steps:,} steps", spent.stage),
        line("old and new data again from scratch", spent.union),
        f"  the model it starts from: {base}, {spent.base:,} tokens",
        f"  a run of the sweep has {asked.short_steps:,} steps; a smaller part than {asked.part:g} "
        "costs less and leaves more to the law",
        f"  the stage costs {spent.stage / spent.union:.0%} of training again, with the sweep "
        f"{(spent.stage + spent.sweep) / spent.union:.0%}",
    ]
    return lines


def rule_lines(asked: Question, candidates: int) -> list[str]:
    """How the choice is made and what intervals hold for, before any number."""
    covers = "initial parameters: each has a first stage of its own; the order of the data is one"
    if asked.base_run:
        covers = (
            "orders of the new data after this one run; they do not hold for other models, and "
            "what is replayed comes in one order"
        )
    return [
        *advice.rule(asked.within, candidates, asked.seeds),
        *([f"intervals: Student's t over {asked.seeds} {covers}"] if asked.seeds > 1 else []),
        "losses of the whole stage are the mean of laws that fit the sweep about as well; "
        "intervals take it for right, and the spread of these laws is told beside them",
    ]


def say(asked: Question, shift: str, found: Found) -> list[str]:
    """The advice of one shift in lines."""
    choice, short, whole = found.last.choice, asked.short_steps, asked.whole_steps
    tokens = whole * asked.tokens_per_step
    lines = [f"{shift}: {asked.new_sources()[shift]} after {', '.join(asked.base.data.sources)}"]
    if found.foretold:
        lines.append(f"  by the law, for {whole:,} steps ({tokens:,} tokens): {found.last.words}")
    else:
        lines.append(f"  nothing is foretold: {found.why}")
    lines += [
        f"  measured after {short:,} steps: {found.measured.words}",
        f"  replayed: {choice.share:.0%} = {choice.share * tokens:,.0f} tokens of the {OLD} data; "
        f"new: {(1 - choice.share) * tokens:,.0f}",
    ]
    if inner := between(asked, found.last):
        lines.append(
            f"  between the shares that were run, a law of replay has the rule take "
            f"{inner.share:.1%} at peak {inner.peak:g}: average {inner.average.mean:.4g}, not run"
        )
    for what, given in (
        (f"foretold after {whole:,} steps", found.foretold),
        (f"measured after {short:,} steps", found.measured),
    ):
        lines += table(what, given) if given else []
    return lines


def table(what: str, given: Advice) -> list[str]:
    """Losses, forgetting and adaptation of every candidate, the lowest average first."""
    rows = {row["name"]: row for row in given.rows}
    spread = {one.name: one.spread for one in given.candidates if one.spread}
    names = [name.removesuffix("/average") for name in rows if name.endswith("/average")]
    lines = [
        f"  {what}, nats per token:",
        f"  {'schedule/peak/replay':<26} {'old':>7} {'new':>7} {'forgetting':>23} "
        f"{'adaptation':>23} {'average':>23}{' spread' if spread else ''}  ".rstrip(),
    ]
    rivals = {rival.name for rival in given.rivals}
    for name in sorted(names, key=lambda name: rows[f"{name}/average"]["value"]):
        cells = []
        for key in ("forgetting", "adaptation", "average"):
            row = rows[f"{name}/{key}"]
            ends = estimate(row["value"], row["low"], row["high"], signed=key != "average")
            cells.append(f"{' '.join(filter(None, ends)):>23}")
        old, new = (rows[f"{name}/{key}"]["value"] for key in ("old", "new"))
        mark = "taken by the rule" if name == given.choice.name else ""
        mark = "not shown to be worse" if name in rivals else mark
        if spread:
            cells[-1] += f"{spread.get(name, 0):>7.2f}"
        lines.append(f"  {name:<26} {old:>7.3f} {new:>7.3f} {' '.join(cells)}  {mark}".rstrip())
    return lines
