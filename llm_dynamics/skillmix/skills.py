"""Skills and topics that a text can be asked for, and where lists of them are read from."""

import csv
import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.spec import nearest

_FIELDS = ("name", "definition", "example", "frequency")


@dataclasses.dataclass(frozen=True)
class Skill:
    """One skill.

    Attributes:
      name: what it is called; a bracket may tell it from others of that name.
      definition: what a text does that shows it.
      example: a text that shows it; "" = none.
      frequency: share of the documents of a corpus that name it; None = not known.
    """

    name: str
    definition: str
    example: str = ""
    frequency: float | None = None


def read_skills(path: str | Path) -> tuple[Skill, ...]:
    """The skills of a JSONL, JSON (a list) or CSV file with name, definition, example, frequency.

    Example and frequency may be left out.

    Raises:
      UserError: not readable, another field, an empty or doubled name, or no definition.
    """
    skills = []
    for where, record in _records(expanded(path)):
        if unknown := [str(key) for key in record if key not in _FIELDS]:
            raise UserError(
                f"{where}: unknown field {unknown[0]!r}; {nearest(unknown[0], _FIELDS)}"
            )
        words = {key: _text(where, key, record.get(key)) for key in _FIELDS[:3]}
        for key in ("name", "definition"):
            if not words[key]:
                raise UserError(f"{where}: expected a {key}, got none; every skill needs one")
        skills.append(Skill(**words, frequency=_share(where, record.get("frequency"))))
    return checked(skills, str(path))


def checked(skills: Iterable[Skill], where: str) -> tuple[Skill, ...]:
    """The skills, at least one and each name once, whatever its case.

    Raises:
      UserError: none, or a name twice.
    """
    skills = tuple(skills)
    if not skills:
        raise UserError(f"{where}: expected skills, got none")
    _refuse_doubles([skill.name for skill in skills], where)
    return skills


def built_in() -> tuple[Skill, ...]:
    """A short list of common skills in our own words, for runs without any file."""
    with resources.as_file(resources.files(__package__) / "skills.json") as path:
        return read_skills(path)


def read_topics(path: str | Path) -> tuple[str, ...]:
    """Topics from a text file, one a line, or from the field `topic` of JSONL, JSON or CSV.

    Raises:
      UserError: not readable, empty, or a topic twice.
    """
    path = expanded(path)
    if path.suffix in (".txt", ""):
        topics = [line.strip() for line in _read(path).splitlines() if line.strip()]
    else:
        topics = []
        for where, record in _records(path):
            topic = _text(where, "topic", record.get("topic"))
            if not topic:
                raise UserError(f"{where}: expected a field `topic`, got {sorted(record)}")
            topics.append(topic)
    if not topics:
        raise UserError(f"{path}: expected topics, got none")
    _refuse_doubles(topics, str(path))
    return tuple(topics)


def uncommon(
    skills: Sequence[Skill], common: Sequence[str] = (), most: float | None = None
) -> tuple[Skill, ...]:
    """The skills without the common ones.

    Published: items with any of the 17 skills whose names occur in 5 % or more of the documents of
    RedPajama are left out (Yu et al. 2023).

    Args:
      skills: all.
      common: names of common ones.
      most: skills of this frequency or more are common, too; None = by name only.

    Raises:
      UserError: a name that no skill has, or `most` where no skill has a frequency.
    """
    known = {skill.name.casefold() for skill in skills}
    for name in common:
        if name.casefold() not in known:
            names = [skill.name for skill in skills]
            raise UserError(f"no skill is called {name!r}; {nearest(name, names)}")
    if most is not None and all(skill.frequency is None for skill in skills):
        raise UserError(
            "expected skills with a frequency to leave the common ones out by it, got none; add "
            "the field `frequency` to the file, or name the common skills"
        )
    left_out = {name.casefold() for name in common}
    return tuple(
        skill
        for skill in skills
        if skill.name.casefold() not in left_out
        and (most is None or skill.frequency is None or skill.frequency < most)
    )


def _refuse_doubles(names: Sequence[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise UserError(f"{where}: {name!r} is there twice; give every entry its own name")
        seen.add(name.casefold())


def _text(where: str, key: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f"{where}: expected {key} to be text, got {value!r}")
    return " ".join(value.split())


def _share(where: str, value: Any) -> float | None:
    if value is None or value == "":
        return None
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = -1.0
    if not 0 <= share <= 1:
        raise UserError(f"{where}: expected a frequency of 0 to 1, got {value!r}")
    return share


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({said}); expected a file in UTF-8") from None


def _records(path: Path) -> list[tuple[str, Mapping[str, Any]]]:
    """(place, record) of every entry of a file."""
    text = _read(path)
    try:
        if path.suffix == ".csv":
            reader = csv.DictReader(text.splitlines())
            found = [(f"{path}, line {reader.line_num}", row) for row in reader]
        elif path.suffix == ".json":
            found = [(f"{path}, entry {i + 1}", entry) for i, entry in enumerate(json.loads(text))]
        elif path.suffix in (".jsonl", ".ndjson"):
            lines = enumerate(text.splitlines(), 1)
            found = [(f"{path}, line {i}", json.loads(line)) for i, line in lines if line.strip()]
        else:
            raise UserError(f"expected a .jsonl, .json or .csv file, got {path}; rename it")
    except (ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is no valid {path.suffix[1:]} ({error}); mend the file") from None
    for where, record in found:
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected fields with values, got {record!r}")
        if None in record:
            raise UserError(f"{where}: more cells than columns; put quotes around commas")
    return found
