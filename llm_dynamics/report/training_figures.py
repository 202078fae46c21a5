"""The training curves of any run, from its metrics by step."""

from collections.abc import Mapping, Sequence

import numpy as np

from llm_dynamics.report import style
from llm_dynamics.report.figures import Figure, canvas, stack, thin

PANELS = (  # title, unit, metric, log axis
    ("loss", "nats per token", "loss", False),
    ("learning rate", "", "learning_rate", False),
    ("gradient norm", "before clipping", "grad_norm", True),
    ("throughput", "tokens per second", "tokens_per_second", False),
)
VALIDATION = "validation_loss"


def training(metrics: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Loss with validation loss, learning rate, gradient norm and throughput along the run.

    Args:
      metrics: name -> (steps, values), each rising in steps.
    """
    shown = [panel for panel in PANELS if panel[2] in metrics]

    def draw():
        rows = (len(shown) + 1) // 2
        drawing, axes = canvas(rows, 2, 2.35 * rows, sharex=True)
        axes = axes.ravel()
        for ax, (title, unit, name, log) in zip(axes, shown, strict=False):
            steps, values = (np.asarray(v, float) for v in metrics[name])
            chosen = thin(steps)
            own = style.color("series-1")
            ax.plot(steps[chosen], values[chosen], color=own, lw=1.2, label="training")
            if name == "loss" and VALIDATION in metrics:
                x, y = (np.asarray(v, float) for v in metrics[VALIDATION])
                ax.plot(x, y, "o-", ms=3, lw=1.2, color=style.color("series-2"), label="validation")
                ax.legend(loc="upper right")
            finite = values[np.isfinite(values)]
            if log and len(finite) and finite.min() > 0 and finite.max() > 30 * finite.min():
                ax.set_yscale("log")
            ax.set_title(title)
            ax.set_ylabel(unit)
            ax.margins(x=0.01)
        for ax in axes[len(shown) :]:
            ax.set_visible(False)
        for ax in axes[max(len(shown) - 2, 0) : len(shown)]:
            ax.tick_params(labelbottom=True)
            ax.set_xlabel("step")
        return drawing

    names = [name for _, _, name, _ in shown] + [VALIDATION] * (VALIDATION in metrics)
    return Figure(
        name="training",
        title="The run itself",
        caption=(
            "Training loss of each step's batch and validation loss on held-out documents, "
            "learning rate, norm of the gradient before clipping, and throughput by the clock, "
            "probing included. Lines go through at most about 400 points each."
        ),
        alt="Curves along the steps of the run: " + ", ".join(names) + ".",
        draw=draw,
        data=stack(
            {"metric": name, "step": metrics[name][0], "value": metrics[name][1]} for name in names
        ),
    )
