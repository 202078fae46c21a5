"""Loss on old and on new data against the share of replay, for a sweep of otherwise equal runs.

Old set: L(x) = floor + rise (1 + B x)^-a. It is finite without replay, falls steeply at small
shares and flattens; the power of 1 + B x is the way replay enters the law of Bethune et al. 2025
(arXiv:2502.06042), with the size and tokens of one sweep taken into `rise`. New set:
L(x) = floor + rise ((1 - x)^-a - 1): at equal compute 1 - x of the tokens are new, and the loss is
a power of them. Both are fitted to the mean over seeds by least squares of relative residuals.

Given B and a the rest is linear, so a grid over those two and a search from its best point find
the one minimum, with floor and rise of at least 0. A sweep of few shares hardly tells the
parameters apart; losses between its shares are what it determines, so those are held out.

Axes: S shares, G points of the grid, R replicates.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from llm_dynamics.continual import robust_fit
from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, exact, interval_row
from llm_dynamics.seeds import ONE_SEED, PerSeed, jackknife_interval

_DEFINITIONS = {
    "old": "of floor + rise (1 + B share)^-a, the loss on the old data",
    "new": "of floor + rise ((1 - share)^-a - 1), the loss on the new data",
}
TOLERANCE = 0.03  # of the loss on the old data, as in Que et al. 2024, Table 5
FEW_SEEDS = "no interval: fewer than three seeds"


def old_loss(p: Mapping[str, float], share):
    """Loss on the old data."""
    return p["floor"] + p["rise"] * _old_shape(share, p["B"], p["a"])


def new_loss(p: Mapping[str, float], share):
    """Loss on the new data; infinite at a share of 1."""
    return p["floor"] + p["rise"] * _new_shape(share, p["a"])


def _old_shape(share, b, a):
    return (1 + b * share) ** -a


def _new_shape(share, a):
    return (1 - share) ** -a - 1


_LAWS = {"old": old_loss, "new": new_loss}
_LOG_B = (math.log(0.1), math.log(1e6))  # bounds of the search
_A = (0.02, 5.0)


@dataclass(frozen=True)
class ReplayFit:
    """A fitted law of replay.

    Attributes:
      which: "old" or "new" set.
      parameters: by name.
      replicates: parameters without each of the seeds; empty for fewer than three.
      seeds: in every share.
      shares: fitted.
      left_out: share -> loss predicted without it less the measured one, in nats per token.
    """

    which: str
    parameters: Mapping[str, float]
    replicates: tuple[Mapping[str, float], ...]
    seeds: int
    shares: tuple[float, ...]
    left_out: Mapping[float, float]

    def predict(self, shares: Sequence[float]) -> Interval:
        """Losses at some shares, with an interval over seeds that takes the law for right.

        Raises:
          UserError: no share, or new data without a share of it.
        """
        for share in shares:
            _check(self.which, share)
        law, at = _LAWS[self.which], np.asarray(shares, float)
        value = law(self.parameters, at)
        if not self.replicates:
            return Interval(value, *np.full((2, len(value)), np.nan))
        return jackknife_interval(value, np.array([law(one, at) for one in self.replicates]))

    def share_for(self, loss: float) -> float:
        """Least share, among those from the least to the largest fitted, that brings the old loss
        down to `loss`; infinite where even the largest does not.

        Raises:
          UserError: the law is of the new set, whose loss replay does not lower.
        """
        if self.which != "old":
            raise UserError("expected the law of the old set, which replay lowers, got the new one")
        low, high = self.shares[0], self.shares[-1]
        if self.predict([high]).value[0] > loss:
            return math.inf
        if self.predict([low]).value[0] <= loss:
            return low
        p = self.parameters
        # At the ends of the sweep the law and its inverse may differ by rounding.
        shape = (loss - p["floor"]) / p["rise"]
        return float(np.clip((shape ** (-1 / p["a"]) - 1) / p["B"], low, high))

    def left_out_error(self, inner: bool = False) -> float:
        """Mean absolute error of shares predicted without them; `inner`: not at either end."""
        kept = sorted(self.left_out)[1:-1] if inner else self.left_out
        return float(np.mean([abs(self.left_out[share]) for share in kept]))

    def rows(self, name: str) -> list[Row]:
        """A row of every parameter and of both left-out errors."""
        rows = []
        note = "" if self.replicates else FEW_SEEDS
        for key, value in self.parameters.items():
            found = Interval(np.array([value]), *np.full((2, 1), np.nan))
            if self.replicates:
                draws = np.array([[one[key]] for one in self.replicates])
                found = jackknife_interval(found.value, draws)
            definition = f"{key} {_DEFINITIONS[self.which]}"
            unit = "nats per token" if key in ("floor", "rise") else "1"
            rows.append(interval_row(f"{name}/{key}", found, unit, self.seeds, definition, note))
        for key, inner in (("left_out_error", False), ("inner_left_out_error", True)):
            definition = "mean absolute error of a share predicted from the others"
            definition += ", those at the ends of the sweep excepted" if inner else ""
            error = Interval(*np.array([[self.left_out_error(inner)], [np.nan], [np.nan]]))
            note = "over shares, not seeds"
            rows.append(
                interval_row(f"{name}/{key}", error, "nats per token", self.seeds, definition, note)
            )
        return rows


def fit_replay(
    which: str, losses: Mapping[float, PerSeed], floor: float | None = None
) -> ReplayFit:
    """Fits the law of one data set.

    Args:
      which: "old" or "new" set.
      losses: share -> loss of every seed; at least one seed in all shares, which alone count.
      floor: of the old set, where it is known, e.g. the loss of the base model; None = fitted.

    Raises:
      UserError: too few shares, no seed in all of them, or a loss or share that cannot be.
    """
    if which not in _LAWS or (which == "new" and floor is not None):
        raise UserError(f"expected the old set or the new one without a floor, got {which!r}")
    free = 3 + (which == "old") - (floor is not None)
    shares = tuple(sorted(losses))
    for share in shares:
        _check(which, share)
    if len(shares) <= free:
        raise UserError(
            f"expected at least {free + 1} shares for {free} parameters, got {len(shares)}; add "
            "shares" + (" or give the floor" if free == 4 else "")
        )
    seeds = sorted(set.intersection(*(set(per_seed.values) for per_seed in losses.values())))
    if not seeds:
        raise UserError("expected a seed that has a run of every share, got none")
    losses_RxS = np.array([[losses[share].values[seed] for share in shares] for seed in seeds])
    robust_fit.check_losses(losses_RxS)
    at_S, mean_S = np.array(shares, float), losses_RxS.mean(axis=0)
    replicates = ()
    if len(seeds) >= 3:
        without = [np.delete(losses_RxS, row, axis=0).mean(axis=0) for row in range(len(seeds))]
        replicates = tuple(_search(which, at_S, one_S, floor) for one_S in without)
    left_out = {}
    for index, share in enumerate(shares):
        found = _search(which, np.delete(at_S, index), np.delete(mean_S, index), floor)
        left_out[share] = float(_LAWS[which](found, share) - mean_S[index])
    found = _search(which, at_S, mean_S, floor)
    return ReplayFit(which, found, replicates, len(seeds), shares, left_out)


def critical_row(
    name: str,
    before: PerSeed,
    losses: Mapping[float, PerSeed],
    tolerance: float = TOLERANCE,
) -> Row:
    """The largest share of new data that keeps the loss on the old data within a tolerance.

    It is found seed by seed, by the law of replay fitted to the sweep of each, among the shares
    that were run. Where even the largest share of replay is not enough there is no value.

    Args:
      name: of the row.
      before: loss on the old data of the base model.
      losses: share of replay -> loss on the old data after the stage; at least five.
      tolerance: largest rise, as a part of the loss before.

    Raises:
      UserError: too few shares, or no seed that has all of them and a base model.
    """
    if not tolerance >= 0:
        raise UserError(f"expected a tolerance of at least 0, got {tolerance}; 3 % is 0.03")
    seeds = sorted(set(before.values).intersection(*(one.values for one in losses.values())))
    if not seeds:
        raise UserError("expected a seed that has a run of every share and a base model, got none")
    found = {}
    for seed in seeds:
        law = fit_replay("old", {s: PerSeed({seed: o.values[seed]}) for s, o in losses.items()})
        found[seed] = 1 - law.share_for((1 + tolerance) * before.values[seed])
    low, high = min(losses), max(losses)
    words = (
        "largest share of new data in the stage after which the loss on the old data is at most "
        f"{tolerance:.3g} of it above that of the base model; of each seed, by the law of replay "
        f"fitted to {len(losses)} shares of replay from {low:g} to {high:g}"
    )
    missed = sum(math.isinf(value) for value in found.values())
    if missed:
        why = f"in {missed} of {len(seeds)} seeds a share of replay of {high:g} does not keep to it"
        return interval_row(name, exact(math.nan), "1", len(seeds), words, missing=why)
    share, notes = PerSeed(found), []
    value, lowest, highest = (float(end[0]) for end in share.interval())
    if share.n < 2:
        notes.append(ONE_SEED)
    if lowest < 1 - high or highest > 1 - low:
        notes.append("the interval is cut at the shares that were run")
        lowest, highest = max(lowest, 1 - high), min(highest, 1 - low)
    if max(found.values()) == 1 - low:
        notes.append("a seed keeps to it with the least replay that was run")
    cut = Interval(*(np.array([end]) for end in (value, lowest, highest)))
    return interval_row(name, cut, "1", share.n, words, "; ".join(notes))


def _search(
    which: str, shares_S: np.ndarray, losses_S: np.ndarray, floor: float | None
) -> dict[str, float]:
    """Parameters of least squares."""
    a_G = np.geomspace(*_A, 40)
    if which == "old":
        grid_Gx2 = np.stack(np.meshgrid(np.linspace(*_LOG_B, 40), a_G), axis=-1).reshape(-1, 2)
        bounds = (_LOG_B, _A)
    else:
        grid_Gx2, bounds = a_G[:, None], (_A,)

    def solved(points_Gx2):
        last = points_Gx2[:, -1:]
        if which == "old":
            shape_GxS = _old_shape(shares_S, np.exp(points_Gx2[:, :1]), last)
        else:
            shape_GxS = _new_shape(shares_S, last)
        return _linear(shape_GxS, losses_S, floor)

    start = grid_Gx2[np.argmin(solved(grid_Gx2)[2])]
    theta = optimize.minimize(
        lambda point: solved(point[None])[2][0],
        start,
        method="Nelder-Mead",
        bounds=bounds,
        options={"xatol": 1e-7, "fatol": 1e-16, "maxiter": 600},
    ).x
    floor_G, rise_G, _ = solved(theta[None])
    found = {"floor": float(floor_G[0]), "rise": float(rise_G[0])}
    if which == "old":
        found["B"] = math.exp(theta[0])
    return found | {"a": float(theta[-1])}


def _linear(
    shape_GxS: np.ndarray, losses_S: np.ndarray, floor: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Floor, rise >= 0 and cost of floor + rise * shape, by least squares relative to losses."""
    weight_S = losses_S**-2 / (losses_S**-2).sum()
    mean_loss, mean_G = weight_S @ losses_S, shape_GxS @ weight_S
    centred_GxS = shape_GxS - (mean_G[:, None] if floor is None else 0)
    target_S = losses_S - (mean_loss if floor is None else floor)
    square_G = np.maximum((centred_GxS**2) @ weight_S, 1e-300)
    rise_G = np.maximum(centred_GxS @ (weight_S * target_S) / square_G, 0)
    if floor is None:
        # Where the floor would be below 0 it is 0, and the rise is that of a line through 0.
        square_G = np.maximum((shape_GxS**2) @ weight_S, 1e-300)
        alone_G = np.maximum(shape_GxS @ (weight_S * losses_S) / square_G, 0)
        floor_G = mean_loss - rise_G * mean_G
        rise_G = np.where(floor_G < 0, alone_G, rise_G)
        floor_G = np.maximum(floor_G, 0)
    else:
        floor_G = np.full(len(shape_GxS), float(floor))
    residual_GxS = (floor_G[:, None] + rise_G[:, None] * shape_GxS) / losses_S - 1
    return floor_G, rise_G, (residual_GxS**2).sum(axis=1)


def _check(which: str, share: float) -> None:
    robust_fit.check_share(share)
    if which == "new" and share == 1:
        raise UserError("expected a share below 1 for the loss on new data, got 1: it has none")
