"""Skill graphs drawn, failed by adversaries, and held against the theory, over several graphs.

A cell is one adversary at one theta and one alpha. What is measured in it is beta: the mean error
over the worst skills (those with the largest error, up to a mass alpha), divided by theta. The
measured mass of these is what the predictions are computed for, graph by graph.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.results import Row, exact, interval_row, verdict
from llm_dynamics.seeds import PerSeed, seed_row
from llm_dynamics.skills import (
    adversaries,
    bounds,
    random_graphs,
    targets,
    thresholds,
    tuples,
)
from llm_dynamics.skills.adversaries import Drawn, Outcome
from llm_dynamics.skills.graph import SkillGraph

CHANCE, FIXED, GREEDY = "chance", "fixed", "greedy"
CLIQUE, STAR = "clique", "star"  # of pairs
BETA = "error / theta"
_ABOUT = {
    CHANCE: "pieces fail at random",
    FIXED: "the pieces fail that have most of their skills in a set drawn beforehand",
    CLIQUE: "the pieces fail that have most pairs among a few skills",
    STAR: "the pieces fail that have most pairs with one of a few skills",
    GREEDY: "the worst of the searches from all other adversaries",
}


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """What is simulated.

    Attributes:
      pieces, skills, k, zipf: of the graphs, as in `SkillGraph`.
      pairs: looks at pairs of skills within a piece (of distinct skills) instead of skills.
      thetas: shares of pieces that fail.
      alphas: masses of the worst skills.
      seeds: graphs.
    """

    pieces: int = 100_000
    skills: int = 1000
    k: int = 8
    zipf: float = 0.0
    pairs: bool = False
    thetas: tuple[float, ...] = (0.05, 0.1, 0.2)
    alphas: tuple[float, ...] = (0.1, 0.2, 0.5)
    seeds: int = 5

    def __post_init__(self):
        if self.seeds < 1 or not self.thetas or not self.alphas:
            raise UserError(
                "expected at least one seed, theta and alpha, got "
                f"{self.seeds}, {self.thetas} and {self.alphas}"
            )
        bounds.checked(np.array(self.alphas)[:, None], np.array(self.thetas)[None], self.k)
        if self.graph.mass_I.min() > min(self.alphas):
            raise UserError(
                f"no skill has a mass of at most alpha={min(self.alphas)}; raise skills"
            )
        if round(min(self.thetas) * self.pieces) < 1:
            raise UserError(f"no piece fails at theta={min(self.thetas)}; raise pieces")

    @property
    def graph(self) -> SkillGraph:
        """How graphs are drawn."""
        return SkillGraph(
            self.pieces, self.skills, self.k, self.zipf, self.pairs, 2 if self.pairs else 1
        )


@dataclasses.dataclass(frozen=True)
class Cell:
    """One adversary at one theta and alpha.

    Attributes:
      adversary: who.
      theta: share of failed pieces, as asked for.
      alpha: mass of the worst skills, as asked for.
      mass: what they had, per seed.
      worst: mean error over them / theta, per seed; a fixed set is judged itself.
      quantile: largest error outside of them / theta, per seed.
      predicted: name -> beta per seed at that mass: "exact", "theorem", "finite" (for that many
        pieces), and "chance" for skills of equal weight; one without a solution is left out.
    """

    adversary: str
    theta: float
    alpha: float
    mass: PerSeed
    worst: PerSeed
    quantile: PerSeed
    predicted: Mapping[str, PerSeed]

    @property
    def expectation(self) -> str:
        """The prediction that the adversary should reach; an upper bound for pairs."""
        return CHANCE if self.adversary == CHANCE else "exact"


def simulate(config: SimulationConfig) -> list[Row]:
    """Rows of all cells, each with Student's interval over graphs.

    Raises:
      UserError: sizes that do not fit.
    """
    return [row for cell in measure(config) for row in rows_of(cell, config)]


def transition_rows(
    seeds: int,
    skills: int = 5000,
    sizes: Sequence[int] = (2, 4, 8),
    means: Sequence[float] = (2, 3, 4),
) -> list[Row]:
    """Giant components and peeling of drawn graphs, beside the limits of many skills.

    Rows carry `panel` ("giant" or "peeling"), `parameter` (k or c) and `pieces_per_skill` as well.

    Args:
      seeds: graphs of each kind.
      skills: in each.
      sizes: k, skills of every piece, of giant components.
      means: c, mean skills of a piece, of peeling.
    """
    panels = {
        "giant": (
            sizes, (0.1, 0.3, 0.6, 0.9), random_graphs.largest_skill_share,
            thresholds.giant_skill_share, "share of skills in the largest component",
        ),
        "peeling": (
            means, (0.4, 0.8, 1.2, 1.6), random_graphs.peel,
            thresholds.unlearned_share, "share of skills left unlearned",
        ),
    }  # fmt: skip
    rows = []
    for panel, (parameters, ratios, drawn, limit, words) in panels.items():
        for parameter in parameters:
            for ratio in ratios:
                pieces = round(ratio * skills)
                values = {
                    seed: drawn(skills, pieces, parameter, np.random.default_rng(seed))
                    for seed in range(seeds)
                }
                expected = float(limit(ratio, parameter))
                made = seed_row(
                    f"transition/{panel}/{parameter:g}/pieces_per_skill={ratio:g}",
                    PerSeed(values), "share", f"{words}; limit of many skills {expected:.4f}",
                    contrast=False,
                )  # fmt: skip
                about = {"panel": panel, "parameter": parameter, "pieces_per_skill": ratio}
                rows.append(made | about)
    return rows


def measure(config: SimulationConfig) -> list[Cell]:
    """Draws the graphs and lets every adversary fail pieces of each.

    Raises:
      UserError: sizes that do not fit.
    """
    found: dict[tuple[str, float, float], dict[int, Outcome]] = {}
    for seed in range(config.seeds):
        drawn = adversaries.draw(config.graph, seed)
        for theta in config.thetas:
            for alpha in config.alphas:
                for adversary, outcome in _attacks(drawn, theta, alpha).items():
                    found.setdefault((adversary, theta, alpha), {})[seed] = outcome
    return [_cell(config, *key, outcomes) for key, outcomes in found.items()]


def rows_of(cell: Cell, config: SimulationConfig) -> list[Row]:
    """The cell's beta, its agreement with theory, and whether a bound was exceeded.

    Every row carries `adversary`, `theta`, `alpha` and `measure` beside its name.
    """
    items = "pairs" if config.pairs else "skills"
    where = f"theta={cell.theta:g}/alpha={cell.alpha:g}/{cell.adversary}"
    about = f"{_ABOUT[cell.adversary]}; N1={config.pieces:,}, N2={config.skills:,}, k={config.k}"
    if config.zipf:
        about += f", Zipf {config.zipf:g}, mean mass {cell.mass.mean:.4g}"
    rows = {
        "beta": seed_row(
            f"{where}/beta",
            cell.worst,
            BETA,
            f"mean error over the worst {items} of mass {cell.alpha:g} / theta; {about}",
            contrast=False,
        ),
        "quantile": seed_row(
            f"{where}/quantile",
            cell.quantile,
            BETA,
            f"largest error outside of the worst {items} of mass {cell.alpha:g} / theta; {about}",
            contrast=False,
        ),
    }
    for name, values in cell.predicted.items():
        rows[name] = interval_row(
            f"{where}/{name}",
            exact(values.mean),
            BETA,
            values.n,
            f"beta by theory ({name}) at the mass of the worst {items}",
            "computed",
        )
    if cell.expectation in cell.predicted:
        rows["agreement"] = _agreement(f"{where}/agreement", cell, items)
    if "finite" in cell.predicted:
        over = cell.worst.paired(cell.predicted["finite"], lambda a, b: float(a > b))
        rows["above_bound"] = seed_row(
            f"{where}/above_bound",
            over,
            "share of graphs",
            "graphs whose measured beta exceeds the theorem's bound for that many pieces",
            contrast=False,
        )
    about_cell = {"adversary": cell.adversary, "theta": cell.theta, "alpha": cell.alpha}
    return [{**row, **about_cell, "measure": name} for name, row in rows.items()]


def _agreement(name: str, cell: Cell, items: str) -> Row:
    ratio = cell.worst.paired(cell.predicted[cell.expectation], lambda a, b: a / b)
    row = seed_row(
        name,
        ratio,
        "ratio",
        f"measured beta over the {cell.expectation} prediction for the worst {items}, "
        "graph by graph",
        contrast=False,
    )
    if row["low"] is None:
        return row
    shown = verdict(row, 1.0)
    words = "the interval includes 1" if shown == "not shown" else f"{shown} 1"
    return {**row, "note": "; ".join(filter(None, (row["note"], words)))}


def _attacks(drawn: Drawn, theta: float, alpha: float) -> dict[str, Outcome]:
    graph = drawn.graph
    aims = {FIXED: targets.random_set(graph, alpha, drawn.seed)}
    if graph.tuple_size == 2:
        aims |= {
            CLIQUE: targets.clique(graph, alpha),
            STAR: targets.star(graph, alpha),
        }
    found = {CHANCE: adversaries.by_chance(drawn, theta, alpha)}
    found |= {name: adversaries.aimed_at(drawn, aim, theta, alpha) for name, aim in aims.items()}
    searched = [adversaries.search(drawn, o.worst_I, theta, alpha) for o in found.values()]
    return {**found, GREEDY: max(searched, key=lambda outcome: outcome.worst)}


def _cell(
    config: SimulationConfig,
    adversary: str,
    theta: float,
    alpha: float,
    outcomes: Mapping[int, Outcome],
) -> Cell:
    # A set drawn beforehand is judged by itself: its worst skills would be another set.
    fixed = adversary == FIXED
    mass = {seed: o.aimed_alpha if fixed else o.alpha for seed, o in outcomes.items()}
    worst = {seed: o.aimed if fixed else o.worst for seed, o in outcomes.items()}
    predicted: dict[str, dict[int, float]] = {}
    for seed, outcome in outcomes.items():
        for name, beta in _predictions(config, mass[seed], outcome.theta).items():
            if np.isfinite(beta):
                predicted.setdefault(name, {})[seed] = float(beta)
    return Cell(
        adversary,
        theta,
        alpha,
        PerSeed(mass),
        PerSeed(worst),
        PerSeed({seed: o.quantile for seed, o in outcomes.items()}),
        {name: PerSeed(found) for name, found in predicted.items()},
    )


def _predictions(config: SimulationConfig, alpha: float, theta: float) -> dict[str, np.ndarray]:
    graph, at = config.graph, (alpha, theta)
    k = int(tuples.blocks(config.k, graph.tuple_size))
    found = {
        "exact": bounds.beta_exact(*at, k),
        "theorem": bounds.beta_theorem(*at, k),
        "finite": bounds.beta_finite(*at, k, config.pieces / graph.items, config.zipf == 0),
    }
    if config.zipf == 0:
        degree = config.pieces * graph.per_piece / graph.items
        found[CHANCE] = bounds.beta_random(*at, degree)
    return found
