"""Figures of models trained on known skills."""

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, band, canvas, stack
from llm_dynamics.report.skills_study import SkillsStudy
from llm_dynamics.skills import languages, measures
from llm_dynamics.skills.trained_rows import is_independent
from llm_dynamics.skills.training import HELD_OUT
from llm_dynamics.skills.weakest import weakest

_BANDS = "Lines: means over seeds; bands: the lowest and the highest seed."


def trained_figures(study: SkillsStudy) -> list[Figure]:
    """All that the arms of a study allow."""
    found = []
    if parallel := study.first("parallel"):
        found += [competence(study, parallel), weakest_skills(study, parallel)]
    if "serial" in study.arms:
        found.append(composition(study, "serial"))
    if study.held_out:
        found.append(held_out_pairs(study))
    if any(study.zipfs):
        found.append(emergence(study))
    return [figure for figure in found if figure]


def competence(study: SkillsStudy, name: str) -> Figure:
    """Competence on tuples over the excess, and whether its lack goes as size times excess."""
    tables = []
    for seed, run in study.arms[name].items():
        for which in [w for w in run.seen if not w.endswith(HELD_OUT)]:
            seen = measures.along(run, which)
            for j in range(seen.joint_NxA.shape[1]):
                tables.append(
                    {
                        "texts": which, "seed": seed, "tuple_size": j + 1, "step": seen.steps_N,
                        "excess": seen.delta_N, "competence": seen.joint_NxA[:, j],
                    }
                )  # fmt: skip

    def draw():
        drawing, axes = canvas(1, 2, 3.6)
        drawn = set()
        for table in tables:
            size, tint = table["tuple_size"], style.series(table["tuple_size"] - 1)
            label = f"{size}-tuples" if size not in drawn else None
            drawn.add(size)
            keep = table["excess"] > 1e-3
            excess, had = table["excess"][keep], table["competence"][keep]
            axes[0][0].plot(excess, had, color=tint, lw=1, marker=".", ms=3, label=label)
            lack = np.maximum(1 - had, 1e-4)
            axes[0][1].plot(size * excess, lack, color=tint, lw=1, marker=".", ms=3)
        for axis in axes[0]:
            axis.set_xscale("log")
        axes[0][0].invert_xaxis()
        axes[0][0].set_xlabel("excess cross-entropy, nats per text")
        axes[0][0].set_ylabel("competence")
        axes[0][0].legend(loc="upper left")
        axes[0][1].set_yscale("log")
        axes[0][1].set_xlabel("tuple size x excess, nats")
        axes[0][1].set_ylabel("1 - competence")
        return drawing

    return Figure(
        "competence",
        "Competence on tuples of skills",
        f"Arm {name}, one line a seed. Left: share of tuples whose answers are all right, over the "
        "excess of the same model. Right: what is lacking, over the excess times the size of the "
        "tuple. If dividing the excess by k' made k'-tuples as good as single skills were "
        "(Corollary 13 of Arora & Goyal 2023), all lines on the right would be one.",
        "Competence on tuples of each size over the excess, and what is lacking over size times "
        "excess.",
        draw,
        stack(tables),
    )


def weakest_skills(study: SkillsStudy, name: str) -> Figure | None:
    """Errors of the weakest skills against the largest possible; None where pairs are held out."""
    points, size = [], 1
    for seed, run in study.arms[name].items():
        language = run.config.language
        if not is_independent(run.config):
            return None
        size = max(language.sizes)
        for alpha in study.alphas:
            for step, outcomes in zip(run.steps_N, measures.looks(run, f"k{size}"), strict=True):
                found = weakest(outcomes, alpha, languages.measure(language))
                points.append(
                    {
                        "alpha": alpha, "seed": seed, "step": int(step), "mass": [found.alpha],
                        "theta": [found.theta], "error": [found.error],
                        "exact": [found.exact], "theorem": [found.theorem],
                    }
                )  # fmt: skip

    def draw():
        drawing, axes = canvas(1, len(study.alphas), 3.4, sharey=True)
        for axis, alpha in zip(axes[0], study.alphas, strict=True):
            here = [p for p in points if p["alpha"] == alpha]
            x, y, chance = ([p[key][0] for p in here] for key in ("exact", "error", "theta"))
            axis.plot([0, 1], [0, 1], color=style.series(1), ls="--", label="largest possible")
            axis.plot(x, chance, ".", color=style.color("muted"), ms=3, label="by chance")
            axis.plot(x, y, ".", color=style.series(2), ms=4, label="measured")
            axis.set_title(f"weakest skills of measure {alpha:g}")
            axis.set_xlabel("largest possible error")
        axes[0][0].set_ylabel("error of the weakest skills")
        axes[0][-1].legend(loc="upper left")
        return drawing

    return Figure(
        "weakest_skills",
        "The weakest skills against their bounds",
        f"Arm {name}: every look of every seed, texts of {size} skills. Share of the texts that "
        "need one of the weakest skills and fail, over the largest that any failing of as many "
        "texts gives skills of the same measure (that of the skills at hand, at least the one "
        "asked for); by chance it is theta. The weakest are named on one half of the texts and "
        "measured on the other. Above the dashed line are errors of sampling alone.",
        "Errors of the weakest skills beside the largest possible ones and those by chance.",
        draw,
        stack(points),
    )


