"""Synthetic probe logs with known gains, for the tests of this room."""

import numpy as np
import xarray as xr

DEPTHS = ("memorization", "semantic", "compositional")


def gain_curve(steps_S, encounters, peak, a, rise=5):
    """Nats gained: each encounter rises to `peak` within `rise` steps, then decays in log t."""
    total = np.zeros(len(steps_S))
    for t in encounters:
        since = steps_S - t
        up = np.clip(since / rise, 0, 1)
        lost = a * np.log10(np.maximum(since - rise, 1))
        total += np.where(since > 0, peak * up * np.maximum(1 - lost, 0), 0)
    return total


def make_log(
    schedule,
    total_steps,
    facts_per_arm=12,
    probes_per_depth=3,
    gains=None,
    shared=0.0,
    noise=0.0,
    fact_spread=0.0,
    seed=0,
    tokens_per_step=4096,
):
    """A log with a row at every step.

    Args:
      schedule: arm -> encounters; an empty one is a control.
      gains: arm -> (peak, a); control gains nothing of its own.
      shared: nats that every probe gains at each step of the longest schedule (templates).
      noise: standard deviation per probe and step.
      fact_spread: standard deviation over facts of the peak's factor.
    """
    rng = np.random.default_rng(seed)
    steps_S = np.arange(total_steps + 1)
    longest = max(schedule.values(), key=len)
    common_S = gain_curve(steps_S, longest, shared, 0.2)
    columns, labels = [], []
    for arm, encounters in schedule.items():
        peak, a = (gains or {}).get(arm, (1.0, 0.25))
        for k in range(facts_per_arm):
            factor = 1 + fact_spread * rng.standard_normal()
            own_S = factor * gain_curve(steps_S, encounters, peak, a)
            for d, depth in enumerate(DEPTHS):
                for i in range(probes_per_depth):
                    base = -6 - 0.3 * d + 0.5 * rng.standard_normal()
                    jitter_S = noise * rng.standard_normal(len(steps_S))
                    columns.append(base + own_S * (1 - 0.3 * d) + common_S + jitter_S)
                    labels.append((f"{arm}-{k}", arm, depth, str(i)))
    loglik_SxP = np.stack(columns, 1)
    score = np.stack(
        [loglik_SxP, 2 * loglik_SxP, loglik_SxP, np.exp(-loglik_SxP), loglik_SxP > -5], axis=2
    ).astype(np.float32)
    fact, arm, depth, attribute = (np.array(c) for c in zip(*labels, strict=True))
    return xr.Dataset(
        {"score": (("step", "probe", "measure"), score)},
        coords={
            "step": steps_S,
            "tokens": ("step", steps_S * tokens_per_step),
            "probe": np.array(["/".join(label) for label in labels]),
            "measure": [
                "logprob_mean",
                "logprob_sum",
                "logprob_first",
                "rank_first",
                "greedy_match",
            ],
            "fact": ("probe", fact),
            "arm": ("probe", arm),
            "depth": ("probe", depth),
            "attribute": ("probe", attribute),
            "candidates": ("probe", np.full(len(fact), "40")),
        },
    )
