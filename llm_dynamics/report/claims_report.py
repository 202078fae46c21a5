"""The page of a claims study: which claims our scale shows, with the numbers behind them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from llm_dynamics.facts.claims import null_of
from llm_dynamics.facts.estimates import Study
from llm_dynamics.report import claims_figures, run_section
from llm_dynamics.report.numbers import estimate, number
from llm_dynamics.report.page import Code, Fold, Page, Section, Table, Text, write_page
from llm_dynamics.results import verdict

QUESTION = (
    "Published claims about how language models take up facts, each asked of runs in which "
    "everything but one thing is the same, and answered with an interval. Facts take turns in the "
    "arms from run to run. Duplication and the control exchange their facts within every pair of "
    "runs, so what a fact gains where it is said in the same words is compared with what the same "
    "fact gains where it never is, in a run that says others like it. Of the other arms that is "
    "true in settings that run all turns; with one pair of runs they are compared with other "
    "facts, and the note of a number says so.\n\n"
    "Intervals are over facts, each with all its runs, and where a setting has three pairs of runs "
    "or more, over pairs as well. With one pair how runs vary is not in the interval: it holds for "
    "other facts in those two runs. An answer whose interval includes the value of no effect is "
    "reported as not shown."
)

# (title, pattern of the names of its contrasts, value of no effect, what above and below mean)
CLAIMS: tuple[tuple[str, str, float, str, str], ...] = (
    (
        "Raw gains are template learning in part",
        r"^size-[^/]+/[^/]+/inflation$",
        1.0,
        "inflated",
        "deflated",
    ),
    (
        "Memorization gains more than semantic probes",
        r"^size-[^/]+/memorization-minus-semantic$",
        0.0,
        "as published",
        "reversed",
    ),
    (
        "Semantic probes gain more than compositional ones",
        r"^size-[^/]+/semantic-minus-compositional$",
        0.0,
        "as published",
        "reversed",
    ),
    (
        "The first encounter adds most",
        r"^size-[^/]+/[^/]+/first-minus-later$",
        0.0,
        "as published",
        "reversed",
    ),
    (
        "Larger models gain more an encounter",
        r"^size-[^/]+-minus-size-.+/effectivity$",
        0.0,
        "as published",
        "reversed",
    ),
    ("Later in pretraining an encounter adds more", r"/late-minus-early/", 0.0, "more", "less"),
    (
        "Duplication gains more than paraphrases at the same number of encounters",
        r"^size-[^/]+/[^/]+/duplication-minus-paraphrase6/gain$",
        0.0,
        "as published",
        "reversed",
    ),
    (
        "Duplicates are forgotten faster than paraphrases: nats lost after the last maximum",
        r"^size-[^/]+/[^/]+/duplication-minus-paraphrase6/lost-after-\d+$",
        0.0,
        "as published",
        "reversed",
    ),
    (
        "Duplicates are forgotten faster than paraphrases: share of the gain kept",
        r"^size-[^/]+/[^/]+/duplication-minus-paraphrase6/share-after-\d+$",
        0.0,
        "reversed",
        "as published",
    ),
    (
        "What encounters add builds up",
        r"^size-[^/]+/[^/]+/accumulation/",
        0.0,
        "builds up",
        "is lost in between",
    ),
    (
        "What encounters add is foretold to build up, by the line of forgetting",
        r"^size-[^/]+/[^/]+/foretold/",
        0.0,
        "shorter than the threshold",
        "beyond the threshold",
    ),
    (
        "Frequent facts end higher",
        r"^size-[^/]+/[^/]+/long-tail/measured$",
        0.0,
        "as expected",
        "reversed",
    ),
    (
        "The long tail departs from what the law of forgetting of the other arms foretells",
        r"^size-[^/]+/[^/]+/long-tail/measured-minus-predicted$",
        0.0,
        "steeper",
        "flatter",
    ),
    ("Half of the batch", r"^batch-half[^/]*-minus-", 0.0, "more", "less"),
    ("Learning rate", r"^rate-[^/]+-minus-", 0.0, "more", "less"),
    ("Cosine instead of a constant rate", r"^cosine-rate-minus-", 0.0, "more", "less"),
    ("Weight decay", r"^decay-[^/]+-minus-", 0.0, "more", "less"),
    ("Half of the text from a hundredth of it", r"^corpus-duplicated-minus-", 0.0, "more", "less"),
    ("No near-duplicates in the corpus", r"^corpus-deduplicated-minus-", 0.0, "more", "less"),
    ("Optimizer state reset against kept", r"^optimizer-[^/]+-minus-", 0.0, "more", "less"),
)


class ArmDose(NamedTuple):
    """What the facts of an arm are given in a run.

    Attributes:
      facts: of the arm.
      encounters: of one fact, on average.
      tokens: of all texts with their ends.
      share: of all tokens that the run reads.
    """

    facts: float
    encounters: float
    tokens: float
    share: float

    @classmethod
    def mean(cls, doses: Sequence["ArmDose"]) -> "ArmDose":
        """Over several runs."""
        return cls(*(sum(values) / len(doses) for values in zip(*doses, strict=True)))


@dataclass(frozen=True)
class ClaimsStudy:
    """What the page is drawn from.

    Attributes:
      rows: all results.
      changes: setting -> its runs, and how their specs differ from those of the first setting.
      num_runs: of all settings.
      studies: the crossed runs of the sizes, smallest first.
      sizes: setting -> parameters.
      intervals: arms that differ in the interval alone, shortest first.
      same: the arm of the contrasts between settings.
      horizons: setting -> weight-decay horizon 1 / (peak learning rate x weight decay), steps.
      doses: setting -> injected arm -> what it is given in a run, on average over the runs.
      command: that made it.
    """

    rows: Sequence[Mapping[str, Any]]
    changes: Mapping[str, str]
    num_runs: int
    studies: Mapping[str, Study]
    sizes: Mapping[str, int]
    intervals: Sequence[str]
    same: str
    horizons: Mapping[str, float]
    doses: Mapping[str, Mapping[str, ArmDose]]
    command: str


def write_report(run_dir: Path, study: ClaimsStudy) -> Path:
    """Writes RUN/report.html and RUN/figures/."""
    return write_page(compose(study), run_dir)


def compose(study: ClaimsStudy) -> Page:
    """The page as blocks."""
    return Page(
        title="What small models show of the claims about facts",
        subtitle=f"{number(study.num_runs)} runs in {number(len(study.changes))} settings, "
        f"{number(len(study.rows))} numbers.",
        sections=(
            Section("The claims", (Text(QUESTION, "lead"), claims_table(study.rows))),
            Section("How much of the raw gain is the fact", (claims_figures.gains(study),)),
            Section("Does it build up?", (Text(_THRESHOLD), claims_figures.levels(study))),
            Section("The numbers", tuple(_folds(study.rows))),
            Section("What was run", (_runs(study), _doses(study))),
            Section("How to run it again", (Code(study.command),)),
        ),
    )


_THRESHOLD = (
    "The learnability threshold says that a fact met more rarely than some interval never builds "
    "up. Instead of extrapolating a forgetting curve to zero, the interval itself was varied at "
    "equal numbers of encounters, and the level just before each encounter was measured: where it "
    "rises from one encounter to the next, what was learned outlasts the interval. The rows "
    "`threshold/...` say where the line of forgetting would have put the threshold, and on which "
    'side of it each interval lies; "unbounded" where the line may never reach zero.'
)


def claims_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per claim: how many contrasts show it, the other way round, or not at all."""
    lines = []
    for title, pattern, null, above, below in CLAIMS:
        found = [
            row for row in rows if re.search(pattern, row["name"]) and row["value"] is not None
        ]
        if not found:
            continue
        verdicts = [verdict(dict(row), null) for row in found]
        up, down = verdicts.count("above"), verdicts.count("below")
        lines.append(
            (
                title,
                number(len(found)),
                f"{up} ({above})",
                f"{down} ({below})",
                number(verdicts.count("not shown")),
            )
        )
    columns = ("claim", "contrasts", "above no effect", "below no effect", "not shown")
    caption = "Contrasts whose 95 % interval lies wholly above or below no effect; no correction "
    return Table(caption + "for the number of contrasts", columns, tuple(lines), columns[1:])


