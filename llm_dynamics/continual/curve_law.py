"""The loss along a continual run as a law of its learning rates, and of replay.

Wang et al. 2025 (arXiv:2505.07796), Eq. 4; without a second stage it is Eq. 1:
L = L0 + A (S1 + S1')^-alpha - C1 S2 - C2 S2' + B (1 - (1 + E S1')^-beta), where ' marks the second
stage and S1, S2 are those of `areas`. B > 0 for the old set, which is forgotten, B < 0 for the new
one. With replay, Eq. 8 scales C2 and the last term by functions of the shares of old and new data.
Eq. 8 was transcribed at second hand and the order of its terms there is not certain.

Axes: T steps of a whole run, S recorded ones, Q parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_dynamics.continual.areas import DECAY, Areas, areas
from llm_dynamics.continual.robust_fit import check_losses, check_share
from llm_dynamics.errors import UserError

SETS = ("old", "new")
NAMES = ("L0", "A", "alpha", "C1", "C2", "B", "E", "beta")
REPLAY_NAMES = ("a1", "a2")

# Fig. 3, peak rate 2e-4; transcribed from the full text.
PUBLISHED = {
    "FineWeb": dict(
        zip(NAMES, (3.057, 0.490, 0.497, 0.299, 0.298, 0.366, 28.0, 0.189), strict=True)
    ),
    "Knowledge-Pile": dict(
        zip(NAMES, (3.024, 0.412, 0.677, 0.278, 0.324, -0.666, 5662.0, 0.146), strict=True)
    ),
}


@dataclass(frozen=True)
class Curve:
    """Loss on one data set along one run, and the rates it was trained with.

    Attributes:
      seed: of the run; curves of one seed are resampled together.
      steps_S: recorded steps, counted from 1 over all stages: after step s, s updates were made.
      losses_S: nats per token.
      rates_T: of every step of all stages, T at least the last recorded step.
      start: steps of the first stage; T when there is no second.
      replay: share of old data in the second stage.
    """

    seed: int
    steps_S: np.ndarray
    losses_S: np.ndarray
    rates_T: np.ndarray
    start: int
    replay: float = 0.0

    def __post_init__(self):
        steps_S = np.asarray(self.steps_S)
        check_losses(self.losses_S)
        check_share(self.replay, "replay")
        if steps_S.shape != np.shape(self.losses_S) or (np.diff(steps_S) <= 0).any():
            raise UserError("expected as many losses as steps, and steps that rise")
        if not (steps_S[0] >= 1 and steps_S[-1] <= len(self.rates_T)):
            raise UserError(
                f"expected steps between 1 and {len(self.rates_T)}, for which there are learning "
                f"rates, got {steps_S[0]} to {steps_S[-1]}"
            )


def evaluate(parameters: Mapping[str, float], at: Areas, replay: float, which: str) -> np.ndarray:
    """Predicted losses at some areas; arrays of one length.

    Args:
      parameters: NAMES, and REPLAY_NAMES where replay matters. Without the latter it is Eq. 4.
      at: S1 and S2 of both stages.
      replay: share of old data in the second stage.
      which: "old" or "new" set.

    Raises:
      UserError: no such set, or no share.
    """
    if which not in SETS:
        raise UserError(f"expected the old or the new set, got {which!r}")
    check_share(replay, "replay")
    p = parameters
    annealed, shifted = 1.0, 1.0
    if REPLAY_NAMES[0] in p:
        new = 1 - replay
        if which == "old":
            annealed, shifted = np.exp(p["a1"] * replay), 1 - np.exp(-p["a2"] * new)
        else:
            annealed, shifted = np.exp(p["a1"] * new), np.exp(p["a2"] * new) - 1
    shift = p["B"] * (1 - (1 + p["E"] * at.second_T) ** -p["beta"])
    return (
        p["L0"]
        + p["A"] * (at.first_T + at.second_T) ** -p["alpha"]
        - p["C1"] * at.first_decay_T
        - p["C2"] * at.second_decay_T * annealed
        + shift * shifted
    )


def at_steps(
    rates_T: np.ndarray, start: int, steps_S: Sequence[int], decay: float = DECAY
) -> Areas:
    """Areas after some steps, counted from 1.

    Raises:
      UserError: rates that are 0 up to the first of the steps, where the law is infinite.
    """
    index_S = np.asarray(steps_S) - 1
    found = Areas(*(part_T[index_S] for part_T in areas(rates_T, start, decay)))
    if not (found.first_T > 0).all():
        raise UserError("expected a learning rate above 0 by the first recorded step; leave out 0")
    return found


def mean_relative_error(predicted_S: np.ndarray, losses_S: np.ndarray) -> float:
    """Mean of |predicted - measured| / measured."""
    return float(np.mean(np.abs(np.asarray(predicted_S) / np.asarray(losses_S) - 1)))
