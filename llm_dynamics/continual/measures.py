"""What an update of a model forgot, learned and cost: the quantities reported of every arm.

Definitions are those of Ibrahim et al. 2024 (arXiv:2403.08763) where they have one; losses are in
nats per token, and below is better. Stage 0 makes the base model, stage k trains on data set k.

Axes: R runs (one per seed), U stages, Z data sets, S recorded steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.seeds import PerSeed, ratio_row, seed_row

NATS = "nats per token"
DEFINITIONS = {
    "forgetting": "loss on the old data after the stage less that of the base model",
    "adaptation": "loss on the new data after the stage less that before it; below 0 is learned",
    "backward_transfer": "mean over earlier data sets of the loss after their own stage less the "
    "loss at the end; above 0 helps, and minus it is the mean forgetting",
    "transient_peak": "largest rise of the loss on the old data above that of the base model "
    "during the stage",
    "average": "mean of the losses on all data sets after the stage",
    "gap_update": "average loss less that of the run on the union of the data that has cost as "
    "much as the update alone and ends its schedule there",
    "gap_total": "average loss less that of the run on the union of the data at the cost of all "
    "stages together",
    "replay_removes": "1 - forgetting with replay / forgetting without it",
    "update_saving": "1 - tokens of the last stage / tokens of all stages: training tokens saved "
    "against training again on the union, at one model size; earlier stages count as spent",
    "updates_saving": "1 - tokens of all stages / tokens of training again on the union at every "
    "stage; over K equal stages K against K (K + 1) / 2",
}
MID_SCHEDULE = "the union run is read in mid-schedule, before its rate has decayed"
LONGER = "the union run ends before it has cost as much, and is read there"


@dataclass(frozen=True)
class LossMatrix:
    """Losses of one arm on every data set after every stage.

    Attributes:
      seeds: of the runs; each once.
      datasets: names, in the order in which stages train on them.
      losses_RxUxZ: nats per token, positive; one stage per data set.
    """

    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    losses_RxUxZ: np.ndarray

    def __post_init__(self):
        sets = len(self.datasets)
        shape = (len(self.seeds), sets, sets)
        if np.shape(self.losses_RxUxZ) != shape or sets < 2:
            raise UserError(
                f"expected losses of seeds x stages x data sets, {shape}, with at least two "
                f"stages, got {np.shape(self.losses_RxUxZ)}"
            )
        _check_losses(self.losses_RxUxZ, self.seeds)

    def loss(self, dataset: str, stage: int) -> PerSeed:
        """Loss on a data set after a stage; negative stages count from the last."""
        return _per_seed(self.seeds, self.losses_RxUxZ[:, stage, self._index(dataset)])

    def own(self, dataset: str) -> PerSeed:
        """Loss on a data set after the stage that trained on it."""
        return self.loss(dataset, self._index(dataset))

    def _index(self, dataset: str) -> int:
        if dataset not in self.datasets:
            raise UserError(f"expected a data set of {self.datasets}, got {dataset!r}")
        return self.datasets.index(dataset)


@dataclass(frozen=True)
class Curves:
    """Losses of one arm on some data sets along its training.

    Attributes:
      seeds: of the runs.
      datasets: names.
      tokens_S: trained on so far, rising.
      losses_RxSxZ: nats per token, positive.
    """

    seeds: tuple[int, ...]
    datasets: tuple[str, ...]
    tokens_S: np.ndarray
    losses_RxSxZ: np.ndarray

    def __post_init__(self):
        shape = (len(self.seeds), len(self.tokens_S), len(self.datasets))
        if np.shape(self.losses_RxSxZ) != shape:
            raise UserError(f"expected losses of {shape}, got {np.shape(self.losses_RxSxZ)}")
        if not len(self.tokens_S) or (np.diff(self.tokens_S) <= 0).any():
            raise UserError(f"expected tokens that rise, got {list(self.tokens_S)[:5]} ...")
        _check_losses(self.losses_RxSxZ, self.seeds)

    def average_at(self, tokens: float) -> PerSeed:
        """Mean over data sets at some tokens, on a straight line between recorded points.

        Raises:
          UserError: outside of what was recorded.
        """
        first, last = self.tokens_S[0], self.tokens_S[-1]
        if not first <= tokens <= last:
            raise UserError(
                f"expected tokens between {first:g} and {last:g} of the recorded curve, got "
                f"{tokens:g}; record the union run to the end and from early on"
            )
        mean_RxS = np.mean(self.losses_RxSxZ, axis=-1)
        return _per_seed(
            self.seeds, [np.interp(tokens, self.tokens_S, curve_S) for curve_S in mean_RxS]
        )

    def highest(self, dataset: str) -> PerSeed:
        """Largest loss on a data set along the way."""
        if dataset not in self.datasets:
            raise UserError(f"expected a data set of {self.datasets}, got {dataset!r}")
        curves_RxS = np.asarray(self.losses_RxSxZ)[..., self.datasets.index(dataset)]
        return _per_seed(self.seeds, curves_RxS.max(axis=1))


def forgetting(matrix: LossMatrix, dataset: str, stage: int = -1) -> PerSeed:
    """DEFINITIONS["forgetting"]; of a later data set, beyond the stage that trained on it."""
    return matrix.loss(dataset, stage) - matrix.own(dataset)


def adaptation(matrix: LossMatrix, stage: int = -1) -> PerSeed:
    """DEFINITIONS["adaptation"] of the data set of a stage after the first."""
    stage = stage % len(matrix.datasets)
    if not stage:
        raise UserError("expected a stage after the first, which has no loss before it")
    dataset = matrix.datasets[stage]
    return matrix.loss(dataset, stage) - matrix.loss(dataset, stage - 1)


def backward_transfer(matrix: LossMatrix) -> PerSeed:
    """DEFINITIONS["backward_transfer"], after Lopez-Paz & Ranzato 2017 (arXiv:1706.08840)."""
    earlier = matrix.datasets[:-1]
    total = forgetting(matrix, earlier[0])
    for dataset in earlier[1:]:
        total = total + forgetting(matrix, dataset)
    return total * (-1 / len(earlier))


def average(matrix: LossMatrix, stage: int = -1) -> PerSeed:
    """DEFINITIONS["average"]."""
    return _per_seed(matrix.seeds, matrix.losses_RxUxZ[:, stage].mean(axis=-1))


def transient_peak(curves: Curves, matrix: LossMatrix, dataset: str) -> PerSeed:
    """DEFINITIONS["transient_peak"]; curves are of the last stage alone."""
    return curves.highest(dataset) - matrix.loss(dataset, -2)


def update_saving(tokens: Sequence[float]) -> float:
    """DEFINITIONS["update_saving"]; tokens of every stage, the first included."""
    _check_tokens(tokens)
    return 1 - tokens[-1] / sum(tokens)


def updates_saving(tokens: Sequence[float]) -> float:
    """DEFINITIONS["updates_saving"]; tokens of every stage, the first included."""
    _check_tokens(tokens)
    return 1 - sum(tokens) / sum(np.cumsum(tokens))


def arm_rows(
    name: str,
    matrix: LossMatrix,
    curves: Curves | None = None,
    without_replay: LossMatrix | None = None,
) -> list[Row]:
    """Rows of one arm, named NAME/QUANTITY or NAME/DATASET/QUANTITY.

    Args:
      name: of the arm.
      matrix: its losses after every stage.
      curves: losses during its last stage, for the transient peaks.
      without_replay: the arm that differs by having no replay, for the share that replay removes.
    """
    rows = [
        _row(f"{name}/adaptation", adaptation(matrix)),
        _row(f"{name}/backward_transfer", backward_transfer(matrix)),
        _row(f"{name}/average", average(matrix), contrast=False),
    ]
    for dataset in matrix.datasets[:-1]:
        forgot = forgetting(matrix, dataset)
        rows.append(_row(f"{name}/{dataset}/forgetting", forgot))
        if curves is not None:
            peak = transient_peak(curves, matrix, dataset)
            rows.append(_row(f"{name}/{dataset}/transient_peak", peak))
        if without_replay is not None:
            before = forgetting(without_replay, dataset)
            rows.append(
                ratio_row(
                    f"{name}/{dataset}/replay_removes",
                    before - forgot,
                    before,
                    "1",
                    DEFINITIONS["replay_removes"],
                    "forgetting without replay is not shown to differ from 0, so the share means "
                    "little",
                )
            )
    return rows


def matrix_rows(name: str, matrix: LossMatrix) -> list[Row]:
    """The loss on every data set after every stage but the last, NAME/after_STAGE/DATASET/loss.

    A stage has the name of the data that it trains on. After the last stage they are NAME/DATASET/
    loss, which runs without earlier stages have, too.
    """
    words = "loss on the {} data after the {} stage, nats per token of held-out text"
    return [
        seed_row(
            f"{name}/after_{stage}/{dataset}/loss",
            matrix.loss(dataset, k),
            NATS,
            words.format(dataset, stage),
            contrast=False,
        )
        for k, stage in enumerate(matrix.datasets[:-1])
        for dataset in matrix.datasets
    ]


def union_rows(
    name: str,
    matrix: LossMatrix,
    tokens: Sequence[float],
    union: Curves | None = None,
    update: Curves | None = None,
) -> list[Row]:
    """Rows of the gaps to the runs on the union of all data.

    Args:
      name: of the arm.
      matrix: its losses.
      tokens: of every stage of the arm, the first included.
      union: losses of the union run of the cost of all stages along its training, of the same data
        sets; None = there is none.
      update: the same of the union run of the cost of the last stage; None = the other one is read
        there, in mid-schedule.
    """
    _check_tokens(tokens)
    rows = []
    for quantity, at, curves in (
        ("gap_update", tokens[-1], update or union),
        ("gap_total", sum(tokens), union),
    ):
        if curves is None:
            continue
        if set(curves.datasets) != set(matrix.datasets):
            raise UserError(
                f"expected the union run measured on {matrix.datasets}, got {curves.datasets}"
            )
        last = curves.tokens_S[-1]
        note = MID_SCHEDULE if at < last else LONGER if at > last else ""
        gap = average(matrix) - curves.average_at(min(at, last))
        rows.append(_row(f"{name}/{quantity}", gap, note))
    return rows


def saving_rows(tokens: Mapping[str, float]) -> list[Row]:
    """Rows of the training tokens saved; tokens of every stage by name, the first included."""
    spent = list(tokens.values())
    found = {"update_saving": update_saving(spent), "updates_saving": updates_saving(spent)}
    return [
        interval_row(name, exact(value), "1", 0, DEFINITIONS[name], "exact: no measurement in it")
        for name, value in found.items()
    ]


def _row(name: str, found: PerSeed, note: str = "", contrast: bool = True) -> Row:
    quantity = name.rsplit("/", 1)[-1]
    return seed_row(name, found, NATS, DEFINITIONS[quantity], note, contrast)


def _per_seed(seeds: Sequence[int], values_R: Sequence[float]) -> PerSeed:
    return PerSeed({seed: float(value) for seed, value in zip(seeds, values_R, strict=True)})


def _check_losses(losses: np.ndarray, seeds: Sequence[int]) -> None:
    losses = np.asarray(losses)
    if len(set(seeds)) != len(seeds) or not seeds:
        raise UserError(f"expected every seed once and at least one, got {tuple(seeds)}")
    if not np.isfinite(losses).all() or (losses <= 0).any():
        raise UserError(
            "expected losses that are finite and above 0, got "
            f"{losses[~(np.isfinite(losses) & (losses > 0))].ravel()[:3]}; leave out runs that "
            "did not end or diverged"
        )


def _check_tokens(tokens: Sequence[float]) -> None:
    if len(tokens) < 2 or not all(np.isfinite(t) and t > 0 for t in tokens):
        raise UserError(
            f"expected tokens above 0 of at least two stages, got {list(tokens)}; the first "
            "stage counts"
        )
