"""The loss along a continual run as a law of its learning rates, and of replay.

Wang et al. 2025 (arXiv:2505.07796), Eq. 4; without a second stage it is Eq. 1:
L = L0 + A (S1 + S1')^-alpha - C1 S2 - C2 S2' + B (1 - (1 + E S1')^-beta), where ' marks the second
stage and S1, S2 are those of `areas`. B > 0 for the old set, which is forgotten, B < 0 for the new
one.

Replay at a share x enters in one of two forms, which differ in what the last term becomes:

  EQ8     old: times 1 - exp(-a2 (1 - x)); new: times exp(a2 (1 - x)) - 1 (Eq. 8). Transcribed at
          second hand; the order of its terms there is not certain.
  POWER   old: times (1 + b x)^-a, the way injected data enter the law of Bethune et al. 2025
          (arXiv:2502.06042), and S1' there becomes (1 + b x) S1': what is learned again as it is
          forgotten comes to rest the lower, the sooner; new: S1' becomes (1 - x)^a S1', as only
          1 - x of the tokens are new. Without replay it is Eq. 4.

A share that goes from 0 to 0.01 changes Eq. 8 by a hundredth of its way, which cannot be steep;
POWER saturates. In both, C2 is times exp(a1 x), in Eq. 8 for the new set times exp(a1 (1 - x)).

Axes: T steps of a whole run, S recorded ones, Q parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llm_dynamics.continual.areas import DECAY, Areas, areas
from llm_dynamics.continual.robust_fit import check_losses, check_share
from llm_dynamics.errors import UserError

SETS = ("old", "new")
_TINY = 1e-12  # share of new data that stands for none
NAMES = ("L0", "A", "alpha", "C1", "C2", "B", "E", "beta")
EQ8, POWER = "Eq. 8", "power"  # forms of replay
# Form -> set -> names of the parameters that replay adds.
REPLAY_NAMES = {
    EQ8: {"old": ("a1", "a2"), "new": ("a1", "a2")},
    POWER: {"old": ("a1", "b", "a"), "new": ("a1", "a")},
}

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
      arm: what is done, the same name for every seed. Arms with the same rates and share may
        still differ in what the law does not know, such as their data.
    """

    seed: int
    steps_S: np.ndarray
    losses_S: np.ndarray
    rates_T: np.ndarray
    start: int
    replay: float = 0.0
    arm: str = ""

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


def evaluate(
    parameters: Mapping[str, float], at: Areas, replay: float | np.ndarray, which: str
) -> np.ndarray:
    """Predicted losses at some areas; arrays of one length.

    Args:
      parameters: NAMES, and those of a form of REPLAY_NAMES where replay matters. Without the
        latter it is Eq. 4.
      at: S1 and S2 of both stages.
      replay: share of old data in the second stage; of each point, or one of all.
      which: "old" or "new" set.

    Raises:
      UserError: no such set, or no share.
    """
    return _terms(parameters, at, replay, which).loss_S


def gradient(
    parameters: Mapping[str, float], at: Areas, replay: float | np.ndarray, which: str
) -> dict[str, np.ndarray]:
    """Derivatives of `evaluate` by each of the parameters; see there."""
    p, t = parameters, _terms(parameters, at, replay, which)
    annealed, shifted = t.annealed, t.shifted
    power = t.inner_S ** -p["beta"]
    by_E = p["B"] * shifted * p["beta"] * power / t.inner_S * t.new_S
    found = {
        "L0": np.ones_like(t.loss_S),
        "A": t.trunk_S,
        "alpha": -p["A"] * t.trunk_S * np.log(at.first_T + at.second_T),
        "C1": -at.first_decay_T,
        "C2": -at.second_decay_T * annealed,
        "B": (1 - power) * shifted,
        "E": by_E,
        "beta": p["B"] * shifted * power * np.log(t.inner_S),
    }
    if "a1" not in p:
        return found
    x, unit_S = t.share, p["B"] * (1 - power)
    towards = 1 - x if "a2" in p and which == "new" else x
    found["a1"] = -p["C2"] * at.second_decay_T * annealed * towards
    if "a2" in p:
        found["a2"] = unit_S * (1 - x) * np.exp((1 if which == "new" else -1) * p["a2"] * (1 - x))
    elif which == "old":
        found["b"] = (p["E"] * by_E - p["a"] * unit_S * shifted) * x / (1 + p["b"] * x)
        found["a"] = unit_S * shifted * -np.log1p(p["b"] * x)
    else:
        found["a"] = by_E * p["E"] * np.log(np.maximum(1 - x, _TINY))
    return {name: np.broadcast_to(one_S, t.loss_S.shape) for name, one_S in found.items()}


class _Terms(NamedTuple):
    """What a loss is made of, at every point."""

    loss_S: np.ndarray
    share: np.ndarray  # of replay
    trunk_S: np.ndarray  # (S1 + S1')^-alpha
    new_S: np.ndarray  # S1' that counts for the shift
    inner_S: np.ndarray  # 1 + E S1'
    annealed: np.ndarray | float  # factor of C2
    shifted: np.ndarray | float  # factor of the shift


def _terms(parameters, at: Areas, replay, which: str) -> _Terms:
    if which not in SETS:
        raise UserError(f"expected the old or the new set, got {which!r}")
    for end in (np.min(replay), np.max(replay)):
        check_share(float(end), "replay")
    p, x = parameters, np.asarray(replay, float)
    annealed, shifted, new_S = 1.0, 1.0, at.second_T
    if "a2" in p:
        if which == "old":
            annealed, shifted = np.exp(p["a1"] * x), 1 - np.exp(-p["a2"] * (1 - x))
        else:
            annealed, shifted = np.exp(p["a1"] * (1 - x)), np.exp(p["a2"] * (1 - x)) - 1
    elif "a1" in p:
        annealed = np.exp(p["a1"] * x)
        if which == "old":
            shifted = (1 + p["b"] * x) ** -p["a"]
            new_S = at.second_T * (1 + p["b"] * x)
        else:
            new_S = at.second_T * np.maximum(1 - x, _TINY) ** p["a"]
    trunk_S = (at.first_T + at.second_T) ** -p["alpha"]
    inner_S = 1 + p["E"] * new_S
    loss_S = (
        p["L0"]
        + p["A"] * trunk_S
        - p["C1"] * at.first_decay_T
        - p["C2"] * at.second_decay_T * annealed
        + p["B"] * (1 - inner_S ** -p["beta"]) * shifted
    )
    return _Terms(loss_S, x, trunk_S, new_S, inner_S, annealed, shifted)


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
