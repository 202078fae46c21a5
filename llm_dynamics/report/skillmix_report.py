"""The page of a Skill-Mix study: scores, novelty or the parrot bound, texts, what went wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_dynamics.report import run_section, skillmix_figures
from llm_dynamics.report.numbers import missing, number
from llm_dynamics.report.page import (
    Cell,
    Fold,
    Items,
    Page,
    Quote,
    Section,
    Table,
    Terms,
    Text,
    write_page,
)
from llm_dynamics.report.rows import row_cell
from llm_dynamics.report.run import Run
from llm_dynamics.report.skillmix_figures import TITLES
from llm_dynamics.results import Row
from llm_dynamics.skillmix import parrot
from llm_dynamics.skillmix.evaluate import EvalConfig, Generated, Result
from llm_dynamics.skillmix.prompts import OTHERS
from llm_dynamics.skillmix.published import leaderboard
from llm_dynamics.skillmix.result_rows import DEFINITIONS, KIND_WORDS, by_k, reasons
from llm_dynamics.train.run_folder import RunFolder, read_spec

_SAMPLES = 3  # texts shown for each k
_TROUBLES = (
    "missing_items",
    "short_items",
    "unreadable",
    "unmarked",
    "empty",
    "cut",
    "ties",
    "named",
    "recounted",
    "disagreement",
)


@dataclass(frozen=True)
class SkillmixStudy:
    """What the page says beyond the rows.

    Attributes:
      config: of the evaluation.
      results: every item with its texts.
      writer: who wrote, in words.
      grader: who graded; rules where points are decided by rule.
      corpus: rates for the parrot bound; None = novelty was looked up.
      lists: how many skills and topics there were to draw from; None = those of the small language.
      kinds: of novelty, one a result, where it was looked up.
    """

    config: EvalConfig
    results: Sequence[Result]
    writer: str
    grader: str
    corpus: parrot.Corpus | None = None
    lists: tuple[int, int] | None = None
    kinds: Sequence[str] = ()


def write_report(folder: RunFolder, rows: Sequence[Row], study: SkillmixStudy) -> Path:
    """Draws RUN/report.html and RUN/figures/.

    Returns:
      The path of the page.

    Raises:
      UserError: the folder holds no run or cannot be written.
    """
    run = Run(folder.path, metrics={}, results=tuple(rows), **read_spec(folder.spec))
    return write_page(compose(run, study), folder.path)


def compose(run: Run, study: SkillmixStudy) -> Page:
    """The page as blocks."""
    rows = {row["name"]: row for row in run.results}
    ks = sorted(by_k(study.results))
    is_text = study.corpus is not None
    sections = [_answer(rows, ks, study), _scores(rows, ks, study)]
    if is_text:
        sections.append(_bound(rows, ks, study))
    else:
        sections.append(_novelty(rows, ks))
    sections += [_trouble(rows, ks, study), _samples(study)]
    if is_text:
        sections.append(_leaderboard())
    sections += [
        Section("All results", (run_section.results_table("Every number", run.results),)),
        Section("Definitions", (Terms(_terms()),)),
        run_section.again_section(run),
    ]
    return Page(
        title="Skill-Mix: random skills together in one short text",
        subtitle=f"Written by {study.writer}; graded by {study.grader}.",
        sections=tuple(sections),
        footer="Drawn from the run folder by llm_dynamics; this page fetches nothing. Intervals "
        "are 95 % intervals over items.",
    )


def _answer(rows: Mapping[str, Row], ks: Sequence[int], study: SkillmixStudy) -> Section:
    said = []
    for k in ks:
        row, gone = rows[f"k={k}/full_marks"], rows[f"k={k}/trouble/missing_items"]
        lost = f"; {int(gone['value'])} items are missing" if gone["value"] else ""
        said.append(
            f"{k} skill{'s' * (k > 1)}: full marks {_words(row)} of {row['n']} items{lost}."
        )
    row = rows["saturation/full_marks"]
    if not row["n"]:
        said.append("No text has a readable grading, so nothing is known of the writer.")
    elif missing(row["value"]):
        said.append("No k here has full marks below .05, so the model is not at its end.")
    else:
        last = "beyond these k" if missing(row["high"]) else f"k = {row['high']:g}"
        said.append(
            f"Full marks are first below .05 at k = {row['value']:g}; the intervals leave the end "
            f"open up to {last}."
        )
    if study.grader == study.writer:
        said.append("Writer and grader are one model: it grades its own texts.")
    question = "How many random skills can the model show together in one short text?"
    return Section("The answer", (Text(question, "lead"), Items(tuple(said))))


def _scores(rows: Mapping[str, Row], ks: Sequence[int], study: SkillmixStudy) -> Section:
    columns = ("k", "items", *TITLES.values(), "full marks, missing as 0", "full marks, mean")
    body = tuple(
        (
            str(k),
            str(rows[f"k={k}/full_marks"]["n"]),
            *(row_cell(rows[f"k={k}/{metric}"]) for metric in TITLES),
            row_cell(rows[f"k={k}/full_marks/missing_as_0"]),
            row_cell(rows[f"k={k}/full_marks/mean"]),
        )
        for k in ks
    )
    drawn = "the small language's own skills and topics"
    if study.lists:
        drawn = f"{study.lists[0]} skills and {study.lists[1]} topics"
    return Section(
        "Scores",
        (
            Text(
                f"Items are drawn from {drawn}: k different skills in random order and a topic. "
                f"Texts of an item: {study.config.generations}; gradings of a text, on k + 3 "
                f"points: {study.config.gradings}."
            ),
            skillmix_figures.metrics(rows, ks, study.corpus is not None),
            Table("Scores with 95 % intervals over items", columns, body, columns),
        ),
    )


def _novelty(rows: Mapping[str, Row], ks: Sequence[int]) -> Section:
    kinds = [kind for kind in KIND_WORDS if any(f"k={k}/full_marks/{kind}" in rows for k in ks)]
    columns = ("k", *kinds, "successes on unseen combinations")

    def cell(name: str) -> Any:
        row = rows.get(name)
        found = row_cell(row)
        return (
            Cell(f"{found.text}, n = {row['n']}", found.key) if isinstance(found, Cell) else found
        )

    body = tuple(
        (
            str(k),
            *(cell(f"k={k}/full_marks/{kind}") for kind in kinds),
            cell(f"k={k}/successes_unseen"),
        )
        for k in ks
    )
    return Section(
        "New combinations",
        (
            Text("What a combination is to the model is looked up in its training texts, exactly."),
            skillmix_figures.novelty(rows, ks),
            Table("Full marks by what training showed", columns, body, columns),
        ),
    )


def _bound(rows: Mapping[str, Row], ks: Sequence[int], study: SkillmixStudy) -> Section:
    names = sorted(
        {
            name.partition("/")[2]
            for name in rows
            if name.partition("/")[2].startswith("unseen_at_least")
        }
    )
    heads = [name.rpartition("corpus_x")[2] if "corpus_x" in name else "1" for name in names]
    unseen = (f"unseen, L x {head}" for head in heads)
    columns = ("k", "corpus holds at most", *unseen, "margin in standard errors")
    body = tuple(
        (
            str(k),
            row_cell(rows[f"k={k}/seen_at_most"]),
            *(row_cell(rows[f"k={k}/{name}"]) for name in names),
            row_cell(rows[f"k={k}/margin"]),
        )
        for k in ks
    )
    return Section(
        "Beyond repeating",
        (
            Text(
                "If skills and topics occur independently at the assumed rates, the corpus holds "
                "at most so many combinations; what a model masters beyond that is new to it. "
                "The rates are the paper's estimates for its own skills and corpus: set "
                "`corpus.skill_rate`, `corpus.topic_rate` and `corpus.sentences` for others, and "
                "`corpus.correlation` for skills that go together. The margin says by how many "
                "standard errors full marks are above what shows that more than a third of the "
                "successes are new: a small one shows little, and full marks are a best of several."
            ),
            skillmix_figures.bound(rows, ks, study.corpus, published=True),
            Table("Least share of successes on unseen combinations", columns, body, columns),
        ),
    )


def _trouble(rows: Mapping[str, Row], ks: Sequence[int], study: SkillmixStudy) -> Section:
    columns = ("k", *(name.replace("_", " ") for name in _TROUBLES))
    body = tuple(
        (str(k), *(_counted(rows[f"k={k}/trouble/{name}"]) for name in _TROUBLES)) for k in ks
    )
    whys = [
        (str(k), why, str(count))
        for k, found in reasons(study.results).items()
        for why, count in found.most_common()
    ]
    blocks: list[Any] = [
        Text(
            "Gradings that cannot be read are no zeros: an item without any is missing from the "
            "scores, and the table of scores says what they would be with zeros."
        ),
        Table("What could not be read, and what corrections changed", columns, body, columns),
        Terms(
            tuple(
                (name.replace("_", " "), rows[f"k={ks[0]}/trouble/{name}"]["definition"])
                for name in _TROUBLES
            )
        ),
    ]
    if whys:
        blocks.append(
            Table("Why gradings could not be read", ("k", "why", "gradings"), tuple(whys))
        )
    return Section("What went wrong", tuple(blocks))


def _samples(study: SkillmixStudy) -> Section:
    blocks = []
    for k, results in by_k(study.results).items():
        inside: list[Any] = []
        for result in _best_and_worst(results):
            asked = f"{', '.join(result.item.names)}; about {result.item.topic}"
            one = result.generations[0]
            inside.append(Quote(one.answer.text or "(nothing)", f"{asked}. {_grades(result, one)}"))
        blocks.append(Fold(f"k = {k}", tuple(inside), open=k == min(study.config.ks)))
    return Section(
        "Some texts",
        (Text("The first text of the items with most points, fewest, and without any."), *blocks),
    )


def _best_and_worst(results: Sequence[Result]) -> list[Result]:
    def points(result: Result) -> int:
        found = result.generations[0].scored.points
        return -1 if found is None else sum(found)

    ordered = sorted(results, key=points)
    graded = [result for result in ordered if points(result) >= 0]
    chosen = [*graded[-1:], *graded[:1], *(r for r in ordered[:1] if points(r) < 0)]
    return list({id(result): result for result in [*chosen, *ordered]}.values())[:_SAMPLES]


def _grades(result: Result, one: Generated) -> str:
    if one.scored.points is None:
        why = one.gradings[0].why if one.gradings else "nothing to grade"
        return f"No grade: {why}"
    names = (*result.item.names, *OTHERS)
    given = zip(names, one.scored.points, strict=True)
    return "Points: " + ", ".join(f"{name} {point}" for name, point in given)


def _leaderboard() -> Section:
    table = leaderboard()
    every = sorted({k for by in table.scores.values() for k in by})
    columns = ("model", *(f"k = {k}" for k in every))
    body = tuple(
        (
            model,
            *(" / ".join(f"{v:.2f}" for v in by[k].values()) if k in by else "–" for k in every),
        )
        for model, by in table.scores.items()
    )
    return Section(
        "Published scores",
        (
            Text(f"{table.source}. {table.mark}."),
            Table("Full marks / all skills / skill fraction", columns, body, columns[1:]),
        ),
    )


def _terms() -> tuple[tuple[str, str], ...]:
    metrics = tuple((TITLES[name], words) for name, words in DEFINITIONS.items())
    return (
        *metrics,
        ("best of an item", "the highest value over its generations with a readable grading"),
        ("mean", "over generations instead: what one text is worth"),
        ("SE", "sd / sqrt(n) over items"),
    )


def _words(row: Row) -> str:
    found = row_cell(row)
    return found if isinstance(found, str) else found.text


def _counted(row: Row) -> Cell:
    return Cell(f"{number(row['value'])} of {number(row['n'])}", row["value"])
