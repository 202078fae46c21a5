"""Figures of multitask sparse parity: strengths, times of emergence, losses, and the composite."""

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, band, canvas, stack
from llm_dynamics.report.numbers import number
from llm_dynamics.skills import parity_theory
from llm_dynamics.skills.parity_rows import (
    NETWORKS,
    ParityStudy,
    emerged,
    predicted_loss,
    share,
)

_MODEL = "multilinear"
_FIRST = (1, 2, 4, 8, 16)  # ranks of the solvable model's tasks that are drawn
_BANDS = "Lines: means over seeds; bands: the lowest and the highest seed."


def parity_figures(study: ParityStudy) -> list[Figure]:
    """All of them, in the order of the text."""
    return [strengths(study), emergence_times(study), losses(study), composite(study)]


def strengths(study: ParityStudy) -> Figure:
    """Skill strength over updates, against the closed form or the first skill's curve."""
    config = study.config.multilinear
    curves_RxSxK = np.stack(list(study.multilinear.values()))
    closed_SxK = config.flow.strength(config.updates_S, config.share_K)
    ranks = [rank for rank in _FIRST if rank <= len(config.share_K)]
    tables = [_strength(_MODEL, config.updates_S, rank, curves_RxSxK, closed_SxK) for rank in ranks]
    for name in NETWORKS:
        runs, share_K = study.networks[name], share(getattr(study.config, name))
        updates_S = next(iter(runs.values())).updates_S
        curves_RxSxK = np.stack([run.strength_SxK for run in runs.values()])
        first_S = curves_RxSxK[..., 0].mean(axis=0)
        predicted_SxK = parity_theory.rescaled(updates_S, first_S, share_K)
        tables += [
            _strength(name, updates_S, rank, curves_RxSxK, predicted_SxK)
            for rank in range(1, len(share_K) + 1)
        ]

    def draw():
        drawing, axes = canvas(1, 3, 3.2, sharey=True)
        titles = (f"{_MODEL}: closed form", *(f"network, {name}" for name in NETWORKS))
        for axis, model, title in zip(axes[0], (_MODEL, *NETWORKS), titles, strict=True):
            for index, table in enumerate(t for t in tables if t["model"] == model):
                _draw_band(axis, table, "strength", style.series(index), f"task {table['task']}")
                axis.plot(table["updates"], table["predicted"], color=style.color("ink"), lw=0.8,
                          ls="--")  # fmt: skip
            axis.set(xscale="log", title=title, xlabel="updates")
            axis.set_xlim(left=table["updates"][-1] / 2000)  # room for the legend
            axis.legend(loc="upper left")
        axes[0][0].set_ylabel("skill strength R/S")
        return drawing

    return Figure(
        "parity_strengths",
        "Skill strengths over updates",
        "Skill strength over its target. Dashed, left: the closed form of the solvable model, with "
        "nothing fitted. Dashed, middle and right: the curve of the first task, stretched by "
        f"P(1)/P(k) for task k. {_BANDS}",
        "Skill strengths over updates of the solvable model and of two networks, with predictions.",
        draw,
        stack(tables),
    )


def emergence_times(study: ParityStudy) -> Figure:
    """Updates until a task emerges over its rank, log-log."""
    tables = []
    for name in NETWORKS:
        runs, config = study.networks[name], getattr(study.config, name)
        times_RxK, _ = emerged(runs)
        ranks_K = np.arange(1, times_RxK.shape[1] + 1)
        first = times_RxK[:, 0].mean()
        for seed, times_K in zip(runs, times_RxK, strict=True):
            tables.append(
                {
                    "optimizer": name,
                    "seed": seed,
                    "task": ranks_K,
                    "updates": times_K,
                    "predicted": first * ranks_K ** (config.parity.a + 1),
                }
            )

    def draw():
        from matplotlib.ticker import LogLocator

        drawing, axes = canvas(1, len(NETWORKS), 3.2, sharey=True)
        for index, (axis, name) in enumerate(zip(axes[0], NETWORKS, strict=True)):
            own = [t for t in tables if t["optimizer"] == name]
            for table in own:
                axis.plot(table["task"], table["updates"], "o", color=style.series(index), ms=3.5)
            axis.plot(own[0]["task"], own[0]["predicted"], "--", color=style.color("ink"),
                      label=f"slope {getattr(study.config, name).parity.a + 1:g}")  # fmt: skip
            axis.set(xscale="log", yscale="log", xlabel="rank of the task", title=name)
            axis.minorticks_off()
            axis.set_xticks(own[0]["task"], [str(k) for k in own[0]["task"]])
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(lambda y, _: number(y))
            axis.legend(loc="upper left")
        axes[0][0].set_ylabel("updates until R/S passes 1/2")
        return drawing

    return Figure(
        "parity_emergence",
        "When skills emerge",
        "Updates until the skill strength passes half its target, one point a seed, over the rank "
        "of the task's frequency. Dashed: the predicted slope a + 1 through the first task's mean. "
        "A task that does not emerge has no point.",
        "Updates until each task emerges over its rank, with the predicted slope.",
        draw,
        stack(tables),
    )


