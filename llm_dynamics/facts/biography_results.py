"""The numbers of a biographies study, each with its interval over people, and its curves.

Names read GROUP/WORDING/MEASURE. Unseen people go through every measure that seen people do.
Axes: S recorded steps, K people of a group, A attributes, R replicates (0 is the data).
"""

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr

from llm_dynamics.errors import UserError
from llm_dynamics.facts.biographies import GROUPS, WORDINGS
from llm_dynamics.facts.biography_measures import (
    TOLERANCE,
    Scores,
    bits,
    mean_bits,
    phases,
    read_scores,
)
from llm_dynamics.facts.rows import make_row
from llm_dynamics.facts.statistics import Estimate, replicate_weights
from llm_dynamics.results import Row, exact, interval_row

NATS = "nats/answer"


@dataclass(frozen=True)
class Line:
    """A curve over the recorded steps with its 95 % interval over people."""

    group: str
    wording: str
    value_S: np.ndarray
    low_S: np.ndarray
    high_S: np.ndarray


@dataclass(frozen=True)
class Analysis:
    """Everything the page shows.

    Attributes:
      rows: of results.json.
      steps_S: of the lines.
      baseline: nats an answer, of seen and of unseen people.
      losses: mean loss of every group and wording.
      excess: the same less the group's baseline.
      bits: knowledge of all seen people, in bits; for unseen people of as many.
      most_bits: all there is to know about the seen people.
    """

    rows: list[Row]
    steps_S: np.ndarray
    baseline: dict[str, float]
    losses: tuple[Line, ...]
    excess: tuple[Line, ...]
    bits: tuple[Line, ...]
    most_bits: float


def analyse(
    log: xr.Dataset,
    parameters: int,
    people: int,
    exposures_per_step: float,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    resamples: int = 1000,
) -> Analysis:
    """Every number of the study with its interval, and the curves of the page.

    Args:
      log: from `probe.log.open_log`, with the probes of `biographies.probes`.
      parameters: of the model, all of them.
      people: written about; bits of the probed ones are scaled up to them.
      exposures_per_step: documents about a person that the mean step reads.
      tolerance: share of the baseline.
      seed: of the bootstrap over people.
      resamples: of it.

    Raises:
      UserError: see `read_scores`.
    """
    scores = read_scores(log)
    counts = {group: len(scores.baseline[group]) for group in GROUPS}
    if min(counts.values()) < 2:
        raise UserError(f"expected at least 2 people in each group, got {counts}")
    study = _Study(scores, counts, replicate_weights(counts, seed, resamples), people)
    rows: list[Row] = []
    losses, excess, known = [], [], []
    for group in GROUPS:
        base = study.mean(scores.baseline[group], group)
        for wording in WORDINGS:
            loss = study.mean(scores.loss[group, wording], group)
            losses.append(_line(group, wording, loss))
            excess.append(_line(group, wording, loss - base))
            known.append(_line(group, wording, study.bits(group, wording)))
    rows += _baseline_rows(study)
    for wording in WORDINGS:
        rows += _phase_rows(study, wording, tolerance, exposures_per_step)
        rows += _end_rows(study, wording, parameters)
    rows += _comparisons(study, tolerance)
    baseline = {group: float(scores.baseline[group].mean()) for group in GROUPS}
    return Analysis(
        rows=rows,
        steps_S=scores.steps_S,
        baseline=baseline,
        losses=tuple(losses),
        excess=tuple(excess),
        bits=tuple(known),
        most_bits=_most_bits(study),
    )


@dataclass(frozen=True)
class _Study:
    scores: Scores
    counts: dict[str, int]
    weights: dict[str, np.ndarray]
    people: int

    def mean(self, values: np.ndarray, group: str) -> Estimate:
        """Mean over people and attributes in every replicate; values [S x] K x A."""
        values_SxK = np.atleast_2d(values.mean(axis=-1))
        weights_RxK = self.weights[group]
        return Estimate(
            weights_RxK @ values_SxK.T / self.counts[group], {group: self.counts[group]}
        )

    def bits(self, group: str, wording: str) -> Estimate:
        """Clipped bits by step, scaled to all people written about."""
        known_SxK = bits(self.scores.loss[group, wording], self.scores.baseline[group])
        scale = self.people / self.counts[group]
        draws_RxS = scale * self.weights[group] @ known_SxK.T
        return Estimate(draws_RxS, {group: self.counts[group]})


