"""What a finished run says of the theory: competence, slingshot ratios, order of emergence.

Axes as in `training`: N looks, A answers of a text, S skills.
"""

import dataclasses
import math

import numpy as np
from scipy import optimize

from llm_dynamics.skills import languages
from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.skills.training import HELD_OUT, Trained

_MOST_LATE = 0.1  # share of the skills up to a rank that may not have emerged
_FEWEST = 8  # ranks in a fit
_FEWEST_ANSWERS = 30  # of a skill, to say when it emerges


@dataclasses.dataclass(frozen=True)
class Along:
    """A set of texts along a run.

    Attributes:
      steps_N: updates done.
      delta_N: excess cross-entropy, nats per text.
      theta_N: share of failed texts.
      joint_NxA: c_1 .. c_A, see `Outcomes.joint`.
    """

    steps_N: np.ndarray
    delta_N: np.ndarray
    theta_N: np.ndarray
    joint_NxA: np.ndarray


def along(run: Trained, name: str) -> Along:
    """A set of texts look by look."""
    outcomes = looks(run, name)
    answers = outcomes[0].right_TxA.shape[1]
    return Along(
        run.steps_N,
        np.array([o.delta for o in outcomes]),
        np.array([o.theta for o in outcomes]),
        np.array([[o.joint(j) for j in range(1, answers + 1)] for o in outcomes]),
    )


def looks(run: Trained, name: str) -> list[Outcomes]:
    """The outcomes of a set at every look."""
    return [run.outcomes(name, i) for i in range(len(run.steps_N))]


def excess_at(delta_N: np.ndarray, competence_N: np.ndarray, tau: float) -> float:
    """delta*(tau): the excess at which a competence first reaches tau; NaN where it does not.

    Between two looks the competence is taken to be linear in the logarithm of the excess.
    """
    reached = np.flatnonzero(competence_N >= tau)
    if not len(reached) or not reached[0] or delta_N[reached[0]] <= 0:
        return math.nan
    i = reached[0]
    share = (tau - competence_N[i - 1]) / (competence_N[i] - competence_N[i - 1])
    return float(np.exp((1 - share) * np.log(delta_N[i - 1]) + share * np.log(delta_N[i])))


def slingshot(run: Trained, name: str, tau: float) -> dict[int, float]:
    """rho_k' = k' delta*_k'(tau) / delta*_1(tau) of tuples of k' = 2 .. A answers.

    Corollary 13 of Arora & Goyal 2023 says that dividing the loss by k' makes the competence on
    k'-tuples what it was on single skills: rho = 1.
    """
    seen = along(run, name)
    first = excess_at(seen.delta_N, seen.joint_NxA[:, 0], tau)
    return {
        j: j * excess_at(seen.delta_N, seen.joint_NxA[:, j - 1], tau) / first
        for j in range(2, seen.joint_NxA.shape[1] + 1)
    }


def mixed_excess(run: Trained) -> np.ndarray:
    """Excess over the mixture of sizes that the run was trained on, nats per text, N."""
    rows = np.array(run.config.language.rows(run.config.batch), float)
    sizes = run.config.language.sizes
    delta = [along(run, f"k{k}").delta_N for k in sizes]
    return np.average(delta, axis=0, weights=rows)


def slingshot_by_size(run: Trained, tau: float) -> dict[int, float]:
    """The same ratios with texts of k' skills in place of k'-tuples, over the mixture's excess."""
    delta_N, sizes = mixed_excess(run), run.config.language.sizes
    right = {k: 1 - along(run, f"k{k}").theta_N for k in sizes}
    first = excess_at(delta_N, right[1], tau)
    return {k: k * excess_at(delta_N, right[k], tau) / first for k in sizes if k > 1}


def product_residual(outcomes: Outcomes, size: int, of: Outcomes | None = None) -> float:
    """Competence on tuples less the product of the accuracies of their skills.

    Accuracies and tuples come from different texts: from halves exchanged, or from `of` and
    `outcomes`. Below 0 where skills that are had one by one fail together.

    Args:
      outcomes: on which tuples are counted.
      size: of the tuples, up to the answers of a text; for one answer a text, its skills.
      of: where the accuracies are measured.
    """
    found = []
    for name, look in [(of, outcomes)] if of is not None else _exchanged(outcomes):
        # Both sides over the texts whose skills were all measured: rare skills may not be.
        known_T = np.isfinite(name.accuracy_S[look.skills_TxK]).all(axis=1)
        if not known_T.any():
            return math.nan
        look = look.take(known_T)
        whole = look.right_TxA.shape[1] == 1
        had = 1 - look.theta if whole else look.joint(size)
        found.append(had - look.product(name.accuracy_S, size))
    return float(np.mean(found))