def _folds(rows: Sequence[Mapping[str, Any]]):
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["name"].split("/")[0], []).append(row)
    for group, members in groups.items():
        table = run_section.results_table(f"Results of {group}", members)
        yield Fold(f"{group}: {len(members)} numbers", (table,))


def _runs(study: ClaimsStudy) -> Table:
    first = next(iter(study.changes))
    rows = tuple(
        (
            name,
            how + (": the reference" if name == first else ""),
            number(study.horizons[name]) if name in study.horizons else "none",
        )
        for name, how in study.changes.items()
    )
    columns = ("setting", f"runs; differs from {first} in", "weight-decay horizon, steps")
    caption = (
        "The runs; each lies in its own folder under runs/. Horizon: 1 / (peak learning rate x "
        "weight decay), the steps in which decay alone takes a weight to 1/e"
    )
    return Table(caption, columns, rows, columns[2:])


def _doses(study: ClaimsStudy) -> Table:
    arms = list(dict.fromkeys(arm for given in study.doses.values() for arm in given))
    rows = []
    for name, given in study.doses.items():
        cells = [
            f"{number(dose.facts)} x {number(dose.encounters, 2)}, {number(round(dose.tokens))} "
            f"({100 * dose.share:.2g} %)"
            if (dose := given.get(arm))
            else "–"
            for arm in arms
        ]
        rows.append((name, *cells))
    caption = (
        "Dose of each arm in one run, on average over the runs of the setting: facts x encounters "
        "of one, tokens of all (share of the tokens that the run reads)"
    )
    return Table(caption, ("setting", *arms), tuple(rows), tuple(arms))


def markdown(study: ClaimsStudy) -> str:
    """The numbers with intervals, the runs and their doses as Markdown, to be kept."""
    lines = [f"`{study.command}`", "", "| result | value | 95 % interval | unit | n | shown |"]
    lines.append("|---|---:|---|---|---:|---|")
    for row in study.rows:
        value, interval = estimate(row["value"], row["low"], row["high"])
        shown = verdict(dict(row), null_of(row["name"]))
        if "/threshold/" in row["name"]:  # has no two ends where the line may never reach 0
            shown = row["note"].partition(":")[0].partition(";")[0]
        cells = (row["name"], value, interval or "–", row["unit"], row["n"], shown)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for table in (_runs(study), _doses(study)):
        lines += ["", f"{table.caption}.", "", f"| {' | '.join(table.columns)} |"]
        marks = ("---:" if column in table.numeric else "---" for column in table.columns)
        lines.append(f"|{'|'.join(marks)}|")
        lines += [f"| {' | '.join(map(str, cells))} |" for cells in table.rows]
    return "\n".join(lines) + "\n"
