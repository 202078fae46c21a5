"""Losses, phases and knowledge of a biographies run, from its probe log alone.

The loss of an answer is minus the sum of the log-probabilities of its tokens, over the whole
vocabulary: what the model puts outside the closed set counts as loss. It is not renormalised over
the set, which would need a score for every other answer; a model that knows the sentences but
not the people then loses the baseline or more, and reaches it only when all its mass is inside.
Axes: S recorded steps, K people of a group, R replicates (replicate 0 is the data).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from llm_dynamics.errors import UserError
from llm_dynamics.facts.biographies import ATTRIBUTES, GROUPS, WORDINGS

TOLERANCE = 0.05  # of the baseline: within it, a loss counts as being on the plateau


@dataclass(frozen=True)
class Scores:
    """The log by group and wording.

    Attributes:
      steps_S: recorded steps.
      loss: (group, wording) -> S x K x A, nats an answer.
      greedy: the same, 1 where every token of the answer was the likeliest.
      baseline: group -> K x A, nats an answer.
      style, documents: group -> K, how a person was written about, and how often in a pass.
      tokens: mean tokens of a seen person's answer.
    """

    steps_S: np.ndarray
    loss: dict[tuple[str, str], np.ndarray]
    greedy: dict[tuple[str, str], np.ndarray]
    baseline: dict[str, np.ndarray]
    style: dict[str, np.ndarray]
    documents: dict[str, np.ndarray]
    tokens: float


def read_scores(log: xr.Dataset) -> Scores:
    """Sorts the scores of a log by group, wording, person and attribute.

    Raises:
      UserError: rows without scores, or probes that are not one of each attribute.
    """
    score = log["score"].sel(measure=["logprob_sum", "greedy_match"]).values
    if np.isnan(score).any():
        step = int(log["step"].values[np.isnan(score).any(axis=(1, 2))][0])
        raise UserError(f"the probe log lacks scores of step {step}; let the run finish")
    labels = {
        name: log[name].values
        for name in ("group", "wording", "person", "attribute", "baseline", "style", "documents")
    }
    rank_P = np.array([ATTRIBUTES.index(name) for name in labels["attribute"]])
    loss, greedy, baseline, style, documents = {}, {}, {}, {}, {}
    for group in GROUPS:
        for wording in WORDINGS:
            here = np.flatnonzero((labels["group"] == group) & (labels["wording"] == wording))
            order = here[np.lexsort((rank_P[here], labels["person"][here]))]
            shape = (-1, len(ATTRIBUTES))
            whole = len(order) and not len(order) % len(ATTRIBUTES)
            if not whole or (rank_P[order].reshape(shape) != np.arange(len(ATTRIBUTES))).any():
                raise UserError(
                    f"expected a probe of every attribute for each of the {group} people in the "
                    f"{wording} wording, got {len(order)}; the log is of another study"
                )
            by_person = (len(log["step"]), *shape)
            loss[group, wording] = -score[:, order, 0].astype(float).reshape(by_person)
            greedy[group, wording] = score[:, order, 1].astype(float).reshape(by_person)
        baseline[group] = labels["baseline"][order].astype(float).reshape(shape)
        style[group] = labels["style"][order].reshape(shape)[:, 0]
        documents[group] = labels["documents"][order].astype(int).reshape(shape)[:, 0]
    tokens = log["num_target_tokens"].values[labels["group"] == "seen"].mean()
    return Scores(
        log["step"].values, loss, greedy, baseline, style, documents, tokens=float(tokens)
    )


# ---- phases ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phases:
    """Steps of the three phases in every replicate; infinite where a phase was not reached.

    Attributes:
      learned_R: the mean loss first comes within the tolerance above the baseline.
      recall_R: from here to the end of the run it is more than the tolerance below.
      slowdown_R: speed of the fall below the plateau over the speed across it, NaN where the run
        ends too early. A curve that falls straight through the band has 1 or less.
    """

    learned_R: np.ndarray
    recall_R: np.ndarray
    slowdown_R: np.ndarray

    @property
    def plateau_R(self) -> np.ndarray:
        """Length of the plateau in steps; infinite where recall did not begin."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isinf(self.recall_R), np.inf, self.recall_R - self.learned_R)


def phases(
    loss_RxS: np.ndarray,
    baseline_R: np.ndarray,
    steps_S: Sequence[int],
    tolerance: float = TOLERANCE,
) -> Phases:
    """Finds the phases of loss curves, between recorded steps by straight lines.

    Args:
      loss_RxS: mean losses.
      baseline_R: no-knowledge loss of each replicate, in the same unit.
      steps_S: ascending.
      tolerance: share of the baseline.
    """
    steps_S = np.asarray(steps_S, float)
    found = []
    for loss_S, baseline in zip(loss_RxS, baseline_R, strict=True):
        upper, lower = baseline * (1 + tolerance), baseline * (1 - tolerance)
        learned = _first_below(loss_S, upper, steps_S)
        recall = _stays_below(loss_S, lower, steps_S)
        # Below the plateau: from its lower edge down to half-way to the end of the run.
        middle = (lower + loss_S[-1]) / 2
        slowdown = np.nan
        if np.isfinite(recall) and middle < lower and recall > learned:
            fall = (lower - middle) / (_stays_below(loss_S, middle, steps_S) - recall)
            slowdown = fall / ((upper - lower) / (recall - learned))
        found.append((learned, recall, slowdown))
    return Phases(*np.array(found).T)


def _first_below(loss_S: np.ndarray, level: float, steps_S: np.ndarray) -> float:
    below = np.flatnonzero(loss_S <= level)
    return _crossing(loss_S, level, steps_S, below[0]) if len(below) else np.inf


def _stays_below(loss_S: np.ndarray, level: float, steps_S: np.ndarray) -> float:
    above = np.flatnonzero(loss_S > level)
    first = above[-1] + 1 if len(above) else 0
    return _crossing(loss_S, level, steps_S, first) if first < len(loss_S) else np.inf


def _crossing(loss_S: np.ndarray, level: float, steps_S: np.ndarray, at: int) -> float:
    """Where the line from point `at` - 1 to point `at` meets the level."""
    if at == 0:
        return steps_S[0]
    above, below = loss_S[at - 1], loss_S[at]
    return float(
        steps_S[at - 1] + (steps_S[at] - steps_S[at - 1]) * (above - level) / (above - below)
    )


# ---- knowledge -------------------------------------------------------------------------------


def bits(loss: np.ndarray, baseline_KxA: np.ndarray) -> np.ndarray:
    """Knowledge of every person in bits: sum over attributes of max(0, baseline - loss) / ln 2.

    Noise counts upwards here, never downwards; unseen people show how much that is.

    Args:
      loss: ... x K x A, nats an answer.
      baseline_KxA: nats an answer.

    Returns:
      ... x K.
    """
    return np.maximum(0.0, baseline_KxA - loss).sum(axis=-1) / math.log(2)


def mean_bits(loss: np.ndarray, baseline_KxA: np.ndarray, weights_RxK: np.ndarray) -> np.ndarray:
    """Knowledge of all people by mean losses: K times the sum over A of max(0, B - L) / ln 2.

    As the attribute term of Allen-Zhu & Li 3.3 (arXiv 2404.05405), which is a function of the mean
    loss: gains and losses of people cancel before the maximum is taken.

    Args:
      loss: K x A, nats an answer.
    """
    gain_RxA = weights_RxK @ (baseline_KxA - loss)
    return np.maximum(0.0, gain_RxA).sum(axis=1) / math.log(2)