def composition(study: SkillsStudy, name: str) -> Figure:
    """Success on texts of skills in a row along training."""
    arm = study.arms[name]
    config = next(iter(arm.values())).config
    steps = next(iter(arm.values())).steps_N
    tables = []
    for which, (size, held) in config.sets().items():
        right = np.stack([1 - measures.along(run, which).theta_N for run in arm.values()])
        kind = "held-out pairs" if held else "seen pairs"
        tables.append({"size": size, "pairs": kind, "step": steps, **band("mean", right)})
        if size > 1 and not held and "k1" in config.sets():
            product = np.stack(
                [
                    [
                        o.product(one.accuracy_S, size)
                        for o, one in zip(
                            measures.looks(run, which), measures.looks(run, "k1"), strict=True
                        )
                    ]
                    for run in arm.values()
                ]
            )
            tables.append(
                {"size": size, "pairs": "product", "step": steps, **band("mean", product)}
            )

    def draw():
        drawing, axes = canvas(1, 1, 3.6)
        axis, dashes = axes[0][0], {"seen pairs": "-", "held-out pairs": "--", "product": ":"}
        for table in tables:
            tint = style.series(table["size"] - 1)
            label = f"{table['size']} skill{'s' * (table['size'] > 1)}, {table['pairs']}"
            axis.plot(
                table["step"], table["mean"], color=tint, ls=dashes[table["pairs"]], label=label
            )
            if table["pairs"] != "product":
                axis.fill_between(
                    table["step"], table["low"], table["high"], color=tint, alpha=0.15, lw=0
                )
        axis.set_xlabel("updates")
        axis.set_ylabel("right answers, share")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "composition",
        "Skills applied one after another",
        f"Arm {name}: share of right answers to texts of one, two and more skills in a row. "
        "Dotted: what the accuracies of the single skills come to if composing them were free. "
        f"{_BANDS}",
        "Right answers along training by the number of skills in a row, seen and held-out pairs.",
        draw,
        stack(tables),
    )


def held_out_pairs(study: SkillsStudy) -> Figure:
    """Success on seen and held-out pairs by the share that is held out."""
    tables = []
    for share, name in study.held_out.items():
        if not share:
            continue
        for seed, run in study.arms[name].items():
            size = max(run.config.language.sizes)
            tables.append(
                {
                    "share": [share], "seed": seed,
                    "distinct_pairs_per_skill": measures.distinct_pairs(run),
                    "seen": [1 - run.outcomes(f"k{size}", -1).theta],
                    "held_out": [1 - run.outcomes(f"k{size}/{HELD_OUT}", -1).theta],
                }
            )  # fmt: skip
    skills = max(run.config.language.skills for name in study.held_out.values()
                 for run in study.arms[name].values())  # fmt: skip
    threshold = 1 - 1 / skills

    def draw():
        drawing, axes = canvas(1, 1, 3.4)
        axis = axes[0][0]
        for i, (key, label) in enumerate((("seen", "seen pairs"), ("held_out", "held-out pairs"))):
            x, y = ([t[k][0] for t in tables] for k in ("share", key))
            shares = sorted(set(x))
            means = [np.mean([b for a, b in zip(x, y, strict=True) if a == s]) for s in shares]
            axis.plot(x, y, "o", color=style.series(i), ms=3, alpha=0.6)
            axis.plot(shares, means, color=style.series(i), label=label)
        axis.axvline(threshold, color=style.color("muted"), ls=":", label="percolation")
        axis.set_xlabel("share of the pairs that training has not")
        axis.set_ylabel("right answers at the end, share")
        axis.legend(loc="lower left")
        return drawing

    return Figure(
        "held_out_pairs",
        "Pairs that were never seen together",
        "Right answers at the end of training, one point a seed, lines are means. Dotted: where "
        "the bipartite graph of first and second skills loses its giant component, "
        f"1 - 1/{skills}.",
        "Right answers on seen and on held-out pairs over the share that is held out.",
        draw,
        stack(tables),
    )


def emergence(study: SkillsStudy) -> Figure | None:
    """When a skill emerges, by its rank; None where none does."""
    tables = []
    for zipf, name in study.zipfs.items():
        for seed, run in study.arms[name].items():
            steps_S = measures.emergence_steps(run, f"k{max(run.config.language.sizes)}")
            tables.append(
                {
                    "zipf": zipf, "seed": seed, "rank": np.arange(1, len(steps_S) + 1),
                    "updates": steps_S,
                }
            )  # fmt: skip

    if not any(np.isfinite(table["updates"]).any() for table in tables):
        return None

    def draw():
        drawing, axes = canvas(1, 1, 3.6)
        axis, exponents = axes[0][0], sorted({t["zipf"] for t in tables})
        for i, zipf in enumerate(exponents):
            here = np.stack([t["updates"] for t in tables if t["zipf"] == zipf])
            ranks = np.arange(1, here.shape[1] + 1)
            for steps_S in here:
                axis.plot(ranks, steps_S, ".", color=style.series(i), ms=3, alpha=0.5)
            axis.plot([], [], ".", color=style.series(i), label=f"Zipf exponent {zipf:g}")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("rank of the skill by frequency")
        axis.set_ylabel("updates until half of its answers are right")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "emergence",
        "When skills emerge",
        "Updates until a skill's accuracy first reaches one half, one point a skill and seed; "
        "skills that never get there have none.",
        "Time of emergence over the rank of a skill, by the exponent of the frequencies.",
        draw,
        stack(tables),
    )
