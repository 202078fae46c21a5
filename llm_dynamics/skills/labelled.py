"""Questions whose skills are known, asked of any model, and what it got right of them.

A file holds one question a line (JSONL) or row (CSV): a context, what should follow it (`target`,
or `choices` and `answer`), and the skills that it needs. A target is right if it is the most
probable text token by token; a choice is right if it is more probable than every other one.

Axes: T questions, K skills of a question, C choices, P probes, M measures.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy import special

from llm_dynamics.errors import UserError
from llm_dynamics.probe import records
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES
from llm_dynamics.skills.outcomes import NO_SKILL, Outcomes
from llm_dynamics.spec import nearest

FIELDS = ("context", "target", "choices", "answer", "skills", "name", "group")
BETWEEN_SKILLS = records.IN_CELL["skills"]  # in a label of a log, too
FEWEST = 10  # questions of a skill, below which a warning is given
_ROUNDING = 1e-4  # of a float32 sum of log-probabilities, relative


@dataclasses.dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
      name: unique in its set.
      context: what the model reads first.
      targets: what may follow: the one target, or all choices.
      answer: index of the right one.
      skills: that it needs, each once.
      group: questions of one group (a person, a passage) are not independent of each other; the
        name where a question stands by itself.
    """

    name: str
    context: str
    targets: tuple[str, ...]
    answer: int
    skills: tuple[str, ...]
    group: str

    @cached_property
    def probes(self) -> tuple[Probe, ...]:
        """A probe for the target or for every choice."""
        if len(self.targets) == 1:
            return (Probe(self.name, self.context, self.targets[0]),)
        return tuple(
            Probe(f"{self.name}#{c}", self.context, target) for c, target in enumerate(self.targets)
        )


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A set of questions.

    Attributes:
      questions: at least one.
      source: where they are from, in words.
    """

    questions: tuple[Question, ...]
    source: str

    @cached_property
    def skills(self) -> tuple[str, ...]:
        """All skills by name."""
        return tuple(sorted({skill for q in self.questions for skill in q.skills}))

    @cached_property
    def sizes_T(self) -> np.ndarray:
        """Skills of each question."""
        return np.array([len(q.skills) for q in self.questions])

    @cached_property
    def skills_TxK(self) -> np.ndarray:
        """Indices into `skills`, NO_SKILL where a question needs fewer than K."""
        index = {skill: s for s, skill in enumerate(self.skills)}
        found = np.full((len(self.questions), self.sizes_T.max()), NO_SKILL)
        for t, q in enumerate(self.questions):
            found[t, : len(q.skills)] = [index[skill] for skill in q.skills]
        return found

    @cached_property
    def choices_T(self) -> np.ndarray:
        """Choices of each question; 1 where a target is asked for."""
        return np.array([len(q.targets) for q in self.questions])

    @cached_property
    def group_T(self) -> np.ndarray:
        """Index of each question's group."""
        return np.unique([q.group for q in self.questions], return_inverse=True)[1]

    def probes(self) -> tuple[Probe, ...]:
        """A probe for every target and every choice, question by question."""
        return tuple(probe for q in self.questions for probe in q.probes)

    def outcomes(self, values_PxM: np.ndarray) -> Outcomes:
        """What a model got right, and its losses in nats.

        The loss of a target is -ln p(target), summed over its tokens; that of choices is -ln of
        the right one's share of their probabilities. Both are the excess where the answer is
        certain, and an upper bound of it elsewhere.

        Args:
          values_PxM: scores of `probes`, in the order of `MEASURES`.

        Raises:
          UserError: a score that is not finite.
        """
        rows = np.arange(len(self.questions))
        first_T = np.cumsum(self.choices_T) - self.choices_T
        column_C = np.arange(self.choices_T.max())
        there_TxC = column_C < self.choices_T[:, None]
        index_TxC = np.where(there_TxC, first_T[:, None] + column_C, 0)
        logprob_P = values_PxM[:, MEASURES.index("logprob_sum")].astype(float)
        greedy_P = values_PxM[:, MEASURES.index("greedy_match")]
        logprob_TxC = np.where(there_TxC, logprob_P[index_TxC], -np.inf)
        answer_T = np.array([q.answer for q in self.questions])
        own_T = logprob_TxC[rows, answer_T]
        others_TxC = logprob_TxC.copy()
        others_TxC[rows, answer_T] = -np.inf
        asked_T = self.choices_T == 1
        right_T = np.where(asked_T, greedy_P[first_T] == 1, own_T > others_TxC.max(axis=1))
        loss_T = np.where(asked_T, 0.0, special.logsumexp(logprob_TxC, axis=1)) - own_T
        return Outcomes(self.skills_TxK, right_T[:, None], loss_T, len(self.skills))

    def rare(self, fewest: int) -> list[str]:
        """A warning for every skill of fewer than so many questions."""
        counts = np.bincount(self.skills_TxK[self.skills_TxK != NO_SKILL])
        return [
            f"skill {skill!r} has {n} question{'s' * (n != 1)}, fewer than {fewest}: its "
            "competence is hardly known"
            for skill, n in zip(self.skills, counts.tolist(), strict=True)
            if n < fewest
        ]


