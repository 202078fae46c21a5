"""Published laws of the loss against the share of a data set, its tokens, and the model's size.

None of these was checked against its paper's PDF; forms are as transcribed at second hand.

Axes: P measured points.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from llm_dynamics.continual import robust_fit
from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.seeds import PerSeed

# Gu et al. 2024 (arXiv:2407.17467), Table 5: a4, s4 and b3 of each model size, eps = 0.05.
CRITICAL = {
    "460M": (0.22524761, 0.26944345, -0.48139982),
    "940M": (0.7520627, 0.13720245, -1.06581937),
    "1.6B": (-2.36384831, -0.15125569, 1.59223649),
    "3.1B": (-2.5368197, -0.42071423, 0.84375368),
}
_NATS = "nats per token"
CRITICAL_UNIT = 0.2e9  # tokens


@dataclass(frozen=True)
class Points:
    """Losses on one data set over runs that differ in size, tokens or share; arrays of P.

    Attributes:
      sizes_P: parameters of the model.
      tokens_P: of the stage (D-CPT law) or unique tokens of the new data (law of injection).
      shares_P: of the data set whose loss it is (D-CPT law) or of injected old data.
      losses_P: nats per token.
    """

    sizes_P: np.ndarray
    tokens_P: np.ndarray
    shares_P: np.ndarray
    losses_P: np.ndarray

    def __post_init__(self):
        robust_fit.check_losses(self.losses_P)
        for share in np.ravel(self.shares_P):
            robust_fit.check_share(share)
        columns = (self.sizes_P, self.tokens_P, self.shares_P, self.losses_P)
        if len({np.shape(column) for column in columns}) > 1 or np.ndim(self.losses_P) != 1:
            raise UserError("expected a size, tokens, a share and a loss of every point")
        if not (np.min(self.sizes_P) > 0 and np.min(self.tokens_P) > 0):
            raise UserError("expected sizes and tokens above 0")

    def without(self, index: int | np.ndarray) -> "Points":
        """All points but one or some."""
        columns = (self.sizes_P, self.tokens_P, self.shares_P, self.losses_P)
        return Points(*(np.delete(column, index) for column in columns))


@dataclass(frozen=True)
class LawFit:
    """A fitted law.

    Attributes:
      law: (parameters, sizes, tokens, shares) to losses.
      parameters: by name.
      held: names that the points do not determine, and that were held at 0.
      error: mean relative error on the points.
      left_out_error: the same, each point predicted from a fit to the others, or to the other
        shares where shares were left out.
      left_out_shares: share -> mean relative error on its points by a fit to the other shares; all
        but the least and the largest. Empty where points were left out.
    """

    law: Callable[..., np.ndarray]
    parameters: Mapping[str, float]
    held: tuple[str, ...]
    error: float
    left_out_error: float
    left_out_shares: Mapping[float, float] = field(default_factory=dict)

    def predict(self, size: float, tokens: float, share: float) -> float:
        """Loss of one run.

        Raises:
          UserError: no share.
        """
        robust_fit.check_share(share)
        return float(self.law(self.parameters, size, tokens, share))


def dcpt_loss(parameters: Mapping[str, float], sizes, tokens, shares):
    """D-CPT law, Que et al. 2024 (arXiv:2406.01375).

    E + A / N^alpha + B r^eta / D^beta + C / (r + eps)^gamma, with r the share of the corpus whose
    loss it is.
    """
    p = parameters
    return (
        p["E"]
        + p["A"] / sizes ** p["alpha"]
        + p["B"] * shares ** p["eta"] / tokens ** p["beta"]
        + p["C"] / (shares + p["eps"]) ** p["gamma"]
    )


def injection_loss(parameters: Mapping[str, float], sizes, tokens, shares):
    """Forgetting with injected old data, Bethune et al. 2025 (arXiv:2502.06042).

    L0 + A D^beta / ((1 + B p) N)^alpha: loss on the old data after training on D unique new
    tokens with a share p of old ones. L0, the loss before, takes up a constant if there is one.
    """
    p = parameters
    return p["L0"] + p["A"] * tokens ** p["beta"] / ((1 + p["B"] * shares) * sizes) ** p["alpha"]


def critical_share(size: str, tokens: float) -> float:
    """Largest share of new data that lifts the general loss by at most 0.05 (Gu et al. 2024).

    Args:
      size: a key of CRITICAL.
      tokens: of the stage.

    Raises:
      UserError: an unknown size, or tokens at which the fit gives no share.
    """
    if size not in CRITICAL:
        raise UserError(f"expected a model size of {', '.join(CRITICAL)}, got {size!r}")
    a, s, b = CRITICAL[size]
    share = a * (tokens / CRITICAL_UNIT) ** s + b
    if not 0 <= share <= 1:
        raise UserError(
            f"expected tokens near those the law was fitted to (20e9), got {tokens:g}, where it "
            f"gives a share of {share:.2f}"
        )
    return share


def fit_dcpt(points: Points, by_share: bool = False) -> LawFit:
    """Fits the D-CPT law; terms of a size or of tokens that do not vary are held at 0.

    Args:
      points: measured.
      by_share: whether whole shares are left out and not points; points along one run are alike,
        so one of them is foretold by its neighbours.

    Raises:
      UserError: fewer than three shares (five, where shares are left out), or not more points
        than parameters.
    """
    shares = len(np.unique(points.shares_P))
    if by_share and shares < 5:
        raise UserError(f"expected at least five shares to leave some out, got {shares}; add runs")
    starts = [
        {"E": e, "A": 0.3, "alpha": 0.3, "B": 0.5, "eta": 0.3, "beta": b} | tail
        for e in (0.5, 0.9)
        for b in (0.1, 0.4)
        for tail in ({"C": 0.1, "eps": 0.1, "gamma": 0.5}, {"C": 0.02, "eps": 0.02, "gamma": 1.5})
    ]
    high = {"E": 20, "A": 50, "alpha": 3, "B": 50, "eta": 5, "beta": 3, "C": 20, "eps": 1}
    held = ("A", "alpha") if _one(points.sizes_P) else ()
    held += ("beta",) if _one(points.tokens_P) else ()
    losses = {"E", "A", "B", "C"}
    return _fit(dcpt_loss, points, starts, high | {"gamma": 5}, held, losses, by_share)


def dcpt_rows(name: str, points: Points, seeds: int) -> list[Row]:
    """The D-CPT law of one model along runs that differ in the share, and its held-out error.

    Args:
      name: of the rows.
      points: measured along the runs, each a mean over seeds; at least five shares.
      seeds: how many.
    """
    of = "of the D-CPT law (Que et al. 2024) of the loss on the new data"
    note = (
        "runs of one schedule: what tokens do is not told apart from what the rate does; one "
        "model: the term of its size is not identified and is part of E"
    )
    try:
        law = fit_dcpt(points, by_share=True)
    except UserError as error:
        error_name = f"{name}/left_out_error"
        return [interval_row(error_name, exact(np.nan), "1", 0, of, missing=str(error))]
    units = {"E": _NATS, "B": f"{_NATS} x tokens^beta", "C": _NATS}
    rows = [
        interval_row(
            f"{name}/{key}",
            exact(value),
            units.get(key, "1"),
            seeds,
            f"{key} {of}, fitted to means over seeds",
            f"no interval: parameters are hardly told apart; {note}",
        )
        for key, value in law.parameters.items()
        if key not in law.held
    ]
    left = PerSeed(dict(enumerate(law.left_out_shares.values())))
    words = (
        "mean of |predicted - measured| / measured along the runs of a share, by the D-CPT law "
        "fitted to those of the other shares; mean over shares but the least and the largest"
    )
    over = f"n: shares; interval over shares; {note}"
    rows.append(interval_row(f"{name}/left_out_error", left.interval(), "1", left.n, words, over))
    return rows


def fit_injection(points: Points) -> LawFit:
    """Fits the law of injection; `beta` is held at 0 where tokens do not vary.

    Raises:
      UserError: fewer than three shares, or not more points than parameters.
    """
    starts = [
        {"L0": 0.8, "A": a, "beta": 0.3, "B": b, "alpha": alpha}
        for a in (0.1, 1.0)
        for b in (30.0, 1000.0)
        for alpha in (0.2, 0.6)
    ]
    high = {"L0": 20, "A": 100, "beta": 3, "B": 1e6, "alpha": 3}
    held = ("beta",) if _one(points.tokens_P) else ()
    return _fit(injection_loss, points, starts, high, held, {"L0", "A"})


def _fit(
    law: Callable[..., np.ndarray],
    points: Points,
    starts: Sequence[Mapping[str, float]],
    high: Mapping[str, float],
    held: tuple[str, ...],
    in_losses: set[str],
    by_share: bool = False,
) -> LawFit:
    """Fits with sizes and tokens in units of their means, and gives coefficients for 1.

    Args:
      law: to fit.
      points: measured.
      starts: for sizes and tokens of 1; coefficients in `in_losses` in units of the lowest loss.
      high: upper bounds, in those units; lower ones are 0.
      held: names held at 0.
      in_losses: names of coefficients that are losses.
      by_share: whether shares are left out and not points.
    """
    names = [name for name in high if name not in held]
    shares = len(np.unique(points.shares_P))
    if shares < 3 or len(points.losses_P) <= len(names):
        raise UserError(
            f"expected at least three shares and more than {len(names)} points for as many "
            f"parameters, got {shares} and {len(points.losses_P)}; add runs"
        )
    size, tokens = (np.exp(np.mean(np.log(x))) for x in (points.sizes_P, points.tokens_P))
    unit = float(np.min(points.losses_P))
    scale = np.array([unit if name in in_losses else 1.0 for name in names])

    def named(theta):
        return dict.fromkeys(held, 0.0) | dict(zip(names, map(float, theta), strict=True))

    def search(some: Points, begin):
        columns = some.sizes_P / size, some.tokens_P / tokens, np.asarray(some.shares_P)
        return robust_fit.fit(
            lambda theta: law(named(theta), *columns),
            some.losses_P,
            begin,
            np.zeros(len(names)),
            scale * [high[name] for name in names],
        )[0]

    theta = search(points, [scale * [start[name] for name in names] for start in starts])
    units = points.sizes_P / size, points.tokens_P / tokens, np.asarray(points.shares_P)
    relative_P = np.abs(law(named(theta), *units) / points.losses_P - 1)

    def left_out(index):
        at = [column[index] for column in units]
        one = law(named(search(points.without(index), [theta])), *at)
        return float(np.mean(np.abs(one / points.losses_P[index] - 1)))

    if by_share:
        inner = np.unique(points.shares_P)[1:-1]
        by = {float(one): left_out(np.flatnonzero(points.shares_P == one)) for one in inner}
    else:
        by = {index: left_out(index) for index in range(len(points.losses_P))}
    found = named(theta)
    if law is dcpt_loss:
        found["A"] *= size ** found["alpha"]
        found["B"] *= tokens ** found["beta"]
    else:
        found["A"] *= size ** found["alpha"] / tokens ** found["beta"]
    error = float(np.mean(list(by.values())))
    return LawFit(law, found, held, float(np.mean(relative_P)), error, by if by_share else {})


def _one(values_P: np.ndarray) -> bool:
    return len(np.unique(values_P)) == 1
