"""Sets of skills, or of pairs of them, that an adversary may aim at. Axes as in `graph`."""

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.skills import bounds
from llm_dynamics.skills.graph import SkillGraph


def random_set(graph: SkillGraph, alpha: float, seed: int) -> np.ndarray:
    """Items in a random order as far as they fit into a measure, bool, I.

    Raises:
      UserError: alpha outside of (0, 1), or too small for any.
    """
    order_I = np.random.default_rng([seed, graph.items]).permutation(graph.items)
    return fitting(order_I, graph.mass_I, alpha)


def clique(graph: SkillGraph, alpha: float) -> np.ndarray:
    """All pairs among the first skills, as many as come closest to a share of all pairs, bool, I.

    Raises:
      UserError: a graph whose items are not pairs.
    """
    a, b = _pairs(graph)
    sizes = np.arange(2, graph.skills + 1)
    size = sizes[np.argmin(np.abs(sizes * (sizes - 1) / 2 - alpha * graph.items))]
    return (a < size) & (b < size)


def star(graph: SkillGraph, alpha: float) -> np.ndarray:
    """All pairs with one of the first skills, as many as come closest to a share, bool, I.

    Raises:
      UserError: a graph whose items are not pairs.
    """
    a, b = _pairs(graph)
    hubs = np.arange(1, graph.skills)
    left = graph.skills - hubs
    size = hubs[np.argmin(np.abs(graph.items - left * (left - 1) / 2 - alpha * graph.items))]
    return (a < size) | (b < size)


def fitting(order_I: np.ndarray, mass_I: np.ndarray, alpha: float) -> np.ndarray:
    """Takes items in an order, leaving out those that would exceed the measure alpha; bool, I.

    Raises:
      UserError: alpha outside of (0, 1), or too small for any.
    """
    bounds.checked(alpha, 0.5, 1)
    chosen_I = np.zeros(len(order_I), bool)
    room = alpha * (1 + 1e-9)
    for item in order_I:
        if mass_I[item] <= room:
            chosen_I[item] = True
            room -= mass_I[item]
    if not chosen_I.any():
        raise UserError(f"no item has a measure of at most alpha={alpha}; raise alpha or skills")
    return chosen_I


def _pairs(graph: SkillGraph) -> tuple[np.ndarray, np.ndarray]:
    """The two skills of every pair, the smaller first, by `graph.pair_number`."""
    if graph.tuple_size != 2:
        raise UserError(f"cliques and stars are sets of pairs, got tuples of {graph.tuple_size}")
    b, a = np.tril_indices(graph.skills, -1)
    return a, b
