"""Whether the intervals of a facts study hold the truth as often as they say, by simulation.

    python -m benchmarks.coverage --runs=2000

Logs whose law of forgetting is known (tests/facts/synthetic.py) are analysed with the functions of
`llm_dynamics.facts`; printed is how often nominal 95 % intervals hold the truth of the noise-free
law. Two thousand studies at all settings take more than an hour on one core.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from absl import app, flags

from llm_dynamics.facts import common_lag, gls, measures
from llm_dynamics.facts.estimates import crossing
from llm_dynamics.facts.fits import fit_log_decay
from llm_dynamics.facts.statistics import Estimate, mean_over_probes, replicate_weights
from llm_dynamics.results import Interval
from tests.facts.synthetic import Law, simulate

_RUNS = flags.DEFINE_integer("runs", 2000, "simulated studies of every setting")

PROBES = 3
TIMES = (10, 100, 500)
_BATCH = 40  # studies simulated at once; bounds the memory


@dataclass(frozen=True)
class Coverage:
    """How intervals of one measure did over all studies.

    Attributes:
      share: of the studies whose interval holds the truth.
      bias: mean of the value less the truth; of finite values, as is sd.
      sd: standard deviation of the value.
      half: median half-width of the interval; infinite ends count.
    """

    share: float
    bias: float
    sd: float
    half: float


def summarise(found: Interval, truth: float) -> Coverage:
    """Of intervals with one entry a study."""
    finite = found.value[np.isfinite(found.value)]
    bounded = np.isfinite(found.low) & np.isfinite(found.high)
    width = np.full(found.value.shape, np.inf)
    width[bounded] = found.high[bounded] - found.low[bounded]
    return Coverage(
        share=float(np.mean((found.low <= truth) & (truth <= found.high))),
        bias=float(np.mean(finite) - truth),
        sd=float(np.std(finite)),
        half=float(np.median(width) / 2),
    )


def times(law: Law) -> list[int]:
    """Times at which retainability is looked at."""
    return [t for t in TIMES if t <= law.end - law.encounters[-1] - law.window]


def truths(law: Law) -> dict[str, float]:
    """What each measure is without noise, over all facts."""
    return {
        "effectivity": float(law.gains_U.mean()),
        "gain": law.gain,
        **{f"R({t})": 1 - law.a * np.log10(t) for t in times(law)},
        "a": law.a,
        "intercept": 1.0,
        "x_intercept": 1 / law.a,
    }


def cover(
    law: Law,
    facts: int,
    studies: int,
    origin: str = "lag",
    seeds: int = 1,
    control: bool = True,
    methods: tuple[gls.Method, ...] = gls.METHODS,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Coverage]:
    """Coverage of the bootstrap over facts, and of the standard errors of the lines.

    Args:
      law: what the logs are made of.
      facts: of each arm in each run.
      studies: how many to simulate.
      origin: "lag" for the true lag of the maximum, known beforehand, "chosen" for one chosen from
        the same scores, "own" for the maximum of each probe.
      seeds: runs of each study.
      control: whether it is subtracted; without, the truth stays that of the arm alone.
      methods: of the lines.

    Returns:
      Measure to coverage; lines read "a, METHOD" and, with the interval of one curve's standard
      error instead of the bootstrap's, "a, METHOD stderr".
    """
    rng = np.random.default_rng(seed)
    batches = [
        _measure(law, facts, count, origin, seeds, control, methods, rng)
        for count in [min(_BATCH, studies - done) for done in range(0, studies, _BATCH)]
    ]
    names = [f"f{k:05d}" for k in range(facts * seeds) for _ in range(PROBES)]
    runs = np.repeat(np.arange(seeds), facts)
    sizes = dict.fromkeys(("arm", "control"), facts * seeds)
    run_of = dict.fromkeys(sizes, runs) if seeds > 1 else None
    weights = replicate_weights(sizes, seed, resamples, run_of)
    truth = truths(law)

    def mean(key: str) -> Estimate:
        arms = [
            mean_over_probes(
                np.concatenate([batch[arm][key] for batch in batches]),
                names,
                arm,
                weights[arm],
                seeds=seeds,
            )
            for arm in ("arm", "control")
        ]
        return arms[0] - arms[1] if control else arms[0]

    gain = mean("gain")
    estimates = {"effectivity": mean("effectivity"), "gain": gain}
    estimates |= {f"R({t})": mean(f"R({t})") / gain for t in times(law)}
    for method in methods:
        slope, intercept = mean(f"slope, {method}") / gain, mean(f"intercept, {method}") / gain
        # One line a study: replicates of all studies take turns in `crossing`.
        pair = np.stack([slope.draws_RxT, intercept.draws_RxT], axis=-1)
        reach = crossing(Estimate(pair.reshape(-1, 2), gain.facts, seeds)).draws_RxT
        estimates[f"a, {method}"] = slope.then(np.negative)
        estimates[f"intercept, {method}"] = intercept
        estimates[f"x_intercept, {method}"] = slope.then(
            lambda draws, reach=reach: reach.reshape(draws.shape)
        )
    found = {
        name: summarise(estimate.interval(), truth[name.split(",")[0]])
        for name, estimate in estimates.items()
    }
    for name in batches[0]["stderr"]:
        value, half = np.concatenate([batch["stderr"][name] for batch in batches], axis=1)
        found[name] = summarise(
            Interval(value, value - half, value + half), truth[name.split(",")[0]]
        )
    return found


def _measure(law, facts, studies, origin, seeds, control, methods, rng):
    """Per arm and measure, studies x probes; and values and half-widths of the lines' errors."""
    logs = simulate(law, studies * seeds, facts, PROBES, rng)
    steps_S = np.arange(law.end + 1)
    # The runs of a study are neighbours, so that their facts are the facts of the study.
    scores = {arm: log.reshape(len(steps_S), studies, -1) for arm, log in logs.items()}
    offsets_T = measures.common_offsets(steps_S, law.encounters, law.window)
    effect, gains = {}, {}
    for arm in scores:
        parts = [
            _of_study(law, scores["arm"][:, n], scores["control"][:, n], arm, origin, offsets_T)
            for n in range(studies)
        ]
        effect[arm], gains[arm] = (np.stack(p) for p in zip(*parts, strict=True))
    net_NxT = gains["arm"].mean(axis=2)
    if control:
        net_NxT = net_NxT - gains["control"].mean(axis=2)
    curve_NxT = net_NxT / net_NxT[:, :1]
    t_T, found, errors = offsets_T[1:], {}, {}
    lines = {}
    for method in methods:
        fits = [gls.fit_line(t_T, curve_T[1:], method) for curve_T in curve_NxT]
        lines[method] = np.stack([gls.coefficients_of_curve(t_T, method, f.rho) for f in fits])
        errors[f"a, {method} stderr"] = [(f.a, f.half_width(f.stderr)) for f in fits]
        errors[f"x_intercept, {method} delta"] = [
            (f.x_intercept, f.half_width(f.x_stderr)) for f in fits
        ]
    errors["a, published"] = [_published(t_T, gains["arm"][n]) for n in range(studies)]
    for arm in scores:
        found[arm] = {"effectivity": effect[arm], "gain": gains[arm][:, 0]}
        found[arm] |= {f"R({t})": gains[arm][:, t] for t in times(law)}
        for method, map_Nx2xT in lines.items():
            both = map_Nx2xT @ gains[arm][:, 1:]
            found[arm][f"slope, {method}"] = both[:, 0]
            found[arm][f"intercept, {method}"] = both[:, 1]
    found["stderr"] = {name: np.array(pairs).T for name, pairs in errors.items()}
    return found


