"""What is imperfect in a set of facts, counted before anyone trains on it."""

from collections.abc import Sequence
from dataclasses import dataclass

from llm_dynamics.errors import UserError
from llm_dynamics.facts.facts import DEPTHS, Fact, contains, normalise
from llm_dynamics.probe.probes import Tokenizer, encode


@dataclass(frozen=True)
class Audit:
    """Counts over all facts unless said otherwise.

    Attributes:
      facts, probes: sizes of the set.
      not_verbatim: memorization probes whose text does not occur in the passage, by name.
      leaking: per depth, probes whose context already contains the target, by name.
      reusing: facts that ask for one target twice within a depth, by name.
      not_ascii: facts whose passage has characters outside ASCII, by name.
      compositional_verbatim: compositional targets that occur in their passage.
      paraphrased: facts with paraphrases; the four below are over these alone.
      word_ratio: words of a paraphrase over words of its original, mean.
      coverage: per depth, share of (paraphrase, probe) pairs in which the target occurs.
      never_covered: memorization probes whose target no paraphrase contains, by name.
      boundary: probes that the tokenizer cannot score cleanly, by name; None without tokenizer.
    """

    facts: int
    probes: int
    not_verbatim: tuple[str, ...]
    leaking: dict[str, tuple[str, ...]]
    reusing: tuple[str, ...]
    not_ascii: tuple[str, ...]
    compositional_verbatim: int
    paraphrased: int
    word_ratio: float | None
    coverage: dict[str, float | None]
    never_covered: tuple[str, ...]
    boundary: tuple[str, ...] | None


def faults(found: Audit) -> list[str]:
    """What in a set of facts would bias its probes, a clause each; empty when there is nothing."""
    lines = []
    if found.not_verbatim:
        lines.append(
            f"{len(found.not_verbatim)} memorization probes are not verbatim in their passage"
        )
    for depth, names in found.leaking.items():
        if names:
            lines.append(f"{len(names)} {depth} probes already contain the target in the prompt")
    if found.reusing:
        lines.append(
            f"{len(found.reusing)} of {found.facts} facts ask for one target twice, so their "
            "probes are not independent"
        )
    if found.never_covered:
        lines.append(f"{len(found.never_covered)} targets occur in no paraphrase of their passage")
    return lines


def audit(facts: Sequence[Fact], tokenizer: Tokenizer | None = None) -> Audit:
    """Counts the faults of a set of facts; texts are compared without case and punctuation.

    Args:
      facts: generated or loaded.
      tokenizer: when given, every probe's target is checked to be a clean suffix of its tokens.
    """
    probes = [(fact, probe) for fact in facts for probe in fact.probes]
    by_depth = {
        depth: [(f, p) for f, p in probes if p.labels["depth"] == depth] for depth in DEPTHS
    }
    rewritten = [fact for fact in facts if fact.paraphrases]
    ratios = [
        len(text.split()) / len(fact.passage.split())
        for fact in rewritten
        for text in fact.paraphrases
    ]
    hits = {
        depth: {p.name: [contains(t, p.target) for t in f.paraphrases] for f, p in pairs}
        for depth, pairs in by_depth.items()
    }
    return Audit(
        facts=len(facts),
        probes=len(probes),
        not_verbatim=tuple(p.name for f, p in by_depth["memorization"] if p.text not in f.passage),
        leaking={
            depth: tuple(p.name for _, p in pairs if contains(p.context, p.target))
            for depth, pairs in by_depth.items()
        },
        reusing=tuple(fact.name for fact in facts if _reuses(fact)),
        not_ascii=tuple(fact.name for fact in facts if not fact.passage.isascii()),
        compositional_verbatim=sum(
            contains(f.passage, p.target) for f, p in by_depth["compositional"]
        ),
        paraphrased=len(rewritten),
        word_ratio=sum(ratios) / len(ratios) if ratios else None,
        coverage={depth: _share(found.values()) for depth, found in hits.items()},
        never_covered=tuple(
            name for name, found in hits["memorization"].items() if found and not any(found)
        ),
        boundary=None if tokenizer is None else _unclean(probes, tokenizer),
    )


def _reuses(fact: Fact) -> bool:
    for depth in DEPTHS:
        targets = [normalise(p.target) for p in fact.probes if p.labels["depth"] == depth]
        if len(set(targets)) < len(targets):
            return True
    return False


def _share(groups) -> float | None:
    flat = [hit for group in groups for hit in group]
    return sum(flat) / len(flat) if flat else None


def _unclean(probes, tokenizer: Tokenizer) -> tuple[str, ...]:
    names = []
    for _, probe in probes:
        try:
            encode(probe, tokenizer)
        except UserError:
            names.append(probe.name)
    return tuple(names)
