"""Published losses of continual pre-training, each with how far its transcription was checked.

Ibrahim et al. 2024 (arXiv:2403.08763v4): a Pile model goes on to SlimPajama, a weak shift, or to
German, a strong one. Every figure in published.json was transcribed at second hand and carries a
mark that says so; what is computed here from them is marked derived. All are single runs, so a
comparison with ours is one of shape: signs, orderings and shares, not values.
"""

import functools
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from llm_dynamics.continual.measures import DEFINITIONS, NATS
from llm_dynamics.errors import UserError
from llm_dynamics.results import Interval, Row, interval_row

ROUNDING = 0.005  # of a loss printed to two decimals
_NOTE = "derived; the interval is that of rounding alone, as the source has one run"


@dataclass(frozen=True)
class PublishedLoss:
    """One printed row: losses of one run on the old set (Pile) and on the new set.

    Attributes:
      table: of the source.
      size: "405M" or "10B".
      new_set: "SlimPajama" or "German".
      run: "old only", "new only", "re-warmed", "constant" or "union".
      share: of replay, a fraction of the tokens of the stage; None where it has no meaning.
      peak: highest learning rate.
      tokens_billion: of the run, or of the second stage where there is one.
      old, new: losses in nats per token, printed to 0.01.
      average: as printed; None where the table has none.
      mark: a key of `Published.marks`.
    """

    table: str
    size: str
    new_set: str
    run: str
    share: float | None
    peak: float
    tokens_billion: float
    old: float
    new: float
    average: float | None
    mark: str

    @property
    def derived_average(self) -> float:
        """Mean of both losses."""
        return (self.old + self.new) / 2


@dataclass(frozen=True)
class PublishedScores:
    """Evaluation of one run, in percent.

    Attributes:
      table, size, new_set, run, share, mark: as of a loss.
      scores: by task; empty where only the average is known.
      average: as printed.
    """

    table: str
    size: str
    new_set: str
    run: str
    share: float | None
    scores: Mapping[str, float]
    average: float
    mark: str


@dataclass(frozen=True)
class Published:
    """Everything that was transcribed.

    Attributes:
      source: the paper.
      marks: mark -> what it means.
      notes: of conflicts and gaps in the source.
      losses, scores: rows.
      other: figures that are in no table of losses or scores, with their marks.
    """

    source: str
    marks: Mapping[str, str]
    notes: tuple[str, ...]
    losses: tuple[PublishedLoss, ...]
    scores: tuple[PublishedScores, ...]
    other: Mapping[str, Any]

    def loss(
        self,
        table: str,
        new_set: str,
        run: str,
        share: float | None = None,
        peak: float | None = None,
    ) -> PublishedLoss:
        """The one row of a table; `peak` where the table has several.

        Raises:
          UserError: none, or more than one.
        """
        found = [
            row
            for row in self.losses
            if (row.table, row.new_set, row.run, row.share) == (table, new_set, run, share)
            and peak in (None, row.peak)
        ]
        if len(found) != 1:
            raise UserError(
                f"expected one row of Table {table} for {new_set}, {run}, share {share}, peak "
                f"{peak}, got {len(found)}; see published.json for those there are"
            )
        return found[0]

    def base(self, size: str) -> PublishedLoss:
        """The model trained on the old set alone."""
        return next(row for row in self.losses if row.size == size and row.run == "old only")


@functools.cache
def published() -> Published:
    """Reads published.json."""
    text = resources.files(__package__).joinpath("published.json").read_text(encoding="utf-8")
    raw = json.loads(text)
    columns = raw["losses_columns"]
    losses = (PublishedLoss(**dict(zip(columns, row, strict=True))) for row in raw["losses"])
    tasks = raw["evaluation_columns"]
    scores = []
    for row in raw["evaluations"]:
        values = row.pop("scores")
        named = dict(zip(tasks, values, strict=True)) if values else {}
        scores.append(PublishedScores(scores=named, **row))
    return Published(
        source=raw["source"],
        marks=raw["marks"],
        notes=tuple(raw["notes"]),
        losses=tuple(losses),
        scores=tuple(scores),
        other={key: raw[key] for key in ("german_hellaswag", "transient_rises")},
    )


def derived_rows() -> list[Row]:
    """Forgetting, the share that replay removes, and the share that is due to re-warming.

    Names are SIZE/NEW SET/SHARE/QUANTITY. Intervals are those of rounding.
    """
    known = published()
    rows = []
    for row in known.losses:
        if row.table not in ("2", "4") or row.run != "re-warmed":
            continue
        base = known.base(row.size)
        name = f"{row.size}/{row.new_set}/{row.share:g}"
        forgot = _over_rounding(lambda after, before: after - before, row.old, base.old)
        rows.append(_row(f"{name}/forgetting", forgot, NATS, DEFINITIONS["forgetting"]))
        if row.share:
            plain = known.loss(row.table, row.new_set, "re-warmed", 0)
            removed = _over_rounding(
                lambda after, without, before: (without - after) / (without - before),
                row.old,
                plain.old,
                base.old,
            )
            definition = DEFINITIONS["replay_removes"]
            rows.append(_row(f"{name}/replay_removes", removed, "1", definition))
    for new_set in ("SlimPajama", "German"):
        rewarmed = known.loss("12", new_set, "re-warmed", 0, 3e-4)
        share = _over_rounding(
            lambda after, constant, before: (after - constant) / (after - before),
            rewarmed.old,
            known.loss("12", new_set, "constant", 0).old,
            known.base("405M").old,
        )
        definition = (
            "forgetting when re-warmed to 3e-4 less that at the constant floor rate, over the "
            "former; without replay"
        )
        rows.append(_row(f"405M/{new_set}/0/due_to_rewarming", share, "1", definition))
    return rows


def _row(name: str, found: Interval, unit: str, definition: str) -> Row:
    return interval_row(name, found, unit, 1, definition, _NOTE)


def _over_rounding(function, *losses: float) -> Interval:
    """A function of printed losses, and its range over what they were rounded from.

    Each function here is monotone in every loss while the others are held, so the range is that
    over the corners.
    """
    steps = itertools.product((-ROUNDING, 0.0, ROUNDING), repeat=len(losses))
    corners = [
        function(*(loss + step for loss, step in zip(losses, some, strict=True))) for some in steps
    ]
    return Interval(function(*losses), min(corners), max(corners))