def _of_study(law, arm_SxP, control_SxP, which, origin, offsets_T):
    """Effectivity P and gains after the last maximum T x P of one arm of one study."""
    scores_SxP = arm_SxP if which == "arm" else control_SxP
    steps_S, at = np.arange(law.end + 1), law.encounters
    if origin == "own":
        effect_UxP = measures.effectivity(scores_SxP, steps_S, at, law.window)
        gains_TxP = measures.after_last_maximum(scores_SxP, steps_S, at, law.window, offsets_T)
    else:
        lag = 1
        if origin == "chosen":
            lag = common_lag.common_lag(
                [(arm_SxP, at)], control_SxP.mean(axis=1), steps_S, law.window
            )
        effect_UxP = common_lag.gains_at_lag(scores_SxP, steps_S, at, lag)
        gains_TxP = common_lag.after_lag(scores_SxP, steps_S, at, lag, offsets_T)
    return effect_UxP.mean(axis=0), gains_TxP


def _published(t_T, gains_TxP) -> tuple[float, float]:
    """The published decay constant and the half-width of the interval of its +/-."""
    ratio_TxP, _ = measures.retainability(gains_TxP)
    fit = fit_log_decay(t_T, measures.mean_of_ratios(ratio_TxP)[0][1:])
    return fit.a, 1.96 * fit.stderr


def settings() -> Iterator[tuple[str, dict]]:
    """Name and arguments of every table that is printed."""
    few = {"methods": ("binned", "ols")}
    for rho in (0.9, 0.95, 0.99):
        for facts in (9, 30):
            yield f"rho {rho}, K {facts}, known lag", {"law": Law(rho=rho), "facts": facts}
    for facts in (9, 30):
        options = {"law": Law(), "facts": facts}
        yield f"rho 0.95, K {facts}, lag chosen here", {**options, "origin": "chosen"}
        yield f"rho 0.95, K {facts}, own maxima", {**options, **few, "origin": "own"}
    yield "rho 0.95, K 30, no control", {"law": Law(), "facts": 30, "control": False, **few}
    for seeds in (1, 3, 5, 10):
        for spread in (0.0, 0.1, 0.3):
            if seeds > 1 or spread == 0.1:
                name = f"{seeds} runs of K 10 that differ by {spread:.0%}"
                law = dataclasses.replace(Law(), run_spread=spread)
                yield name, {"law": law, "facts": 10, "seeds": seeds, **few}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags alone, got {' '.join(argv[1:])}")
    for name, options in settings():
        print(f"\n{name}\n{'':32}covers    bias      sd    half-width")
        for measure, found in cover(studies=_RUNS.value, **options).items():
            print(
                f"{measure:32}{found.share:6.3f}{found.bias:+9.3f}{found.sd:8.3f}{found.half:10.3f}",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
