"""Figures of a continual study; `study` is a `continual_report.ContinualStudy`."""

from typing import Any

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, canvas, stack

_MOST = 10  # arms drawn in one panel of curves
_MARKS = "osD^vP*X<>"


def trade(shift: str, study: Any) -> Figure:
    """Loss on the old data against loss on the new, a point an arm with its intervals."""
    found = {row["name"]: row for row in study.rows}
    tables = []
    for variant, arm in study.arms[shift].items():
        old, new = (found[f"{shift}/{variant}/{name}/loss"] for name in arm.datasets)
        tables.append(
            {
                "run": variant,
                **{f"old_{key}": old[key] for key in ("value", "low", "high")},
                **{f"new_{key}": new[key] for key in ("value", "low", "high")},
            }
        )
    data = stack(tables)

    def draw():
        drawing, axes = canvas(1, 1, 3.8)
        axis = axes[0][0]
        for i, row in enumerate(tables):
            errors = [
                np.array([[row[f"{side}_value"] - row[f"{side}_low"]],
                          [row[f"{side}_high"] - row[f"{side}_value"]]])
                if row[f"{side}_low"] is not None else None
                for side in ("new", "old")
            ]  # fmt: skip
            axis.errorbar(
                row["new_value"], row["old_value"], yerr=errors[1], xerr=errors[0],
                fmt=_MARKS[i % len(_MARKS)], ms=6, color=style.series(i), label=row["run"],
            )  # fmt: skip
        axis.set_xlabel("loss on the new data, nats per token")
        axis.set_ylabel("loss on the old data")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        f"trade_{shift}",
        "Old against new",
        "Loss on held-out old and new text at the end of every run; lower left is better. Bars: "
        "95 % intervals over seeds.",
        f"Loss on the old data against loss on the new data of every run of the shift {shift}.",
        draw,
        data,
    )


def curves(shift: str, study: Any) -> Figure:
    """Losses on both data sets along the second stage."""
    tables = []
    shown = [v for v, arm in study.arms[shift].items() if arm.before][:_MOST]
    for variant in shown:
        found = study.arms[shift][variant].curves
        for z, name in enumerate(found.datasets):
            losses_RxS = found.losses_RxSxZ[..., z]
            tables.append(
                {
                    "run": variant,
                    "data": ("old", "new")[z],
                    "name": name,
                    "tokens": found.tokens_S,
                    "mean": losses_RxS.mean(axis=0),
                    "least": losses_RxS.min(axis=0),
                    "most": losses_RxS.max(axis=0),
                }
            )
    data = stack(tables)

    def draw():
        drawing, axes = canvas(1, 2, 3.2)
        for table in tables:
            axis = axes[0][("old", "new").index(table["data"])]
            tint, dash = _line(shown.index(table["run"]))
            axis.plot(
                table["tokens"] / 1e3, table["mean"], dash, color=tint, lw=1.4, label=table["run"]
            )
            axis.fill_between(
                table["tokens"] / 1e3, table["least"], table["most"], color=tint, alpha=0.13, lw=0
            )
        for axis, name in zip(axes[0], ("old", "new"), strict=True):
            axis.set_title(f"{name} data")
            axis.set_xlabel("thousand tokens of the second stage")
        axes[0][0].set_ylabel("loss, nats per token")
        axes[0][1].legend(loc="upper right")
        return drawing

    return Figure(
        f"curves_{shift}",
        "Along the second stage",
        "Validation loss on old and new text by tokens of the second stage, means over seeds. "
        "Bands: the lowest and the highest seed.",
        f"Losses on old and new text along the second stage of the shift {shift}.",
        draw,
        data,
    )


def facts(shift: str, study: Any) -> Figure:
    """What is kept of the facts of the first stage, through both."""
    tables = []
    shown = list(study.facts[shift])[:_MOST]
    for variant in shown:
        kept = study.facts[shift][variant]
        for seed, (steps_S, values_S) in kept.after.items():
            before_S, early_S = kept.before[seed]
            tables.append(
                {
                    "run": variant,
                    "seed": seed,
                    "step": np.concatenate([before_S, steps_S[1:] + before_S[-1]]),
                    "value": np.concatenate([early_S, values_S[1:]]),
                }
            )
    data = stack(tables)

    def draw():
        drawing, axes = canvas(1, 1, 3.0)
        axis = axes[0][0]
        for i, variant in enumerate(shown):
            runs = [table for table in tables if table["run"] == variant]
            mean_S = np.mean([table["value"] for table in runs], axis=0)
            tint, dash = _line(i)
            axis.plot(runs[0]["step"], mean_S, dash, color=tint, lw=1.4, label=variant)
        axis.axvline(study.steps[0], color=style.color("muted"), lw=0.9)
        axis.axhline(0, color=style.color("muted"), lw=0.9)
        axis.set_xlabel("step of both stages; the line is the boundary")
        axis.set_ylabel("facts, nats per token")
        axis.legend(loc="upper left")
        return drawing

    return Figure(
        f"facts_{shift}",
        "The facts of the first stage",
        "Mean log-probability of injected facts less that of never-injected ones with the same "
        "templates and answers (memorization probes), means over seeds. Facts are met in the "
        "first stage alone.",
        f"What is kept of injected facts through both stages of the shift {shift}.",
        draw,
        data,
    )


def _line(index: int) -> tuple[str, str]:
    """Colour and dashes of a line; ten differ."""
    return style.series(index), ("-", "--")[index // 5 % 2]
