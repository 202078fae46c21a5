"""What a fact is: a passage, other wordings of it, and the probes that ask for it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_dynamics.probe.probes import Probe

DEPTHS = ("memorization", "semantic", "compositional")  # Chang et al. 2024, Sec. 3


@dataclass(frozen=True)
class Fact:
    """One passage about one entity.

    Attributes:
      name: unique; also the `fact` label of its probes.
      passage: the original wording.
      paraphrases: other wordings of the whole passage.
      probes: labelled fact, kind, depth, attribute, candidates (size of the closed answer set)
        and log_chance (natural log of the chance level); the last two are empty where the answer
        set is open.
      kind: what sort of entity it is about; arms are balanced over kinds.
    """

    name: str
    passage: str
    paraphrases: tuple[str, ...]
    probes: tuple[Probe, ...]
    kind: str = ""

    @property
    def wordings(self) -> tuple[str, ...]:
        """The original, then the paraphrases."""
        return (self.passage, *self.paraphrases)


def label_arms(
    facts: Sequence[Fact],
    arms: Mapping[str, str],
    times: Mapping[str, Sequence[int]] | None = None,
    blocks: Mapping[str, int] | None = None,
) -> tuple[Probe, ...]:
    """The probes of all facts, in order, labelled with what is done to their fact.

    Labels: `arm` from `arms[fact name]`; where given, `encounters` from `times` (the updates,
    separated by spaces) and `block` from `blocks`.
    """

    def labels(fact: Fact) -> dict[str, str]:
        found = {"arm": arms[fact.name]}
        if times is not None:
            found["encounters"] = " ".join(map(str, times[fact.name]))
        if blocks is not None:
            found["block"] = str(blocks[fact.name])
        return found

    return tuple(
        dataclasses.replace(probe, labels={**probe.labels, **labels(fact)})
        for fact in facts
        for probe in fact.probes
    )


def contains(text: str, phrase: str) -> bool:
    """Whether the words of `phrase` occur in `text` in a row; case and punctuation do not count."""
    return f" {normalise(phrase)} " in f" {normalise(text)} "


def normalise(text: str) -> str:
    """Lower-case words and numbers, one space apart."""
    return " ".join(re.findall(r"\w+", text.lower()))
