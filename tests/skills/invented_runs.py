"""Runs whose outcomes are invented: every answer is right with a known probability."""

import numpy as np

from llm_dynamics.skills import languages
from llm_dynamics.skills.languages import LanguageConfig
from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.skills.training import Seen, Trained, TrainedConfig


def outcomes(right_S, size: int, texts: int, seed: int = 0, measure_S=None) -> Outcomes:
    """Texts of i.i.d. skills, each answer right with its skill's probability, by itself."""
    rng, right_S = np.random.default_rng(seed), np.asarray(right_S)
    skills_TxK = rng.choice(len(right_S), (texts, size), p=measure_S)
    right_TxA = rng.random(skills_TxK.shape) < right_S[skills_TxK]
    excess_T = np.where(right_TxA, 0.0, 2 * np.log(2)).sum(axis=1)
    return Outcomes(skills_TxK, right_TxA, excess_T, len(right_S))


def run(right_NxS, steps_N, excess_N=None, size: int = 4, texts: int = 4000, zipf=0.0) -> Trained:
    """A run whose skills have these accuracies at its looks, and as excess what is given."""
    right_NxS = np.asarray(right_NxS)
    config = TrainedConfig(
        LanguageConfig("parallel", right_NxS.shape[1], 4, (size,), zipf=zipf),
        steps=int(steps_N[-1]), looks=len(steps_N) - 1, texts=1024, warmup=0,
    )  # fmt: skip
    measure_S = languages.measure(config.language)
    found = [outcomes(row, size, texts, 0, measure_S) for row in right_NxS]
    excess_NxT = np.stack([o.excess_T for o in found])
    if excess_N is not None:
        excess_NxT = np.repeat(np.asarray(excess_N)[:, None], texts, axis=1)
    seen = Seen(found[0].skills_TxK, np.stack([o.right_TxA for o in found]), excess_NxT)
    return Trained(config, np.asarray(steps_N), np.zeros(len(steps_N)), {f"k{size}": seen})
