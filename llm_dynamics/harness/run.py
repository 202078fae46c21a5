"""One model asked the tasks of a folder by the harness, with what it answered to every question."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from llm_dynamics.errors import UserError
from llm_dynamics.harness import tasks as tasks_lib

_FEWSHOT_SEED = 1234  # the harness's own default


@dataclasses.dataclass(frozen=True)
class Sample:
    """A question, what was answered, and how that was graded.

    Attributes:
      doc: the question as its file has it.
      filter: of the answer, by the task's name for it; "none" if the task has none.
      answers: as the harness keeps them: (ln p, greedy) of each choice, or texts.
      choices: how many continuations were scored.
      metrics: by name, of this question; not always numbers.
    """

    doc: Mapping[str, Any]
    filter: str
    answers: Sequence[Any]
    choices: int
    metrics: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Answered:
    """What one task found.

    Attributes:
      task: its name.
      version: as the task states it.
      output_type: loglikelihood, loglikelihood_rolling, multiple_choice or generate_until.
      values: {(metric, filter): the harness's own aggregate}.
      samples: every question, once a filter.
      questions: that the task has; fewer were asked where there is a limit.
    """

    task: str
    version: str
    output_type: str
    values: Mapping[tuple[str, str], float]
    samples: Sequence[Sample]
    questions: int


def answered(lm: Any, manager: Any, names: Sequence[str], limit: int = 0) -> list[Answered]:
    """Asks a model of the harness the named tasks.

    Args:
      lm: a model of the harness, e.g. `adapter.CheckpointLM`.
      manager: of `tasks.manager`.
      names: of tasks, not of groups.
      limit: the first so many questions of each task; 0 = all.

    Raises:
      UserError: an unknown task, one that the harness cannot load, or a metric that overflows.
    """
    from lm_eval import evaluator

    tasks_lib.check(manager, names)
    try:
        loaded = manager.load(list(names))
    except UserError:
        raise
    except Exception as error:  # whatever a task file of the user breaks
        raise UserError(
            f"lm-evaluation-harness cannot load {', '.join(names)}: {type(error).__name__}: "
            f"{error}; mend the task file"
        ) from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=_FEWSHOT_SEED)
    try:
        found = evaluator.evaluate(
            lm=lm, task_dict=loaded, limit=limit or None, bootstrap_iters=0, log_samples=True
        )
    except OverflowError as error:  # exp of what a model finds all but impossible
        raise UserError(
            f"lm-evaluation-harness cannot compute a metric of {', '.join(names)}: {error}; leave "
            "out metrics of perplexity, or this checkpoint"
        ) from error
    return [_answered(name, found) for name in loaded["tasks"]]


def _answered(name: str, found: Mapping[str, Any]) -> Answered:
    values = {}
    for key, value in found["results"][name].items():
        metric, comma, filtered = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float):
            values[metric, filtered] = float(value)
    samples = [
        Sample(
            doc=dict(sample["doc"]),
            filter=sample["filter"],
            answers=sample["filtered_resps"],
            choices=len(sample["arguments"]),
            metrics={metric: sample[metric] for metric in sample["metrics"]},
        )
        for sample in found["samples"][name]
    ]
    return Answered(
        task=name,
        version=str(found["versions"].get(name, "")),
        output_type=found["configs"][name]["output_type"],
        values=values,
        samples=samples,
        questions=found["n-samples"][name]["original"],
    )


def to_json(found: Answered) -> dict[str, Any]:
    """What `json` writes and `from_json` reads; numbers that are not finite are null."""
    said = dataclasses.asdict(found)
    said["values"] = [[*key, value] for key, value in found.values.items()]
    return _finite(said)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(said: Mapping[str, Any]) -> Answered:
    """The inverse of `to_json`; tuples come back as lists."""
    values = {
        (metric, filtered): math.nan if value is None else value
        for metric, filtered, value in said["values"]
    }
    samples = [Sample(**sample) for sample in said["samples"]]
    return Answered(**{**said, "values": values, "samples": samples})


def numbers(found: Answered, metric: str, filtered: str) -> list[float]:
    """The metric of every question; [] where it is no number of a question."""
    values = [s.metrics.get(metric) for s in found.samples if s.filter == filtered]
    if all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        return [float(v) for v in values]
    return []
