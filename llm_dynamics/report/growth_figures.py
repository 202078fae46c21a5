"""Figures of a growth study."""

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, band, canvas, stack
from llm_dynamics.report.growth_study import Grown, GrowthStudy

_SCRATCH = "scratch"
_MOST = 8  # lines in a panel that can be told apart


def losses(pair: str, study: GrowthStudy) -> Figure:
    """Loss against compute, the source's left out and charged."""
    tables = []
    shown = _shown(pair, study)
    for variant, grown in study.arms[pair].items():
        for charged in (False, True):
            cost_S, band = _along(grown, charged)
            tables.append(
                {
                    "run": variant,
                    "charged": "yes" if charged else "no",
                    "drawn": "yes" if variant in shown else "no",
                    "flops": cost_S,
                    **band,
                }
            )
    data = stack(tables)

    def draw():
        drawing, axes = canvas(1, 2, 3.6, sharey=True)
        for table in tables:
            if table["drawn"] == "no":
                continue
            axis = axes[0][int(table["charged"] == "yes")]
            _line(axis, shown, table["run"], table["flops"], table)
        # The first losses of random models would hide what is to be seen.
        ends = [t["loss"][-1] for t in tables]
        starts = [t["loss"][0] for t in tables if t["run"] != _SCRATCH and t["drawn"] == "yes"]
        half = [t["loss"][len(t["loss"]) // 2] for t in tables if t["run"] == _SCRATCH]
        top = min(max(starts + half), min(ends) + 3.5)
        axes[0][0].set_ylim(min(ends) - 0.05 * (top - min(ends)), top)
        axes[0][0].set_title("the grown runs' own compute")
        axes[0][1].set_title("source and operator charged")
        for axis in axes[0]:
            axis.set_xlabel("FLOPs")
        axes[0][0].set_ylabel("loss, nats per token")
        axes[0][1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        f"losses_{pair}",
        "Loss against compute",
        "Loss on held-out text over training FLOPs of the large model (left), and with those of "
        f"the source and of fitting the operator before them (right). {_words(shown, study, pair)}",
        f"Loss against compute of the grown runs and from scratch, pair {pair}.",
        draw,
        data,
    )


def facts(pair: str, study: GrowthStudy) -> Figure:
    """Facts of the source through the growth."""
    shown = [v for v in _shown(pair, study) if v != _SCRATCH]
    tables = []
    for variant in study.arms[pair]:
        grown = study.arms[pair][variant]
        if not grown.facts_before:
            continue
        first = min(grown.facts)
        begin = grown.facts_before[first][0]
        steps = np.concatenate([begin - begin[-1], grown.facts[first][0]])
        values_RxS = np.stack(
            [np.concatenate([grown.facts_before[s][1], grown.facts[s][1]]) for s in grown.facts]
        )
        tables.append(
            {
                "run": variant,
                "drawn": "yes" if variant in shown else "no",
                "updates": steps,
                **band("net", values_RxS),
            }
        )
    data = stack(tables)

    def draw():
        drawing, axes = canvas(1, 1, 3.4)
        axis = axes[0][0]
        for table in tables:
            if table["drawn"] == "yes":
                _line(axis, shown, table["run"], table["updates"], table, "net")
        axis.axvline(0, color=style.color("muted"), lw=0.9)
        axis.axhline(0, color=style.color("muted"), lw=0.9)
        axis.set_xlabel("updates; the model grows at 0")
        axis.set_ylabel("log-probability over control,\nnats per token")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        f"facts_{pair}",
        "What is kept of the small model's facts",
        "Mean log-probability of facts that were injected into the small model, less that of "
        "never-injected ones with the same templates and answers (memorization probes). "
        f"{_words(shown, study, pair)}",
        f"Facts of the small model before, at and after the growth, pair {pair}.",
        draw,
        data,
    )


def _shown(pair: str, study: GrowthStudy) -> list[str]:
    """Scratch, and the operators with the least loss at the end."""
    arms = study.arms[pair]
    grown = [v for v in arms if v != _SCRATCH]
    ends = {v: np.mean([losses[-1] for losses in arms[v].losses.values()]) for v in grown}
    best = set(sorted(grown, key=ends.get)[: _MOST - 1])
    return [_SCRATCH, *(v for v in grown if v in best)]


def _words(shown: list[str], study: GrowthStudy, pair: str) -> str:
    left = len(study.arms[pair]) - len(shown)
    bands = "Lines: means over seeds; bands: the lowest and the highest seed."
    more = f" {left} more runs are in the CSV beside the figure." if left else ""
    return f"{bands}{more}"


def _along(grown: Grown, charged: bool) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    first = min(grown.losses)
    cost_S = grown.costs[first]["FLOPs"]
    if charged and grown.records:
        cost_S = cost_S + grown.sources[first]["FLOPs"] + grown.records[first]["flops"]
    return cost_S, band("loss", np.stack(list(grown.losses.values())))


def _line(axis, shown: list[str], run: str, x: np.ndarray, table, name: str = "loss") -> None:
    scratch = run == _SCRATCH
    tint, dash = style.color("muted"), ":"
    if not scratch:
        tint, dash = style.line(shown.index(run) - (_SCRATCH in shown))
    axis.plot(x, table[name], color=tint, ls=dash, label=run)
    axis.fill_between(x, table["low"], table["high"], color=tint, alpha=0.15, lw=0)
