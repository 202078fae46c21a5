"""Effectivity and retainability, as defined by Chang et al. 2024, Sec. 3, Definitions 1 to 3.

Axes: S recorded steps, P probes, U encounters, T offsets in steps after the last local
acquisition maximum. `loglik_SxP` is the mean log-probability of the target's tokens (nats per
token); row s was scored with the parameters before update `steps_S[s]`, so an injection at update
t first shows at step t + 1.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llm_dynamics.errors import UserError


class Maxima(NamedTuple):
    """Local acquisition maxima: at which step, and how high."""

    step_UxP: np.ndarray
    value_UxP: np.ndarray


class Retainability(NamedTuple):
    """Ratios of the probes that have one.

    Attributes:
      ratio_TxP: only the P' probes of `kept_P`.
      kept_P: which of the probes have a usable denominator.
    """

    ratio_TxP: np.ndarray
    kept_P: np.ndarray


def rows_at(steps_S: np.ndarray, wanted: np.ndarray, why: str) -> np.ndarray:
    """The rows of the log that hold the wanted steps, in the shape of `wanted`.

    Raises:
      UserError: a step that was not recorded, with what it is needed for.
    """
    wanted = np.asarray(wanted)
    rows = np.minimum(np.searchsorted(steps_S, wanted), len(steps_S) - 1)
    absent = np.unique(wanted[steps_S[rows] != wanted])
    if absent.size:
        shown = ", ".join(map(str, absent[:5])) + (", ..." if absent.size > 5 else "")
        raise UserError(
            f"expected probe scores at every step needed for {why}, got none at {absent.size} "
            f"steps ({shown}); probe every step there (probe.every=1, or probe.around_events at "
            "least the window), and let the run end after the last window"
        )
    return rows


def local_acquisition_maximum(
    loglik_SxP: np.ndarray, steps_S: np.ndarray, encounters_U: Sequence[int], window: int
) -> Maxima:
    """Eq. 1: per probe and encounter the step of the largest score in (t_i, t_i + window].

    The first such step on ties.

    Raises:
      UserError: a step inside a window that was not recorded.
    """
    if window < 1:
        raise ValueError(f"expected a window of at least 1 step, got {window}")
    wanted_UxT = np.asarray(encounters_U, int)[:, None] + np.arange(1, window + 1)
    rows_UxT = rows_at(steps_S, wanted_UxT, "the maximum after an encounter")
    best = [loglik_SxP[rows_T].argmax(axis=0) for rows_T in rows_UxT]
    rows_UxP = np.stack([rows_T[b] for rows_T, b in zip(rows_UxT, best, strict=True)])
    value_UxP = np.take_along_axis(loglik_SxP, rows_UxP, axis=0)
    return Maxima(np.asarray(steps_S)[rows_UxP], value_UxP)


def effectivity(
    loglik_SxP: np.ndarray, steps_S: np.ndarray, encounters_U: Sequence[int], window: int
) -> np.ndarray:
    """Eq. 2: E_UxP, the maximum after each encounter less the score just before it, in nats.

    The baseline is the row of that encounter, not of the first. Noise alone makes it positive, so
    compare with facts that were never injected.
    """
    maxima = local_acquisition_maximum(loglik_SxP, steps_S, encounters_U, window)
    rows_U = rows_at(steps_S, np.asarray(encounters_U, int), "the score before an encounter")
    return maxima.value_UxP - loglik_SxP[rows_U]


def change(loglik_SxP: np.ndarray, steps_S: np.ndarray, first: int) -> np.ndarray:
    """Scores less those just before update `first`, S x P (the curves of Fig. 2)."""
    row = rows_at(steps_S, np.array([first]), "the score before the first encounter")
    return loglik_SxP - loglik_SxP[row]


def after_last_maximum(
    loglik_SxP: np.ndarray,
    steps_S: np.ndarray,
    encounters_U: Sequence[int],
    window: int,
    offsets_T: np.ndarray,
) -> np.ndarray:
    """Scores t steps after each last maximum less those before the first encounter, T x P.

    Scores between recorded steps are interpolated linearly in time; `between_rows` tells whether
    there are any.
    """
    last = local_acquisition_maximum(loglik_SxP, steps_S, encounters_U[-1:], window)
    base = rows_at(steps_S, np.asarray(encounters_U[:1]), "the score before the first encounter")
    wanted_TxP = last.step_UxP[0] + np.asarray(offsets_T)[:, None]
    after_TxP = np.searchsorted(steps_S, wanted_TxP)
    value_TxP = np.take_along_axis(loglik_SxP, after_TxP, axis=0)
    gap_TxP = steps_S[after_TxP] - wanted_TxP
    if gap_TxP.any():
        before_TxP = np.maximum(after_TxP - 1, 0)
        earlier_TxP = np.take_along_axis(loglik_SxP, before_TxP, axis=0)
        share_TxP = gap_TxP / np.maximum(steps_S[after_TxP] - steps_S[before_TxP], 1)
        value_TxP = value_TxP + share_TxP * (earlier_TxP - value_TxP)
    return value_TxP - loglik_SxP[base]


def common_offsets(steps_S: np.ndarray, encounters_U: Sequence[int], window: int) -> np.ndarray:
    """Every t >= 0 that is within the run for all maxima: 0 .. end - (last encounter + window).

    Raises:
      UserError: a run that ends within the last window.
    """
    last = encounters_U[-1] + window
    if steps_S[-1] < last:
        raise UserError(
            f"expected the run to end at or after step {last}, the end of the last window, got "
            f"{int(steps_S[-1])}; lengthen the run or shorten the schedule"
        )
    return np.arange(int(steps_S[-1]) - last + 1)


def between_rows(steps_S: np.ndarray, encounters_U: Sequence[int]) -> bool:
    """Whether steps after the last encounter were left unrecorded."""
    later_S = steps_S[steps_S >= encounters_U[-1]]
    return bool((np.diff(later_S) > 1).any())


def retainability(gain_TxP: np.ndarray) -> Retainability:
    """Eq. 3: gains over the gain at t = 0, per probe; 1 at t = 0, 0 when the gain is gone.

    As published, every probe has a ratio but one whose gain is exactly 0, and so do facts that
    were never learned (negative gain).

    Args:
      gain_TxP: from `after_last_maximum`, the first row at t = 0.
    """
    kept_P = gain_TxP[0] != 0
    return Retainability(gain_TxP[:, kept_P] / gain_TxP[0, kept_P], kept_P)


def interquartile_keep(values: np.ndarray, factor: float | None, axis: int = -1) -> np.ndarray:
    """Which values lie within Q1 - factor * IQR .. Q3 + factor * IQR along `axis`.

    The paper's factor is 1.5, its released code's 2.0; None keeps everything.
    """
    if factor is None or not values.shape[axis]:
        return np.ones(values.shape, bool)
    low, high = np.quantile(values, (0.25, 0.75), axis=axis, keepdims=True)
    reach = factor * (high - low)
    return (values >= low - reach) & (values <= high + reach)


def mean_of_ratios(
    ratio_TxP: np.ndarray, factor: float | None = 1.5
) -> tuple[np.ndarray, np.ndarray]:
    """The published curve: mean over probes at each t after the outlier filter of that t.

    Returns:
      mean_T and kept_TxP; the probes kept may differ from one t to the next.
    """
    if not ratio_TxP.shape[1]:
        raise ValueError("expected at least one probe with a ratio, got none")
    kept_TxP = interquartile_keep(ratio_TxP, factor)
    return (ratio_TxP * kept_TxP).sum(1) / kept_TxP.sum(1), kept_TxP
