"""Which skills, and which combinations of them, does a series of checkpoints have?

    launch/local competence --run=RUN --probes=FILE.jsonl
    launch/local competence --run=RUN1,RUN2,RUN3 --probes=FILE.jsonl --steps=1000
    launch/local competence --run=P1,P2,P3 --at=1000,2000,4000 --probes=FILE.jsonl
    launch/local competence --run='pythia-70m/step*' --probes=FILE.jsonl       folders of the hub
    launch/local competence --run=RUN --log --label=attribute --where=group=seen,wording=training
    launch/local competence --run=RUN --biographies=FILE.jsonl     questions to try it on

Asks every checkpoint questions whose skills are known and holds what it got right against its loss
and against the theory of skills. docs/competence.md says more. What a checkpoint answered is kept:
the same command goes on where it was stopped.
"""

import dataclasses
import json
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags

from experiments import cli, compared, competence_biographies
from llm_dynamics import files
from llm_dynamics.errors import UserError
from llm_dynamics.hub.series import open_members, refuse_same
from llm_dynamics.model import size
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.probe.log import open_log
from llm_dynamics.report.competence_report import CompetenceStudy, write_report
from llm_dynamics.skills import labelled as lib
from llm_dynamics.skills.asked import Settings
from llm_dynamics.skills.series import Point, Scorer, log_points
from llm_dynamics.skills.series_rows import rows
from llm_dynamics.spec import fingerprint, from_json
from llm_dynamics.train.run_folder import RunFolder, read_spec
from llm_dynamics.train.series import Member, refuse_twice

_log = logging.getLogger("llm_dynamics.competence")
_SERIES = "series"  # the run whose checkpoints are folders of their own
_FROM_LOG = 12  # steps of a log that are shown unless told otherwise


@dataclasses.dataclass(frozen=True)
class FromLog:
    """Which probes of a log are questions, and what they say."""

    label: str = "skills"
    where: tuple[tuple[str, str], ...] = ()
    group: str = ""


@dataclasses.dataclass(frozen=True)
class Asked:
    """One call of the command.

    Attributes:
      runs: run folders, or checkpoints as `hub.series.open_members` takes them.
      probes: a labelled probe file; None = the probe logs of the runs.
      log: how those are read.
      steps: of every run; none = all checkpoints, or some of a log's.
      at: updates of one series whose checkpoints are the runs, each a folder of one checkpoint (as
        imported ones are), of which `steps` are asked; none = runs are what their folders say.
      tokenizer: in place of the recorded ones.
      fewest: questions of a skill, below which a warning is given.
      settings: of the rows.
    """

    runs: tuple[str | Path, ...]
    probes: Path | None
    log: FromLog = dataclasses.field(default_factory=FromLog)
    steps: tuple[int, ...] = ()
    at: tuple[int, ...] = ()
    tokenizer: str = ""
    fewest: int = lib.FEWEST
    settings: Settings = dataclasses.field(default_factory=Settings)


@dataclasses.dataclass(frozen=True)
class Kept:
    """Whose results a workdir holds; other settings of the same make them anew."""

    questions: str
    runs: tuple[str, ...]


def run(asked: Asked, workdir: Path, command: str) -> Path:
    """Asks what was not asked yet, computes and reports; returns the path of the page.

    Raises:
      UserError: questions, runs or steps that cannot be asked, or a workdir with the results of
        other questions or runs.
    """
    folder = RunFolder(workdir)
    if asked.probes is None:
        labelled, points = _from_log(asked)
        _claim(folder, labelled, asked, command)
    else:
        labelled, scorer, members, at = _prepared(asked, folder.path)
        _claim(folder, labelled, asked, command)
        points = _points(scorer, members, at)
    warnings = labelled.rare(asked.fewest)
    for warning in warnings:
        _log.warning("caution: %s", warning)
    found = rows(points, labelled, asked.settings)
    files.write_json(workdir / "results.json", found)
    study = CompetenceStudy(labelled, points, found, asked.settings, tuple(warnings), command)
    return write_report(workdir, study)


def default_workdir(asked: Asked) -> Path:
    """One for each set of runs and file of questions, or label of a log, by their names."""
    names = [re.sub(r"[^\w.=-]+", "_", Path(path).absolute().name) for path in asked.runs]
    questions = asked.probes.stem if asked.probes else f"log-{asked.log.label}"
    return Path("runs", "-".join(["competence", *names, questions]))


