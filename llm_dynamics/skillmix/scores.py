"""From points to scores: majority over gradings, corrections, the three metrics, best of several.

Points are those of the rubric of Yu et al. 2023: k skills, then topic, sense, length. Metrics are
as in the official code. An item without any readable grading has no score: it is missing, which is
not a failure of the writer.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix import sentences
from llm_dynamics.skillmix.items import Item
from llm_dynamics.skillmix.parsing import Grading

METRICS = ("full_marks", "all_skills", "skill_fraction")
NAME_CHECKS = ("word", "substring", "off")
TIES = ("refuse", "grant")


@dataclasses.dataclass(frozen=True)
class Corrections:
    """What is changed in the graders' points before they count.

    Attributes:
      names: a skill that the text names loses its point. "word" looks for the name as whole words,
        "substring" anywhere, as published (which also finds "metaphorical" for metaphor).
      sentences: the point for length comes from counting (`sentences`), not from the grader.
      ties: whether a point that half of an even number of gradings give is given: "refuse" or
        "grant". (Published: the mean is rounded to the even number, which refuses it.)
    """

    names: str = "word"
    sentences: bool = True
    ties: str = "refuse"

    def __post_init__(self):
        for key, known in (("names", NAME_CHECKS), ("ties", TIES)):
            if getattr(self, key) not in known:
                raise UserError(f"expected {key} {' or '.join(known)}, got {getattr(self, key)!r}")


@dataclasses.dataclass(frozen=True)
class Scored:
    """One generation after grading.

    Attributes:
      points: after majority and corrections; None where no grading was readable.
      ties: points that a tie decided.
      named: skills that lost a given point because the text names them.
      recounted: whether counting sentences changed the point for length.
    """

    points: tuple[int, ...] | None
    ties: int = 0
    named: tuple[str, ...] = ()
    recounted: bool = False

    def metric(self, name: str) -> float:
        """A metric of the generation; NaN where it is missing."""
        return float("nan") if self.points is None else metrics(self.points)[name]


def metrics(points: Sequence[int]) -> dict[str, float]:
    """The three metrics of one text (Yu et al. 2023, as in the official code).

    full_marks: 1 if all k + 3 points are given. all_skills: 1 if all k skill points and at least
    two of the other three are. skill_fraction: the share of skill points if all three others are
    given, else 0.
    """
    if len(points) < 4 or any(p not in (0, 1) for p in points):
        raise ValueError(f"expected k + 3 points of 0 or 1 with k of at least 1, got {points}")
    skills, others = points[:-3], points[-3:]
    return {
        "full_marks": float(all(points)),
        "all_skills": float(all(skills) and sum(others) >= 2),
        "skill_fraction": sum(skills) / len(skills) if all(others) else 0.0,
    }


def majority(
    gradings: Sequence[Sequence[int]], ties: str = "refuse"
) -> tuple[tuple[int, ...], int]:
    """For each point what more than half of the gradings say, and how many points were ties."""
    points_GxP = np.asarray(gradings, int)
    twice_P = 2 * points_GxP.sum(axis=0)
    tied_P = twice_P == len(points_GxP)
    given_P = (twice_P > len(points_GxP)) | (tied_P & (ties == "grant"))
    return tuple(given_P.astype(int).tolist()), int(tied_P.sum())


def is_named(name: str, text: str, check: str) -> bool:
    """Whether a text names a skill; what stands in brackets is not part of the name."""
    name = name.split("(")[0].strip().lower()
    if check == "off" or not name:
        return False
    if check == "substring":
        return name in text.lower()
    words = r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", name)))
    return re.search(rf"(?<!\w){words}(?!\w)", text.lower()) is not None


def score(item: Item, text: str, gradings: Sequence[Grading], corrections: Corrections) -> Scored:
    """One generation's points: majority over the readable gradings, then the corrections.

    Raises:
      ValueError: a grading with another number of points than k + 3.
    """
    readable = [grading.points for grading in gradings if grading.points is not None]
    if not readable:
        return Scored(None)
    if any(len(points) != item.k + 3 for points in readable):
        raise ValueError(f"expected {item.k + 3} points, got {readable}")
    points, ties = majority(readable, corrections.ties)
    new = list(points)
    named = []
    for i, name in enumerate(item.names):
        if is_named(name, text, corrections.names):
            named += [name] if new[i] else []
            new[i] = 0
    if corrections.sentences:
        new[-1] = int(sentences.count(text) <= item.limit)
    return Scored(tuple(new), ties, tuple(named), new[-1] != points[-1])


def item_values(
    generations: Sequence[Sequence[Scored]], name: str, how: str = "best"
) -> np.ndarray:
    """A metric of each item: the best of its readable generations, or their mean.

    Published is the best of all, where an unreadable one counts 0; as no metric is below 0, that is
    the same but for items without any readable one, which are missing here. But a model whose texts
    are harder to grade has fewer tries: say how many items that befalls.

    Args:
      generations: of each item, all of its generations.
      name: one of METRICS.
      how: "best" or "mean", over generations that are not missing.

    Returns:
      A value an item; NaN where all its generations are missing.
    """
    reduce = {"best": np.max, "mean": np.mean}[how]
    values = []
    for scored in generations:
        found = [one.metric(name) for one in scored if one.points is not None]
        values.append(float(reduce(found)) if found else float("nan"))
    return np.array(values, float)
