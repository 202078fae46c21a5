"""The whole evaluation: items, texts in one or two turns, gradings, scores; and what it costs."""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix import parsing, prompts, rates, scores, synth
from llm_dynamics.skillmix.chat import Model, Request, Settings
from llm_dynamics.skillmix.items import Item
from llm_dynamics.skillmix.ledger import Ledger, ask
from llm_dynamics.skillmix.parsing import Answer, Grading
from llm_dynamics.skillmix.prompts import SECOND_TURNS, Message
from llm_dynamics.skillmix.scores import Corrections, Scored
from llm_dynamics.spec import nearest

_MOST = 1000  # generations of an item, and gradings of a text
_CHARACTERS = 4  # of English text in a token, roughly


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """How much is asked, and how it is graded.

    Defaults are the published ones but for ks and for `corrections.names`: a skill's name is
    looked for as whole words, which was published as "substring", anywhere in the text.
    """

    ks: tuple[int, ...] = (2, 3, 4)  # numbers of skills
    items: int = 100  # for each k
    generations: int = 3  # texts for each item
    gradings: int = 3  # of each text
    second_turn: str = "strict"  # one of prompts.SECOND_TURNS
    mild_from: int = 0  # from this k on the second turn is mild; 0 = never
    grader_examples: bool = True  # the grader reads the skills' examples
    writer: Settings = dataclasses.field(default_factory=Settings)
    grader: Settings = dataclasses.field(default_factory=Settings)
    corrections: Corrections = dataclasses.field(default_factory=Corrections)
    interval: str = "auto"  # "auto" (Wilson for shares, else the bootstrap), "student", "bootstrap"
    seed: int = 0  # of the items

    def __post_init__(self):
        for key in ("items", "generations", "gradings"):
            if getattr(self, key) < 1:
                raise UserError(f"expected {key} of at least 1, got {getattr(self, key)}")
        for key in ("generations", "gradings"):
            if getattr(self, key) > _MOST:
                raise UserError(f"expected {key} of at most {_MOST}, got {getattr(self, key)}")
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise UserError(f"expected ks of at least 1, each once, got {self.ks}")
        if self.second_turn not in SECOND_TURNS:
            hint = nearest(self.second_turn, SECOND_TURNS)
            raise UserError(f"unknown second_turn {self.second_turn!r}; {hint}")
        known = [kind for kind in rates.KINDS if kind != "wilson"]  # which is for shares alone
        if self.interval not in known:
            raise UserError(f"unknown interval {self.interval!r}; {nearest(self.interval, known)}")

    def turn(self, k: int) -> str:
        """The kind of the second turn for k skills."""
        is_mild = self.mild_from and k >= self.mild_from and self.second_turn != "none"
        return "mild" if is_mild else self.second_turn


@dataclasses.dataclass(frozen=True)
class Generated:
    """One text with its gradings and score; `finish` is "length" where the reply was cut."""

    answer: Answer
    finish: str
    gradings: tuple[Grading, ...]
    scored: Scored


@dataclasses.dataclass(frozen=True)
class Result:
    """An item with all its texts."""

    item: Item
    generations: tuple[Generated, ...]


class Task(Protocol):
    """How texts are asked for."""

    def first(self, item: Item) -> list[Message]: ...
    def second(self, item: Item, written: str, kind: str) -> list[Message]: ...
    def answer(self, written: str) -> Answer: ...


class Prose:
    """The task in words, for models that follow instructions."""

    first = staticmethod(prompts.first_turn)
    second = staticmethod(prompts.second_turn)
    answer = staticmethod(parsing.answer)


class Synth:
    """The task in the small language: one turn, and all that follows is the text."""

    @staticmethod
    def first(item: Item) -> list[Message]:
        return [Message("user", synth.prompt(item.names, item.topic))]

    @staticmethod
    def second(item: Item, written: str, kind: str) -> list[Message]:
        del item, written, kind
        return []

    @staticmethod
    def answer(written: str) -> Answer:
        return Answer(written.strip(), True)


class Grader(Protocol):
    """Gives points to texts."""

    name: str

    def grade(self, asked: Sequence[tuple[Item, str, int]], ledger: Ledger) -> list[Grading]:
        """A grading of each (item, text, number of the grading)."""
        ...


class ModelGrader:
    """A model that is given the rubric."""

    def __init__(self, model: Model, settings: Settings, *, with_examples: bool = True):
        self.name = model.name
        self._model, self._settings, self._with_examples = model, settings, with_examples

    def grade(self, asked, ledger):
        requests = [
            Request(
                tuple(prompts.grading(item, text, with_examples=self._with_examples)),
                self._settings,
                draw,
            )
            for item, text, draw in asked
        ]
        replies = ask(self._model, requests, ledger)
        return [parsing.grading(r.text, i.k) for r, (i, *_) in zip(replies, asked, strict=True)]