def describe(asked: Asked, workdir: Path) -> list[str]:
    """What will be asked, in lines; refuses what cannot be."""
    if asked.probes is None:
        labelled, points = _from_log(asked)
        return [*_questions(labelled, asked), *(f"{p.name}: in the log" for p in points)]
    labelled, scorer, members, _ = _prepared(asked, workdir)
    lines = _questions(labelled, asked)
    for member in members:
        what = "answered before" if scorer.is_kept(member) else "to be asked"
        lines.append(
            f"{member.run}/step={member.step}: {what} ({scorer.tokens(member):,} tokens to read)"
        )
    return lines


def _questions(labelled: lib.Labelled, asked: Asked) -> list[str]:
    sizes, counts = np.unique(labelled.sizes_T, return_counts=True)
    by_size = ", ".join(f"{n:,} of {k}" for k, n in zip(sizes, counts, strict=True))
    return [
        f"questions: {len(labelled.questions):,} ({labelled.source}) about {len(labelled.skills)} "
        f"skills; by number of skills: {by_size}",
        f"groups: {labelled.group_T.max() + 1:,}; probes: {labelled.choices_T.sum():,}",
        *(f"caution: {warning}" for warning in labelled.rare(asked.fewest)),
    ]


def _prepared(asked: Asked, workdir: Path):
    labelled = lib.read(asked.probes)
    members, at = _members(asked)
    scorer = Scorer(labelled, workdir / "scores")
    for member in members:
        scorer.check(member)
        if not scorer.is_kept(member):
            member.check()
    return labelled, scorer, members, at


def _members(asked: Asked) -> tuple[list[Member], tuple[int, ...]]:
    """The checkpoints that are asked, and what --at says of them."""
    if not asked.at:
        members = open_members(asked.runs, asked.steps, asked.tokenizer)
        refuse_same(members)
        return members, ()
    refuse_twice((), asked.steps)
    members = open_members(asked.runs, (), asked.tokenizer)
    if not len(asked.at) == len(set(asked.at)) == len(members) >= len(asked.runs):
        raise UserError(
            f"expected as many different numbers in --at as runs, and one checkpoint of each, got "
            f"{len(asked.at)} numbers, {len(asked.runs)} runs and {len(members)} checkpoints"
        )
    if lost := [step for step in asked.steps if step not in asked.at]:
        raise UserError(
            f"no checkpoint of step {lost[0]}; --at says {', '.join(map(str, asked.at))}"
        )
    steps = asked.steps or asked.at
    kept = [(m, step) for m, step in zip(members, asked.at, strict=True) if step in steps]
    return [m for m, _ in kept], tuple(step for _, step in kept)


def _claim(folder: RunFolder, labelled: lib.Labelled, asked: Asked, command: str) -> None:
    count, digest = len(labelled.questions), fingerprint(labelled.questions)
    kept = Kept(
        f"{count} of {labelled.source}, {digest}",
        tuple(sorted(compared.whole(asked.runs))),
    )
    folder.claim(kept, {"fingerprint": digest, "command": command})


def _points(scorer: Scorer, members: Sequence[Member], at: Sequence[int]) -> list[Point]:
    points = [scorer.point(member) for member in members]
    if at:
        points = [
            dataclasses.replace(point, run=_SERIES, step=step, tokens=0)
            for point, step in zip(points, at, strict=True)
        ]
    return points


class _Logged(NamedTuple):
    """A folder with a probe log: of a run, or of a series of checkpoints."""

    name: str
    probes: Path
    num_params: int


def _logged(path: str | Path) -> _Logged:
    folder = RunFolder(Path(path))
    record = read_spec(folder.spec)["spec"]
    if "model" not in record:
        raise UserError(
            f"{folder.path} is no run of one model; name the folder of a run or of a series"
        )
    params = size.num_params(from_json(ModelConfig, record["model"], "model"))
    return _Logged(folder.path.name, folder.probes, params)


def _from_log(asked: Asked) -> tuple[lib.Labelled, list[Point]]:
    labelled, points, where = None, [], dict(asked.log.where)
    runs = [_logged(path) for path in asked.runs]
    refuse_twice([of.name for of in runs], asked.steps)
    for of in runs:
        log = open_log(of.probes)
        mine = lib.from_log(log, asked.log.label, where, asked.log.group)
        if labelled is not None and mine != labelled:
            raise UserError(f"expected the same questions in all logs, got others in {of.probes}")
        labelled = mine
        steps = asked.steps or _some(log["step"].values)
        points += log_points(log, labelled, where, of.name, of.num_params, steps)
    return labelled, points


