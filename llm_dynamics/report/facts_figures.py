"""The figures of the facts study: gains, trajectories, retainability. Axes: S recorded steps."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.curves import Curve, Fit, Gain
from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, canvas, spread, stack, thin
from llm_dynamics.report.numbers import missing, number, power_of_ten

KINDS = {"raw": "as measured", "difference": "minus control"}
_CHANGE = "change of log-probability (nats per target token)"


def roles(arms: Sequence[str]) -> dict[str, str]:
    """Colour role of each arm: the control is grey, the others take the palette in order."""
    injected = [arm for arm in dict.fromkeys(arms) if arm != CONTROL]
    named = {arm: f"series-{i % 5 + 1}" for i, arm in enumerate(injected)}
    return {**named, CONTROL: "control"}


def gains(rows: Sequence[Gain]) -> Figure:
    """Dots with 95 % intervals: every arm above its control, and what is left after subtraction.

    Args:
      rows: of the kinds "raw", "control" (facts never injected, on that arm's schedule) and
        "difference".
    """
    depths = list(dict.fromkeys(row.depth for row in rows))
    arms = list(dict.fromkeys(row.arm for row in rows))
    palette = roles(arms)
    places = {
        (depth, arm): i * (len(arms) + 0.75) + j
        for i, depth in enumerate(depths)
        for j, arm in enumerate(arms)
    }

    def mark(ax, row, y, role, size):
        tint = style.color(role)
        ax.plot([row.low, row.high], [y, y], color=tint, lw=0.55 * size, alpha=0.45)
        ax.plot([row.value], [y], "o", ms=size, color=tint, mec="none")

    def draw():
        height = 0.8 + 0.33 * (len(places) + 0.75 * len(depths))
        drawing, (axes,) = canvas(1, 2, height, sharey=True)
        for (depth, arm), y in places.items():
            for ax, kind, shift, role, size in (
                (axes[0], "raw", -0.14, palette[arm], 5.5),
                (axes[0], CONTROL, 0.2, "control", 4),
                (axes[1], "difference", 0, palette[arm], 5.5),
            ):
                row = _pick(rows, arm=arm, depth=depth, kind=kind)
                if row is not None and not missing(row.value):
                    mark(ax, row, y + shift, role, size)
        titles = ("as measured, with the control in grey", "minus control")
        for ax, title in zip(axes, titles, strict=True):
            ax.set_title(title)
            ax.axvline(0, color=style.color("muted"), lw=0.9, zorder=0.5)
            ax.grid(axis="y", visible=False)
            ax.spines["left"].set_visible(False)
            ax.set_xlabel("gain (nats per target token)")
        axes[0].set_yticks(list(places.values()), [arm for _, arm in places])
        axes[1].tick_params(labelleft=False)
        axes[0].set_ylim(max(places.values()) + 0.6, -1.05)
        for depth in depths:
            axes[0].annotate(
                depth,
                (0, places[depth, arms[0]] - 0.68),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontweight="bold",
            )
        return drawing

    return Figure(
        name="gains",
        title="What the injections added",
        caption=(
            "Gain of the target's mean log-probability over its value before the first encounter, "
            "where it stands highest after the last one. Left: facts of each arm as measured, and "
            "below each in grey the facts that were never injected, put through the same measure. "
            "Right: the difference of the two, which is the part that needs the fact itself. "
            "Lines are 95 % intervals over facts."
        ),
        alt=_spoken(rows),
        draw=draw,
        data=stack(
            {
                "depth": r.depth,
                "arm": r.arm,
                "kind": r.kind,
                "gain": r.value,
                "low": r.low,
                "high": r.high,
                "n": r.n,
            }
            for r in rows
        ),
    )


def trajectories(
    curves: Sequence[Curve], encounters: Mapping[str, Sequence[int]], tokens_per_step: int
) -> Figure:
    """Change of log-probability along the run, raw and control-subtracted, one row a depth.

    Args:
      curves: trajectories of every arm, depth and kind.
      encounters: arm -> steps whose update saw the arm's facts.
      tokens_per_step: for the `tokens` column of the data.
    """
    depths = list(dict.fromkeys(curve.depth for curve in curves))
    arms = list(dict.fromkeys(curve.arm for curve in curves))
    palette = roles(arms)
    events = sorted({step for steps in encounters.values() for step in steps})
    end = max(float(curve.steps_S[-1]) for curve in curves)
    start = _window_start(events, end)

    def draw():
        drawing, axes = canvas(len(depths), 2, height=0.55 + 2.15 * len(depths), sharex=True)
        limits = _limits(curves, start)
        for row, depth in enumerate(depths):
            for ax, kind in zip(axes[row], KINDS, strict=True):
                if row == 0:
                    ax.set_title(KINDS[kind])
                for step in events:
                    ax.axvline(step, color=style.color("event"), lw=0.8, zorder=0.6)
                ax.axhline(0, color=style.color("axis"), lw=0.9, zorder=0.7)
                shown = [c for c in curves if c.depth == depth and c.kind == kind]
                for curve in shown:
                    _line(ax, curve, palette[curve.arm], events, start)
                ax.set_xlim(start, end)
                ax.set_ylim(*limits)
                _end_labels(ax, shown, palette, limits)
            axes[row][0].set_ylabel(depth, color=style.color("ink"), fontweight="bold")
        for ax in axes[-1]:
            ax.set_xlabel("step")
        drawing.supylabel(_CHANGE, fontsize=8.5, color=style.color("muted"))
        return drawing

    return Figure(
        name="trajectories",
        title="Change of log-probability since the first encounter",
        caption=(
            "Mean change of the target's log-probability since just before the first encounter. "
            f"Vertical lines: the {len(events)} steps whose update saw injected text. Left: every "
            "arm as measured, and the control, which was never injected. Right: the same minus "
            "the control. Bands: 95 % intervals over facts. All panels share one vertical axis. "
            "A line is drawn through at most about 400 points; every step is in the data file."
        ),
        alt=(
            f"Line charts by depth of the change of log-probability from step {start:.0f} to "
            f"{end:.0f} for the arms {', '.join(arms)}, raw and minus control, with vertical "
            f"lines at {len(events)} injection steps."
        ),
        draw=draw,
        data=stack(
            {
                "depth": c.depth,
                "arm": c.arm,
                "kind": c.kind,
                "step": c.steps_S,
                "tokens": np.asarray(c.steps_S) * tokens_per_step,
                "change": c.mean_S,
                "low": c.low_S,
                "high": c.high_S,
            }
            for c in curves
        ),
    )


def retainability(
    curves: Sequence[Curve],
    fits: Sequence[Fit],
    tokens_per_step: int,
    unclear: Collection[tuple[str, str, str]] = (),
) -> Figure:
    """R on log axes, steps below and tokens above; a row each for raw and control-subtracted.

    Args:
      curves: from t = 0.
      fits: of some or all of them.
      tokens_per_step: for the second axis.
      unclear: (arm, depth, kind) whose gain is not shown to be positive. A share of nothing is
        noise without bounds, so those are named and left to the data file.
    """
    depths = list(dict.fromkeys(curve.depth for curve in curves))
    arms = list(dict.fromkeys(curve.arm for curve in curves))
    kinds = [kind for kind in KINDS if any(curve.kind == kind for curve in curves)]
    palette = roles(arms)
    end = max(float(curve.steps_S[-1]) for curve in curves)

    def panel(ax, kind, depth):
        ax.set_xscale("log")
        ax.set_xlim(0.9, max(1.1 * end, 10))  # of every panel, also where nothing is drawn
        ax.axhline(0, color=style.color("axis"), lw=0.9, zorder=0.7)
        for i, curve in enumerate(c for c in curves if c.depth == depth and c.kind == kind):
            tint = style.color(palette[curve.arm])
            name = partial(
                ax.text,
                0.985,
                0.975 - 0.085 * i,
                color=tint,
                ha="right",
                va="top",
                fontsize=8,
                transform=ax.transAxes,
            )
            if (curve.arm, depth, kind) in unclear:
                name(s=f"{curve.arm}: not drawn, gain may be zero")
                continue
            _line(ax, curve, palette[curve.arm], (), 1, log=True, faint=True)
            fit = _pick(fits, arm=curve.arm, depth=depth, kind=kind)
            note = "no fit"
            if fit is not None and not missing(fit.slope):
                x = np.array([fit.first, fit.last], float)
                ax.plot(x, fit.intercept + fit.slope * np.log10(x), color=tint, dashes=(5, 2))
                note = f"a = {number(-fit.slope, 2)}"
            name(s=f"{curve.arm}, {note}")

    def draw():
        from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

        drawing, axes = canvas(len(kinds), len(depths), height=0.6 + 2.75 * len(kinds))
        for row, kind in enumerate(kinds):
            shown = [c for c in curves if c.kind == kind]
            clear = [c for c in shown if (c.arm, c.depth, kind) not in unclear]
            low, high = _robust_limits(clear)
            high += 0.09 * len(arms) * (high - low)  # room for the names
            for ax, depth in zip(axes[row], depths, strict=True):
                panel(ax, kind, depth)
                ax.set_ylim(low, high)
                ax.set_xlabel("steps after the last maximum" if kind == kinds[-1] else "")
                above = ax.secondary_xaxis(
                    "top", functions=(lambda x: x * tokens_per_step, lambda x: x / tokens_per_step)
                )
                above.spines["top"].set_visible(False)
                above.tick_params(length=2, pad=1)
                above.xaxis.set_minor_locator(NullLocator())
                ax.xaxis.set_minor_formatter(NullFormatter())
                for axis in (ax.xaxis, above.xaxis):
                    axis.set_major_formatter(FuncFormatter(lambda x, _: power_of_ten(x)))
                if row == 0:
                    above.set_xlabel("tokens after the last maximum")
                    ax.set_title(depth)
            axes[row][0].set_ylabel(f"retainability, {KINDS[kind]}")
        return drawing

    return Figure(
        name="retainability",
        title="How the gain fades",
        caption=(
            "Retainability: the share of the gain that is left some time after its last maximum "
            "(1 = all, 0 = none). Both horizontal axes are logarithmic: steps below each panel, "
            "tokens above it. Upper row: the gain as measured. Lower row: the gain minus the "
            "control's. Bands: 95 % intervals over facts. Dashed: the least-squares line on "
            "log10 of time; a is the share lost per factor of ten. A time at which the line would "
            "reach zero lies outside the data, and holds only if the line does. Where the gain "
            "itself is not shown to be positive, a share of it means nothing: such arms are named "
            "but not drawn, their ratios are in the data file."
        ),
        alt=(
            f"Retainability on logarithmic axes of steps and tokens for {', '.join(arms)} at the "
            f"depths {', '.join(depths)}, raw and minus control, with fitted lines."
        ),
        draw=draw,
        data=stack(
            {
                "depth": c.depth,
                "arm": c.arm,
                "kind": c.kind,
                "steps_after": c.steps_S,
                "tokens_after": np.asarray(c.steps_S) * tokens_per_step,
                "retainability": c.mean_S,
                "low": c.low_S,
                "high": c.high_S,
                "fitted": _fitted(c, _pick(fits, arm=c.arm, depth=c.depth, kind=c.kind)),
            }
            for c in curves
        ),
    )


def _line(ax, curve, role, events, start, log=False, faint=False):
    inside = np.flatnonzero(np.asarray(curve.steps_S) >= start)
    chosen = inside[thin(np.asarray(curve.steps_S)[inside], keep=events, log=log)]
    x = np.asarray(curve.steps_S, float)[chosen]
    tint = style.color(role)
    low, high = np.asarray(curve.low_S)[chosen], np.asarray(curve.high_S)[chosen]
    if np.isfinite(low).any():
        ax.fill_between(x, low, high, color=tint, alpha=0.09 if faint else 0.13, lw=0)
    dashes = {"dashes": (4, 1.6)} if curve.arm == CONTROL else {}
    width = 1.0 if faint else 1.5
    mean = np.asarray(curve.mean_S)[chosen]
    ax.plot(x, mean, color=tint, lw=width, alpha=0.75 if faint else 1, **dashes)


def _end_labels(ax, curves, palette, limits):
    """Names beside the ends of the lines, moved apart where they would touch."""
    ends = []
    for curve in curves:
        finite = np.asarray(curve.mean_S)[np.isfinite(curve.mean_S)]
        ends.append(float(finite[-max(1, len(finite) // 40) :].mean()) if len(finite) else 0.0)
    heights = spread(ends, 0.085 * (limits[1] - limits[0]), *limits)
    for curve, height in zip(curves, heights, strict=True):
        ax.annotate(
            curve.arm,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            color=style.color(palette[curve.arm]),
            va="center",
            fontsize=8,
            fontweight="bold",
            annotation_clip=False,
        )


def _window_start(events: Sequence[int], end: float) -> float:
    """Shows a little before the first encounter; the climb before it would squeeze the rest."""
    if not events:
        return 0.0
    return max(0.0, events[0] - 0.08 * (end - events[0]))


def _limits(curves: Sequence[Curve], start: float) -> tuple[float, float]:
    """Vertical limits that hold every mean and nearly every band from `start` on, and zero."""
    values = [np.zeros(1)]
    for curve in curves:
        inside = np.asarray(curve.steps_S) >= start
        values.append(np.asarray(curve.mean_S)[inside])
        for band in (curve.low_S, curve.high_S):
            band = np.asarray(band)[inside]
            band = band[np.isfinite(band)]
            if len(band):
                values.append(np.percentile(band, [1, 99]))
    joined = np.concatenate(values)
    joined = joined[np.isfinite(joined)]
    room = 0.05 * (np.ptp(joined) or 1.0)
    return float(joined.min() - room), float(joined.max() + room)


def _robust_limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Limits for ratios: small denominators throw single points far out, which would hide R."""
    joined = np.concatenate([np.zeros(0), *(np.asarray(c.mean_S, float) for c in curves)])
    joined = joined[np.isfinite(joined)]
    if not len(joined):
        return -0.2, 1.2
    low, high = np.percentile(joined, [1, 99])
    return float(min(-0.15, max(low - 0.15, -1.5))), float(max(1.3, min(high + 0.2, 4.0)))


def _fitted(curve: Curve, fit: Fit | None) -> np.ndarray:
    steps = np.asarray(curve.steps_S, float)
    if fit is None or missing(fit.slope):
        return np.full(len(steps), np.nan)
    with np.errstate(divide="ignore"):
        line = fit.intercept + fit.slope * np.log10(steps)
    return np.where((steps >= fit.first) & (steps <= fit.last), line, np.nan)


def _pick(rows: Sequence[Any], **labels: str) -> Any:
    for row in rows:
        if all(getattr(row, key) == value for key, value in labels.items()):
            return row
    return None


def _spoken(rows: Sequence[Gain]) -> str:
    told = [
        f"{r.depth} {r.arm} {number(r.value)} [{number(r.low)}, {number(r.high)}]"
        for r in rows
        if r.kind == "difference"
    ]
    return "Gains with 95 % intervals. Minus control: " + "; ".join(told) + "."
