"""Sums over a learning-rate curve that the loss depends on: its area S1, and how it decayed, S2.

Tissue et al. 2024 (arXiv:2408.11029) and Wang et al. 2025 (arXiv:2505.07796, Eq. 1):
S1(t) = sum_i eta_i, S2(t) = sum_{i<=t} sum_{k<=i} (eta_{k-1} - eta_k) decay^(i-k).

Axes: T steps of a whole run, all stages.
"""

from typing import NamedTuple

import numpy as np
from scipy import signal

from llm_dynamics.errors import UserError

DECAY = 0.999  # as published: the rate is forgotten within about a thousand steps


class Areas(NamedTuple):
    """Sums up to and with each step of a run of two stages; all of T steps.

    Attributes:
      first_T, second_T: S1 of the rates of each stage; the first stays as it was in the second.
      first_decay_T, second_decay_T: S2 of what the rate fell in each stage. What fell in the
        first stage goes on to count in the second, or the law would not be that of one run when
        the second stage is more of the same.
    """

    first_T: np.ndarray
    second_T: np.ndarray
    first_decay_T: np.ndarray
    second_decay_T: np.ndarray


def areas(rates_T: np.ndarray, start: int | None = None, decay: float = DECAY) -> Areas:
    """S1 and S2 of both stages, in one pass over the steps.

    The first rate falls from nowhere. The rate of the first step of the second stage falls from
    the last one of the first, so re-warming counts against S2.

    Args:
      rates_T: of every step, >= 0.
      start: steps of the first stage; None = all.
      decay: weight of a step ago, in [0, 1).

    Raises:
      UserError: rates or `decay` out of range, or a start outside of the run.
    """
    rates_T = np.asarray(rates_T, float)
    start = len(rates_T) if start is None else start
    if rates_T.ndim != 1 or not len(rates_T) or not (rates_T >= 0).all():
        raise UserError(f"expected learning rates of at least 0 of every step, got {rates_T[:5]}")
    if not 0 < start <= len(rates_T):
        raise UserError(f"expected a first stage of 1 to {len(rates_T)} steps, got {start}")
    if not 0 <= decay < 1:
        raise UserError(f"expected a decay in [0, 1), got {decay}; 0.999 is the published one")
    first_T = np.arange(len(rates_T)) < start
    fall_T = -np.diff(rates_T, prepend=rates_T[0])
    parts = []
    for stage_T in (first_T, ~first_T):
        kept_T = signal.lfilter([1.0], [1.0, -decay], np.where(stage_T, fall_T, 0.0))
        parts.append((np.cumsum(np.where(stage_T, rates_T, 0.0)), np.cumsum(kept_T)))
    return Areas(parts[0][0], parts[1][0], parts[0][1], parts[1][1])


def warm_up_at_peak(rates_T: np.ndarray, start: int | None = None) -> np.ndarray:
    """Rates with the warm-up of the first stage put at its peak, as the law's authors take it.

    Their published script counts the steps of a warm-up as steps at the peak rate. A second stage
    is left as it is.
    """
    rates_T = np.array(rates_T, float)
    peak = int(np.argmax(rates_T[:start]))
    rates_T[:peak] = rates_T[peak]
    return rates_T
