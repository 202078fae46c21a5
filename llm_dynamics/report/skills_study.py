"""What the page of a study of skills is drawn from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_dynamics.skills.parity_rows import ParityStudy
from llm_dynamics.skills.simulation import SimulationConfig
from llm_dynamics.skills.trained_rows import Arms


@dataclass(frozen=True)
class SkillsStudy:
    """Everything the page says.

    Attributes:
      rows: all results.
      theory: whether the theory is shown.
      simulation: what was simulated, if anything was.
      arms: trained runs by arm and seed; none where nothing was trained.
      zipfs: exponent of Zipf's law -> the arm of parallel texts that differs in it alone.
      held_out: share of held-out pairs -> the arm of serial texts that differs in it alone.
      alphas: measures of the weakest skills.
      parity: trained parities, if any were.
      command: that made it.
    """

    rows: Sequence[Mapping[str, Any]]
    theory: bool
    simulation: SimulationConfig | None
    arms: Arms
    zipfs: Mapping[float, str]
    held_out: Mapping[float, str]
    alphas: Sequence[float]
    parity: ParityStudy | None
    command: str

    @cached_property
    def by_name(self) -> dict[str, Mapping[str, Any]]:
        """Rows by name."""
        return {row["name"]: row for row in self.rows}

    def first(self, kind: str) -> str | None:
        """The arm of a language's own name, else the first without held-out pairs, else any."""
        if kind in self.arms:
            return kind
        found = [n for n, arm in self.arms.items() if _language(arm).kind == kind]
        plain = [n for n in found if not _language(self.arms[n]).held_out]
        return next(iter([*plain, *found]), None)


def _language(arm):
    return next(iter(arm.values())).config.language