def _exchanged(outcomes: Outcomes):
    first, second = outcomes.halves()
    return (first, second), (second, first)


def emergence_steps(run: Trained, name: str, level: float = 0.5) -> np.ndarray:
    """Updates until each skill's accuracy first reaches `level`, S; NaN where it does not.

    Linear between looks. A skill that a look asks for less often than 30 times has none, as an
    accuracy of so few answers reaches anything by chance.
    """
    outcomes = looks(run, name)
    accuracy_NxS = np.array([o.accuracy_S for o in outcomes])
    accuracy_NxS[:, outcomes[0].edges_S < _FEWEST_ANSWERS] = np.nan
    steps_N = run.steps_N
    found_S = np.full(accuracy_NxS.shape[1], np.nan)
    for s, accuracy_N in enumerate(accuracy_NxS.T):
        reached = np.flatnonzero(accuracy_N >= level)
        if not len(reached) or not reached[0]:
            continue
        i = reached[0]
        share = (level - accuracy_N[i - 1]) / (accuracy_N[i] - accuracy_N[i - 1])
        found_S[s] = steps_N[i - 1] + share * (steps_N[i] - steps_N[i - 1])
    return found_S


def rank_slope(steps_S: np.ndarray) -> float:
    """Slope of the logarithm of the emergence time on that of the rank, by least squares.

    Over ranks 1 .. r, r the last one up to which nearly all skills have a time, so that those
    that never emerge are not left out in favour of the fast ones; NaN with few of them.
    """
    rank_U, steps_U = _emerged(steps_S)
    if len(rank_U) < _FEWEST:
        return math.nan
    return float(np.polyfit(np.log(rank_U), np.log(steps_U), 1)[0])


def onset_and_slope(steps_S: np.ndarray) -> tuple[float, float]:
    """t0 and z of time = t0 + c rank^z, by least squares of the logarithm of the time.

    Nothing emerges before the form of the answers is learned, which flattens `rank_slope`. Both
    are NaN with few skills.
    """
    rank_U, steps_U = _emerged(steps_S)
    if len(rank_U) < _FEWEST:
        return math.nan, math.nan

    def residual(x):
        onset, log_c, z = x
        return np.log(np.maximum(onset, 0) + np.exp(log_c) * rank_U**z) - np.log(steps_U)

    start = 0.5 * steps_U.min(), math.log(0.5 * steps_U.min()), 1.0
    low, high = (0.0, -np.inf, 0.0), (steps_U.min(), np.inf, 8.0)
    found = optimize.least_squares(residual, start, bounds=(low, high), x_scale=(100.0, 1.0, 1.0))
    return float(found.x[0]), float(found.x[2])


def _emerged(steps_S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 1 and times of the skills that a fit uses."""
    missing = np.isnan(steps_S)
    late = np.cumsum(missing) / np.arange(1, len(steps_S) + 1)
    last = np.flatnonzero(late <= _MOST_LATE)
    ranks = np.arange(len(steps_S))
    use = ~missing & (ranks <= (last[-1] if len(last) else -1))
    return ranks[use] + 1.0, steps_S[use]


def tuple_size_at(joint_A: np.ndarray, tau: float) -> float:
    """The size k* at which competence on k*-tuples is tau, between whole ones by interpolation.

    NaN where it is beyond 1 .. A.
    """
    if not joint_A[0] >= tau >= joint_A[-1]:
        return math.nan
    after = int(np.argmax(joint_A <= tau))
    if not after:
        return 1.0
    high, low = joint_A[after - 1], joint_A[after]
    return float(after + (high - tau) / (high - low))


def distinct_pairs(run: Trained) -> float:
    """Pairs that training may show, over the number of skills."""
    language = run.config.language
    held_out_SxS = languages.tables(language).held_out_SxS
    off = ~np.eye(language.skills, dtype=bool)
    seen = (~held_out_SxS & off).sum() / (1 if language.kind == "serial" else 2)
    return float(seen) / language.skills


def held_out_gap(run: Trained, size: int, look: int = -1) -> tuple[float, float]:
    """Success on texts of a size with seen pairs alone, less with held-out ones, at a look.

    Returns:
      The gap as it is, and the gap that is left when both are compared with the product of the
      accuracies of their skills: texts with held-out pairs have rarer skills.
    """
    seen = run.outcomes(f"k{size}", look)
    held = run.outcomes(f"k{size}/{HELD_OUT}", look)
    raw = held.theta - seen.theta
    if seen.right_TxA.shape[1] == 1:
        return raw, math.nan
    k = seen.skills_TxK.shape[1]
    kept, named = product_residual(seen, k), product_residual(held, k, of=seen)
    return raw, kept - named
