"""The parity study: what is trained, and what is asked of it.

Does the solvable model follow its closed form, do its losses follow the predicted powers, do
networks learn skills in k^(a+1) updates, and do atoms help to learn a composite?
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, exact, interval_row
from llm_dynamics.seeds import PerSeed, seed_row
from llm_dynamics.skills import parity, parity_theory
from llm_dynamics.skills.parity import ParityConfig, one_hot
from llm_dynamics.skills.parity_theory import Flow, fitted_exponent
from llm_dynamics.skills.parity_training import (
    Composition,
    MultilinearConfig,
    NetworkConfig,
    NetworkRun,
    compositional,
    emergence,
    standardised,
    train_multilinear,
    train_network,
)

NETWORKS = ("sgd", "adam")
_FEWEST = 3  # tasks of a slope


@dataclasses.dataclass(frozen=True)
class ParityStudyConfig:
    """What a parity study trains; tasks, parameters and examples differ between seeds.

    Attributes:
      multilinear: the solvable model.
      sgd, adam: networks on tasks of unequal frequency.
      composite: a network whose last task combines the others.
      seeds: 0 .. seeds - 1.
    """

    multilinear: MultilinearConfig
    sgd: NetworkConfig
    adam: NetworkConfig
    composite: NetworkConfig
    seeds: int = 5

    def __post_init__(self):
        if self.seeds < 1:
            raise UserError(f"expected at least 1 seed, got {self.seeds}")
        for name in NETWORKS:
            if len(getattr(self, name).parity.codes) < _FEWEST:
                raise UserError(f"expected at least {_FEWEST} tasks of {name} to see a slope")


@dataclasses.dataclass(frozen=True)
class ParityStudy:
    """What was trained, by seed.

    Attributes:
      config: of all of it.
      multilinear: R_k / S, SxK.
      networks: "sgd" and "adam".
      composite: with atoms and alone.
    """

    config: ParityStudyConfig
    multilinear: Mapping[int, np.ndarray]
    networks: Mapping[str, Mapping[int, NetworkRun]]
    composite: Mapping[int, Composition]


def laptop() -> ParityStudyConfig:
    """Five seeds; about a minute of processor time.

    The theory is of gradient flow, so plain gradient descent takes small steps: at a rate of 0.05
    its last tasks are late (measured over five seeds: slope 1.69, from 1.63 to 1.76). The composite
    emerges beside its atoms after about 2,000 updates; alone, the one seed that was trained longer
    needed about 8,500: atoms make it much sooner, not possible.
    """
    unequal = ParityConfig(one_hot(5), bits=16, subset=3, a=0.6)
    atoms = ParityConfig((*one_hot(4), (0, 1, 2, 3)), bits=32, subset=2, a=-1.0, disjoint=True)
    return ParityStudyConfig(
        multilinear=MultilinearConfig(
            ParityConfig(one_hot(5000), bits=16), Flow(rate=0.05, start=0.05), steps=8000
        ),
        sgd=NetworkConfig(
            unequal, target=5.0, last=0.1, optimizer="sgd", rate=0.03, steps=12_000, every=40
        ),
        adam=NetworkConfig(unequal, steps=3500),
        composite=NetworkConfig(atoms, width=128, depth=2, steps=2500, every=50),
    )


def smoke() -> ParityStudyConfig:
    """One seed of everything, a few updates."""
    full = laptop()
    return dataclasses.replace(
        full,
        multilinear=dataclasses.replace(full.multilinear, steps=1000),
        sgd=dataclasses.replace(full.sgd, steps=200),
        adam=dataclasses.replace(full.adam, steps=200),
        composite=dataclasses.replace(full.composite, steps=200),
        seeds=1,
    )


def measure(config: ParityStudyConfig) -> ParityStudy:
    """Trains everything, seed after seed.

    Raises:
      UserError: a network diverged, or codes that combine nothing.
    """
    seeds = range(config.seeds)
    return ParityStudy(
        config,
        {seed: train_multilinear(config.multilinear, seed) for seed in seeds},
        {
            name: {seed: train_network(getattr(config, name), seed) for seed in seeds}
            for name in NETWORKS
        },
        {seed: compositional(config.composite, seed) for seed in seeds},
    )


def parity_rows(study: ParityStudy) -> list[Row]:
    """Rows parity/..., n = seeds; without an interval where nothing is drawn."""
    rows = _multilinear_rows(study) + _exponent_rows(study)
    for name in NETWORKS:
        rows += _network_rows(name, getattr(study.config, name), study.networks[name])
    return rows + _composite_rows(study)


def share(config: NetworkConfig | MultilinearConfig) -> np.ndarray:
    """P(k), K."""
    return parity.zipf(len(config.parity.codes), config.parity.a)


def emerged(runs: Mapping[int, NetworkRun]) -> tuple[np.ndarray, int]:
    """Updates until each task emerges, RxK, and how many of the first ones did in every seed."""
    times_RxK = np.stack([emergence(run.updates_S, run.strength_SxK) for run in runs.values()])
    missed_K = ~(times_RxK > 0).all(axis=0)
    return times_RxK, int(missed_K.argmax()) if missed_K.any() else len(missed_K)


def predicted_loss(run: NetworkRun, share_K: np.ndarray) -> np.ndarray:
    """The loss over S^2 / 2 if every skill repeated the first one's curve at its own speed, S."""
    return parity_theory.rescaled(run.updates_S, run.loss_SxK[:, 0], share_K) @ share_K


