"""Rows of results of what the harness found: shares with Wilson's interval, and parts of them.

Rows are named CHECKPOINT/TASK/METRIC, and CHECKPOINT/TASK/LABEL=VALUE/METRIC for a part of the
questions. Axes: T questions.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from llm_dynamics.harness.run import Answered, Sample, numbers
from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.skills import resampling

SHARE = "share"
_PARTS = 8  # values of a label that get rows of their own, at most
_FEWEST = 5  # questions of a part
_SAYS = {
    ("loglikelihood", "acc"): "share of answers whose every token is the most probable one",
    ("loglikelihood", "perplexity"): "exp of the mean -ln p of an answer",
    ("multiple_choice", "acc"): "share of questions whose right choice has the highest ln p",
    ("multiple_choice", "acc_norm"): "share of questions whose right choice has the highest ln p "
    "divided by its characters",
    ("generate_until", "exact_match"): "share of greedily written answers that equal the target",
    ("loglikelihood_rolling", "word_perplexity"): "exp of -ln p of all texts over their words",
    ("loglikelihood_rolling", "byte_perplexity"): "exp of -ln p of all texts over their bytes",
    ("loglikelihood_rolling", "bits_per_byte"): "-log2 p of all texts over their bytes",
}  # fmt: skip
_UNITS = {"bits_per_byte": "bits per byte"}


def rows(at: str, found: Answered, harness: str, group: str = "") -> list[Row]:
    """All rows of one task at one checkpoint.

    Args:
      at: name of the checkpoint.
      found: what the task found.
      harness: version of lm-evaluation-harness.
      group: label whose questions are not independent; "" = all are.
    """
    made: list[Row] = []
    for (metric, filtered), value in found.values.items():
        values_T = np.array(numbers(found, metric, filtered))
        samples = [s for s in found.samples if s.filter == filtered]
        called = key(metric, filtered)
        name = f"{at}/{found.task}/{called}"
        words = _definition(found, metric, harness)
        is_mean = len(values_T) > 0 and math.isclose(values_T.mean(), value, abs_tol=1e-9)
        if not is_mean or not np.isin(values_T, (0, 1)).all():
            note = "an aggregate of the harness, without an interval"
            unit = _UNITS.get(metric, "1")
            lacks = "the harness found no finite number"
            made.append(interval_row(name, exact(value), unit, len(samples), words, note, lacks))
            continue
        groups_T = _groups(samples, group)
        note = _limited(found, len(samples))
        made.append(_share(name, values_T, groups_T, words, note))
        for label, part, chosen_T in _parts(samples, group) if metric == "acc" else ():
            made.append(
                _share(
                    f"{at}/{found.task}/{label}={part}/{called}",
                    values_T[chosen_T],
                    groups_T[chosen_T],
                    f"{words}; questions of {label} {part}",
                    note,
                )
            )
    return made


def key(metric: str, filtered: str) -> str:
    """What a metric is called in rows: with its filter where the task has several."""
    return metric if filtered == "none" else f"{metric},{filtered}"


def chance_rows(found: Answered) -> list[Row]:
    """What a blind guess gets right: one row TASK/chance for choices, none otherwise."""
    doubled = any(metric == "acc_mutual_info" for metric, _ in found.values)
    if found.output_type != "multiple_choice" or doubled or not found.samples:
        return []
    share = float(np.mean([1 / sample.choices for sample in found.samples]))
    words = "mean over the questions of one over the number of choices"
    name = f"{found.task}/chance"
    return [interval_row(name, exact(share), SHARE, len(found.samples), words, "by definition")]


def _share(name: str, right_T: np.ndarray, groups_T: np.ndarray, words: str, note: str) -> Row:
    found, groups = resampling.share(right_T, groups_T)
    notes = ["Wilson's interval", note]
    if groups < len(right_T):
        notes.append(f"{len(right_T)} questions in {groups} groups that are not independent")
    return interval_row(name, found, SHARE, groups, words, "; ".join(filter(None, notes)))


def _groups(samples: Sequence[Sample], group: str) -> np.ndarray:
    if not group:
        return np.arange(len(samples))
    return np.array([_labels(sample).get(group, str(n)) for n, sample in enumerate(samples)])


def _parts(samples: Sequence[Sample], group: str):
    """(label, value, whether each question has it) of labels that take few values."""
    for label in _labels(samples[0]):
        values_T = np.array([str(_labels(sample).get(label)) for sample in samples])
        known, counts = np.unique(values_T, return_counts=True)
        if label == group or not 1 < len(known) <= _PARTS:
            continue
        for value, count in zip(known, counts, strict=True):
            if count >= _FEWEST:
                yield label, value, values_T == value


def _labels(sample: Sample) -> Mapping[str, str]:
    found = sample.doc.get("labels")
    return found if isinstance(found, Mapping) else {}


def _limited(found: Answered, asked: int) -> str:
    return f"the first {asked} of {found.questions} questions" if asked < found.questions else ""


def _definition(found: Answered, metric: str, harness: str) -> str:
    says = _SAYS.get((found.output_type, metric), f"{metric} as the task defines it")
    return f"{says} (task version {found.version}, lm-evaluation-harness {harness})"
