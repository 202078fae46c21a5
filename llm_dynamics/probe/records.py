"""Files of probes or questions: JSON lines or CSV rows, every fault named by file and line."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from llm_dynamics.errors import UserError
from llm_dynamics.probe.log import RESERVED
from llm_dynamics.probe.probes import Probe

T = TypeVar("T")
ITEM, CHOICE, RIGHT = "item", "choice", "right"  # labels of a probe that is one of several choices
YES, NO = "yes", "no"  # values of RIGHT
IN_CELL = {"skills": "+", "choices": "|"}  # what parts a list in a cell of a CSV file
_OWN = ("context", "target", "choices", "answer", "name")  # fields that are no labels
_DIGITS = 18  # of the number of a choice
_SHOWN = 5  # faults quoted in one message


def read(path: Path, parse: Callable[[dict[str, Any], str], T], what: str) -> list[T]:
    """Every record of a file, parsed; all faults at once.

    Args:
      path: .jsonl, one object a line, or .csv, one row each under a header.
      parse: (record, "file:line") -> the record as what it says; raises UserError for a fault.
      what: the file is expected to be, "a probe file".

    Raises:
      UserError: not such a file, no record, or faults; each with file and line.
    """
    path = Path(path)
    readers = {".jsonl": _json_lines, ".csv": _csv_rows}
    if path.suffix not in readers:
        raise UserError(f"expected {what}, .jsonl or .csv, got {path}")
    found, faults = [], []
    for where, record in _opened(path, readers[path.suffix], what):
        try:
            found.append(parse(record, where))
        except UserError as fault:
            faults.append(f"{where}: {fault}")
    if faults:
        more = [f"... and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise UserError("\n".join(faults[:_SHOWN] + more))
    if not found:
        raise UserError(f"expected questions in {path}, one a line, got none")
    return found


def read_probes(path: Path) -> list[Probe]:
    """The probes of a file: a target each, or one for every choice.

    Whatever a record says besides `context`, `target`, `choices`, `answer` and `name` is a label;
    lists of texts are joined by "+". A choice is named NAME/NUMBER and has the labels `item`
    (NAME), `choice` (NUMBER from 0) and `right` (yes or no).

    Raises:
      UserError: see `read`; a name or question twice, or labels that cannot name a coordinate.
    """
    names: dict[str, str] = {}
    final: dict[str, str] = {}
    asked: dict[Any, str] = {}

    def parse(record: dict[str, Any], where: str) -> list[Probe]:
        name = text(record, "name", f"line{where.rpartition(':')[2]}")
        context, (found, answer) = text(record, "context"), targets(record)
        labels = _labels(record)
        refuse_twice(names, name, where, f"the name {name!r}")
        refuse_twice(asked, (context, frozenset(found)), where, "the same question")
        probes = [Probe(name, context, found[0], labels)]
        if len(found) > 1:
            probes = [
                Probe(
                    f"{name}/{c}", context, target,
                    labels | {ITEM: name, CHOICE: str(c), RIGHT: YES if c == answer else NO},
                )
                for c, target in enumerate(found)
            ]  # fmt: skip
        refuse_taken(final, probes, where)
        return probes

    return [probe for probes in read(path, parse, "a probe file") for probe in probes]


def text(record: Mapping[str, Any], key: str, default: str = "") -> str:
    """A field that has to be a text with something in it.

    Raises:
      UserError: it is not.
    """
    value = record.get(key, default)
    if not is_text(value):
        raise UserError(f"expected the field {key!r} as a text, got {record.get(key, 'none')!r}")
    return value


def is_text(value: Any) -> bool:
    """Whether a value is a text with something in it."""
    return isinstance(value, str) and bool(value.strip())


def targets(record: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """What may follow the context, the one target or all choices, and the index of the right one.

    Raises:
      UserError: neither or both, fewer than two choices, or no answer among them.
    """
    if ("target" in record) == ("choices" in record):
        raise UserError("expected either 'target', or 'choices' and 'answer'")
    if "target" in record:
        if "answer" in record:
            raise UserError("expected no 'answer' beside 'target', which is the answer")
        return (text(record, "target"),), 0
    choices, answer = record["choices"], record.get("answer")
    if not (isinstance(choices, list) and len(choices) > 1 and all(map(is_text, choices))):
        raise UserError(f"expected 'choices' as a list of at least two texts, got {choices!r}")
    if len(set(choices)) != len(choices):
        raise UserError(f"expected different choices, got {choices}")
    if is_text(answer) and answer in choices:
        return tuple(choices), choices.index(answer)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return tuple(choices), answer
    raise UserError(
        f"expected 'answer' as one of the choices or its number from 0 to {len(choices) - 1}, got "
        f"{answer!r}"
    )


def refuse_twice(seen: dict, key: Any, where: str, words: str) -> None:
    """Refuses what an earlier line said.

    Raises:
      UserError: it did.
    """
    if key in seen:
        raise UserError(f"{words} is also at {seen[key]}; leave one out")
    seen[key] = where


def refuse_taken(seen: dict, probes: Iterable[Probe], where: str) -> None:
    """Refuses probes of one record whose names another one has, such as a choice's NAME/NUMBER.

    Raises:
      UserError: there are such.
    """
    for probe in probes:
        refuse_twice(seen, probe.name, where, f"the name {probe.name!r}, of a probe or choice,")


def _labels(record: Mapping[str, Any]) -> dict[str, str]:
    labels = {}
    for key, value in record.items():
        if key in _OWN:
            continue
        if key in (*RESERVED, ITEM, CHOICE, RIGHT) or not key.isidentifier():
            raise UserError(f"the field {key!r} cannot be a label; rename it")
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            value = "+".join(value)
        if isinstance(value, list | dict) or value is None:
            raise UserError(f"expected the label {key!r} as a text or a number, got {value!r}")
        labels[key] = str(value)
    return labels


def _opened(path: Path, reader, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from reader(path, file)
    except OSError as error:
        raise UserError(
            f"expected {what} at {path}, got: {error.strerror}; check the path"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"expected UTF-8 text in {path}, got {error}") from None


def _json_lines(path: Path, file) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{path}:{number}: expected text that UTF-8 can write, got "
                f"{error.object[error.start]!r}, one half of a character; write it whole"
            ) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}:{number}: expected one JSON object, got {error}") from None
        if not isinstance(record, dict):
            raise UserError(f"{path}:{number}: expected one JSON object, got {line.strip()[:40]}")
        yield f"{path}:{number}", record


def _csv_rows(path: Path, file) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    try:
        header = list(filter(None, reader.fieldnames or ()))
        if twice := [name for name in header if header.count(name) > 1]:
            raise UserError(f"{path}:1: expected every column once, got {twice[0]!r} twice")
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                count = len(reader.fieldnames)
                raise UserError(f"{where}: expected {count} cells, as in the header")
            yield where, _of_cells(row, where)
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: expected CSV, got {error}") from None


def _of_cells(row: Mapping[str, str], where: str) -> dict[str, Any]:
    record: dict[str, Any] = {key: cell for key, cell in row.items() if cell}
    for key, mark in IN_CELL.items():
        if key in record:
            record[key] = [part.strip() for part in record[key].split(mark)]
    answer = record.get("answer", "")
    if answer.isdecimal() and answer not in record.get("choices", ()):
        if len(answer) > _DIGITS:
            raise UserError(
                f"{where}: expected 'answer' as one of the choices or its number, got a number of "
                f"{len(answer)} digits"
            )
        record["answer"] = int(answer)
    return record
