"""What is said at each encounter: the texts that are put into the training rows."""

import re
from collections.abc import Mapping, Sequence

from llm_dynamics.data.injection import Injection
from llm_dynamics.errors import UserError
from llm_dynamics.facts.arms import FactsConfig
from llm_dynamics.facts.draws import shuffled
from llm_dynamics.facts.facts import Fact
from llm_dynamics.facts.timetable import timetable


def injections(
    facts: Sequence[Fact], arms: Mapping[str, str], config: FactsConfig
) -> tuple[Injection, ...]:
    """Every insertion in the order of steps, then of facts.

    Labels: fact, arm, encounter (from 0) and wording (0 = the original; encounters that say the
    same text carry the same number).

    Raises:
      UserError: a fact with too few wordings, or without questions, for its arm.
    """
    policy = {arm.name: arm.wording for arm in config.treatments}
    times = timetable(facts, arms, config)
    planned = []
    for fact in facts:
        arm = arms[fact.name]
        texts = texts_of(fact, policy[arm], len(times[fact.name]), config.seed)
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        for encounter, (step, text) in enumerate(zip(times[fact.name], texts, strict=True)):
            labels = {
                "fact": fact.name,
                "arm": arm,
                "encounter": str(encounter),
                "wording": str(number[text]),
            }
            planned.append(Injection(step, text, fact.name, labels))
    return tuple(sorted(planned, key=lambda injection: injection.step))


def texts_of(fact: Fact, wording: str, count: int, seed: int = 0) -> list[str]:
    """The texts of `count` encounters of a fact under a wording policy of `arms.WORDINGS`."""
    if wording == "same":
        return [fact.passage] * count
    if wording == "paraphrase":
        if len(fact.wordings) < count:
            raise UserError(
                f"expected {count - 1} paraphrases of fact {fact.name!r} in an arm of "
                f"paraphrases, got {len(fact.paraphrases)}; lower facts.encounters, give more "
                "wordings, or leave the arm out of facts.arms"
            )
        return list(fact.wordings[:count])
    if wording == "permuted":
        sentences = re.split(r"(?<=[.!?])\s+", fact.passage.strip())
        orders = [shuffled(sentences, seed, "permuted", fact.name, i) for i in range(1, count)]
        return [fact.passage, *(" ".join(order) for order in orders)][:count]
    if wording == "question":
        asked = [p for p in fact.probes if p.labels["depth"] == "memorization"]
        if not asked:
            raise UserError(
                f"expected memorization probes of fact {fact.name!r}, whose arm is injected as "
                "questions, got none; give it another wording"
            )
        text = " ".join(f"Question: {p.context}? Answer: {p.target}." for p in asked)
        return [text] * count
    return []
