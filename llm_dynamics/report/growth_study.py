"""What the page of a growth study is drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from llm_dynamics.model.config import ModelConfig

Series = tuple[np.ndarray, np.ndarray]  # steps, values


@dataclass(frozen=True)
class Grown:
    """The runs of one operator, or from scratch, by seed.

    Attributes:
      costs: unit -> cost of the updates before every record.
      losses: on held-out text there, nats per token.
      facts: injected less never-injected ones, nats/token, along the run.
      records: what the growth did, from growth.json; empty from scratch, as are the rest.
      sources: unit -> cost of the source's training.
      facts_before: along the source's run, until it was grown.
    """

    costs: dict[int, dict[str, np.ndarray]]
    losses: dict[int, np.ndarray]
    facts: dict[int, Series]
    records: dict[int, dict[str, Any]]
    sources: dict[int, dict[str, float]]
    facts_before: dict[int, Series]


@dataclass(frozen=True)
class GrowthStudy:
    """Everything the page says.

    Attributes:
      rows: all results, named PAIR/VARIANT/QUANTITY.
      arms: pair -> variant -> its runs; "scratch" is among them.
      models: "small" and every pair's large one.
      steps: of the small run; of every pair's grown runs and those from scratch.
      seeds: how many.
      num_runs: of the whole study.
      command: that made it.
    """

    rows: Sequence[Mapping[str, Any]]
    arms: Mapping[str, Mapping[str, Grown]]
    models: Mapping[str, ModelConfig]
    steps: Mapping[str, Any]
    seeds: int
    num_runs: int
    command: str

    @cached_property
    def by_name(self) -> dict[str, Mapping[str, Any]]:
        """Rows by name."""
        return {row["name"]: row for row in self.rows}