def losses(study: ParityStudy) -> Figure:
    """Loss over updates against the closed form, and of networks against the stretched curve."""
    config = study.config.multilinear
    half = config.flow.target**2 / 2
    curves_RxS = [(1 - x_SxK) ** 2 @ config.share_K for x_SxK in study.multilinear.values()]
    closed_S = config.flow.loss(config.updates_S, config.share_K) / half
    tables = [_loss(_MODEL, config.updates_S, curves_RxS, closed_S)]
    for name in NETWORKS:
        runs, share_K = study.networks[name].values(), share(getattr(study.config, name))
        predicted_S = np.mean([predicted_loss(run, share_K) for run in runs], axis=0)
        curves_RxS = [run.loss_SxK @ share_K for run in runs]
        tables.append(_loss(name, next(iter(runs)).updates_S, curves_RxS, predicted_S))

    def draw():
        drawing, axes = canvas(1, 2, 3.2)
        for index, table in enumerate(tables):
            axis = axes[0][min(index, 1)]
            _draw_band(axis, table, "loss", style.series(index), table["model"])
            axis.plot(table["updates"], table["predicted"], color=style.color("ink"), lw=0.8,
                      ls="--")  # fmt: skip
        axes[0][0].set(xscale="log", yscale="log", title="solvable model: closed form")
        axes[0][1].set(title="networks: the first task's curve for all", ylim=(0, 1.2))
        for axis in axes[0]:
            axis.set_xlabel("updates")
            axis.set_ylabel("loss over S²/2")
            axis.legend(loc="best")
        return drawing

    return Figure(
        "parity_losses",
        "Loss over updates",
        "Half the mean square error over its value before anything is learned. Dashed, left: the "
        "closed form. Dashed, right: the loss if every task followed the first one's curve, "
        f"stretched by P(1)/P(k). {_BANDS}",
        "Loss over updates of the solvable model and of networks, with predictions.",
        draw,
        stack(tables),
    )


def composite(study: ParityStudy) -> Figure:
    """Accuracy of the composite task with and without its atoms."""
    runs = study.composite.values()
    updates_S = next(iter(runs)).alone.updates_S
    curves = {
        "atoms": [r.with_atoms.accuracy_SxK[:, :-1].mean(axis=1) for r in runs],
        "composite beside its atoms": [r.with_atoms.accuracy_SxK[:, -1] for r in runs],
        "composite alone": [r.alone.accuracy_SxK[:, -1] for r in runs],
    }
    tables = [
        {"task": name, "updates": updates_S, **band("accuracy", values)}
        for name, values in curves.items()
    ]

    def draw():
        drawing, axes = canvas(1, 1, 3.2)
        axis = axes[0][0]
        for index, table in enumerate(tables):
            _draw_band(axis, table, "accuracy", style.series(index), table["task"])
        axis.axhline(0.5, color=style.color("muted"), lw=0.9)
        axis.set(xlabel="updates", ylabel="share of right signs")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        "parity_composite",
        "A composite task with and without its atoms",
        "Share of right signs on examples that are not trained on; chance is 0.5. Alone, the "
        f"composite gets the whole batch in every update. {_BANDS}",
        "Accuracy of the atoms and of the composite task, with atoms and alone, over updates.",
        draw,
        stack(tables),
    )


def _strength(model: str, updates_S, rank: int, curves_RxSxK, predicted_SxK) -> dict:
    return {
        "model": model,
        "task": rank,
        "updates": updates_S,
        **band("strength", curves_RxSxK[..., rank - 1]),
        "predicted": predicted_SxK[:, rank - 1],
    }


def _loss(model: str, updates_S, curves_RxS, predicted_S) -> dict:
    ends = band("loss", curves_RxS)
    return {"model": model, "updates": updates_S, **ends, "predicted": predicted_S}


def _draw_band(axis, table, name: str, tint: str, label: str) -> None:
    axis.plot(table["updates"], table[name], color=tint, label=label)
    axis.fill_between(table["updates"], table["low"], table["high"], color=tint, alpha=0.15, lw=0)
