"""How right advice was: the full runs of the same choices beside what was foretold of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.continual_spec import Spec, Stage
from experiments.continual_stages import stages
from experiments.continual_sweep import Question, choice_of, datasets, planned
from llm_dynamics import spec as specs
from llm_dynamics.continual import advice
from llm_dynamics.continual.advice import Advice, Candidate, Trial
from llm_dynamics.continual.stage_log import read_stage
from llm_dynamics.errors import UserError
from llm_dynamics.report.numbers import estimate
from llm_dynamics.results import Row
from llm_dynamics.train.run_folder import RunFolder, read_spec


def check(
    asked: Question, shift: str, given: Mapping[str, Advice], workdir: Path, other: Path
) -> tuple[list[str], list[Row]]:
    """The advice of one shift beside full runs, in lines and rows.

    Args:
      asked: what was asked.
      shift: of the advice.
      given: what it rests on -> the advice.
      workdir: where the runs of the sweep lie.
      other: workdir of a study, or of a sweep with all steps, from the same models.

    Raises:
      UserError: no full run of the same model, steps and data for what is recommended.
    """
    truth = {one.name: one for one in advice.measured(full_runs(asked, shift, workdir, other))}
    if not truth:
        raise UserError(
            f"no run in {other} is a whole stage of what was asked, from the same first stage; "
            "give the settings of that study and all of its shifts, whose texts make its tokenizer"
        )
    rows, lines = [], [f"  checked against {other}, nats per token, as advised -> as measured:"]
    for what, one in given.items():
        found = advice.compare(one.candidates, list(truth.values()), one.choice, asked.within)
        rows += [{**row, "name": f"{shift}/check/{what}/{row['name']}"} for row in found]
        lines += _lines(one, truth, found)
    return lines, rows


def full_runs(asked: Question, shift: str, workdir: Path, other: Path) -> list[Trial]:
    """Final losses of the runs in another workdir that are whole stages of what was asked.

    They start from the same checkpoint, with the same data, rates and steps. What each run of the
    sweep started from is read there.
    """
    record = read_spec(RunFolder(other).spec)["spec"]
    if "base_run" in record:
        theirs = planned(specs.from_json(Question, record), other)
    else:
        theirs = stages(specs.from_json(Spec, record), other)
    known = {_what(s, other): s for s in theirs if s.spec.train.start.run and _done(s, other)}
    found = []
    short = {s.name: s for s in planned(asked, workdir)}
    for stage in planned(asked, workdir, whole=True):
        if stage.shift != shift:
            continue
        start = _parent(short[stage.name], workdir)
        match = known.get((*_what(stage, None), start))
        if match:
            log = read_stage(other / "runs" / match.name, datasets(asked, shift))
            found.append(Trial(*choice_of(stage), stage.seed, *map(float, log.losses_SxZ[-1])))
    return found


def _what(stage: Stage, workdir: Path | None) -> tuple:
    """What decides a run but for paths, and with a workdir what it started from."""
    spec = stage.spec
    data = dataclasses.replace(
        spec.data, replay=(), also_validate=(), tokenizer_sources=(), cache_dir=""
    )
    start = dataclasses.replace(spec.train.start, run="", step=-1)
    parts = (spec.model, data, spec.optim, spec.train.steps, start, spec.seed, stage.share)
    return parts if workdir is None else (*parts, _parent(stage, workdir))


def _parent(stage: Stage, workdir: Path) -> tuple:
    """The checkpoint that a run started from, whichever folder it lies in."""
    parent = read_spec(RunFolder(workdir / "runs" / stage.name).spec)["parent"]
    return tuple(parent[key] for key in ("step", "spec", "data", "tokenizer"))


def _done(stage: Stage, workdir: Path) -> bool:
    return RunFolder(workdir / "runs" / stage.name).spec.exists()


def _lines(given: Advice, truth: Mapping[str, Candidate], found: Sequence[Row]) -> list[str]:
    rows = {row["name"]: row for row in found}
    lines = [f"  {given.choice.source}:"]
    common = [one for one in given.candidates if one.name in truth]
    for one in sorted(common, key=lambda one: truth[one.name].average.mean):
        cells = [
            f"{key} {getattr(one, key).mean:.3f} -> {getattr(truth[one.name], key).mean:.3f}"
            for key in ("old", "new", "average")
        ]
        mark = "taken by the rule" if one.name == given.choice.name else ""
        lines.append(f"    {one.name:<26} {', '.join(cells)}  {mark}".rstrip())
    for key in ("old", "new", "average"):
        row = rows[f"{key}/relative_error"]
        ends = (x if x is None else 100 * x for x in (row["value"], row["low"], row["high"]))
        lines.append(f"    mean error, {key}: {' '.join(filter(None, estimate(*ends)))} %")
    if "regret" not in rows:
        return [*lines, f"    regret: not known, {given.choice.name} was not run in full"]
    for key, what in (("regret", "the lowest measured"), ("regret_rule", "what it takes of them")):
        row, name = rows[key], key.replace("_", " by the ")
        ends = " ".join(filter(None, estimate(row["value"], row["low"], row["high"])))
        said = f"{ends}, {row['definition']}" if row["value"] else f"none, it is {what}"
        lines.append(f"    {name}: {said}")
    return lines