def _line(group: str, wording: str, estimate: Estimate) -> Line:
    return Line(group, wording, *estimate.interval())


def _baseline_rows(study: _Study) -> list[Row]:
    rows = []
    for group in GROUPS:
        base = study.mean(study.scores.baseline[group], group)
        rows.append(
            interval_row(
                f"{group}/baseline",
                exact(base.draws_RxT[0, 0]),
                NATS,
                base.n,
                "loss of the best predictor that cannot tell people apart: mean over people and "
                "attributes of -ln of the share of the person's answer in the corpus",
                "exact, hence without an interval",
            )
        )
    seen = float(study.scores.baseline["seen"].mean())
    rows.append(
        interval_row(
            "seen/baseline_per_token",
            exact(seen / study.scores.tokens),
            "nats/token",
            study.counts["seen"],
            f"the same over the mean of {study.scores.tokens:.3g} tokens of an answer",
            "exact, hence without an interval",
        )
    )
    return rows


def _phase_rows(study: _Study, wording: str, tolerance: float, exposures: float) -> list[Row]:
    scores = study.scores
    loss = study.mean(scores.loss["seen", wording], "seen")
    base_R = study.mean(scores.baseline["seen"], "seen").draws_RxT[:, 0]
    found = phases(loss.draws_RxT, base_R, scores.steps_S, tolerance)
    band = f"{100 * tolerance:g} % of the baseline"
    last = f"not reached by the last step, {scores.steps_S[-1]}"
    table = (
        (
            "statistics_learned",
            found.learned_R,
            "step",
            f"first step at which the mean loss is at most {band} above it",
            last,
        ),
        (
            "recall_begins",
            found.recall_R,
            "step",
            f"step from which on the mean loss stays more than {band} below it",
            last,
        ),
        (
            "plateau",
            found.plateau_R,
            "steps",
            f"steps from `statistics_learned` to `recall_begins`: the loss is within {band}",
            "not over by the end of the run",
        ),
        (
            "plateau_exposures",
            found.plateau_R * exposures,
            "exposures",
            "the plateau in documents read about the mean person",
            "not over by the end of the run",
        ),
        (
            "plateau_slowdown",
            found.slowdown_R,
            "1",
            "mean speed of the fall from the plateau's lower edge half-way to the final loss, over "
            "the speed across the plateau; 1 or less: the curve falls through without resting",
            "there is no fall below the plateau to compare with",
        ),
    )
    rows = []
    for name, draws_R, unit, definition, note in table:
        estimate = Estimate(draws_R[:, None], loss.facts)
        rows.append(
            interval_row(
                f"seen/{wording}/{name}",
                estimate.interval(),
                unit,
                loss.n,
                definition,
                missing=note,
            )
        )
    return rows


def _end_rows(study: _Study, wording: str, parameters: int) -> list[Row]:
    scores, rows = study.scores, []
    for group in GROUPS:
        loss = study.mean(scores.loss[group, wording][-1], group)
        base = study.mean(scores.baseline[group], group)
        excess = loss - base
        greedy = study.mean(scores.greedy[group, wording][-1], group)
        clipped = study.bits(group, wording).then(lambda draws_RxS: draws_RxS[:, -1:])
        scale = study.people / study.counts[group]
        mean = mean_bits(
            scores.loss[group, wording][-1], scores.baseline[group], study.weights[group]
        )
        whose = "seen people" if group == "seen" else "as many unseen people"
        for name, estimate, unit, definition in (
            ("loss", loss, NATS, "mean loss of the answers after the last step"),
            (
                "excess",
                excess,
                NATS,
                "mean loss after the last step less the baseline; below 0 is knowledge, above 0 "
                "is confidence in wrong answers",
            ),
            (
                "greedy",
                greedy,
                "1",
                "share of answers all of whose tokens are the likeliest after the last step",
            ),
            (
                "bits",
                clipped,
                "bits",
                f"sum over {whose} and attributes of max(0, baseline - loss) / ln 2",
            ),
            (
                "bits_of_means",
                Estimate(scale * mean[:, None], loss.facts),
                "bits",
                f"number of {whose} times the sum over attributes of max(0, baseline - loss) / "
                "ln 2 of the means over people (attribute term of Allen-Zhu & Li 3.3)",
            ),
        ):
            rows.append(make_row(f"{group}/{wording}/{name}", estimate, unit, definition))
    gained = study.bits("seen", wording).then(lambda d: d[:, -1:])
    noise = study.bits("unseen", wording).then(lambda d: d[:, -1:])
    for name, estimate, definition in (
        ("bits_per_parameter", gained, "bits of seen people over all parameters of the model"),
        (
            "bits_per_parameter_net",
            gained - noise,
            "bits of seen people less those of as many unseen people, over all parameters",
        ),
    ):
        rows.append(
            make_row(
                f"seen/{wording}/{name}",
                estimate.then(lambda d: d / parameters),
                "bits/parameter",
                definition + "; names are not scored, so that this is a lower bound, and never "
                f"more than {_most_bits(study) / parameters:.3g}, the bits there are to know",
            )
        )
    return rows


