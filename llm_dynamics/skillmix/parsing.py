"""From what models write to answers and points, strictly: what is not there is not guessed."""

import json
import re
from typing import NamedTuple

from llm_dynamics.skillmix.prompts import ANSWER, EXPLANATION

_ANSWER = re.compile(rf"^[\W_]*{ANSWER[:-1]}[*_]*\s*:[*_]*", re.IGNORECASE | re.MULTILINE)
_EXPLANATION = re.compile(rf"^[\W_]*{EXPLANATION[:-1]}[*_]*\s*:", re.IGNORECASE | re.MULTILINE)
_ROW = re.compile(r"^\|\s*(\d+)\s*\.?\s*\|(?:.*\|)?\s*([01])\s*\|\s*$")
_QUOTES = {'"': '"', "“": "”", "'": "'", "‘": "’"}


class Answer(NamedTuple):
    """A text to be graded, and whether it was marked; without a mark all that was written."""

    text: str
    marked: bool


class Grading(NamedTuple):
    """The points of one grading, k skills and then topic, sense, length; None = not readable.

    `why` says what was wrong with one that is not readable.
    """

    points: tuple[int, ...] | None
    why: str = ""


def answer(written: str) -> Answer:
    """What follows the last answer mark, up to an explanation; quotes around it are dropped."""
    marks = list(_ANSWER.finditer(written))
    text = written[marks[-1].end() :] if marks else written
    if end := _EXPLANATION.search(text):
        text = text[: end.start()]
    text = text.strip()
    closing = _QUOTES.get(text[:1])
    if closing and len(text) > 1 and text.find(closing, 1) == len(text) - 1:
        text = text[1:-1].strip()
    return Answer(text, bool(marks))


def grading(written: str, k: int) -> Grading:
    """The k + 3 points of a grader's lines of JSON, or rows of a table `| number | ... | points |`.

    Criteria may come in any order, with other text around them, but each exactly once and none
    other; points are 0 or 1. A list that is short, long or doubled is not readable; nothing is
    filled up or cut.
    """
    found: dict[int, int] = {}
    for line in written.splitlines():
        pair = _pair(line.strip())
        if pair is None:
            continue
        if isinstance(pair, str):
            return Grading(None, pair)
        number, points = pair
        if number in found:
            return Grading(None, "a criterion is graded twice")
        if not 1 <= number <= k + 3:
            return Grading(None, "a criterion that does not exist")
        found[number] = points
    if not found:
        return Grading(None, "no points at all")
    if len(found) < k + 3:
        return Grading(None, "criteria are missing")
    return Grading(tuple(found[i] for i in range(1, k + 4)))


def lines(points: tuple[int, ...]) -> str:
    """Points as a grader should write them; `grading` reads them back."""
    numbered = enumerate(points, 1)
    return "\n".join(json.dumps({"criterion": i, "why": "", "points": p}) for i, p in numbered)


def _pair(line: str) -> tuple[int, int] | str | None:
    """Criterion and points of a line, a complaint, or None where the line grades nothing."""
    if row := _ROW.match(line):
        return int(row[1]), int(row[2])
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line.rstrip(","))
    except (ValueError, RecursionError):
        return "a line is no valid JSON"
    number, points = record.get("criterion"), record.get("points")
    if type(number) is not int:
        return "a line names no criterion"
    if type(points) is not int or points not in (0, 1):
        return "points that are not 0 or 1"
    return number, points
