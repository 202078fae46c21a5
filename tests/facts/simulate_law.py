"""Facts that follow a known law of retention, with the noise of single facts."""

import numpy as np

from llm_dynamics.facts import kernel
from llm_dynamics.facts.kernel_fit import Observed

TRUE = {
    "power": [0.3, 0.0, 0.4],
    "power_floor": [0.3, 0.0, 0.8, 0.25],
    "logarithm": [0.3, 0.0, 0.4],
}


def drift(rng, steps, facts, size):
    """A random walk and a component that forgets within 20 steps, S x K."""
    walk = np.cumsum(rng.normal(0, size / 20, (steps, facts)), axis=0)
    quick = np.empty((steps, facts))
    state = rng.normal(0, size, facts)
    for s in range(steps):
        quick[s] = state
        state = 0.95 * state + rng.normal(0, size * np.sqrt(1 - 0.95**2), facts)
    return walk + quick


def simulate(form, values, arms, steps, facts=12, noise=0.1, spread=0.3, seed=0):
    """Arms of facts with a common schedule each, and the scores of as many controls.

    Args:
      arms: name -> encounters, of all its facts.
      noise: size of the drift of a fact, nats.
      spread: standard deviation over facts of the effect's factor.
    """
    rng = np.random.default_rng(seed)
    steps_S = np.arange(steps + 1)
    found = []
    for arm, times in arms.items():
        mean_S = kernel.Superposition([times], steps_S[None]).gains(
            form, np.array([values], float), 0.9, 10.0
        )[0, 0]
        factor_K = 1 + spread * rng.standard_normal(facts)
        score_SxK = mean_S[:, None] * factor_K + drift(rng, steps + 1, facts, noise) - 5
        found.append(Observed(arm, steps_S, score_SxK, (tuple(times),) * facts))
    return found, drift(rng, steps + 1, facts, noise) - 5
