"""What do checkpoints write? The same prompts continued by each, side by side.

    launch/local sample --checkpoints=RUN --prompt="The capital of France is"
    launch/local sample --checkpoints=A,'pythia-70m/step*' --prompts=FILE.txt --max_new=40
    launch/local sample --checkpoints=RUN --steps=400 --prompts=FILE.txt --temperature=0.8 --draws=3

A file holds one prompt a line. Checkpoints are those of `launch/local series` (docs/series.md): run
folders, folders of the hub as they lie, .gguf files, revisions. Texts are printed, and kept in
samples.jsonl beside report.html. A draw depends on the seed, the prompt and its number alone. No
token is put before a prompt.
"""

import dataclasses
import json
import shlex
import sys
from pathlib import Path

from absl import app, flags

from experiments import cli, compared
from llm_dynamics import files
from llm_dynamics.errors import UserError
from llm_dynamics.hub.series import open_members, refuse_same
from llm_dynamics.model.generate import Sampling, generate
from llm_dynamics.report.sample_report import Sample, write_report
from llm_dynamics.spec import fingerprint
from llm_dynamics.train.run_folder import RunFolder
from llm_dynamics.train.series import Member, are_finite

_STEP = 32  # buffers are multiples of it, so that few programs are compiled


@dataclasses.dataclass(frozen=True)
class Asked:
    """One call of the command.

    Attributes:
      checkpoints: as `hub.series.open_members` takes them.
      prompts: texts that are continued.
      sampling: how.
      draws: texts of each prompt.
      seed: of the draws.
      steps: of the checkpoints; none = all.
      tokenizer: in place of those found.
    """

    checkpoints: tuple[str, ...]
    prompts: tuple[str, ...]
    sampling: Sampling
    draws: int = 1
    seed: int = 0
    steps: tuple[int, ...] = ()
    tokenizer: str = ""

    def __post_init__(self):
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise UserError(
                f"expected prompts of at least one word, got {len(self.prompts)} and one of them "
                "empty; give --prompt=TEXT or --prompts=FILE with one a line"
            )
        if len(set(self.prompts)) < len(self.prompts):
            raise UserError(
                "expected every prompt once, got one twice; --draws asks for more texts"
            )
        if self.draws < 1:
            raise UserError(f"expected --draws of at least 1, got {self.draws}")
        if self.draws > 1 and not self.sampling.temperature:
            raise UserError(
                f"expected one draw at temperature 0, where all are the same, got {self.draws}; "
                "give --temperature"
            )


@dataclasses.dataclass(frozen=True)
class Kept:
    """Whose texts a folder holds."""

    asked: Asked


def run(asked: Asked, workdir: Path, command: str) -> Path:
    """Continues every prompt by every checkpoint; returns the path of the page.

    Raises:
      UserError: checkpoints or prompts that cannot be read, or a workdir with something else.
    """
    members = _opened(asked)
    folder = RunFolder(workdir)
    named = dataclasses.replace(asked, checkpoints=compared.whole(asked.checkpoints))
    folder.claim(Kept(named), {"fingerprint": fingerprint(asked.prompts), "command": command})
    found = []
    for member in members:
        found += _continued(member, asked)
        print("\n".join(f"{s.checkpoint}: {s.prompt}⟶{s.text}" for s in found[-_texts(asked) :]))
    lines = [json.dumps(dataclasses.asdict(sample), ensure_ascii=False) for sample in found]
    files.write_text(folder.path / "samples.jsonl", "\n".join(lines) + "\n")
    return write_report(folder.path, found, asked.sampling, command)


def _texts(asked: Asked) -> int:
    return len(asked.prompts) * asked.draws


