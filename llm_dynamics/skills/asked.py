"""What is asked of every checkpoint of a series: which questions, which numbers, how resampled.

Axes: T questions, S skills, R resamples.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, interval_row
from llm_dynamics.skills import resampling
from llm_dynamics.skills.labelled import Labelled
from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.skills.product_law import ProductLaw, product_law
from llm_dynamics.spec import nearest

NATS = "nats per question"
SHARE = "share"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is asked of a series.

    Attributes:
      taus: competences of the slingshot ratios.
      alphas: measures of weakest skills.
      level: competence at which a skill has emerged.
      resamples: of the bootstrap.
      frequency: skill -> how often training shows it; None = its share of the questions.
    """

    taus: tuple[float, ...] = (0.5, 0.7, 0.9)
    alphas: tuple[float, ...] = (0.1, 0.2, 0.5)
    level: float = 0.5
    resamples: int = 400
    frequency: Mapping[str, float] | None = None
    seed: int = 0

    def __post_init__(self):
        for name, values in (("taus", self.taus), ("alphas", self.alphas), ("level", [self.level])):
            if not all(0 < value < 1 for value in values):
                raise UserError(f"expected {name} between 0 and 1, got {list(values)}")
        if self.resamples < 50:
            raise UserError(f"expected at least 50 resamples, got {self.resamples}")


class Asked:
    """What all checkpoints share: questions, weights and definitions."""

    def __init__(self, labelled: Labelled, settings: Settings):
        self.labelled, self.settings = labelled, settings
        self.sizes_T, self.group_T = labelled.sizes_T, labelled.group_T
        self.sizes = [int(k) for k in np.unique(self.sizes_T)]
        self.weights_RxT = resampling.weights(self.group_T, settings.resamples, settings.seed)
        skills_TxK = labelled.skills_TxK
        self.of_S = [
            np.flatnonzero((skills_TxK == s).any(axis=1)) for s in range(len(labelled.skills))
        ]
        edges_S = np.array([len(of) for of in self.of_S], float)
        self.frequency_S = edges_S / edges_S.sum()
        self.frequency_words = "share of the questions' labels, which their author chose"
        if settings.frequency is not None:
            for skill in labelled.skills:
                if not settings.frequency.get(skill, 0) > 0:
                    known = settings.frequency
                    raise UserError(
                        f"expected a frequency above 0 of skill {skill!r}, got "
                        f"{known.get(skill, 'none')}; {nearest(skill, known)}"
                    )
            self.frequency_S = np.array([settings.frequency[s] for s in labelled.skills], float)
            self.frequency_words = "frequency as given"

    def groups(self, index) -> int:
        return len(np.unique(self.group_T[index]))

    def law(self, outcomes: Outcomes, k: int) -> ProductLaw:
        """Questions of k skills against single-skill ones."""
        return product_law(outcomes, self.sizes_T, k, self.weights_RxT)

    def mean_row(self, name: str, value_T: np.ndarray, index, definition: str) -> Row:
        """The mean of a loss over some questions."""
        draws_R = resampling.mean(self.weights_RxT[:, index], value_T[index])
        return drawn_row(name, draws_R, NATS, self.groups(index), definition)

    def share_row(self, name: str, right_T: np.ndarray, index, definition: str, note="") -> Row:
        """A share of some questions."""
        found, n = resampling.share(right_T[index], self.group_T[index])
        return interval_row(name, found, SHARE, n, definition, note)


def drawn_row(
    name: str, draws_R: np.ndarray, unit: str, n: int, definition: str, note: str = "",
    missing: str | None = None,
) -> Row:  # fmt: skip
    """A row of a number of every resample, the sample's own first."""
    found, why = resampling.interval(draws_R)
    notes = "; ".join(filter(None, (note, why)))
    return interval_row(name, found, unit, n, definition, notes, missing)