def check_links(found: Outcomes, where: str) -> None:
    """Checks what holds for every model: a wrong answer has a loss of at least ln 2.

    If the most probable token is another one, the right one has at most 1/2, and so has the whole
    target; the same goes for choices. So theta <= mean loss / ln 2, with no assumption.

    Raises:
      UserError: it does not hold, so losses or answers are measured wrongly.
    """
    wrong_T = found.excess_T[found.failed_T]
    if len(wrong_T) and wrong_T.min() < math.log(2) * (1 - _ROUNDING):
        raise UserError(
            f"{where}: a wrong answer has a loss of {wrong_T.min():.4f} nats, below ln 2 = .6931, "
            "which cannot be: answers are judged wrongly; please report this model and question"
        )


# ---- files ---------------------------------------------------------------------------------------


def read(path: Path) -> Labelled:
    """Reads a JSONL or CSV file of questions.

    Raises:
      UserError: not such a file, or questions that cannot be asked; each with file and line.
    """
    names: dict[str, str] = {}
    final: dict[str, str] = {}
    asked: dict[Any, str] = {}

    def parse(record: dict[str, Any], where: str) -> Question:
        q = _question(record, f"line{where.rpartition(':')[2]}")
        records.refuse_twice(names, q.name, where, f"the name {q.name!r}")
        records.refuse_taken(final, q.probes, where)
        key = (q.context, q.targets[q.answer], frozenset(q.targets))
        records.refuse_twice(asked, key, where, "the same question")
        return q

    questions = records.read(path, parse, "a labelled probe file")
    return Labelled(tuple(questions), Path(path).name)


