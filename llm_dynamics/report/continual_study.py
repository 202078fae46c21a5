"""What the page of a continual study is drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_dynamics.continual.stage_log import Arm, StageLog


@dataclass(frozen=True)
class Kept:
    """Injected facts less never-injected ones, nats/token: seed -> (steps, values)."""

    before: dict[int, tuple[np.ndarray, np.ndarray]]  # in the first stage
    after: dict[int, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class ContinualStudy:
    """What the page is drawn from.

    Attributes:
      rows: all results, named SHIFT/VARIANT/QUANTITY.
      arms: shift -> variant -> what its runs measured; the data sets of an arm are old and new.
      facts: shift -> variant -> what is kept of the facts.
      words: of schedules and baselines.
      seeds: how many, of an arm that has all.
      steps: of the first and of the second stage.
      sources: of the old data and of every shift.
      num_runs: of the whole study.
      command: that made it.
      sweep: the variants that differ in the share of replay alone.
      drawn: the variants that are drawn where all would be too many.
      splits: variant -> seed -> stages over successive parts of the old data; empty for none.
      split_words: what each of these does.
    """

    rows: Sequence[Mapping[str, Any]]
    arms: Mapping[str, Mapping[str, Arm]]
    facts: Mapping[str, Mapping[str, Kept]]
    words: Mapping[str, str]
    seeds: int
    steps: tuple[int, int]
    sources: Mapping[str, str]
    num_runs: int
    command: str
    sweep: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    splits: Mapping[str, Mapping[int, Sequence[StageLog]]] = field(default_factory=dict)
    split_words: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, Mapping[str, Any]]:
        """The rows."""
        return {row["name"]: row for row in self.rows}
