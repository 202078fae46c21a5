"""Figures of a claims study; `study` is a `claims_report.ClaimsStudy`."""

from typing import Any

import numpy as np

from llm_dynamics.facts import claims
from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, canvas, stack

_FORMS = {"raw": ("gain/raw", "control"), "control subtracted": ("gain", "series-1")}


def gains(study: Any) -> Figure:
    """Raw and control-subtracted gain of every size, a panel a depth."""
    found = {row["name"]: row for row in study.rows}
    depths = next(iter(study.studies.values())).depths
    data = stack(
        {
            "depth": depth,
            "parameters": parameters,
            "form": form,
            **{k: found[f"{name}/{depth}/{key}"][k] for k in ("value", "low", "high", "n")},
        }
        for depth in depths
        for name, parameters in study.sizes.items()
        for form, (key, _) in _FORMS.items()
    )

    def draw():
        drawing, axes = canvas(1, len(depths), 2.9, sharey=True)
        table = {key: np.array(values) for key, values in data.items()}
        for axis, depth in zip(axes[0], depths, strict=True):
            for i, (form, (_, role)) in enumerate(_FORMS.items()):
                at = (table["depth"] == depth) & (table["form"] == form)
                value, low, high = (table[k][at].astype(float) for k in ("value", "low", "high"))
                axis.errorbar(
                    np.arange(at.sum()) + 0.12 * (2 * i - 1),
                    value,
                    np.nan_to_num([value - low, high - value]),
                    fmt="o",
                    ms=4,
                    color=style.color(role),
                    label=form,
                )
            axis.set_xticks(range(len(study.sizes)), [short(n) for n in study.sizes.values()])
            axis.set_xlim(-0.5, len(study.sizes) - 0.5)
            axis.axhline(0, color=style.color("muted"), lw=0.9)
            axis.set_title(depth)
            axis.set_xlabel("parameters")
        axes[0][0].set_ylabel("gain, nats per token")
        axes[0][0].legend(loc="upper left")
        return drawing

    return Figure(
        "inflation",
        "Raw and control-subtracted gain by size",
        f"Gain of arm {study.same} at the last maximum, as published (raw) and less that of the "
        "same facts where they are never said. Bars: 95 % intervals over facts, and over pairs of "
        "runs where a size has three or more.",
        "Raw and control-subtracted gains for each model size and depth, with intervals.",
        draw,
        data,
    )


def levels(study: Any) -> Figure:
    """The level just before each encounter for every interval, a panel a size."""
    depth = next(iter(study.studies.values())).depths[0]
    tables = []
    for name, run in study.studies.items():
        for arm in study.intervals:
            times = run.schedule[arm]
            value, low, high = claims.levels_before(run, arm, depth).interval()
            tables.append(
                {
                    "parameters": study.sizes[name],
                    "arm": arm,
                    "interval": times[1] - times[0],
                    "encounter": np.arange(1, len(times) + 1),
                    "value": value,
                    "low": low,
                    "high": high,
                }
            )
    data = stack(tables)

    def draw():
        drawing, axes = canvas(1, len(study.sizes), 2.9, sharey=True)
        for table in tables:
            column = list(study.sizes.values()).index(table["parameters"])
            axis, tint = axes[0][column], style.series(study.intervals.index(table["arm"]))
            label = f"every {table['interval']} steps"
            axis.plot(table["encounter"], table["value"], "o-", ms=4, color=tint, label=label)
            axis.fill_between(
                table["encounter"], table["low"], table["high"], color=tint, alpha=0.13, lw=0
            )
        for axis, parameters in zip(axes[0], study.sizes.values(), strict=True):
            axis.axhline(0, color=style.color("muted"), lw=0.9)
            axis.set_title(f"{short(parameters)} parameters")
            axis.set_xlabel("encounter")
        axes[0][0].set_ylabel("level before it, nats per token")
        axes[0][0].legend(loc="upper left")
        return drawing

    return Figure(
        "threshold",
        "Level just before each encounter",
        f"Control-subtracted log-probability of {depth} probes just before each encounter less "
        "that before the first. Bands: 95 % intervals over facts, and over pairs of runs where a "
        f"size has three or more; with fewer, arms other than {study.same} are compared with other "
        "facts than their own.",
        "Level before each encounter for several intervals at each model size.",
        draw,
        data,
    )


def short(count: int) -> str:
    """A number of parameters in millions."""
    return f"{count / 1e6:.2g}M"
