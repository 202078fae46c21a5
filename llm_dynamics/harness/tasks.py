"""Task folders of lm-evaluation-harness: written from suites, or made by the user.

A task folder holds a YAML file a task and, beside it, the questions as JSON Lines. The harness
reads both from this machine; nothing is fetched.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm_dynamics import files
from llm_dynamics.errors import UserError
from llm_dynamics.spec import nearest
from llm_dynamics.suites import Suite

VERSION = 1  # of the tasks below; raised whenever the numbers would change
_MEANS = {"aggregation": "mean", "higher_is_better": True}


def write(suite: Suite, folder: str | Path) -> str:
    """Writes a suite as a task: FOLDER/NAME.yaml and FOLDER/NAME.jsonl. Returns the task's name.

    Choices are scored after one space, with `acc` (the most probable choice is right) and
    `acc_norm` (so divided by its characters). Cloze items have `acc`: every token of the answer is
    the most probable one. The YAML names the JSON Lines by its whole path; write it again after
    moving the folder.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = files.expanded(folder).absolute()
    lines = [
        json.dumps(_row(suite, number), ensure_ascii=False) for number in range(len(suite.items))
    ]
    data = folder / f"{suite.name}.jsonl"
    files.write_text(data, "\n".join(lines) + "\n")
    # JSON is YAML.
    files.write_text(folder / f"{suite.name}.yaml", json.dumps(_task(suite, data), indent=2) + "\n")
    return suite.name


def _row(suite: Suite, number: int) -> dict[str, Any]:
    item = suite.items[number]
    row = {"name": item.name, "context": item.context, "labels": dict(item.labels) or None}
    if suite.kind == "choice":
        return row | {"choices": list(item.choices), "right": item.right}
    return row | {"continuation": f" {item.answer}"}


def _task(suite: Suite, data: Path) -> dict[str, Any]:
    task: dict[str, Any] = {
        "task": suite.name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "context",
        "metadata": {
            "version": VERSION,
            "source": suite.source,
            "licence": suite.licence,
            "attribution": suite.attribution,
        },
    }
    if suite.kind == "choice":
        return task | {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "right",
            "target_delimiter": " ",
            "metric_list": [{"metric": "acc", **_MEANS}, {"metric": "acc_norm", **_MEANS}],
        }
    return task | {
        "output_type": "loglikelihood",
        "doc_to_target": "continuation",
        "metric_list": [{"metric": "acc", **_MEANS}],
    }


def manager(folders: Iterable[str | Path]) -> Any:
    """A TaskManager of the harness that knows the tasks of some folders and no others.

    Raises:
      UserError: no such folder.
    """
    from lm_eval.tasks import TaskManager

    paths = [files.expanded(folder).absolute() for folder in folders]
    for path in paths:
        if not path.is_dir():
            raise UserError(f"expected a folder with task files (.yaml) at {path}, found none")
    return TaskManager(include_path=[str(path) for path in paths], include_defaults=False)


def check(found: Any, names: Sequence[str]) -> None:
    """Refuses names that the task folders do not have.

    Raises:
      UserError: an unknown name; the nearest known one is given.
    """
    known = list(found.all_tasks)
    for name in names:
        if name not in known:
            hint = nearest(name, known) if known else "the folders hold no task"
            raise UserError(f"unknown task {name!r}; {hint}")
