"""What a model got right of texts whose skills are known, and the competences that follow.

One record serves trained models of synthetic languages and real models under labelled probes. A
text fails where any of its answers is wrong, and is then charged to all of its skills: Arora &
Goyal's conservative accounting, under which the competence of a skill is a lower bound.

Axes: T texts, K skills of a text, A answers of a text (K, one a skill, or 1 for the whole text),
S skills.
"""

import dataclasses
import math
from functools import cached_property

import numpy as np

from llm_dynamics.errors import UserError

NO_SKILL = -1  # in texts of fewer skills than K


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """Answers of a model, text by text.

    Attributes:
      skills_TxK: what each text needs, 0 to S - 1, NO_SKILL where it needs fewer than K.
      right_TxA: whether the most probable answer is the right one.
      excess_T: by how much the loss of a text's answers together exceeds the best possible, nats,
        at least 0; the loss itself where the right answers are certain.
      num_skills: S.
    """

    skills_TxK: np.ndarray
    right_TxA: np.ndarray
    excess_T: np.ndarray
    num_skills: int

    def __post_init__(self):
        texts, answers = self.right_TxA.shape
        skills = self.skills_TxK
        if not texts or len(skills) != texts or self.excess_T.shape != (texts,):
            raise UserError(
                "expected outcomes of at least one text, skills, answers and excess text by text, "
                f"got shapes {skills.shape}, {self.right_TxA.shape} and {self.excess_T.shape}"
            )
        if answers not in (1, skills.shape[1]):
            raise UserError(
                f"expected one answer a text or one for each of {skills.shape[1]} skills, got "
                f"{answers}"
            )
        if skills.min() < NO_SKILL or skills.max() >= self.num_skills:
            raise UserError(
                f"expected skills of 0 to {self.num_skills - 1}, got {skills.min()} to "
                f"{skills.max()}"
            )
        if not np.isfinite(self.excess_T).all():
            raise UserError("expected finite losses, got a model whose loss is not")

    def __len__(self) -> int:
        return len(self.right_TxA)

    def take(self, index) -> "Outcomes":
        """The outcomes of some texts."""
        return dataclasses.replace(
            self,
            skills_TxK=self.skills_TxK[index],
            right_TxA=self.right_TxA[index],
            excess_T=self.excess_T[index],
        )

    def halves(self) -> tuple["Outcomes", "Outcomes"]:
        """Texts with even and with odd index: independent samples."""
        return self.take(slice(0, None, 2)), self.take(slice(1, None, 2))

    def permuted(self, rng: np.random.Generator) -> "Outcomes":
        """Skills dealt anew to the texts, so that failures have nothing to do with them."""
        flat = self.skills_TxK.copy()
        present = flat != NO_SKILL
        flat[present] = rng.permutation(flat[present])
        return dataclasses.replace(self, skills_TxK=flat)

    @cached_property
    def failed_T(self) -> np.ndarray:
        """Whether any answer is wrong."""
        return ~self.right_TxA.all(axis=1)

    @property
    def theta(self) -> float:
        """Share of failed texts."""
        return float(self.failed_T.mean())

    @property
    def theta_half(self) -> float:
        """Share of texts whose excess is at least 1/2, the paper's way of saying that one fails."""
        return float((self.excess_T >= 0.5).mean())

    @property
    def delta(self) -> float:
        """Excess cross-entropy, nats per text."""
        return float(self.excess_T.mean(dtype=float))

    @cached_property
    def edges_S(self) -> np.ndarray:
        """Edges of each skill: how often a text needs it, repetitions counted."""
        return self._count(np.ones((len(self), 1)))

    @cached_property
    def failed_edges_S(self) -> np.ndarray:
        """Edges of each skill to texts that fail."""
        return self._count(self.failed_T[:, None])

    @property
    def error_S(self) -> np.ndarray:
        """Share of each skill's edges to texts that fail; NaN for a skill that no text needs."""
        return _ratio(self.failed_edges_S, self.edges_S)

    @cached_property
    def accuracy_S(self) -> np.ndarray:
        """Share of each skill's own answers that are right; NaN without any.

        Where a text has a single answer it counts for all of its skills, so this is 1 - `error_S`.
        """
        if self.right_TxA.shape[1] == 1:
            return 1 - self.error_S
        return _ratio(self._count(self.right_TxA), self.edges_S)

    def joint(self, size: int) -> float:
        """c_k': mean over texts and over subsets of so many answers of all being right.

        Raises:
          UserError: more than a text has answers.
        """
        answers = self.right_TxA.shape[1]
        if not 1 <= size <= answers:
            raise UserError(f"expected tuples of 1 to {answers} answers of a text, got {size}")
        right_T = self.right_TxA.sum(axis=1)
        ways = np.array([math.comb(int(n), size) for n in range(answers + 1)], float)
        return float(ways[right_T].mean() / math.comb(answers, size))

    def product(self, accuracy_S: np.ndarray, size: int) -> float:
        """What `joint` is if skills fail independently of each other.

        Mean over texts and subsets of `size` skills of the product of their accuracies: an
        elementary symmetric polynomial of each text's.

        Args:
          accuracy_S: of every skill, measured on other texts; texts with a NaN are left out.
          size: of the subsets.
        """
        if (self.skills_TxK == NO_SKILL).any():
            raise UserError("expected texts of one number of skills each")
        accuracy_TxK = accuracy_S[self.skills_TxK]
        accuracy_TxK = accuracy_TxK[~np.isnan(accuracy_TxK).any(axis=1)]
        if not len(accuracy_TxK):
            return math.nan
        power_Txj = np.zeros((len(accuracy_TxK), size + 1))
        power_Txj[:, 0] = 1.0
        for column in accuracy_TxK.T:
            power_Txj[:, 1:] += power_Txj[:, :-1] * column[:, None]
        return float(power_Txj[:, size].mean() / math.comb(self.skills_TxK.shape[1], size))

    def _count(self, weight_TxK: np.ndarray) -> np.ndarray:
        present = self.skills_TxK != NO_SKILL
        weights = np.broadcast_to(weight_TxK, present.shape)[present]
        return np.bincount(self.skills_TxK[present], weights, minlength=self.num_skills)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)
