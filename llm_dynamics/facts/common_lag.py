"""Gains measured at one lag after every encounter instead of at a maximum of each probe.

The maximum of each probe (Chang et al. 2024, Eq. 1) is sought in its own noise. That noise lifts
the score at the maximum, less so in an arm that gains than in a control that does not, so that the
control takes away too much; and what all probes of a run share moves the maxima and so the origin
of t, which does not cancel and which no resampling of facts sees. At a fixed lag every measure is
linear in the scores: what is shared cancels exactly and nothing is lifted. Both, in numbers:
docs/statistics.md.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from llm_dynamics.facts import measures


def common_lag(
    groups: Iterable[tuple[np.ndarray, Sequence[int]]],
    control_S: np.ndarray | float,
    steps_S: np.ndarray,
    window: int,
) -> int:
    """The lag in 1 .. window at which injected less never-injected probes stand highest.

    Averaged over probes and encounters; a window ends at the group's next encounter. The more
    probes and encounters, the less its choice follows their noise: give it all injected probes of
    a run, or of an earlier run, and use one lag for all cells.

    Args:
      groups: scores S x P of probes that share their encounters (mean log-probability per target
        token, nats), and the updates of those encounters.
      control_S: mean score of never-injected probes at the same steps; 0 without any.
      steps_S: recorded steps.
      window: steps.

    Raises:
      UserError: a step that was not recorded before an encounter or inside its window.
    """
    total_T, count_T = np.zeros(window), np.zeros(window)
    for score_SxP, times in groups:
        above_S = score_SxP.mean(axis=1) - control_S
        for start, end in zip(times, [*times[1:], times[-1] + window], strict=True):
            reach = min(window, end - start)
            wanted_T = start + np.arange(reach + 1)
            rows_T = measures.rows_at(steps_S, wanted_T, "the lag of the maximum after encounters")
            rise_T = above_S[rows_T[1:]] - above_S[rows_T[0]]
            total_T[:reach] += rise_T * score_SxP.shape[1]
            count_T[:reach] += score_SxP.shape[1]
    return int(np.argmax(total_T / np.maximum(count_T, 1))) + 1


def gains_at_lag(
    loglik_SxP: np.ndarray, steps_S: np.ndarray, encounters_U: Sequence[int], lag: int
) -> np.ndarray:
    """Score `lag` steps after each encounter less that just before it, U x P, in nats (Eq. 2)."""
    before_U = measures.rows_at(steps_S, np.asarray(encounters_U), "the score before an encounter")
    at_U = measures.rows_at(steps_S, np.asarray(encounters_U) + lag, "the gain of an encounter")
    return loglik_SxP[at_U] - loglik_SxP[before_U]


def after_lag(
    loglik_SxP: np.ndarray,
    steps_S: np.ndarray,
    encounters_U: Sequence[int],
    lag: int,
    offsets_T: np.ndarray,
) -> np.ndarray:
    """Scores t steps after the last encounter's lag less those before the first, T x P, in nats.

    Scores between recorded steps are interpolated linearly in time.

    Args:
      offsets_T: within the run, as from `measures.common_offsets`.
    """
    change_SxP = measures.change(loglik_SxP, steps_S, encounters_U[0])
    wanted_T = encounters_U[-1] + lag + np.asarray(offsets_T)
    if wanted_T.max() > steps_S[-1]:
        raise ValueError(f"expected times up to step {steps_S[-1]}, got {wanted_T.max()}")
    after_T = np.searchsorted(steps_S, wanted_T)
    before_T = np.maximum(after_T - 1, 0)
    gap_T = np.maximum(steps_S[after_T] - steps_S[before_T], 1)
    back_Tx1 = ((steps_S[after_T] - wanted_T) / gap_T)[:, None]
    return change_SxP[after_T] * (1 - back_Tx1) + change_SxP[before_T] * back_Tx1
