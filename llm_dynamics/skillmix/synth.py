"""A small language in which every skill is decidable, so that Skill-Mix needs no judge.

Words stand between spaces. The base grammar is regular: a text is one or more sentences,

    sentence = [OPENER ,] clause [but clause] (. | ?)
    clause   = np [not] VERB [the same VERB] object [as ADJECTIVE as np]
    object   = np | np and np | np , np and np
    np       = DETERMINER ADJECTIVE* NOUN

A topic is a set of nouns of its own: a text is about it if it has such nouns and no others. Skills
are properties of the whole text that a regular expression or a finite automaton decides. All of
them go together in one sentence.
"""

import itertools
import re
from collections.abc import Callable, Iterable

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix.items import Item
from llm_dynamics.skillmix.parsing import Grading
from llm_dynamics.skillmix.skills import Skill

DETERMINERS = ("the", "a")
ADJECTIVES = tuple("big calm cold dark fast good small warm red new low mild pale wild".split())
VERBS = tuple("sees likes finds meets helps wants keeps moves".split())
OPENERS = tuple("today often again soon".split())
TOPICS = {
    "sea": ("boat", "crab", "wave", "reef"),
    "farm": ("barn", "cow", "mill", "goat"),
    "city": ("bridge", "cab", "mall", "road"),
    "sky": ("bird", "cloud", "moon", "rain"),
    "kitchen": ("bowl", "cake", "milk", "dish"),
    "forest": ("bear", "cave", "moss", "deer"),
}
NOUNS = tuple(noun for nouns in TOPICS.values() for noun in nouns)


def _any(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(words)})"


_DET, _ADJ, _NOUN, _VERB, _OPENER = map(_any, (DETERMINERS, ADJECTIVES, NOUNS, VERBS, OPENERS))
_NP = f"{_DET}(?: {_ADJ})* {_NOUN}"
_OBJECT = f"{_NP}(?:(?: , {_NP})? and {_NP})?"


def _clause(number: int) -> str:
    verb = f"(?P<v{number}>{_VERB})(?: (?P=v{number}))?"
    return f"{_NP}(?: not)? {verb} {_OBJECT}(?: as {_ADJ} as {_NP})?"


_SENTENCE = re.compile(f"(?:{_OPENER} , )?{_clause(1)}(?: but {_clause(2)})?")
_STOP = re.compile(r"(?<= )[.?](?= |$)")


def _found(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.search(text) is not None


def _balanced(text: str) -> bool:
    """A finite automaton: no adjective, an odd number, an even number above 0."""
    state = "none"
    for word in text.split():
        if word in ADJECTIVES:
            state = {"none": "odd", "odd": "even", "even": "odd"}[state]
    return state == "even"


_RING = re.compile(rf"(?:{_OPENER} , )?{_DET}(?: {_ADJ})* (?P<n>{_NOUN}) .*\b(?P=n) ?")


def _rings(text: str) -> bool:
    return any(_RING.fullmatch(part.strip() + " ") for part in _STOP.split(text))


_PROPERTIES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "alliteration": (
        "an adjective and the word after it begin with the same letter",
        _found(rf"\b(?=(\w)){_ADJ} (?=\1){_any((*ADJECTIVES, *NOUNS))}\b"),
    ),
    "doubling": ("a verb is said twice in a row", _found(rf"\b({_VERB}) \1\b")),
    "question": ("a sentence ends in a question mark", _found(r" \?(?: |$)")),
    "negation": ("the word not", _found(r"\bnot\b")),
    "simile": ("something is as ADJECTIVE as something", _found(rf"\bas {_ADJ} as\b")),
    "contrast": ("two clauses with but between them", _found(r"\bbut\b")),
    "triad": ("a list of three things", _found(rf"{_NP} , {_NP} and {_NP}")),
    "opener": (
        "a sentence begins with an adverb and a comma",
        _found(rf"(?:^|[.?] ){_OPENER} ,"),
    ),
    "balance": ("an even number of adjectives, at least two", _balanced),
    "ring": ("a sentence ends in the noun that it began with", _rings),
}
SKILLS = tuple(Skill(name, words) for name, (words, _) in _PROPERTIES.items())


def shown(text: str) -> frozenset[str]:
    """Names of the skills that a text shows, whether or not it parses."""
    return frozenset(name for name, (_, holds) in _PROPERTIES.items() if holds(text))


def sentences(text: str) -> list[str]:
    """The parts of a text that end in a stop, without it; a last part without one counts."""
    return [part.strip() for part in _STOP.split(text) if part.strip()]


def parses(text: str) -> bool:
    """Whether the base grammar makes the text."""
    *parts, rest = _STOP.split(f"{text} ") if text else [""]
    return bool(parts) and not rest.strip() and all(map(_is_sentence, parts))


def _is_sentence(part: str) -> bool:
    return _SENTENCE.fullmatch(part.strip(" ")) is not None and "  " not in part


def topics_of(text: str) -> frozenset[str]:
    """The topics that a text has nouns of."""
    words = set(text.split())
    return frozenset(topic for topic, nouns in TOPICS.items() if words & set(nouns))


def grade(item: Item, text: str) -> Grading:
    """The k + 3 points of a text, exactly: skills, topic, parses, sentences within the limit.

    Raises:
      UserError: a skill or topic that the language does not have.
    """
    if unknown := [name for name in (*item.names,) if name not in _PROPERTIES]:
        raise UserError(
            f"the language has no skill {unknown[0]!r}; known: {', '.join(_PROPERTIES)}"
        )
    if item.topic not in TOPICS:
        raise UserError(f"the language has no topic {item.topic!r}; known: {', '.join(TOPICS)}")
    found = shown(text)
    points = [int(name in found) for name in item.names]
    points.append(int(topics_of(text) == {item.topic}))
    points.append(int(parses(text)))
    points.append(int(len(sentences(text)) <= item.limit))
    return Grading(tuple(points))


def prompt(names: Iterable[str], topic: str) -> str:
    """How a text is asked for; training documents begin so."""
    return f"show {' '.join(names)} about {topic} :"


def pairs() -> list[frozenset[str]]:
    """All pairs of skills, in a fixed order."""
    return [frozenset(pair) for pair in itertools.combinations(_PROPERTIES, 2)]
