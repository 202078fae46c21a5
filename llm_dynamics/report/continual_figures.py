"""Figures of a continual study."""

from collections.abc import Sequence

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.continual_study import ContinualStudy
from llm_dynamics.report.figures import Figure, canvas, stack

_MOST = 10  # lines in a panel that can be told apart
_FEW = 5
_MARKS = "osD^vP*X<>"
_BANDS = "Lines: means over seeds; bands: the lowest and the highest seed."


def trade(shift: str, study: ContinualStudy) -> Figure:
    """Loss on the old data against loss on the new, a point an arm with its intervals."""
    found = study.by_name
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
        drawing, axes = canvas(1, 1, max(3.8, 0.6 + 0.17 * len(tables)))
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
                fmt=_MARKS[i % len(_MARKS)], ms=6, color=style.series(i + i // 10),
                label=row["run"],
            )  # fmt: skip
        axis.set_xlabel("loss on the new data, nats per token")
        axis.set_ylabel("loss on the old data")
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        f"trade_{shift}",
        "Old against new",
        "Loss on held-out old and new text at the end of every run; lower left is better. Bars: "
        "95 % intervals over seeds, where there are several.",
        f"Loss on the old data against loss on the new data of every run of the shift {shift}.",
        draw,
        data,
    )


def curves(shift: str, study: ContinualStudy) -> Figure:
    """Losses on both data sets along the second stage, by share of replay."""
    tables = []
    going_on = [v for v, arm in study.arms[shift].items() if arm.before]
    shown = _chosen(study.sweep, going_on, _MOST)
    for variant in going_on:
        found = study.arms[shift][variant].curves
        for z, name in enumerate(found.datasets):
            losses_RxS = found.losses_RxSxZ[..., z]
            tables.append(
                {
                    "run": variant,
                    "drawn": "yes" if variant in shown else "no",
                    "data": ("old", "new")[z],
                    "name": name,
                    "tokens": found.tokens_S,
                    **_band(losses_RxS),
                }
            )
    data = stack(tables)

    def draw():
        drawing, axes = canvas(1, 2, 3.2)
        for table in tables:
            if table["drawn"] == "yes":
                axis = axes[0][("old", "new").index(table["data"])]
                tint, dash = style.line(shown.index(table["run"]))
                _draw(axis, table["tokens"] / 1e3, table, tint, dash, table["run"])
        for axis, name in zip(axes[0], ("old", "new"), strict=True):
            axis.set_title(f"{name} data")
            axis.set_xlabel("thousand tokens of the second stage")
        axes[0][0].set_ylabel("loss, nats per token")
        axes[0][1].legend(loc="upper right")
        return drawing

    return Figure(
        f"curves_{shift}",
        "Along the second stage",
        "Validation loss on old and new text by tokens of the second stage. "
        f"{_BANDS} {_drawn_words(shown, going_on)}",
        f"Losses on old and new text along the second stage of the shift {shift}.",
        draw,
        data,
    )


