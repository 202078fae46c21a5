"""A probe is a text whose last words are scored: context, target span, labels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from llm_dynamics.errors import UserError

_SHOWN = 5  # broken probes quoted in one message


class Tokenizer(Protocol):
    """What scoring needs of a tokenizer: no special tokens added by either direction."""

    def encode(self, text: str) -> Sequence[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclasses.dataclass(frozen=True)
class Probe:
    """One question put to the model: how probable is `target` after `context`?

    Attributes:
      name: unique within a run.
      context: what the model reads first; not empty.
      target: the span that is scored; joined to the context by one space.
      labels: what the study groups by, e.g. fact, arm, depth, attribute, wording.
    """

    name: str
    context: str
    target: str
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def text(self) -> str:
        return f"{self.context} {self.target}"


@dataclasses.dataclass(frozen=True)
class EncodedProbe:
    """The tokens of one probe; the last `num_target` of `ids` are the target."""

    name: str
    ids: tuple[int, ...]
    num_target: int


def encode(probe: Probe, tokenizer: Tokenizer) -> EncodedProbe:
    """Tokenises context + " " + target as one text and finds the target's tokens.

    The tokens of the context alone must be a prefix of those of the whole text, so that the
    score is that of the target and of nothing else (Chang et al. 2024 tokenise the same way).

    Raises:
      UserError: an empty or space-padded part, or a target that does not start at a token
        boundary; the message shows the tokens there.
    """
    if not probe.context.strip():
        raise UserError(
            f"probe {probe.name!r}: expected a context before the target {probe.target!r}, got "
            "none; the first token of a text has no prediction, so give at least one word"
        )
    if not probe.target.strip():
        raise UserError(f"probe {probe.name!r}: expected a target to score, got an empty one")
    if probe.target != probe.target.strip() or probe.context != probe.context.rstrip():
        raise UserError(
            f"probe {probe.name!r}: expected no white space at the end of the context or around "
            f"the target (one space joins them), got {probe.context[-12:]!r} and "
            f"{probe.target!r}; strip both"
        )
    context_ids = list(tokenizer.encode(probe.context))
    ids = list(tokenizer.encode(probe.text))
    split = len(context_ids)
    # Some tokenizers drop a leading space when they decode, hence the strip.
    whole = tokenizer.decode(ids[split:]).lstrip(" ") == probe.target
    if not context_ids or ids[:split] != context_ids or len(ids) == split or not whole:
        raise UserError(_boundary_message(probe, context_ids, ids, tokenizer))
    return EncodedProbe(probe.name, tuple(ids), len(ids) - split)


def encode_all(probes: Sequence[Probe], tokenizer: Tokenizer) -> list[EncodedProbe]:
    """Encodes every probe, and reports all that cannot be, not only the first.

    Raises:
      UserError: two probes of one name, or probes that `encode` refuses.
    """
    names: set[str] = set()
    for probe in probes:
        if probe.name in names:
            raise UserError(f"expected probe names to be unique, got {probe.name!r} twice")
        names.add(probe.name)
    encoded, faults = [], []
    for probe in probes:
        try:
            encoded.append(encode(probe, tokenizer))
        except UserError as fault:
            faults.append(str(fault))
    if faults:
        more = f"\n... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise UserError(
            f"{len(faults)} of {len(probes)} probes cannot be scored:\n"
            + "\n".join(faults[:_SHOWN])
            + more
        )
    return encoded


def _boundary_message(probe, context_ids, ids, tokenizer) -> str:
    """Where the two tokenisations part, and what to change."""
    shared = 0
    while shared < min(len(context_ids), len(ids)) and context_ids[shared] == ids[shared]:
        shared += 1
    start = max(shared - 2, 0)

    def pieces(tokens):
        return " ".join(repr(tokenizer.decode([t])) for t in tokens[start : shared + 4])

    return (
        f"probe {probe.name!r}: expected the target {probe.target!r} to begin at a token boundary, "
        f"got ...{pieces(context_ids)} for the end of the context and ...{pieces(ids)} with the "
        "target; reword so that the context ends with a whole word and the target begins a new "
        "one (move quotes and punctuation), or use a tokenizer that splits at spaces"
    )
