"""The stages that a run's parameters went through, as numbers: which rows each of them read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.deal import NEW, REPEATED, REPLAYED, Deal, Past


@dataclasses.dataclass(frozen=True)
class ReadSource:
    """A source as a run has read it."""

    name: str
    rows: int  # an epoch of it
    weight: float
    fingerprint: str = ""  # of its documents on both sides of the split; "" = not recorded


@dataclasses.dataclass(frozen=True)
class Replay:
    """What a run reads again of an earlier stage of its lineage."""

    stage: int  # its number in the lineage
    share: float  # of the rows of the run that replays
    offset: int  # rows of it that stages between the two have replayed already


@dataclasses.dataclass(frozen=True)
class Stage:
    """A run up to the checkpoint from which the lineage goes on."""

    run: str  # its run folder
    data: DataConfig
    tokenizer: str  # fingerprint; "" = not recorded
    sources: tuple[ReadSource, ...]
    first: int  # row of its data that it began with; earlier ones were read before it
    seen: int  # the parameters have seen rows 0 .. seen - 1 of its data
    continues: bool = False  # its data is that of the stage before it, read on
    replays: tuple[Replay, ...] = ()


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The stages before a run, the oldest first, and what the run replays of them."""

    stages: tuple[Stage, ...] = ()
    replays: tuple[Replay, ...] = ()


def deals(stages: Sequence[Stage]) -> list[Deal]:
    """The deal of every stage."""
    found: list[Deal] = []
    for stage in stages:
        before = rows_before(stages[: len(found)], found, stage)
        past = [
            Past(found[r.stage], r.share, stages[r.stage].seen, r.offset) for r in stage.replays
        ]
        weights, rows = [s.weight for s in stage.sources], [s.rows for s in stage.sources]
        found.append(Deal(weights, rows, past, before))
    return found


def rows_before(stages: Sequence[Stage], dealt: Sequence[Deal], stage: Stage) -> list[int]:
    """For each source of a stage, how much of its first epoch earlier stages have read.

    Rows of one source come in one order, so each stage has read a beginning of it. It is the same
    source where documents, tokenizer, length and seed are; with another seed the order is another
    and the count 0.
    """
    read: dict[Any, int] = {}
    for earlier, deal in zip(stages, dealt, strict=True):
        counts = deal.own_rows(earlier.seen).tolist()
        for source, count in zip(earlier.sources, counts, strict=True):
            key = _identity(earlier, source)
            read[key] = max(read.get(key, 0), min(count, source.rows))
    return [read.get(_identity(stage, s), 0) if s.fingerprint else 0 for s in stage.sources]


def rows_replayed(stages: Sequence[Stage], number: int) -> int:
    """How many rows of a stage later ones of the lineage have replayed: where the next begins.

    Runs that read on the same data count as one stage.
    """
    first = first_of(stages)
    ends = [k for k in range(len(stages)) if k + 1 == len(stages) or not stages[k + 1].continues]
    dealt = deals(stages)
    total = 0
    for k in ends:
        counts = dealt[k].past_rows(stages[k].seen).tolist()
        for replay, count in zip(stages[k].replays, counts, strict=True):
            total += count if first[replay.stage] == first[number] else 0
    return total


def first_of(stages: Sequence[Stage]) -> list[int]:
    """For each stage the number of the one that began its data."""
    first: list[int] = []
    for k, stage in enumerate(stages):
        first.append(first[-1] if first and stage.continues else k)
    return first


def ledger(names: Sequence[str], tally: np.ndarray, length: int) -> dict[str, dict[str, int]]:
    """Tokens by source, {name: {"new", "replayed", "repeated"}}, of a `Deal.tally` of rows.

    Args:
      names: of the leaves of the deal; leaves of one name are added up.
      tally: int64 [leaves, 3], in rows.
      length: tokens a row, L.
    """
    result: dict[str, dict[str, int]] = {}
    for name, counts in zip(names, tally.tolist(), strict=True):
        entry = result.setdefault(name, {"new": 0, "replayed": 0, "repeated": 0})
        for key, column in (("new", NEW), ("replayed", REPLAYED), ("repeated", REPEATED)):
            entry[key] += counts[column] * length
    return result


def ledgers(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """The token ledger of every stage, up to the checkpoint that the lineage goes on from."""
    names: list[list[str]] = []
    result = []
    for stage, deal in zip(stages, deals(stages), strict=True):
        own = [source.name for source in stage.sources]
        names.append(own + [name for r in stage.replays for name in names[r.stage]])
        length = stage.data.length
        result.append(
            {
                "run": stage.run,
                "tokens": (stage.seen - stage.first) * length,
                "ledger": ledger(names[-1], deal.tally(stage.first, stage.seen), length),
            }
        )
    return result


def _identity(stage: Stage, source: ReadSource) -> tuple[Any, ...]:
    return source.fingerprint, stage.tokenizer, stage.data.length, stage.data.seed
