"""The chemical elements: symbols and atomic numbers, to be completed after two worked examples."""

import contextlib
import sqlite3
from pathlib import Path

from llm_dynamics.errors import UserError
from llm_dynamics.suites import archive
from llm_dynamics.suites.items import Item

MEMBER = "mendeleev/elements.db"
GROUP = "element"
_EXAMPLES = ("oxygen", "iron")
_QUERY = "SELECT name, symbol, atomic_number, period, block FROM elements ORDER BY atomic_number"
_RELATIONS = {"symbol": "chemical symbol", "number": "atomic number"}


def read(wheel: Path) -> tuple[Item, ...]:
    """Two items for each element, but for the two examples.

    Labels: `relation` ("symbol" or "number"), `element`, `period` and `block` of the table.

    Raises:
      UserError: the database is not in the wheel, or is none.
    """
    data = archive.read(wheel, MEMBER)
    try:
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(data)
            rows = database.execute(_QUERY).fetchall()
        known = {
            name.lower(): ({"symbol": symbol, "number": str(number)}, str(period), str(block))
            for name, symbol, number, period, block in rows
        }
        examples = {
            relation: " ".join(
                f"The {words} of {element} is {known[element][0][relation]}."
                for element in _EXAMPLES
            )
            for relation, words in _RELATIONS.items()
        }
    except (sqlite3.Error, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"expected a table of elements in {MEMBER} of {wheel.name}, got another content: "
            f"{type(error).__name__} {error}"
        ) from None
    return tuple(
        Item(
            name=f"{element}/{relation}",
            context=f"{examples[relation]} The {words} of {element} is",
            choices=(),
            answer=answers[relation],
            labels={"relation": relation, GROUP: element, "period": period, "block": block},
        )
        for element, (answers, period, block) in known.items()
        if element not in _EXAMPLES
        for relation, words in _RELATIONS.items()
    )