def _multilinear_rows(study: ParityStudy) -> list[Row]:
    config = study.config.multilinear
    closed_SxK = config.flow.strength(config.updates_S, config.share_K)
    apart = {s: float(np.abs(x - closed_SxK).max()) for s, x in study.multilinear.items()}
    words = "largest |R_k / S - closed form| over updates and tasks, trained on sampled examples"
    rows = [seed_row("parity/multilinear/deviation", PerSeed(apart), "1", words, contrast=False)]
    scores = {s: standardised(config, x) for s, x in study.multilinear.items()}
    if np.isfinite(scores[min(scores)]).any():
        spread = {s: float(np.sqrt(np.nanmean(z_K**2))) for s, z_K in scores.items()}
        words = (
            "deviation of the log-odds of R_k / S from the closed form over its sampling error, "
            "where tasks emerge, root mean square over tasks"
        )
        note = "1 is expected"
        name = "parity/multilinear/standardised"
        rows.append(seed_row(name, PerSeed(spread), "1", words, note, contrast=False))
    return rows


def _exponent_rows(study: ParityStudy) -> list[Row]:
    """Fitted on what was trained or drawn, on exact sums at the same points, and in the limit."""
    config = study.config.multilinear
    flow, share_K = config.flow, config.share_K
    limits = parity_theory.exponents(config.parity.a)
    late_S = config.updates_S >= config.steps / 10
    updates_T = config.updates_S[late_S]
    half = flow.target**2 / 2
    trained = {
        s: fitted_exponent(updates_T, half * (1 - x[late_S]) ** 2 @ share_K)
        for s, x in study.multilinear.items()
    }
    examples_D = np.unique(np.geomspace(30, 3000, 13).astype(int))
    drawn = {
        s: fitted_exponent(examples_D, _drawn_losses(config, examples_D, s))
        for s in study.multilinear
    }
    nodes_N = np.unique(np.geomspace(5, max(50, len(share_K) // 100), 13).astype(int))
    nodes_N = nodes_N[nodes_N < len(share_K)]
    compute_C = np.geomspace(0.1, 1, 8) * config.steps * _learned(config)
    sums = {
        "time": fitted_exponent(updates_T, flow.loss(updates_T, share_K)),
        "data": fitted_exponent(examples_D, parity_theory.data_loss(examples_D, share_K)),
        "parameters": fitted_exponent(nodes_N, [share_K[n:].sum() for n in nodes_N]),
        "compute": fitted_exponent(compute_C, parity_theory.compute_loss(flow, compute_C, share_K)),
    }
    found = {"time": trained, "data": drawn}
    what = {
        "time": "over the last decade of updates of the trained model",
        "data": "over two decades of examples, if all skills that were seen are learned",
        "parameters": "over the number of skills that the model has",
        "compute": "over a decade of updates times skills, with the best number of skills",
    }
    rows = []
    for name, limit in limits._asdict().items():
        stem, words = f"parity/exponent/{name}", f"slope of log loss {what[name]}"
        if name in found:
            fitted = PerSeed(found[name])
            rows.append(seed_row(f"{stem}/fitted", fitted, "1", words, contrast=False))
            apart = PerSeed({s: v - sums[name] for s, v in fitted.values.items()})
            rows.append(seed_row(f"{stem}/difference", apart, "1", f"{words}, less exact sums'"))
        note = f"{len(share_K):,} tasks; exact"
        rows.append(interval_row(f"{stem}/sums", exact(sums[name]), "1", 1, f"{words}, sums", note))
        formula = {"parameters": "-a", "compute": "-a/(a+2)"}.get(name, "-a/(a+1)")
        words = f"predicted without end of tasks and resource: {formula}"
        rows.append(interval_row(f"{stem}/limit", exact(limit), "1", 1, words, "exact"))
    return rows


def _network_rows(name: str, config: NetworkConfig, runs: Mapping[int, NetworkRun]) -> list[Row]:
    stem, share_K = f"parity/{name}", share(config)
    times_RxK, count = emerged(runs)
    words = "slope of log updates until R_k / S passes 1/2 on log rank of the task's frequency"
    predicted = config.parity.a + 1
    note = f"tasks 1 to {count} of {len(share_K)}, which emerge in every seed"
    rows = [
        interval_row(
            f"{stem}/predicted_slope", exact(predicted), "1", 1, "a + 1: updates ~ 1/P(k)", "exact"
        )
    ]
    if count < _FEWEST:
        why = f"{count} tasks emerge in every seed; train longer"
        rows.append(interval_row(f"{stem}/slope", exact(math.nan), "1", len(runs), words, "", why))
    else:
        rank_K = np.arange(1, count + 1)
        slopes = PerSeed(
            {
                s: fitted_exponent(rank_K, t_K[:count])
                for s, t_K in zip(runs, times_RxK, strict=True)
            }
        )
        rows.append(seed_row(f"{stem}/slope", slopes, "1", words, note, contrast=False))
        apart = PerSeed({s: v - predicted for s, v in slopes.values.items()})
        rows.append(seed_row(f"{stem}/slope_less_predicted", apart, "1", words, note))
    gaps = {
        s: float(np.abs(run.loss_SxK @ share_K - predicted_loss(run, share_K)).mean())
        for s, run in runs.items()
    }
    words = (
        "mean over updates of |loss - prediction| over S^2/2; the prediction is the first task's "
        "curve, stretched by P(1)/P(k) for task k"
    )
    rows.append(seed_row(f"{stem}/prediction_gap", PerSeed(gaps), "1", words, contrast=False))
    return rows


def _composite_rows(study: ParityStudy) -> list[Row]:
    runs = study.composite
    code = study.config.composite.parity.codes[-1]
    task = f"the parity of {len(code) * study.config.composite.parity.subset} bits"

    def ends(value) -> PerSeed:
        return PerSeed({seed: float(value(found)) for seed, found in runs.items()})

    beside = ends(lambda found: found.with_atoms.accuracy_SxK[-1, -1])
    alone = ends(lambda found: found.alone.accuracy_SxK[-1, -1])
    atoms = ends(lambda found: found.with_atoms.accuracy_SxK[-1, :-1].mean())
    note = "0.5 is chance"
    words = f"share of right signs after {study.config.composite.steps:,} updates, {task}"

    def row(name, found, words, note="", contrast=False):
        return seed_row(f"parity/composite/{name}", found, "1", words, note, contrast)

    return [
        row("with_atoms", beside, f"{words}, trained beside its atoms", note),
        row("alone", alone, f"{words}, trained alone with the same batch", f"{note}; may be later"),
        row("difference", beside - alone, f"{words}: with atoms less alone", contrast=True),
        row("atoms", atoms, "share of right signs after these updates, mean over the atoms", note),
        *(_emerged_row(name, study) for name in Composition._fields),
    ]


def _emerged_row(name: str, study: ParityStudy) -> Row:
    """When the composite emerges; NaN where it does not in every seed."""
    runs = {seed: getattr(found, name) for seed, found in study.composite.items()}
    times = {s: emergence(x.updates_S, x.strength_SxK)[-1] for s, x in runs.items()}
    words = f"until R / S of the composite passes 1/2, {name.replace('_', ' ')}"
    stem = f"parity/composite/{name}/emergence"
    late = sum(map(math.isnan, times.values()))
    if late:
        last = study.config.composite.steps
        why = f"not within {last:,} updates in {late} of {len(times)} seeds"
        return interval_row(stem, exact(math.nan), "updates", len(times), words, "", why)
    return seed_row(stem, PerSeed(times), "updates", words, contrast=False)


def _drawn_losses(config: MultilinearConfig, examples_D: np.ndarray, seed: int) -> np.ndarray:
    """Loss of the solvable model when training on the first D examples never ends, D."""
    tasks = parity.make_tasks(config.parity, seed)
    which_B = parity.draw_numpy(tasks, seed, 0, int(examples_D[-1])).which_B
    first_K = np.full(len(config.share_K), np.inf)
    np.minimum.at(first_K, which_B, np.arange(len(which_B)))
    unseen_DxK = first_K[None] >= examples_D[:, None]
    return config.flow.target**2 / 2 * (unseen_DxK @ config.share_K)


def _learned(config: MultilinearConfig) -> int:
    """Skills that emerge within the updates; the best model for them has about as many."""
    times_K = config.flow.emergence_time(config.share_K)
    return max(int((times_K <= config.steps).sum()), 1)
