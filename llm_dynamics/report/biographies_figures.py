"""The figures of the biographies study: losses, bits, overconfidence. Axes: S recorded steps."""

from collections.abc import Mapping, Sequence

import numpy as np

from llm_dynamics.facts.biography_results import Line
from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, canvas, spread, stack, thin
from llm_dynamics.report.numbers import number

TITLES = {"training": "wording read about the person", "held_out": "held-out wording"}
_HEIGHT = 3.2  # inches
_ROLES = {"seen": "series-1", "unseen": "series-2"}
_BITS = {
    ("seen", "training"): ("seen, training wording", "series-1"),
    ("seen", "held_out"): ("seen, held-out wording", "series-3"),
    ("unseen", "training"): ("unseen (noise)", "series-2"),
}


def losses(
    lines: Sequence[Line],
    steps_S: np.ndarray,
    baseline: Mapping[str, float],
    tolerance: float,
    marks: Mapping[str, Sequence[float]],
) -> Figure:
    """Loss of the answers over the run, seen and unseen people, beside the baseline.

    Args:
      lines: of every group and wording.
      baseline: of each group, nats an answer.
      tolerance: share of the seen people's baseline that counts as the plateau.
      marks: wording -> steps at which a phase begins.
    """

    def draw():
        drawing, (axes,) = canvas(1, 2, _HEIGHT, sharey=True)
        for ax, wording in zip(axes, TITLES, strict=True):
            level = baseline["seen"]
            ax.axhspan(
                level * (1 - tolerance), level * (1 + tolerance), color=style.color("grid"), lw=0
            )
            ax.axhline(level, color=style.color("muted"), lw=1, dashes=(5, 2))
            for step in marks.get(wording, ()):
                ax.axvline(step, color=style.color("event"), lw=1)
            shown = [line for line in lines if line.wording == wording]
            for line in shown:
                _draw(ax, steps_S, line, _ROLES[line.group])
            _names(
                ax,
                [(line.group, line.value_S[-1], _ROLES[line.group]) for line in shown]
                + [("baseline", level, "muted")],
            )
            ax.set_title(TITLES[wording])
            ax.set_xlabel("step")
        axes[0].set_ylabel("loss (nats per answer)")
        axes[0].set_ylim(bottom=0)
        return drawing

    return Figure(
        name="losses",
        title="Loss of the answers, and what it costs not to know the person",
        caption=(
            "Mean loss of an answer over people and attributes, asked in a wording that the model "
            "read about this person (left) and in one that it read about others or nobody only "
            "(right). Dashed: the baseline, the loss of whoever knows the shares of the answers "
            f"but no person; shaded: within {100 * tolerance:g} % of it, the plateau. Vertical "
            "lines: where the mean of seen people first reaches the shade, and where it leaves it "
            "for good. Bands: 95 % intervals over people."
        ),
        alt="Loss along the steps, at the end: "
        + _ends(lines)
        + f"; baseline {_levels(baseline)}.",
        draw=draw,
        data=_table(lines, steps_S, "loss"),
    )


def bits(lines: Sequence[Line], steps_S: np.ndarray, most: float, parameters: int) -> Figure:
    """Knowledge in bits over the run; bits a parameter on the right.

    Args:
      lines: bits of every group and wording.
      most: bits there are to know.
      parameters: of the model.
    """
    shown = [line for line in lines if (line.group, line.wording) in _BITS]

    def draw():
        drawing, ((ax,),) = canvas(1, 1, _HEIGHT)
        ax.axhline(most, color=style.color("muted"), lw=1, dashes=(5, 2))
        ends = [("all there is", most, "muted")]
        for line in shown:
            name, role = _BITS[line.group, line.wording]
            _draw(ax, steps_S, line, role)
            ends.append((name, line.value_S[-1], role))
        right = ax.secondary_yaxis(
            "right", functions=(lambda x: x / parameters, lambda x: x * parameters)
        )
        right.spines["right"].set_visible(False)
        right.set_ylabel("bits per parameter")
        ax.set_ylim(0, 1.06 * most)
        for k, (name, _, role) in enumerate(ends):
            ax.text(
                0.012,
                0.88 - 0.08 * k,
                name,
                color=style.color(role),
                fontweight="bold",
                transform=ax.transAxes,
                fontsize=8,
            )
        ax.set_ylabel("bits")
        ax.set_xlabel("step")
        return drawing

    return Figure(
        name="bits",
        title="Knowledge in bits",
        caption=(
            "Sum over the people written about, and their attributes, of max(0, baseline - loss) / "
            "ln 2. Unseen people, scaled to the same number, know nothing to be known: their line "
            "is what noise alone counts. Dashed: all answers known for certain. Bands: 95 % "
            "intervals over people."
        ),
        alt="Bits along the steps, at the end: " + _ends(shown) + f"; at most {number(most)}.",
        draw=draw,
        data=_table(lines, steps_S, "bits"),
    )