class ExactGrader:
    """Decides the points in the small language."""

    name = "exact"

    def grade(self, asked, ledger):
        del ledger
        return [synth.grade(item, text) for item, text, _ in asked]


def evaluate(
    config: EvalConfig,
    items: Sequence[Item],
    task: Task,
    writer: Model,
    grader: Grader,
    ledger: Ledger,
) -> list[Result]:
    """Asks for all texts and gradings that the ledger does not hold yet, and scores them.

    An empty text is not graded: its item is missing unless another generation has a text.

    Raises:
      UserError: from the models.
    """
    drawn = _draws(config, items)
    first = [Request(tuple(task.first(item)), config.writer, draw) for item, draw in drawn]
    written = ask(writer, first, ledger)
    seconds = [
        task.second(item, reply.text, config.turn(item.k))
        for (item, _), reply in zip(drawn, written, strict=True)
    ]
    again = [i for i, messages in enumerate(seconds) if messages]
    requests = [Request(tuple(seconds[i]), config.writer, drawn[i][1]) for i in again]
    for i, reply in zip(again, ask(writer, requests, ledger), strict=True):
        written[i] = reply
    answers = [task.answer(reply.text) for reply in written]
    graded = [i for i, answer in enumerate(answers) if answer.text]
    # Two equal texts of an item are two generations, graded by draws of their own.
    asked = [
        (drawn[i][0], answers[i].text, drawn[i][1] * _MOST + draw)
        for i in graded
        for draw in range(config.gradings)
    ]
    points = iter(grader.grade(asked, ledger))
    gradings = {i: tuple(next(points) for _ in range(config.gradings)) for i in graded}
    found: list[Generated] = []
    for i, (item, _) in enumerate(drawn):
        given = gradings.get(i, ())
        scored = scores.score(item, answers[i].text, given, config.corrections)
        found.append(Generated(answers[i], written[i].finish, given, scored))
    n = config.generations
    return [Result(item, tuple(found[n * i : n * (i + 1)])) for i, item in enumerate(items)]


def _draws(config: EvalConfig, items: Sequence[Item]) -> list[tuple[Item, int]]:
    """Every item with the numbers of its generations.

    Items that ask for the same, in the same order, get numbers of their own, so that they are
    independent; more generations leave the numbers of the first ones as they are.
    """
    earlier: collections.Counter = collections.Counter()
    drawn = []
    for item in items:
        asked = item.names, item.topic
        drawn += [(item, earlier[asked] * _MOST + draw) for draw in range(config.generations)]
        earlier[asked] += 1
    return drawn


@dataclasses.dataclass(frozen=True)
class Prices:
    """Money for a million tokens, in any currency; 0 = free or not known."""

    prompt: float = 0.0
    completion: float = 0.0

    def __post_init__(self):
        if not (0 <= self.prompt < math.inf and 0 <= self.completion < math.inf):
            raise UserError(f"expected prices >= 0, got {self.prompt} and {self.completion}")

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Requests and tokens of one side before anything is asked.

    Prompts are counted as 4 characters a token. Replies count with their longest length, so the
    sum is an upper bound as far as that rule holds.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def line(self, who: str, prices: Prices) -> str:
        """In words, with money where there is a price."""
        words = (
            f"{who}: {self.requests:,} requests, about {self.prompt_tokens:,} tokens of prompts, "
            f"at most {self.completion_tokens:,} of replies"
        )
        money = prices.of(self.prompt_tokens, self.completion_tokens)
        return f"{words}; at most {money:,.2f} at the given prices" if money else words


def estimate(
    config: EvalConfig, items: Sequence[Item], task: Task, *, model_grader: bool
) -> Mapping[str, Estimate]:
    """What an empty ledger would have to ask: "writer" and "grader"."""
    writer, grader = [0, 0, 0], [0, 0, 0]
    longest = config.writer.max_tokens * _CHARACTERS

    def add(total: list[int], messages: Sequence[Message], times: int, most: int) -> None:
        total[0] += times
        total[1] += times * (sum(len(m.content) for m in messages) // _CHARACTERS)
        total[2] += times * most

    for item in items:
        add(writer, task.first(item), config.generations, config.writer.max_tokens)
        second = task.second(item, "x" * longest, config.turn(item.k))
        if second:
            add(writer, second, config.generations, config.writer.max_tokens)
        if model_grader:
            rubric = prompts.grading(item, "x" * longest, with_examples=config.grader_examples)
            times = config.generations * config.gradings
            add(grader, rubric, times, config.grader.max_tokens)
    return {"writer": Estimate(*writer), "grader": Estimate(*grader)}