def _most_bits(study: _Study) -> float:
    baseline_KxA = study.scores.baseline["seen"]
    return float(baseline_KxA.sum() / math.log(2) * study.people / len(baseline_KxA))


def _comparisons(study: _Study, tolerance: float) -> list[Row]:
    """Differences between wordings, times, styles of text and numbers of exposures."""
    scores = study.scores
    rows = []
    gaps = {
        group: study.mean(
            scores.loss[group, "held_out"][-1] - scores.loss[group, "training"][-1], group
        )
        for group in GROUPS
    }
    said = (
        "loss in the held-out wording less that in the training wording, after the last step, "
        "person by person"
    )
    for name, estimate, definition in (
        ("seen/gap", gaps["seen"], said),
        ("unseen/gap", gaps["unseen"], said + "; neither was read, so the wordings alone"),
        ("seen/gap_net", gaps["seen"] - gaps["unseen"], "`seen/gap` less `unseen/gap`"),
    ):
        rows.append(make_row(name, estimate, NATS, definition))
    for wording in WORDINGS:
        loss_S = scores.loss["seen", wording].mean(axis=(1, 2))
        start = np.flatnonzero(loss_S <= (1 + tolerance) * scores.baseline["seen"].mean())
        if len(start):
            rise = scores.loss["unseen", wording][-1] - scores.loss["unseen", wording][start[0]]
            estimate = study.mean(rise, "unseen")
            rows.append(
                make_row(
                    f"unseen/{wording}/rise",
                    estimate,
                    NATS,
                    "loss of unseen people after the last step less that at the first recorded "
                    f"step ({scores.steps_S[start[0]]}) of the seen people's plateau",
                )
            )
        rows += _split_rows(study, wording)
    return rows


def _split_rows(study: _Study, wording: str) -> list[Row]:
    """Seen people by style of text, and by third of exposure where people differ."""
    scores = study.scores
    excess_K = (scores.loss["seen", wording][-1] - scores.baseline["seen"]).mean(axis=1)
    documents_K = scores.documents["seen"]
    parts = {style: scores.style["seen"] == style for style in ("fixed", "rewritten")}
    if len(set(documents_K)) > 1:
        place_K = np.argsort(np.argsort(-documents_K, kind="stable"), kind="stable")
        third_K = 3 * place_K // len(place_K)
        parts |= {
            name: third_K == i for i, name in enumerate(("most_met", "middle_met", "least_met"))
        }
    rows = []
    for name, chosen_K in parts.items():
        if chosen_K.all() or chosen_K.sum() < 2:
            continue
        weights_RxK = study.weights["seen"][:, chosen_K]
        with np.errstate(invalid="ignore"):
            draws_R = weights_RxK @ excess_K[chosen_K] / weights_RxK.sum(axis=1)
        estimate = Estimate(draws_R[:, None], {name: int(chosen_K.sum())})
        rows.append(
            make_row(
                f"seen/{wording}/excess/{name}",
                estimate,
                NATS,
                "mean loss after the last step less the baseline, of the people with this text "
                f"or exposure ({documents_K[chosen_K].mean():.3g} documents a pass)",
            )
        )
    return rows