def _opened(asked: Asked) -> list[Member]:
    """The checkpoints, every prompt short enough for each."""
    members = open_members(asked.checkpoints, asked.steps, asked.tokenizer)
    refuse_same(members)
    for member in members:
        member.check()
        most = member.config.max_length - asked.sampling.max_new
        if most < 1:
            raise UserError(
                f"{member.of.run}: expected --max_new below the model's max_length "
                f"{member.config.max_length}, got {asked.sampling.max_new}"
            )
        for prompt in asked.prompts:
            if not 0 < (length := len(member.tokenizer.encode(prompt))) <= most:
                raise UserError(
                    f"{member.of.run}: expected prompts of 1 to {most} tokens (max_length "
                    f"{member.config.max_length} less max_new {asked.sampling.max_new}), got "
                    f"{length}: {prompt[:40]!r}; shorten it or lower --max_new"
                )
    return members


def _continued(member: Member, asked: Asked) -> list[Sample]:
    words, new, params = member.tokenizer, asked.sampling.max_new, member.params()
    if not are_finite(params):
        raise UserError(
            f"{member.of.run}: expected finite parameters: the model diverged; leave it out"
        )
    each = [(prompt, draw) for prompt in asked.prompts for draw in range(asked.draws)]
    prompts = words.encode_batch([prompt for prompt, _ in each])
    length = -(-(max(map(len, prompts)) + new) // _STEP) * _STEP
    found = generate(
        member.config,
        params,
        prompts,
        asked.sampling,
        [int(fingerprint([asked.seed, prompt, draw])[:8], 16) for prompt, draw in each],
        words.eos_id,
        min(length, member.config.max_length),
    )
    name = f"{member.run}, step {member.step}" if member.is_placed else member.run
    return [
        Sample(name, prompt, draw, words.decode(ids), len(ids), len(ids) < new)
        for (prompt, draw), ids in zip(each, found, strict=True)
    ]


def _prompts(values) -> tuple[str, ...]:
    if bool(values.prompt) == bool(values.prompts):
        raise UserError("expected either --prompt=TEXT (as often as wanted) or --prompts=FILE")
    if values.prompt:
        return tuple(values.prompt)
    path = files.expanded(values.prompts)
    try:
        return tuple(line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a text file of prompts at {path}: {error}") from None


def _asked(values) -> Asked:
    if not values.checkpoints:
        raise UserError("expected --checkpoints=A,B: run folders, folders of models, REPO@REVISION")
    return Asked(
        checkpoints=tuple(values.checkpoints),
        prompts=_prompts(values),
        sampling=Sampling(values.temperature, values.top_p, values.max_new),
        draws=values.draws,
        seed=values.seed,
        steps=cli.numbers("steps", values.steps),
        tokenizer=values.tokenizer,
    )


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; quote prompts and patterns")
    values = flags.FLAGS
    cli.speak()

    def work() -> None:
        asked = _asked(values)
        name = f"runs/sample-{fingerprint(asked)[:8]}"
        workdir = files.expanded(values.workdir or name).absolute()
        cli.keep_compiled()
        command = shlex.join(["launch/local", "sample", *sys.argv[1:]])
        print(f"report: {run(asked, workdir, command)}")

    cli.plainly(work)


if __name__ == "__main__":
    flags.DEFINE_list("checkpoints", [], "run folders, folders of models, .gguf, REPO@REVISION")
    flags.DEFINE_multi_string("prompt", [], "a text that is continued; as often as wanted")
    flags.DEFINE_string("prompts", "", "a file of them, one a line")
    flags.DEFINE_integer("max_new", 32, "tokens that are written at most")
    flags.DEFINE_float("temperature", 0.0, "of the softmax; 0 = the most likely token")
    flags.DEFINE_float("top_p", 1.0, "the fewest tokens that hold this probability are drawn from")
    flags.DEFINE_integer("draws", 1, "texts of each prompt")
    flags.DEFINE_integer("seed", 0, "of the draws")
    flags.DEFINE_list("steps", [], "of the checkpoints, by commas; default: all of them")
    flags.DEFINE_string("tokenizer", "", "tokenizer.json in place of those found")
    flags.DEFINE_string("workdir", "", "folder of the texts; default runs/sample-DIGEST")
    app.run(main, argv=sys.argv)
