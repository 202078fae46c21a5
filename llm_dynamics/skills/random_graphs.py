"""Random graphs drawn, to hold against the limits of `thresholds`."""

import math

import numpy as np
from scipy.sparse import coo_array, csgraph


def pairs(nodes: int, probability: float, rng: np.random.Generator) -> np.ndarray:
    """Edges of G(n, p), E x 2: every pair of nodes with that probability."""
    total = math.comb(nodes, 2)
    count = rng.binomial(total, min(max(probability, 0.0), 1.0))
    # Pair number b(b-1)/2 + a stands for a < b; only distinct numbers are drawn.
    number = rng.choice(total, count, replace=False, shuffle=False)
    b = ((1 + np.sqrt(1 + 8 * number.astype(float))) / 2).astype(np.int64)
    b -= b * (b - 1) // 2 > number
    b += b * (b + 1) // 2 <= number
    return np.stack([number - b * (b - 1) // 2, b], axis=1)


def isolated(nodes: int, edges_Ex2: np.ndarray) -> int:
    """Nodes without an edge."""
    return int((np.bincount(edges_Ex2.ravel(), minlength=nodes) == 0).sum())


def components(nodes: int, edges_Ex2: np.ndarray) -> np.ndarray:
    """Sizes of the connected components, largest first."""
    ones = np.ones(len(edges_Ex2), bool)
    graph = coo_array((ones, (edges_Ex2[:, 0], edges_Ex2[:, 1])), shape=(nodes, nodes))
    _, label = csgraph.connected_components(graph, directed=False)
    return np.sort(np.bincount(label))[::-1]


def missing_skills(skills: int, pieces: int, k: int, rng: np.random.Generator) -> int:
    """Skills that occur in none of the pieces of k skills, drawn with repetition."""
    return int((np.bincount(rng.integers(skills, size=pieces * k), minlength=skills) == 0).sum())


def largest_skill_share(skills: int, pieces: int, k: int, rng: np.random.Generator) -> float:
    """Share of skills in the largest component when every piece joins its k skills."""
    skill_PxK = rng.integers(skills, size=(pieces, k))
    first = np.repeat(skill_PxK[:, 0], k - 1)
    edges = np.stack([first, skill_PxK[:, 1:].ravel()], axis=1)
    return float(components(skills, edges)[0]) / skills


def peel(skills: int, pieces: int, c: float, rng: np.random.Generator) -> float:
    """Share of skills left when pieces of Poisson(c) skills teach their last unknown one.

    Rounds of density evolution: every piece with a single unknown skill teaches it, at once.
    """
    size_P = rng.poisson(c, pieces)
    piece_E = np.repeat(np.arange(pieces), size_P)
    distinct_E = np.unique(piece_E * skills + rng.integers(skills, size=len(piece_E)))
    edge = np.stack(np.divmod(distinct_E, skills))
    unknown = np.ones(skills, bool)
    while True:
        edge = edge[:, unknown[edge[1]]]
        left_P = np.bincount(edge[0], minlength=pieces)
        learned = edge[1, left_P[edge[0]] == 1]
        if not len(learned):
            return float(unknown.mean())
        unknown[learned] = False
