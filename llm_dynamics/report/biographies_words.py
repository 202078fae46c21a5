"""The sentences of a biographies page: what may be said of a number, and what every word means."""

from collections.abc import Mapping
from typing import Any

from llm_dynamics.facts.biography_measures import TOLERANCE
from llm_dynamics.report.numbers import estimate, missing, number, verdict

Rows = Mapping[str, Mapping[str, Any]]

QUESTION = (
    "When does a model go over from knowing what people are like to knowing who is who, how much "
    "does it then know, and does it admit what it does not?"
)
_TRAINING, _HELD_OUT = "seen/training", "seen/held_out"
_BAND = f"{100 * TOLERANCE:g} %"


def sentences(rows: Rows) -> tuple[str, ...]:
    """What is shown and what is not, one sentence for each of the phases and questions."""
    return (
        _said_of_statistics(rows),
        _said_of_plateau(rows),
        _said_of_recall(rows),
        _said_of_gap(rows),
        _said_of_unseen(rows),
    )


def _said_of_statistics(rows: Rows) -> str:
    learned = rows[f"{_TRAINING}/statistics_learned"]
    if missing(learned["value"]):
        return (
            "Not shown: the attribute statistics. The loss of seen people's answers never came "
            f"within {_BAND} of the baseline; the run is too short for this model."
        )
    return (
        f"The attribute statistics are learned by step {_with_interval(learned)}: from there on "
        f"the loss is no more than {_BAND} above the baseline of "
        f"{number(rows['seen/baseline']['value'])} nats an answer."
    )


def _said_of_plateau(rows: Rows) -> str:
    plateau = rows[f"{_TRAINING}/plateau"]
    if missing(plateau["value"]):
        return (
            "Not shown: the end of the plateau. By the last step the mean loss had not fallen "
            f"more than {_BAND} below the baseline for good."
        )
    slow = rows[f"{_TRAINING}/plateau_slowdown"]
    lasts = f"The loss stays within {_BAND} of the baseline for {_with_interval(plateau)} steps"
    if missing(slow["low"]):
        return f"{lasts}; how much slower it falls there than later cannot be said."
    factor = f"{_with_interval(slow)} times as fast as across it"
    if slow["low"] > 1:
        return f"{lasts}; after it, it falls {factor}, so it is held up there."
    if slow["high"] < 1:
        return (
            f"{lasts}, but not because it rests there: it falls {factor} afterwards. A plateau "
            "as a phase of its own is not visible."
        )
    return f"{lasts}; it falls {factor} afterwards, so a plateau is not shown."


def _said_of_recall(rows: Rows) -> str:
    net = rows[f"{_TRAINING}/bits_per_parameter_net"]
    known, noise = rows[f"{_TRAINING}/bits"], rows["unseen/training/bits"]
    greedy = rows[f"{_TRAINING}/greedy"]["value"]
    said = (
        f"After the last step the model holds {_with_interval(known)} bits about the people it "
        f"read about, {_with_interval(rows[f'{_TRAINING}/bits_per_parameter'])} a parameter, and "
        f"names {100 * greedy:.0f} % of their attributes"
    )
    if verdict(net["low"], net["high"]) == "above zero":
        return f"{said}; by the same sum {number(noise['value'])} bits are noise."
    return (
        f"{said}; by the same sum {number(noise['value'])} bits are noise, so that knowledge of "
        "persons is not shown."
    )


def _said_of_gap(rows: Rows) -> str:
    gap = rows["seen/gap"]
    shown = verdict(gap["low"], gap["high"])
    held = rows[f"{_HELD_OUT}/excess"]
    also = (
        "there too it is below the baseline"
        if verdict(held["low"], held["high"]) == "below zero"
        else "there it is not shown to be below the baseline"
    )
    if shown == "above zero":
        return (
            f"In a held-out wording the loss is higher, by {_with_interval(gap)} nats an answer; "
            f"{also}."
        )
    if shown == "below zero":
        return (
            f"In a held-out wording the loss is lower, by {_with_interval(gap)} nats an answer; "
            f"{also}."
        )
    return (
        "A difference between training and held-out wordings is not shown: "
        f"{_with_interval(gap)} nats an answer; {also}."
    )


def _said_of_unseen(rows: Rows) -> str:
    excess, rise = rows["unseen/training/excess"], rows.get("unseen/training/rise")
    since = ""
    if rise:
        rose = verdict(rise["low"], rise["high"]) == "above zero"
        since = (
            f"; it rose by {_with_interval(rise)} after the statistics were learned"
            if rose
            else "; that it rose after the statistics were learned is not shown "
            f"({_with_interval(rise)})"
        )
    match verdict(excess["low"], excess["high"]):
        case "above zero":
            return (
                "About people it never read of, the model is sure of wrong answers: their loss is "
                f"{_with_interval(excess)} nats an answer above the baseline{since}."
            )
        case "below zero":
            return (
                f"The loss of unseen people is {_with_interval(excess)} nats an answer off the "
                "baseline, below it: their answers happen to be the likelier ones."
            )
    return (
        "Overconfidence about unseen people is not shown: their loss is "
        f"{_with_interval(excess)} nats an answer off the baseline{since}."
    )


def _with_interval(row: Mapping[str, Any]) -> str:
    value, interval = estimate(row["value"], row["low"], row["high"])
    return f"{value} {interval}".strip()


def definitions(held_out: str) -> tuple[tuple[str, str], ...]:
    """Every word the page uses.

    Args:
      held_out: as in the config of the population.
    """
    held = {
        "person": "each person has other ones, so that every wording is read about somebody",
        "everyone": "the same for everyone, so that no text ever uses them",
    }[held_out]
    return (
        (
            "Loss",
            "Minus the sum of the log-probabilities of the answer's tokens after a sentence about "
            "the person, alone in its text; over the whole vocabulary, so that what the model "
            "gives to impossible answers counts. It is not renormalised over the possible answers.",
        ),
        (
            "Baseline",
            "Minus the logarithm of the share of the person's answer in the corpus. Answers are "
            "dealt independently of names, wordings and each other, so on average nobody who "
            "cannot tell people apart loses less. With equal exposure its mean over seen people "
            "is the entropy of the answers, exactly.",
        ),
        (
            "Training and held-out wording",
            "The wording of the person's first document; and one that no document about the "
            f"person uses: {held}. Both are asked as a single sentence, which in a document is so "
            "only for the first one.",
        ),
        (
            "Statistics learned, recall, plateau",
            "Where the mean loss of seen people first comes within "
            f"{_BAND} above the baseline; where it stays more than as much below it "
            "to the end; and the steps between. Between recorded steps by straight lines. Every "
            "curve that goes through the band takes some steps for it: whether it rests there is "
            "what the slowdown says.",
        ),
        (
            "Knowledge in bits",
            "Sum over people and attributes of max(0, baseline - loss) / ln 2. Noise counts too, "
            "which unseen people show. A parameter's share divides by all parameters. Names are "
            "not scored. A small population bounds it from above, so it is no capacity.",
        ),
        ("Overconfidence", "Loss of unseen people above their baseline."),
        (
            "Interval",
            "95 % bootstrap interval that resamples people. It speaks of other people like "
            "these, not of other runs: one run has one seed.",
        ),
        ("Not shown", "The interval covers zero. It does not say that there is no effect."),
    )
