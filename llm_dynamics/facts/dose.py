"""How much of each arm's facts the model reads: the first confound to look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_dynamics.data.injection import Injection
from llm_dynamics.facts.facts import Fact, contains
from llm_dynamics.probe.probes import Tokenizer

TOLERANCE = 0.05  # relative difference of tokens, of a text or in all, that is worth a warning


@dataclass(frozen=True)
class Dose:
    """What one arm is given over the whole run.

    Attributes:
      facts: facts of the arm.
      insertions: injected texts.
      encounters: insertions per fact.
      words: white-space words of all insertions.
      tokens: tokens of all insertions, each with its end-of-text token; None without tokenizer.
      tokens_first_step: those of the first injection step.
      coverage: share of (insertion, memorization probe) pairs in which the target occurs; None
        when nothing is injected.
    """

    facts: int
    insertions: int
    encounters: float
    words: int
    tokens: int | None
    tokens_first_step: int | None
    coverage: float | None


def dose_report(
    planned: Sequence[Injection],
    facts: Sequence[Fact],
    arms: Mapping[str, str],
    tokenizer: Tokenizer | None = None,
) -> dict[str, Dose]:
    """The dose of every arm that has facts."""
    by_name = {fact.name: fact for fact in facts}
    first = min((i.step for i in planned), default=0)
    length = (
        None if tokenizer is None else {t: len(tokenizer.encode(t)) + 1 for t in _texts(planned)}
    )
    report = {}
    for arm in dict.fromkeys(arms.values()):
        given = [i for i in planned if i.labels["arm"] == arm]
        members = sum(a == arm for a in arms.values())
        hits = [
            contains(i.text, probe.target)
            for i in given
            for probe in by_name[i.labels["fact"]].probes
            if probe.labels["depth"] == "memorization"
        ]
        report[arm] = Dose(
            facts=members,
            insertions=len(given),
            encounters=len(given) / members,
            words=sum(len(i.text.split()) for i in given),
            tokens=None if length is None else sum(length[i.text] for i in given),
            tokens_first_step=None
            if length is None
            else sum(length[i.text] for i in given if i.step == first),
            coverage=sum(hits) / len(hits) if hits else None,
        )
    return report


def warnings(report: Mapping[str, Dose]) -> list[str]:
    """What makes arms unequal besides their treatment, one sentence each."""
    given = {arm: dose for arm, dose in report.items() if dose.insertions}
    found = []
    for arm, dose in given.items():
        if dose.coverage is not None and dose.coverage < 1:
            found.append(
                f"only {dose.coverage:.0%} of the (text, target) pairs of arm {arm} contain the "
                "target that is asked for"
            )
    unit = "words" if any(d.tokens is None for d in given.values()) else "tokens"
    size = {arm: getattr(d, unit) / d.insertions for arm, d in given.items()}
    if size and max(size.values()) > (1 + TOLERANCE) * min(size.values()):
        most, least = max(size, key=size.get), min(size, key=size.get)
        found.append(
            f"a text of arm {most} has {size[most]:.1f} {unit}, one of arm {least} "
            f"{size[least]:.1f}: a difference between them is partly one of dose"
        )
    return found + _totals(given, unit)


def _totals(given: Mapping[str, Dose], unit: str) -> list[str]:
    """What the whole doses of arms differ by: what was not asked for, then what was."""
    total = {arm: getattr(dose, unit) for arm, dose in given.items()}
    alike: dict[float, list[str]] = {}
    for arm, dose in given.items():
        alike.setdefault(dose.encounters, []).append(arm)
    found = []
    for arms in alike.values():
        most, least = max(arms, key=total.get), min(arms, key=total.get)
        if total[most] > (1 + TOLERANCE) * total[least]:
            facts = given[most].facts, given[least].facts
            sizes = f" ({facts[0]} facts against {facts[1]})" if facts[0] != facts[1] else ""
            found.append(
                f"arm {most} is given {total[most]:,} {unit} in all, arm {least} {total[least]:,}, "
                f"{total[most] / total[least]:.3g} times as many at as many encounters of a "
                f"fact{sizes}: a difference between them is partly one of dose"
            )
    if len(alike) > 1:
        each = ", ".join(
            f"{arm} {dose.encounters:.3g} time{'' if dose.encounters == 1 else 's'} "
            f"({total[arm]:,} {unit} in all)"
            for arm, dose in given.items()
        )
        ratio = max(total.values()) / min(total.values())
        found.append(
            f"the arms are defined to meet a fact differently often, {each}: the largest dose is "
            f"{ratio:.1f} times the smallest"
        )
    return found


def _texts(planned: Sequence[Injection]) -> list[str]:
    return list(dict.fromkeys(i.text for i in planned))
