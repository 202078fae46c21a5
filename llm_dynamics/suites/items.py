"""A suite is a list of questions: each a context, and an answer to complete it or to choose."""

import dataclasses
from collections.abc import Mapping
from typing import Literal

from llm_dynamics.errors import UserError
from llm_dynamics.probe.probes import Probe


@dataclasses.dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
      name: unique within the suite.
      context: what the model reads first; one space joins it to what follows.
      choices: among which the answer is; () = any text could follow.
      answer: the right text; with choices, one of them.
      labels: what results can be grouped by; every item of a suite has the same keys.
    """

    name: str
    context: str
    choices: tuple[str, ...]
    answer: str
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def right(self) -> int:
        """Which choice is right: the first one that reads like the answer."""
        return self.choices.index(self.answer)


@dataclasses.dataclass(frozen=True)
class Suite:
    """Questions of one kind, with where they come from.

    Attributes:
      name: of the suite.
      kind: "cloze", where the answer is to be continued with, or "choice".
      items: the questions, in the order of the source.
      source: the package and the file in it.
      licence: of the questions, not of the package around them.
      attribution: what a publication that quotes them must say.
      group: label whose items are not independent of each other; "" = all items are.
    """

    name: str
    kind: Literal["cloze", "choice"]
    items: tuple[Item, ...]
    source: str
    licence: str
    attribution: str
    group: str = ""

    def __post_init__(self):
        """Checks the questions.

        Raises:
          UserError: another kind, no or several items of a name, parts that are empty or padded,
            choices where there are none to be, or an answer that is not among them.
        """
        if self.kind not in ("cloze", "choice"):
            raise UserError(
                f"suite {self.name}: expected the kind cloze or choice, got {self.kind!r}"
            )
        if not self.items:
            raise UserError(f"suite {self.name}: expected at least one item, got none")
        seen: set[str] = set()
        for item in self.items:
            if item.name in seen:
                raise UserError(
                    f"suite {self.name}: expected unique names, got {item.name!r} twice"
                )
            seen.add(item.name)
            fault = self._fault(item)
            if fault:
                raise UserError(f"suite {self.name}, item {item.name!r}: {fault}")

    def _fault(self, item: Item) -> str:
        """What is wrong with an item; "" = nothing."""
        if not item.context.strip() or item.context != item.context.rstrip():
            return f"expected a context without white space at its end, got {item.context[-20:]!r}"
        for text in (item.answer, *item.choices):
            if not text or text != text.strip():
                return f"expected texts without white space around them, got {text!r}"
        if self.kind == "cloze" and item.choices:
            return f"expected no choices in a cloze suite, got {len(item.choices)}"
        if self.kind == "choice" and len(item.choices) < 2:
            return f"expected two choices or more, got {len(item.choices)}"
        if self.kind == "choice" and item.answer not in item.choices:
            return f"expected the answer among the choices, got {item.answer!r}"
        if item.labels.keys() != self.items[0].labels.keys():
            return f"expected the labels {sorted(self.items[0].labels)}, got {sorted(item.labels)}"
        if self.group and self.group not in item.labels:
            return f"expected the label {self.group!r} that groups the items, got none"
        return ""

    @property
    def chance(self) -> float:
        """Share of the questions that a blind guess answers; 0 where nothing is to be chosen."""
        if self.kind == "cloze":
            return 0.0
        return sum(1 / len(item.choices) for item in self.items) / len(self.items)

    def probes(self) -> list[Probe]:
        """The questions as probes.

        A cloze item is one probe of its name. An item with choices is one probe a choice, named
        ITEM/NUMBER, with the labels `item`, `choice` (its number from 0) and `right` (yes or no)
        besides its own.
        """
        if self.kind == "cloze":
            return [Probe(i.name, i.context, i.answer, dict(i.labels)) for i in self.items]
        return [
            Probe(
                f"{item.name}/{number}",
                item.context,
                choice,
                {
                    **item.labels,
                    "item": item.name,
                    "choice": str(number),
                    "right": "yes" if number == item.right else "no",
                },
            )
            for item in self.items
            for number, choice in enumerate(item.choices)
        ]
