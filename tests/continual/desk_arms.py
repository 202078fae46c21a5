"""The arms of a continual study of desk size, as if their runs had obeyed a known law."""

from pathlib import Path

import numpy as np

from llm_dynamics.continual.curve_law import at_steps, evaluate
from llm_dynamics.continual.stage_log import Arm, StageLog

DECAY = 0.9
PEAK = 3e-3
SHARES = (0.0, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5)
_CURVE = {"L0": 3.0, "A": 0.5, "alpha": 0.5, "C1": 3.0, "C2": 3.0, "E": 30.0, "beta": 0.3}
# Of the old and of the new data; after Wang et al. 2025, Eq. 8, and after Bethune et al. 2025.
EQ8 = (_CURVE | {"B": 2.0, "a1": 0.2, "a2": 1.5}, _CURVE | {"B": -0.9, "a1": 0.2, "a2": 0.7})
POWER = (
    _CURVE | {"B": 3.0, "a1": 0.2, "b": 150.0, "a": 0.6},
    _CURVE | {"L0": 5.0, "B": -2.0, "a1": 0.2, "a": 1.0},
)


def cosine(peak, steps, warmup=0):
    """Warm-up from 0 and a cosine to a tenth."""
    x = np.arange(steps - warmup) / (steps - warmup)
    down = peak * (0.1 + 0.9 / 2 * (1 + np.cos(np.pi * x)))
    return np.concatenate([peak * np.arange(warmup) / max(warmup, 1), down])


def trunk(steps):
    """Warm-up, cosine to 0.55 of the peak, constant."""
    way = cosine(1.0, round(0.6 * steps), round(0.02 * steps))
    down = 0.55 + 0.45 * (np.maximum(way, 0.1) - 0.1) / 0.9
    down[: round(0.02 * steps)] = way[: round(0.02 * steps)]
    return PEAK * np.concatenate([down, np.full(steps - len(way), 0.55)])


def plan(first=500, second=250):
    """Variant -> (rates of the first stage, of the second, share, optimizer, its data)."""
    base = cosine(PEAK, first, first // 50)

    def rewarm(peak=1.0):
        return cosine(PEAK * peak, second, second // 50)

    anneal = round(0.15 * second)
    held, last = np.full(second - anneal, 0.55), 0.55 * (0.1 / 0.55) ** (np.arange(anneal) / anneal)
    found = {f"rewarm-replay-{x:g}": (base, rewarm(), x, "reset", "new") for x in SHARES}
    for x in (0.0, 0.05):
        for peak in (0.5, 2.0):
            name = f"rewarm-replay-{x:g}-peak-{peak:g}"
            found[name] = (base, rewarm(peak), x, "reset", "new")
        infinite = PEAK * np.concatenate([held, last])
        found[f"infinite-replay-{x:g}"] = (trunk(first), infinite, x, "keep", "new")
        found[f"rewarm-replay-{x:g}-keep"] = (base, rewarm(), x, "keep", "new")
    found["floor"] = (base, np.full(second, 0.1 * PEAK), 0.0, "reset", "new")
    hold = np.concatenate([rewarm()[: second // 50], np.full(second - second // 50, PEAK)])
    found["hold"] = (base, hold, 0.0, "reset", "new")
    found["new"] = (None, rewarm(), 0.0, "keep", "new")
    found["same"] = (base, rewarm(), 0.0, "reset", "old")
    return found


def desk_arms(truth=POWER, seeds=1, noise=0.0, every=10, drop=(), **steps):
    """Arms and their shares, as the study has them: variant -> arm, variant -> share."""
    arms, shares, rng = {}, {}, np.random.default_rng(0)
    for variant, (first_T, second_T, share, optimizer, source) in plan(**steps).items():
        if variant in drop:
            continue
        runs, before = {}, {}
        for seed in range(seeds):
            lift = np.exp(noise * rng.normal(size=2))
            if first_T is None:
                rates_T, start = second_T, len(second_T)
            else:
                rates_T, start = np.concatenate([first_T, second_T]), len(first_T)
                path = Path(f"first-{len(np.unique(first_T))}-{seed}")
                before[seed] = _log(
                    path, truth, first_T, start, 0, start, 0.0, every, lift, rng, noise,
                    sources=("old",),
                )  # fmt: skip
            own = (0, start) if first_T is None else (start, len(rates_T))
            runs[seed] = _log(
                Path(f"{variant}-{seed}"), truth, rates_T, start, *own, share, every, lift, rng,
                noise, sources=(source,), optimizer=optimizer, off=0.5 * (source == "old"),
            )  # fmt: skip
        arms[variant], shares[variant] = Arm(("old", "new"), runs, before), share
    return arms, shares


def _log(
    path, truth, rates_T, start, begin, end, share, every, lift, rng, noise, off=0.0, **about
):  # fmt: skip
    """A run whose own steps are those from `begin` to `end` of all."""
    steps_S = np.arange(every, end - begin + 1, every)
    at = at_steps(rates_T, start, steps_S + begin, DECAY)
    losses_SxZ = np.stack(
        [
            (evaluate(truth[z], at, share, which) - off * (which == "old")) * lift[z]
            for z, which in enumerate(("old", "new"))
        ],
        axis=1,
    )
    losses_SxZ *= np.exp(noise / 3 * rng.normal(size=losses_SxZ.shape))
    return StageLog(path, steps_S, losses_SxZ, rates_T[begin:end], 100, {}, **about)
