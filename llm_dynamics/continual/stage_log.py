"""What the runs of one arm measured, read from their folders: losses by step, rates, ledgers.

An arm is a second stage under some seeds. Its first stage is the run that each of them started
from, which lies beside it; a run from fresh parameters has none.

Axes: R runs (one per seed), S recorded steps, T steps, Z data sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_dynamics.continual.curve_law import Curve
from llm_dynamics.continual.measures import Curves, LossMatrix
from llm_dynamics.data.sources import parse_source
from llm_dynamics.errors import UserError
from llm_dynamics.train import metrics
from llm_dynamics.train.run_folder import RunFolder, read_spec

Datasets = Mapping[str, Sequence[tuple[str, float]]]  # name -> (source, weight) of its parts


@dataclass(frozen=True)
class StageLog:
    """One run.

    Attributes:
      path: of its folder.
      steps_S: at which it was validated; after step s, s updates were made.
      losses_SxZ: nats per token of every data set there.
      rates_T: learning rate of every update.
      tokens_per_step: of an update.
      ledger: source -> tokens new, replayed, repeated; empty when not recorded.
      sources: it read, without what it replayed; empty when not recorded.
      optimizer: what it did with the optimizer's moments at its start; "" when not recorded.
    """

    path: Path
    steps_S: np.ndarray
    losses_SxZ: np.ndarray
    rates_T: np.ndarray
    tokens_per_step: int
    ledger: Mapping[str, Mapping[str, int]]
    sources: tuple[str, ...] = ()
    optimizer: str = ""

    @property
    def tokens(self) -> int:
        """Trained on in all."""
        return len(self.rates_T) * self.tokens_per_step


@dataclass(frozen=True)
class Arm:
    """A second stage, or a run from fresh parameters, under every seed.

    Attributes:
      datasets: old first.
      runs: seed -> the run.
      before: seed -> the run it started from; empty for fresh parameters.
    """

    datasets: tuple[str, ...]
    runs: Mapping[int, StageLog]
    before: Mapping[int, StageLog]

    @property
    def curves(self) -> Curves:
        """Losses along its own stage. The step it starts from is the first."""
        logs = list(self.runs.values())
        tokens_S = logs[0].steps_S * logs[0].tokens_per_step
        losses_RxSxZ = np.stack([log.losses_SxZ for log in logs])
        return Curves(tuple(self.runs), self.datasets, tokens_S, losses_RxSxZ)

    @property
    def matrix(self) -> LossMatrix | None:
        """Losses after both stages; None without a first one."""
        if not self.before:
            return None
        losses_RxUxZ = np.stack(
            [
                np.stack([self.before[seed].losses_SxZ[-1], log.losses_SxZ[-1]])
                for seed, log in self.runs.items()
            ]
        )
        return LossMatrix(tuple(self.runs), self.datasets, losses_RxUxZ)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Of every stage."""
        first = next(iter(self.runs))
        before = (self.before[first].tokens,) if self.before else ()
        return (*before, self.runs[first].tokens)

    def law_curves(
        self, dataset: str, replay: float = 0.0, first: bool = True, arm: str = ""
    ) -> list[Curve]:
        """One curve a seed over both stages, for `curve_law`.

        Args:
          dataset: whose losses.
          replay: share of old data in the second stage.
          first: whether points of the first stage are among them; arms that share a first stage
            would count it several times.
          arm: its name, which tells it from others of the same rates and share.
        """
        z = self.datasets.index(dataset)
        found = []
        for seed, log in self.runs.items():
            before = self.before.get(seed)
            offset = len(before.rates_T) if before else 0
            later_S = log.steps_S > 0  # the model it starts from was measured as the first stage's
            pieces = [(log.steps_S[later_S] + offset, log.losses_SxZ[later_S, z])]
            if before and first:
                early_S = before.steps_S > 0
                pieces.insert(0, (before.steps_S[early_S], before.losses_SxZ[early_S, z]))
            steps_S, losses_S = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
            stages = [before, log] if before else [log]
            rates_T = np.concatenate([stage.rates_T for stage in stages])
            start = offset or len(rates_T)
            found.append(Curve(seed, steps_S, losses_S, rates_T, start, replay, arm))
        return found

    def first_curves(self, dataset: str) -> list[Curve]:
        """One curve a seed of its first stage alone; none for fresh parameters."""
        first = Arm(self.datasets, self.before, {})
        return first.law_curves(dataset, arm="first stage")

    @property
    def on_old_data(self) -> bool:
        """Whether the second stage read nothing that its first one did not."""
        return any(
            log.sources and set(log.sources) <= set(self.before[seed].sources)
            for seed, log in self.runs.items()
            if seed in self.before
        )


def read_arm(folders: Mapping[int, Path], datasets: Datasets) -> Arm:
    """Reads the runs of an arm, and those they started from, which lie in the same folder.

    Args:
      folders: seed -> run folder.
      datasets: the old set first; the loss of a set of several parts is their weighted mean.

    Raises:
      UserError: a run that is not there, was not validated on a data set, or did not end.
    """
    runs, before = {}, {}
    for seed, path in folders.items():
        runs[seed] = read_stage(path, datasets)
        parent = read_spec(RunFolder(path).spec)["parent"]
        if parent:
            before[seed] = read_stage(path.parent / Path(parent["run"]).name, datasets)
    return Arm(tuple(datasets), runs, before)


def read_stage(path: Path, datasets: Datasets) -> StageLog:
    """Reads one run; see `read_arm`."""
    folder = RunFolder(path)
    record = read_spec(folder.spec)
    rows = metrics.read(folder.metrics)
    rates_T = np.array([row["learning_rate"] for row in rows if "learning_rate" in row])
    total = record["spec"]["train"]["steps"]
    if len(rates_T) != total:
        raise UserError(
            f"expected {total} updates in {folder.metrics}, got {len(rates_T)}; run the same "
            "command again to finish it"
        )
    keys = {
        name: [(f"validation_loss/{source}", weight) for source, weight in parts]
        for name, parts in datasets.items()
    }
    first = next(iter(keys.values()))[0][0]
    validated = [row for row in rows if first in row]
    return StageLog(
        path,
        np.array([row["step"] for row in validated]),
        np.array([[_loss(row, parts, path) for parts in keys.values()] for row in validated]),
        rates_T,
        int(record["data"]["tokens_per_step"]),
        record["data"].get("ledger", {}),
        tuple(_bare(s) for s in record["spec"].get("data", {}).get("sources", ())),
        record["spec"]["train"].get("start", {}).get("optimizer", ""),
    )


def _loss(row: Mapping[str, Any], parts: Sequence[tuple[str, float]], path: Path) -> float:
    missing = [key for key, _ in parts if key not in row]
    if missing:
        raise UserError(
            f"expected {missing[0]} at step {row['step']} of {path}, got none; name its source in "
            "data.also_validate"
        )
    total = sum(weight for _, weight in parts)
    return sum(row[key] * weight for key, weight in parts) / total


def _bare(source: str) -> str:
    """The source without its weight."""
    target, field, _ = parse_source(source)
    return f"{target}#{field}" if field else target
