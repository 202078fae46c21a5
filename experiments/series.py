"""What do probes say over training time? A list of checkpoints, asked as one log.

    launch/local series --checkpoints=RUN --probes=FILE.jsonl
    launch/local series --checkpoints='pythia-70m/step*' --probes=RUN --by=arm
    launch/local series --checkpoints='EleutherAI/pythia-70m@step*' --probes=suite:NAME
    launch/local series --checkpoints=A,B,C --at=1000,2000,4000 --probes=FILE.csv

Asks every checkpoint every probe and writes the log that a training run would have written, with
curves, and what was learned and forgotten. docs/series.md says more. The same command goes on where
it was stopped, and asks new checkpoints when there are any.
"""

import dataclasses
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from experiments import cli, compared
from llm_dynamics import files, suites
from llm_dynamics.data.cache import cache_folder
from llm_dynamics.errors import UserError
from llm_dynamics.hub.series import open_series
from llm_dynamics.model import size
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.probe import records
from llm_dynamics.probe.growing import LogRow, open_growing
from llm_dynamics.probe.log import RESERVED, open_log
from llm_dynamics.probe.probes import Probe
from llm_dynamics.report.series_report import SeriesStudy, write_report
from llm_dynamics.skills.learning_rows import refuse_many, rows
from llm_dynamics.skills.trajectories import trajectories
from llm_dynamics.spec import fingerprint, nearest
from llm_dynamics.train.asking import Asker
from llm_dynamics.train.run_folder import RunFolder
from llm_dynamics.train.series import Member

_log = logging.getLogger("llm_dynamics.series")
_SUITE = "suite:"


