"""Questions for a run of the biographies study, to try competence on with no data of one's own.

The skill is to know an attribute of people. A question shows the beginning of a sentence about a
person that the run has read about, in the wording of the person's first text, and asks for the
end among a few answers. A question of two skills goes on with the sentence of a second attribute:
its choices are all pairs of answers, so both have to be known. Questions about one person are a
group.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.facts import biographies as lib
from llm_dynamics.facts.biographies import ATTRIBUTES, BiographyConfig, Person
from llm_dynamics.facts.biography_templates import TEMPLATES
from llm_dynamics.facts.draws import draw, shuffled
from llm_dynamics.train.run_folder import RunFolder, read_spec

ANSWERS = 3  # to choose from, of every attribute
_MOST = 60  # people asked about


def write(run: Path, out: Path) -> int:
    """Writes a labelled probe file of a run's people; returns the number of questions.

    Raises:
      UserError: no run of the biographies study, or a file that exists.
    """
    record = read_spec(RunFolder(run).spec)["spec"]
    if "biographies" not in record:
        raise UserError(f"expected a run of the biographies study, got {run}")
    if out.exists():
        raise UserError(f"expected a new file for the questions, got {out}; move it away")
    config = specs.from_json(BiographyConfig, record["biographies"], "biographies")
    lines = [json.dumps(q, ensure_ascii=False) for q in questions(lib.invent(config), config)]
    files.write_text(out, "\n".join(lines) + "\n")
    return len(lines)


def questions(people: Sequence[Person], config: BiographyConfig) -> Iterator[dict]:
    """The lines of the file: for each person every attribute, and every pair of them."""
    read = [person for person in people if person.documents]
    for person in shuffled(read, config.seed, "competence")[:_MOST]:
        options = [_options(person, a, config) for a in range(len(ATTRIBUTES))]
        for a, attribute in enumerate(ATTRIBUTES):
            context, answer = _sentence(person, a, config)
            yield _question(person, context, options[a], answer, [attribute])
        for a, b in itertools.combinations(range(len(ATTRIBUTES)), 2):
            context, answer = _sentence(person, a, config)
            start, end = _sentence(person, b, config)
            both = [
                f"{one}.\n{start} {other}"
                for one, other in itertools.product(options[a], options[b])
            ]
            skills = [ATTRIBUTES[a], ATTRIBUTES[b]]
            yield _question(person, context, both, f"{answer}.\n{start} {end}", skills)


def _question(person: Person, context: str, choices: list[str], answer: str, skills: list[str]):
    name = f"{person.number:05d}/{'+'.join(skills)}"
    return {
        "name": name,
        "context": context,
        "choices": choices,
        "answer": answer,
        "skills": skills,
        "group": f"{person.number:05d}",
    }


def _sentence(person: Person, a: int, config: BiographyConfig) -> tuple[str, str]:
    """The sentence of an attribute in the person's first text, without and with its answer."""
    training = lib.NUM_WORDINGS - config.held_out_wordings
    wording = draw(training, config.seed, "wording", person.number, 0, ATTRIBUTES[a])
    answer = person.answers[a]
    return person.sentence(a, wording)[: -len(answer) - 1], answer


def _options(person: Person, a: int, config: BiographyConfig) -> list[str]:
    """The person's answer among others, in an order that says nothing."""
    attribute = ATTRIBUTES[a]
    dealt = shuffled(TEMPLATES[attribute][0], config.seed, "answers", attribute)[: config.answers]
    others = [answer for answer in dealt if answer != person.answers[a]]
    key = (config.seed, "options", person.number, attribute)
    chosen = [*shuffled(others, *key)[: ANSWERS - 1], person.answers[a]]
    return shuffled(chosen, *key, "order")
