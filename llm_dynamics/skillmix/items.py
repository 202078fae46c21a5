"""What is asked: random combinations of k skills and a topic, each item drawn for itself."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix.skills import Skill


@dataclasses.dataclass(frozen=True)
class Item:
    """One question: these skills, in this order, in a text about the topic."""

    index: int
    skills: tuple[Skill, ...]
    topic: str

    @property
    def k(self) -> int:
        """How many skills."""
        return len(self.skills)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the skills, in their order."""
        return tuple(skill.name for skill in self.skills)

    @property
    def limit(self) -> int:
        """Sentences that the text may have: max(1, k - 1) (Yu et al. 2023)."""
        return max(1, self.k - 1)


def draw(skills: Sequence[Skill], topics: Sequence[str], k: int, index: int, seed: int) -> Item:
    """Item `index` of the list for k: k distinct skills in random order, and a topic.

    A function of its arguments alone, so items are independent, and more of them can be drawn
    later.

    Raises:
      UserError: k < 1, k above the number of skills, or no topics.
    """
    if not 1 <= k <= len(skills):
        raise UserError(f"expected k of 1 to {len(skills)}, the number of skills, got {k}")
    if not topics:
        raise UserError("expected at least one topic, got none")
    generator = np.random.default_rng([seed, k, index])
    chosen = generator.permutation(len(skills))[:k]
    topic = topics[int(generator.integers(len(topics)))]
    return Item(index, tuple(skills[i] for i in chosen), topic)


def items(
    skills: Sequence[Skill], topics: Sequence[str], k: int, count: int, seed: int
) -> tuple[Item, ...]:
    """Items 0 to count - 1 for k."""
    return tuple(draw(skills, topics, k, index, seed) for index in range(count))