@dataclasses.dataclass(frozen=True)
class Asked:
    """One call of the command.

    Attributes:
      checkpoints: as `hub.series.open_members` takes them.
      probes: a file, a run folder with a probe log, or suite:NAME.
      at: the step of each checkpoint; none = as names and folders say.
      steps: that are asked and shown; none = all.
      tokens_per_step: of checkpoints whose tokens nothing says; 0 = not known.
      by: label that results are grouped by.
      group: label of what questions are about; "" = `group`, where there is one.
      tokenizer: in place of those found.
      ignore: fields of a config.json that are harmless.
    """

    checkpoints: tuple[str, ...]
    probes: str
    at: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    tokens_per_step: int = 0
    by: str = ""
    group: str = ""
    tokenizer: str = ""
    ignore: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a workdir holds the log of; checkpoints of the list may become more."""

    questions: str
    checkpoints: tuple[str, ...]
    at: tuple[int, ...]
    model: ModelConfig


@dataclasses.dataclass(frozen=True)
class _Probes:
    probes: Sequence[Probe]
    source: str
    group: str


def run(asked: Asked, workdir: Path, command: str) -> Path:
    """Asks what was not asked yet, computes and reports; returns the path of the page.

    Raises:
      UserError: checkpoints or probes that cannot be asked, or a workdir with another series.
    """
    folder = RunFolder(workdir)
    questions, asker, members, _ = _prepared(asked, folder)
    tokenizer = members[0].tokenizer
    each = [[p.name, p.context, p.target, dict(p.labels)] for p in questions.probes]
    digest = fingerprint([asker.digest(tokenizer), each])
    kept = Kept(
        questions=f"{len(each)} of {questions.source}, {digest}",
        checkpoints=compared.whole(asked.checkpoints),
        at=asked.at,
        model=members[0].config,
    )
    folder.claim(kept, {"fingerprint": digest, "command": command})
    asks = [probe.num_target for probe in asker.encoded(tokenizer)]
    said = {"tokens": "training tokens seen; 0 = not known"}
    wanted = [LogRow(m.step, m.tokens, m.identity) for m in members]
    log = open_growing(folder.probes, questions.probes, asks, wanted, said)
    missing = set(log.missing(members[-1].step + 1))
    for member in members:
        if member.step not in missing:
            continue
        values_PxM = asker.scores(member)
        if not np.isfinite(values_PxM).all():
            raise UserError(
                f"{member.run}, step {member.step}: expected finite scores, got others: the model "
                "diverged; leave it out by --steps (what others answered is kept)"
            )
        log.write(member.step, values_PxM)
        log.flush()
    return _report(asked, questions, members, folder, command)


def _report(
    asked: Asked, questions: _Probes, members: Sequence[Member], folder: RunFolder, command: str
) -> Path:
    whole = open_log(folder.probes)
    shown = [m.step for m in members] if asked.steps else _answered(whole)
    found = trajectories(whole.sel(step=shown), questions.group)
    made = rows(found, asked.by)
    files.write_json(folder.results, made)
    first = members[0]
    model = {
        "parameters": size.num_params(first.config),
        "tokenizer": f"{first.tokenizer.vocab_size:,} ids, {first.tokenizer.fingerprint}",
        "read from": ", ".join(compared.whole(asked.checkpoints)),
    }
    study = SeriesStudy(first.run, questions.source, found, made, asked.by, model, command)
    return write_report(folder.path, study)


def _answered(log) -> list[int]:
    written_S = ~np.isnan(log["score"].values).all(axis=(1, 2))
    return log["step"].values[written_S].tolist()


def describe(asked: Asked, workdir: Path) -> list[str]:
    """What will be asked, in lines; refuses what cannot be."""
    questions, asker, members, answered = _prepared(asked, RunFolder(workdir))
    labels = sorted({key for probe in questions.probes for key in probe.labels})
    lines = [
        f"probes: {len(questions.probes):,} of {questions.source}; labels: "
        f"{', '.join(labels) or 'none'}",
        f"model: {size.num_params(members[0].config):,} parameters, tokenizer of "
        f"{members[0].tokenizer.vocab_size:,} ids; {asker.tokens(members[0]):,} tokens to read for "
        "each checkpoint",
    ]
    for member in members:
        tokens = f", {member.tokens:,} tokens" if member.tokens else ""
        what = "answered before" if member.step in answered else "to be asked"
        lines.append(f"step {member.step}{tokens}: {member.of.run}: {what}")
    return lines


def default_workdir(asked: Asked) -> Path:
    """One for each list of checkpoints and source of probes, by their names."""
    names = [Path(word).name for word in asked.checkpoints[:3]]
    probes = asked.probes.removeprefix(_SUITE)
    words = re.sub(r"[^\w.=-]+", "_", "-".join([*names, Path(probes).stem]))
    return Path("runs", f"series-{words}")


def _prepared(asked: Asked, folder: RunFolder) -> tuple[_Probes, Asker, list[Member], set[int]]:
    """Everything that is asked, checked, and the steps that were answered before."""
    questions = _probes(asked)
    labels = {key for probe in questions.probes for key in probe.labels}
    for label in filter(None, (asked.by, asked.group)):
        if label not in labels:
            raise UserError(f"the probes have no label {label!r}; {nearest(label, labels)}")
    if asked.by:
        refuse_many(asked.by, len({probe.labels.get(asked.by, "") for probe in questions.probes}))
    members = open_series(
        asked.checkpoints, asked.at, asked.steps, asked.tokenizer, asked.tokens_per_step,
        asked.ignore,
    )  # fmt: skip
    answered = set(_answered(open_log(folder.probes))) if folder.probes.exists() else set()
    asker = Asker(questions.probes)
    for member in members:
        asker.check(member)
        if member.step not in answered:
            member.check()
    return questions, asker, members, answered


def _probes(asked: Asked) -> _Probes:
    if asked.probes.startswith(_SUITE):
        suite = suites.load(asked.probes.removeprefix(_SUITE), cache_folder())
        return _Probes(suite.probes(), f"the suite {suite.name}", asked.group or suite.group)
    path = files.expanded(asked.probes)
    if path.suffix in (".jsonl", ".csv"):
        return _Probes(records.read_probes(path), path.name, asked.group)
    if not os.path.isdir(path):
        raise UserError(
            f"expected --probes as a file (.jsonl or .csv), a run folder with a probe log or "
            f"{_SUITE}NAME, got {asked.probes}"
        )
    log = open_log(RunFolder(path).probes, scores=False)
    return _Probes(_of_log(log), f"the log of {RunFolder(path).path.name}", asked.group)


def _of_log(log) -> list[Probe]:
    """The probes of a log with their labels."""
    labels = [str(n) for n in log.coords if log[n].dims == ("probe",) and n not in RESERVED]
    columns = [log[name].values.astype(str).tolist() for name in ("probe", "context", "target")]
    values = zip(*(log[name].values.astype(str).tolist() for name in labels), strict=True)
    if not labels:
        values = [()] * log.sizes["probe"]
    return [
        Probe(name, context, target, dict(zip(labels, own, strict=True)))
        for name, context, target, own in zip(*columns, values, strict=True)
    ]


def _asked(values) -> Asked:
    if not values.checkpoints:
        raise UserError("expected --checkpoints=A,B: run folders, folders of models, REPO@REVISION")
    if not values.probes:
        raise UserError("expected --probes: a file (.jsonl or .csv), a run folder, or suite:NAME")
    if values.tokens_per_step < 0:
        raise UserError(f"expected --tokens_per_step of 0 or more, got {values.tokens_per_step}")
    return Asked(
        checkpoints=tuple(values.checkpoints),
        probes=values.probes,
        at=cli.numbers("at", values.at),
        steps=cli.numbers("steps", values.steps),
        tokens_per_step=values.tokens_per_step,
        by=values.by,
        group=values.group,
        tokenizer=values.tokenizer,
        ignore=tuple(values.ignore),
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(
            f"unexpected argument {argv[1]!r}; patterns are given in quotes: --checkpoints='runs/*'"
        )
    values = flags.FLAGS
    cli.speak()

    def work() -> None:
        asked = _asked(values)
        workdir = files.expanded(values.workdir or default_workdir(asked)).absolute()
        cli.keep_compiled()
        if values.dry_run:
            print("\n".join(describe(asked, workdir)))
            return
        command = shlex.join(["launch/local", "series", *sys.argv[1:]])
        print(f"report: {run(asked, workdir, command)}")

    cli.plainly(work)


if __name__ == "__main__":
    flags.DEFINE_list("checkpoints", [], "run folders, folders of models, .gguf, REPO@REVISION")
    flags.DEFINE_string("probes", "", "file (.jsonl, .csv), run folder with a log, or suite:NAME")
    flags.DEFINE_list("at", [], "the step of each checkpoint, where its name does not say it")
    flags.DEFINE_list("steps", [], "of the checkpoints, by commas; default: all of them")
    flags.DEFINE_integer("tokens_per_step", 0, "of checkpoints that are no run folders of ours")
    flags.DEFINE_string("by", "", "label of the probes that results are grouped by")
    flags.DEFINE_string("group", "", "label of what probes are about; default: the label 'group'")
    flags.DEFINE_string("tokenizer", "", "tokenizer.json in place of those found")
    flags.DEFINE_list("ignore", [], "fields of a config.json that are harmless")
    flags.DEFINE_string("workdir", "", "folder of the log; default runs/series-NAMES-PROBES")
    flags.DEFINE_bool("dry_run", False, "print what will be asked, and stop")
    app.run(main, argv=sys.argv)
