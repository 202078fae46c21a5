"""The sentences of a facts page: what may be said of a number, and what every word means."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_dynamics.facts.curves import Gain
from llm_dynamics.report.numbers import estimate, missing, verdict

QUESTION = (
    "When a model meets a fact during pretraining, how much of it does it learn, how much of "
    "that is the fact and not its form, and how fast is it forgotten?"
)
NO_GAINS = "results.json holds no gain of any arm, so there is no headline."
TRAJECTORIES = (
    "Before every update the model was asked for each fact: how probable does it find the right "
    "answer after the question's words? All facts drift together as the model learns the language "
    "of the facts and their names; what an arm has beyond the never-injected control is the fact."
)
FORGETTING = (
    "After the last encounter training goes on without the facts. Retainability is the share of "
    "the gain that is still there. The published form averages ratios of single probes and keeps "
    "what the control gained too; minus control, it is the ratio of the mean gains beyond it."
)
FORMS = {
    "log_linear": "line on log t",
    "power": "power law",
    "exponential": "exponential",
    "power_floor": "power law to a floor",
    "stretched_exponential": "stretched exponential",
}
CROSSING = (
    "Zero at: only what lies inside the data was seen. Extrapolated, it rests on the line going on "
    "as it is. May never be reached: its interval includes a line that does not fall."
)
HELD_OUT = (
    "Is it a line at all? Each form below was fitted to the first quarter of the time after the "
    "last maximum of the control-subtracted curve and had to predict the rest. Better or worse "
    "than the line is said where the interval of the difference leaves out zero."
)
FORMS_CAPTION = "Forms of forgetting: error of predicting later times, as a share of the gain"
NO_FORMS = "Forms of forgetting could not be compared on held-out times:"
STATUS = {
    "inside": "inside the data",
    "extrapolated": "extrapolated",
    "unbounded": "may never be reached",
}
GENERATED = (
    "The facts were invented for this run by the package's own generator from its seed: the "
    "people, places and works do not exist, so nothing of them can be known beforehand. One of "
    "each arm is shown."
)


def answer(
    gains: Sequence[Gain], by_name: Mapping[str, Mapping[str, Any]], depth: str
) -> tuple[str, tuple[str, ...]]:
    """The headline in words: an opening, and per arm what is shown and what is not."""
    items = []
    for gain in (g for g in gains if g.kind == "difference" and not missing(g.value)):
        value, interval = estimate(abs(gain.value), gain.low, gain.high)
        signed = estimate(gain.value, gain.low, gain.high, signed=True)[0]
        match verdict(gain.low, gain.high):
            case "above zero" | "below zero":
                more = "more" if gain.value > 0 else "less"
                said = (
                    f"Facts of the arm “{gain.arm}” gained {value} nats per target token {more} "
                    f"than facts that were never injected (95 % interval {interval})."
                )
            case "no interval":
                said = (
                    f"Facts of the arm “{gain.arm}” gained {signed} beyond never-injected ones, "
                    "without an interval."
                )
            case _:
                said = (
                    f"For the arm “{gain.arm}” this run does not show a gain beyond that of facts "
                    f"never injected: the difference is {signed} nats per target token, with a "
                    f"95 % interval {interval} that covers zero."
                )
        share = by_name.get(f"{gain.arm}/{depth}/gain_at_last_maximum/control_share", {})
        if gain.low > 0 and not missing(share.get("value")) and not share.get("note"):
            part = f"{100 * share['value']:.0f} %"
            said += f" Their raw gain was larger, but {part} of it never-injected facts made too."
        items.append(said)
    if not items:
        lead = (
            "There was no never-injected control in this run, so how much of the raw gain is due "
            "to the facts themselves cannot be said."
        )
        return lead, ()
    return f"In {depth} probes, soon after the last encounter:", tuple(items)


def reading(depth: str) -> str:
    """What the cards show."""
    return (
        f"All cards: {depth} probes. Gain: mean log-probability of the target's tokens where "
        "it stands highest after the last encounter less that just before the first encounter, in "
        "nats per token (0.69 nats double a token's probability). Beyond the control: less the "
        "same for facts that were never injected. The mark shows the interval against zero, on one "
        "scale."
    )


def definitions(window: int) -> tuple[tuple[str, str], ...]:
    """Every word the page uses, in the form of Chang et al. 2024 (arXiv 2406.11813)."""
    return (
        (
            "Step",
            "One optimizer update, counted from 0. A score at step t uses the parameters "
            "before update t; the text of update t can first be seen in the score at t + 1.",
        ),
        ("Encounter", "An update whose batch held a fact's text, in front of an ordinary row."),
        (
            "Arm",
            "How a fact was treated: duplication repeats one text, paraphrase brings another "
            "wording each time, once shows it a single time, control never. Every fact "
            "is in one arm; invented facts share templates and name spaces over all arms.",
        ),
        (
            "Probe, context, target",
            "A text whose last part, the target, is the answer; only the "
            "target's tokens are scored.",
        ),
        (
            "Depth",
            "memorization: the sentence of the text, word for word; semantic: the same in "
            "other words; compositional: an answer that needs several sentences together.",
        ),
        (
            "Log-probability l",
            "Mean over the target's tokens of the natural logarithm of their "
            "probability given all before, in nats per token.",
        ),
        (
            "Local acquisition maximum",
            f"The largest l in the {window} steps after an encounter; "
            "the first such step on ties (Eq. 1). Unless it is set, the window is as "
            "long as the optimizer's momentum echoes an update, at most up to the next encounter.",
        ),
        (
            "Lag",
            "What is compared with the control is not measured at maxima of each probe, which its "
            "own noise lifts, but at one number of steps after an encounter for all probes: that "
            "at which injected facts less control stand highest.",
        ),
        (
            "Gain",
            "l at the lag after the last encounter less l just before the first. As published: at "
            "the probe's own maximum, without a control.",
        ),
        (
            "Effectivity",
            "l at the lag after an encounter less l just before that encounter, averaged over "
            "probes and encounters. As published: at the probe's own maximum (Eq. 2), where noise "
            "alone makes it positive; how much of it, the control at its own maxima says "
            "(published_control).",
        ),
        (
            "Control-subtracted (minus control)",
            "A measure of an arm less the same measure of the "
            "never-injected facts on the same schedule. Matched facts (`facts.matched`) come in "
            "sets of one fact per arm that share template and answer, so that the difference is "
            "what the model ties to the name.",
        ),
        (
            "Retainability R(t)",
            "The gain t steps after the last maximum over the gain at it (Eq. "
            "3): 1 is all of it, 0 none. As published: mean of the ratios of probes, outliers "
            "beyond 1.5 interquartile ranges left out at each t. Minus control: ratio of the "
            "control-subtracted mean gains.",
        ),
        (
            "Decay a",
            "Minus the slope of the least-squares line of R on log10 t (Eq. 4): the share "
            "lost each time that the time grows tenfold.",
        ),
        (
            "Zero crossing (learnability threshold)",
            "The time at which the line of R on log10 t would reach 0. It exists under that form "
            "alone and has an interval of its own.",
        ),
        (
            "Interval",
            "95 % bootstrap interval that resamples facts (matched sets as wholes), since the "
            "probes of one fact are not independent. It speaks of other facts like these, not of "
            "other runs: one run has one seed. Many intervals are on this page; some miss by "
            "chance.",
        ),
        ("Not shown", "The interval covers zero. It does not say that there is no effect."),
    )


def what_was_run(start: Mapping[str, Any]) -> str:
    """What was done, in general; `start` is the run's `train.start`."""
    beginning = "random parameters"
    if start.get("run"):
        step = "the last step" if start.get("step", -1) == -1 else f"step {start['step']}"
        beginning = f"{step} of the run `{Path(start['run']).name}`"
    return (
        f"One model was trained from {beginning} on real text; at the updates listed below, the "
        "passages of some facts stood in front of ordinary rows of the batch. Everything else in a "
        "batch is as it would have been without them."
    )