def both(shift: str, study: ContinualStudy) -> Figure:
    """Losses and what is kept of the facts of the first stage, by tokens of both stages."""
    going_on = list(study.facts[shift])
    shown = _chosen(study.drawn, going_on, _FEW)
    tables = []
    for variant in going_on:
        arm, kept = study.arms[shift][variant], study.facts[shift][variant]
        seed = next(iter(arm.runs))
        logs = arm.before[seed], arm.runs[seed]
        drawn = {"run": variant, "drawn": "yes" if variant in shown else "no"}
        steps = len(logs[0].rates_T)
        for z, name in enumerate(("old", "new")):
            losses_RxS = np.concatenate(
                [
                    np.stack([runs[s].losses_SxZ[first:, z] for s in arm.runs])
                    for runs, first in ((arm.before, 0), (arm.runs, 1))
                ],
                axis=1,
            )
            at_S = [log.steps_S for log in logs]
            tables.append(
                {
                    **drawn,
                    "what": f"loss on {name} data",
                    "tokens": _tokens(at_S[0], at_S[1], logs, steps),
                    **_band(losses_RxS),
                }
            )
        kept_RxS = np.stack(
            [np.concatenate([kept.before[s][1], kept.after[s][1][1:]]) for s in arm.runs]
        )
        at_S = kept.before[seed][0], kept.after[seed][0]
        tables.append(
            {
                **drawn,
                "what": "facts",
                "tokens": _tokens(*at_S, logs, steps),
                **_band(kept_RxS),
            }
        )
    data = stack(tables)

    def draw():
        drawing, axes = canvas(2, 1, 5.4, sharex=True)
        losses, facts = axes[0][0], axes[1][0]
        for table in tables:
            if table["drawn"] == "no":
                continue
            tint = style.series(shown.index(table["run"]))
            axis = facts if table["what"] == "facts" else losses
            new = table["what"] == "loss on new data"
            dash, label = ("--", None) if new else ("-", table["run"])
            _draw(axis, table["tokens"] / 1e3, table, tint, dash, label)
        boundary = {len(study.arms[shift][v].before[s].rates_T)
                    * study.arms[shift][v].before[s].tokens_per_step
                    for v in shown for s in study.arms[shift][v].before}  # fmt: skip
        for axis in (losses, facts):
            for tokens in boundary:
                axis.axvline(tokens / 1e3, color=style.color("muted"), lw=0.9)
        facts.axhline(0, color=style.color("muted"), lw=0.9)
        losses.set_ylabel("loss, nats per token")
        losses.set_title("loss on old (solid) and new (dashed) text")
        facts.set_title("facts of the first stage")
        facts.set_ylabel("log-probability\nover control, nats/token")
        facts.set_xlabel("thousand tokens of both stages; the line is the boundary")
        losses.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
        return drawing

    return Figure(
        f"both_{shift}",
        "Loss and facts through both stages",
        "Above, validation loss on old and new text; below, on the same tokens, the mean "
        "log-probability of injected facts less that of never-injected ones with the same "
        "templates and answers (memorization probes). Facts are met in the first stage alone. "
        f"{_BANDS} {_drawn_words(shown, going_on)}",
        f"Losses and what is kept of injected facts through both stages of the shift {shift}.",
        draw,
        data,
    )


def splits(study: ContinualStudy) -> Figure:
    """The loss through all parts of the old data."""
    tables = []
    for variant, found in study.splits.items():
        tokens, pieces, start = [], [], 0
        for k, log in enumerate(next(iter(found.values()))):
            first = 1 if k else 0
            tokens.append((log.steps_S[first:] + start) * log.tokens_per_step)
            pieces.append(np.stack([logs[k].losses_SxZ[first:, 0] for logs in found.values()]))
            start += len(log.rates_T)
        tables.append(
            {
                "run": variant,
                "tokens": np.concatenate(tokens),
                **_band(np.concatenate(pieces, axis=1)),
            }
        )
    data = stack(tables)

    def draw():
        drawing, axes = canvas(1, 1, 3.2)
        for i, table in enumerate(tables):
            _draw(axes[0][0], table["tokens"] / 1e3, table, *style.line(i), table["run"])
        axes[0][0].set_xlabel("thousand tokens of all parts")
        axes[0][0].set_ylabel("loss on old text, nats per token")
        axes[0][0].legend(loc="upper right")
        return drawing

    return Figure(
        "splits",
        "The same text in parts",
        f"Validation loss along all parts. {_BANDS}",
        "Loss on held-out old text through successive parts of the old data, by schedule.",
        draw,
        data,
    )


def _tokens(before_S, after_S, logs, steps: int) -> np.ndarray:
    """Trained on in both stages; the boundary, measured twice, counts once."""
    first, second = (log.tokens_per_step for log in logs)
    return np.concatenate([before_S * first, steps * first + after_S[1:] * second])


def _band(values_RxS: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "mean": values_RxS.mean(axis=0),
        "least": values_RxS.min(axis=0),
        "most": values_RxS.max(axis=0),
    }


def _draw(axis, x_S, table, tint: str, dash: str, label: str | None) -> None:
    axis.plot(x_S, table["mean"], dash, color=tint, lw=1.4, label=label)
    axis.fill_between(x_S, table["least"], table["most"], color=tint, alpha=0.13, lw=0)


def _chosen(wanted: Sequence[str], there: Sequence[str], most: int) -> list[str]:
    """Those wanted that are there; without any of them the first of all."""
    return [name for name in wanted if name in there][:most] or list(there)[:most]


def _drawn_words(shown: Sequence[str], there: Sequence[str]) -> str:
    rest = len(there) - len(shown)
    also = f"; {rest} more are in the CSV of the figure" if rest else ""
    return f"Drawn: {', '.join(shown)}{also}."