def from_log(log: xr.Dataset, label: str, where: Mapping[str, str], group: str = "") -> Labelled:
    """The questions of a probe log whose label names their skills, joined by "+".

    Probes with the labels `item` and `right` are the choices of one question.

    Args:
      log: from `probe.log.open_log`; see `in_log` for the scores.
      label: that names the skills.
      where: labels that a probe must have to be a question.
      group: label of what is asked about in several probes; "" = every probe by itself.

    Raises:
      UserError: an unknown label, a probe without skills, an item without some of its choices, or
        no probe.
    """
    known = [name for name in log.coords if log[name].dims == ("probe",) and name != "probe"]
    for name in (label, *where, *([group] if group else [])):
        if name not in known:
            raise UserError(f"the log's probes have no label {name!r}; {nearest(name, known)}")
    questions: list[Question] = []
    columns = {name: log[name].values.astype(str) for name in ("probe", *known)}
    chosen = in_log(log, where)
    is_choice_P = _are_choices(columns)
    for of in _items(chosen, columns, is_choice_P):
        one = {name: column[of[0]] for name, column in columns.items()}
        is_choice = is_choice_P[of[0]]
        name = str(one[records.ITEM] if is_choice else one["probe"])
        if is_choice:
            _refuse_part(name, len(of), columns)
        try:
            skills = _skills(one[label].split(BETWEEN_SKILLS))
        except UserError as fault:
            raise UserError(f"probe {name!r}, label {label!r}: {fault}") from None
        right = [columns[records.RIGHT][p] == records.YES for p in of] if is_choice else [True]
        if sum(right) != 1:
            raise UserError(f"expected one right choice of the item {name!r}, got {sum(right)}")
        targets = tuple(str(columns["target"][p]) for p in of)
        own = str(one[group] or name) if group else name
        questions.append(
            Question(name, str(one["context"]), targets, right.index(True), skills, own)
        )
    if not questions:
        asked = ", ".join(f"{key}={value}" for key, value in where.items())
        raise UserError(f"expected probes with {asked} in the log, got none")
    return Labelled(tuple(questions), f"probe log, skills from the label {label}")


def _are_choices(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Whether a probe is one of the choices of an item."""
    if not {records.ITEM, records.RIGHT} <= set(columns):
        return np.zeros(len(columns["probe"]), bool)
    said_P = np.isin(columns[records.RIGHT], (records.YES, records.NO))
    return said_P & (columns[records.ITEM] != "")


def _items(
    chosen: np.ndarray, columns: Mapping[str, np.ndarray], is_choice_P: np.ndarray
) -> list[list[int]]:
    """The probes of each question: neighbours that are choices of one item, or one by itself."""
    found: list[list[int]] = []
    for p in chosen.tolist():
        before = found[-1][0] if found else p
        both = p != before and is_choice_P[p] and is_choice_P[before]
        if both and columns[records.ITEM][p] == columns[records.ITEM][before]:
            found[-1].append(p)
        else:
            found.append([p])
    return found


def _refuse_part(item: str, count: int, columns: Mapping[str, np.ndarray]) -> None:
    """Refuses an item without some of its choices: what is right depends on the others."""
    whole = int((columns[records.ITEM] == item).sum())
    if count < max(whole, 2):
        raise UserError(
            f"expected the choices of the item {item!r} together and at least two of them, got "
            f"{count} of {whole}; choose probes only by labels that all choices of an item share "
            f"(not {records.CHOICE} or {records.RIGHT})"
        )


def in_log(log: xr.Dataset, where: Mapping[str, str]) -> np.ndarray:
    """Indices of the probes that have such labels."""
    kept = np.ones(log.sizes["probe"], bool)
    for name, value in where.items():
        kept &= log[name].values.astype(str) == value
    return np.flatnonzero(kept)


def _question(record: Mapping[str, Any], default: str) -> Question:
    for key in record:
        if key not in FIELDS:
            raise UserError(f"unknown field {key!r}; {nearest(key, FIELDS)}")
    name = records.text(record, "name", default)
    targets, answer = records.targets(record)
    if "skills" not in record:
        raise UserError("expected the field 'skills', a list of at least one name, got none")
    return Question(
        name, records.text(record, "context"), targets, answer, _skills(record["skills"]),
        records.text(record, "group", name),
    )  # fmt: skip


def _skills(names: Any) -> tuple[str, ...]:
    if not (isinstance(names, Sequence) and not isinstance(names, str)):
        raise UserError(f"expected 'skills' as a list of names, got {names!r}")
    if not names or not all(map(records.is_text, names)):
        raise UserError(f"expected at least one skill, and none without a name, got {names!r}")
    if any(BETWEEN_SKILLS in name for name in names):
        raise UserError(f"expected names of skills without {BETWEEN_SKILLS!r}, got {names!r}")
    if len(set(names)) != len(names):
        raise UserError(f"expected every skill of a question once, got {names!r}")
    return tuple(names)