def _some(steps: np.ndarray) -> list[int]:
    """Recorded steps, evenly spaced, the ends among them."""
    at = np.linspace(0, len(steps) - 1, min(_FROM_LOG, len(steps))).round().astype(int)
    return [int(step) for step in steps[np.unique(at)]]


def frequencies(path: Path) -> dict[str, float]:
    """A JSON file of skills and how often training shows them.

    Raises:
      UserError: not such a file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(skill): float(value) for skill, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"expected a JSON object of skills and numbers in {path}, got {type(error).__name__}: "
            f"{error}"
        ) from None


def _pairs(words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    parted = [word.partition("=") for word in words]
    if not all(equals for _, equals, _ in parted):
        raise UserError(f"expected --where=LABEL=VALUE,LABEL=VALUE, got {','.join(words)}")
    return tuple((key, value) for key, _, value in parted)


def _asked(values) -> Asked:
    if not values.run:
        raise UserError("expected --run=RUN, a run folder, or several by commas")
    if values.at and values.log:
        raise UserError("expected --at with --probes, got --log: a log says its steps")
    if bool(values.probes) == values.log:
        raise UserError("expected either --probes=FILE.jsonl or --log")
    settings = Settings(
        taus=cli.numbers("taus", values.taus, float),
        alphas=cli.numbers("alphas", values.alphas, float),
        level=values.level,
        frequency=frequencies(Path(values.frequencies)) if values.frequencies else None,
    )
    return Asked(
        runs=tuple(values.run),
        probes=Path(values.probes) if values.probes else None,
        log=FromLog(values.label, _pairs(values.where), values.group),
        steps=cli.numbers("steps", values.steps, int),
        at=cli.numbers("at", values.at, int),
        tokenizer=values.tokenizer,
        fewest=values.fewest,
        settings=settings,
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    values = flags.FLAGS
    cli.speak()

    def work() -> None:
        if values.biographies:
            if len(values.run) != 1:
                raise UserError("expected --run=RUN, one run of the biographies study")
            out = Path(values.biographies)
            count = competence_biographies.write(Path(values.run[0]), out)
            print(f"written: {count:,} questions to {out}")
            return
        asked = _asked(values)
        workdir = files.expanded(values.workdir or default_workdir(asked)).absolute()
        cli.keep_compiled()
        if values.dry_run:
            print("\n".join(describe(asked, workdir)))
            return
        command = shlex.join(["launch/local", "competence", *sys.argv[1:]])
        print(f"report: {run(asked, workdir, command)}")

    cli.plainly(work)


if __name__ == "__main__":
    flags.DEFINE_list("run", [], "run folders by commas, folders of models, REPO@REVISION")
    flags.DEFINE_string("probes", "", "labelled probe file, .jsonl or .csv")
    flags.DEFINE_bool("log", False, "ask the probe logs of the runs or series instead")
    flags.DEFINE_string("label", "skills", "of a log's probes: names their skills, joined by +")
    flags.DEFINE_list("where", [], "LABEL=VALUE by commas: probes of a log that are questions")
    flags.DEFINE_string("group", "", "of a log's probes: label of what they are about")
    flags.DEFINE_list("steps", [], "of the checkpoints, by commas; default: all of them")
    flags.DEFINE_list("at", [], "updates of one series whose checkpoints are the runs, by commas")
    flags.DEFINE_string("tokenizer", "", "tokenizer.json in place of the one recorded")
    flags.DEFINE_string("workdir", "", "folder of the results; default runs/competence-RUN-FILE")
    flags.DEFINE_bool("dry_run", False, "print what will be asked, and stop")
    flags.DEFINE_integer("fewest", lib.FEWEST, "questions of a skill, below which it is warned of")
    flags.DEFINE_float("level", 0.5, "competence at which a skill has emerged")
    flags.DEFINE_list("taus", ["0.5", "0.7", "0.9"], "competences of the slingshot ratios")
    flags.DEFINE_list("alphas", ["0.1", "0.2", "0.5"], "measures of the weakest skills")
    flags.DEFINE_string("frequencies", "", "JSON file: skill -> how often training shows it")
    flags.DEFINE_string("biographies", "", "write questions on --run's people to this new file")
    app.run(main, argv=sys.argv)
