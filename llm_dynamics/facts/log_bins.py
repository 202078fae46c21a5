"""Averages of a curve over equal steps of log10 t, so that every decade weighs the same.

Of 1,550 integer steps nine in ten have t > 155: a fit to all of them is a fit to the last decade,
and neighbouring steps repeat each other. A bin average takes both away at the price of an exact t.
"""

from typing import NamedTuple

import numpy as np

PER_DECADE = 8


class LogBins(NamedTuple):
    """Which offsets were averaged into what.

    Attributes:
      average_BxT: rows sum to 1; `curve_T @ average_BxT.T` are the bin averages.
      log_t_B: mean of log10 t over each bin, so that a line on log10 t stays that line.
      t_B: 10 ** log_t_B.
    """

    average_BxT: np.ndarray
    log_t_B: np.ndarray

    @property
    def t_B(self) -> np.ndarray:
        return 10.0**self.log_t_B


def log_bins(t_T: np.ndarray, per_decade: int = PER_DECADE) -> LogBins:
    """Bins of width 1 / per_decade on log10 t that hold at least one of the given times.

    Raises:
      ValueError: a time below 1, or less than one bin a decade.
    """
    t_T = np.asarray(t_T, float)
    if t_T.min(initial=1) < 1 or not t_T.size or per_decade < 1:
        raise ValueError("expected times of at least 1 and at least one bin a decade")
    x_T = np.log10(t_T)
    # A hair above, so that t = 10 does not fall below its edge by rounding.
    bin_T = np.floor(x_T * per_decade + 1e-9).astype(int)
    _, index_T = np.unique(bin_T, return_inverse=True)
    member_BxT = (index_T == np.arange(index_T.max() + 1)[:, None]).astype(float)
    average_BxT = member_BxT / member_BxT.sum(axis=1, keepdims=True)
    return LogBins(average_BxT, average_BxT @ x_T)
