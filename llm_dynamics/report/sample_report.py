"""The page of what checkpoints write: one table a prompt, checkpoints below each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_dynamics.model.generate import Sampling
from llm_dynamics.report.page import Code, Page, Section, Table, Text, write_page


@dataclass(frozen=True)
class Sample:
    """One text.

    Attributes:
      checkpoint: in words.
      prompt: what it goes on from.
      draw: its number among those of the prompt, from 0.
      text: what was written.
      tokens: of it.
      ended: by an end of text, rather than by the largest number of tokens.
    """

    checkpoint: str
    prompt: str
    draw: int
    text: str
    tokens: int
    ended: bool


def write_report(
    workdir: Path, samples: Sequence[Sample], sampling: Sampling, command: str
) -> Path:
    """Writes WORKDIR/report.html; returns its path."""
    checkpoints = list(dict.fromkeys(sample.checkpoint for sample in samples))
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))
    how = "the most likely token each time"
    if sampling.temperature:
        how = f"drawn at temperature {sampling.temperature:g}, top_p {sampling.top_p:g}"
    page = Page(
        title="What checkpoints write",
        subtitle=f"{len(prompts)} prompt{'s' * (len(prompts) > 1)} continued by "
        f"{len(checkpoints)} checkpoint{'s' * (len(checkpoints) > 1)}; {how}, at most "
        f"{sampling.max_new} tokens.",
        sections=(
            *(_section(number, prompt, samples) for number, prompt in enumerate(prompts, 1)),
            Section(
                "What to keep in mind",
                (Text("Some texts are read here, and nothing is measured: for shares with "
                      "intervals see `launch/local series` and `launch/local evaluate`."),),
            ),
            Section("How to run it again", (Code(command),)),
        ),
        footer="This page fetches nothing.",
    )  # fmt: skip
    return write_page(page, workdir)


def _section(number: int, prompt: str, samples: Sequence[Sample]) -> Section:
    rows = tuple(
        (s.checkpoint, s.draw + 1, s.text, f"{s.tokens}{'' if s.ended else ', cut'}")
        for s in samples
        if s.prompt == prompt
    )
    columns = ("checkpoint", "draw", "goes on with", "tokens")
    return Section(f"Prompt {number}", (Table(prompt, columns, rows),))
