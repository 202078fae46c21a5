"""What models are told: the task in two turns, and the rubric for a grader.

The protocol is that of Yu et al. 2023: a definition and an example of every skill, a short text
about the topic with a marked answer and an explanation, then a second look with a limit on
sentences. The words are our own, so scores compare with published ones only roughly.
"""

from collections.abc import Sequence
from typing import NamedTuple

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix.items import Item
from llm_dynamics.skillmix.skills import Skill

ANSWER, EXPLANATION = "Answer:", "Explanation:"
SECOND_TURNS = ("strict", "mild", "none")
OTHERS = ("topic", "sense", "length")  # criteria behind those of the skills


class Message(NamedTuple):
    """One turn of a dialogue; `role` is "user" or "assistant"."""

    role: str
    content: str


def first_turn(item: Item) -> list[Message]:
    """The task; the limit is told at once, and insisted on in the second turn."""
    many = item.k > 1
    text = f"""\
Write a short, natural piece of text about the topic "{item.topic}" that shows \
{"all of these skills" if many else "this skill"}: {", ".join(item.names)}.

{_described(item.skills, with_examples=True)}

The text should make sense, stay on the topic and have at most {_sentences(item.limit)}. Let it \
show the {"skills" if many else "skill"} without naming {"them" if many else "it"}.

Write the text after the word "{ANSWER}". Then write "{EXPLANATION}" and say for each skill which \
words of your text show it and why."""
    return [Message("user", text)]


def second_turn(item: Item, answer: str, kind: str) -> list[Message]:
    """The whole dialogue up to the request for a revision; empty where `kind` is "none".

    Args:
      item: what was asked.
      answer: all that the model wrote in its first turn.
      kind: "strict" asks to find and mend faults and repeats the limit; "mild" only asks to
        shorten where that is needed, for models that a strict request leads astray (published:
        for LLaMA-2 above two skills).

    Raises:
      UserError: another kind.
    """
    if kind not in SECOND_TURNS:
        raise UserError(f"unknown second turn {kind!r}; known: {', '.join(SECOND_TURNS)}")
    if kind == "none":
        return []
    form = f'Use the same form again: "{ANSWER}", then "{EXPLANATION}".'
    if kind == "strict":
        text = f"""\
Look at your text once more. Is each of the skills ({", ".join(item.names)}) really shown, and is \
the text about "{item.topic}"? Does it make sense? Mend what is not right, and shorten the text to \
at most {_sentences(item.limit)}; none of the skills may be lost. {form}"""
    else:
        text = f"""\
Thank you. If the text has more than {_sentences(item.limit)}, please shorten it to that and keep \
the skills; otherwise repeat it. {form}"""
    return [*first_turn(item), Message("assistant", answer), Message("user", text)]


def grading(item: Item, text: str, *, with_examples: bool = True) -> list[Message]:
    """The rubric of k + 3 points, to be answered with one line of JSON a criterion."""
    lines = [
        f'{i + 1}. the text shows "{skill.name}" correctly, as defined above'
        for i, skill in enumerate(item.skills)
    ]
    lines += [
        f'{item.k + 1}. the text is about the topic "{item.topic}"',
        f"{item.k + 2}. the text makes sense",
        f"{item.k + 3}. the text has at most {_sentences(item.limit)}",
    ]
    prompt = f"""\
A writer was asked for a short text about "{item.topic}" that shows these skills.

{_described(item.skills, with_examples)}

The text:
<text>
{text}
</text>

Grade the text by these criteria, each with 1 point if it is met and 0 points if it is not. Judge \
the text alone and be strict: a skill that is only named is not shown.

{chr(10).join(lines)}

Answer with {len(lines)} lines and nothing else, one for each criterion in this order, each a JSON \
object such as {{"criterion": 1, "why": "a few words", "points": 0}}."""
    return [Message("user", prompt)]


def _described(skills: Sequence[Skill], with_examples: bool) -> str:
    lines = []
    for skill in skills:
        lines.append(f"- {skill.name}: {skill.definition}")
        if with_examples and skill.example:
            lines.append(f"  Example: {skill.example}")
    return "\n".join(lines)


def _sentences(count: int) -> str:
    return "one sentence" if count == 1 else f"{count} sentences"