def overconfidence(lines: Sequence[Line], steps_S: np.ndarray) -> Figure:
    """Loss of unseen people above the baseline, over steps and against what is known of seen ones.

    Args:
      lines: loss less baseline of every group and wording.
    """
    by_key = {(line.group, line.wording): line for line in lines}
    unseen = [by_key["unseen", wording] for wording in TITLES]
    roles = dict(zip(TITLES, ("series-2", "series-4"), strict=True))

    def draw():
        drawing, ((left, right),) = canvas(1, 2, _HEIGHT, sharey=True)
        for line in unseen:
            _draw(left, steps_S, line, roles[line.wording])
            known_S = -by_key["seen", line.wording].value_S
            role = style.color(roles[line.wording])
            right.fill_between(known_S, line.low_S, line.high_S, color=role, alpha=0.13, lw=0)
            right.plot(known_S, line.value_S, "o-", ms=2.5, lw=1, color=role)
        for ax in (left, right):
            ax.axhline(0, color=style.color("muted"), lw=1, dashes=(5, 2))
        start = max(0.3, *(float(line.high_S[-1]) for line in unseen))
        left.set_ylim(-0.25 * start, 1.35 * start)
        right.set_xlim(left=-0.1)
        named = {"training": "training wording", "held_out": "held-out wording"}
        _names(right, [(named[x.wording], x.value_S[-1], roles[x.wording]) for x in unseen])
        left.set_ylabel("loss of unseen people above the baseline (nats)")
        left.set_xlabel("step")
        right.set_xlabel("seen people: baseline less loss (nats per answer)")
        return drawing

    return Figure(
        name="overconfidence",
        title="People the model never read about",
        caption=(
            "Loss on the answers of unseen people less the baseline, along the steps (left) and "
            "against how far the loss of seen people is below it in the same wording (right, a dot "
            "for each recorded step). Above zero the model is sure of wrong answers where the best "
            "guess is the shares of the answers. The untrained model, far above, is cut off. "
            "Bands: 95 % intervals over people."
        ),
        alt="Loss of unseen people above the baseline, at the end: " + _ends(unseen) + ".",
        draw=draw,
        data=_table(lines, steps_S, "loss_above_baseline"),
    )


def _draw(ax, steps_S: np.ndarray, line: Line, role: str) -> None:
    chosen = thin(steps_S)
    tint, x = style.color(role), np.asarray(steps_S, float)[chosen]
    ax.fill_between(x, line.low_S[chosen], line.high_S[chosen], color=tint, alpha=0.13, lw=0)
    ax.plot(x, line.value_S[chosen], color=tint)
    ax.margins(x=0.01)


def _names(ax, ends: Sequence[tuple[str, float, str]]) -> None:
    """Names beside the ends of the lines, moved apart where they would touch."""
    low, high = ax.get_ylim()
    heights = spread([value for _, value, _ in ends], 0.07 * (high - low), low, high)
    for (name, _, role), height in zip(ends, heights, strict=True):
        ax.annotate(
            name,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(5, 0),
            textcoords="offset points",
            color=style.color(role),
            va="center",
            fontsize=8,
            fontweight="bold",
            annotation_clip=False,
        )


def _table(lines: Sequence[Line], steps_S: np.ndarray, what: str):
    return stack(
        {
            "group": line.group,
            "wording": line.wording,
            "step": steps_S,
            what: line.value_S,
            "low": line.low_S,
            "high": line.high_S,
        }
        for line in lines
    )


def _ends(lines: Sequence[Line]) -> str:
    return ", ".join(
        f"{line.group} people in the {line.wording.replace('_', '-')} wording "
        f"{number(float(line.value_S[-1]))}"
        for line in lines
    )


def _levels(baseline: Mapping[str, float]) -> str:
    return ", ".join(f"{number(value)} for {group} people" for group, value in baseline.items())
