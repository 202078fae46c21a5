"""Our numbers beside the published ones, with what can be compared and what cannot.

The published figures (anchors.json, with their tables) are of OLMo-7B and were transcribed at
second hand; they were not verified against the PDF. A model of another size shares a form, signs
and orderings with them at best, not values; and an ordering without an interval is not shown,
whichever number is larger.
"""

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from llm_dynamics.facts.cells import CONTROL
from llm_dynamics.facts.facts import DEPTHS
from llm_dynamics.facts.paper import PaperCell

Row = dict[str, Any]
Intervals = Mapping[str, tuple[float, float]]

_NO_INTERVAL = "not shown: rests on no interval"


@dataclass(frozen=True)
class Anchor:
    """A published cell, at the early, mid and late stage of OLMo-7B.

    Attributes:
      batch: sequences per step, 2,048 or 128.
      arm, depth: labels as ours.
      a: share of the gain lost per factor of ten.
      x_intercept: log10 of the tokens at which the line reaches 0.
      tables: of a and of x_intercept.
    """

    batch: int
    arm: str
    depth: str
    a: tuple[float, ...]
    x_intercept: tuple[float, ...]
    tables: tuple[str, str]


@dataclass(frozen=True)
class Anchors:
    """The published tables and what is said of them.

    Attributes:
      source, status, model, stages: of all of them.
      tokens_per_step: batch -> tokens of one update.
      r2_at_least: depth -> the bound of Sec. 4.3.
      cells: every table.
      not_transcribed: what these tables lack.
    """

    source: str
    status: str
    model: str
    stages: tuple[str, ...]
    tokens_per_step: Mapping[int, int]
    r2_at_least: Mapping[str, float]
    cells: tuple[Anchor, ...]
    not_transcribed: tuple[str, ...]

    def at(self, arm: str, depth: str) -> dict[int, Anchor]:
        """batch -> cell."""
        return {c.batch: c for c in self.cells if (c.arm, c.depth) == (arm, depth)}


@functools.cache
def load() -> Anchors:
    """Reads the tables that come with this package."""
    text = resources.files("llm_dynamics.facts").joinpath("anchors.json").read_text("utf-8")
    record = json.loads(text)
    tuples = {key: tuple(record[key]) for key in ("stages", "not_transcribed")}
    cells = tuple(
        Anchor(**{k: tuple(v) if isinstance(v, list) else v for k, v in cell.items()})
        for cell in record["cells"]
    )
    per_step = {int(batch): tokens for batch, tokens in record["tokens_per_step"].items()}
    return Anchors(**record | tuples | {"cells": cells, "tokens_per_step": per_step})


def compare(
    analysis: Sequence[PaperCell], model_note: str, intervals: Intervals | None = None
) -> list[Row]:
    """Ours beside the published, cell by cell.

    Args:
      analysis: from `paper.analyse`.
      model_note: our model in words.
      intervals: 95 % intervals by the names of `results.compute`, as far as known: of `a`
        (ARM/DEPTH/decay/published/a) and of differences (ordering/...).

    Returns:
      Rows {name, kind, ours, published, comparable, verdict, note}. Kinds: "value" (not
      comparable between models), "form", "sign" and "ordering" (comparable).
    """
    published, intervals = load(), intervals or {}
    analysis = [cell for cell in analysis if cell.arm != CONTROL]  # not in the paper
    cells = {(cell.arm, cell.depth): cell for cell in analysis}
    rows: list[Row] = []
    for cell in analysis:
        known = published.at(cell.arm, cell.depth)
        if cell.decay is not None and known:
            rows += _values(cell, known, f"ours: {model_note}; published: {published.model}")
            rows.append(_form(cell, published.r2_at_least[cell.depth]))
            rows.append(_sign(cell, known, intervals))
    arms = list(dict.fromkeys(cell.arm for cell in analysis))
    for arm in arms:
        rows += _depth_orderings(cells, arm, intervals, published)
    rows += _arm_orderings(cells, intervals, published)
    rows += [row for arm in arms for row in _first_encounter(cells, arm)]
    return rows


def _row(name, kind, ours, published, verdict, note="") -> Row:
    return {
        "name": name,
        "kind": kind,
        "ours": ours,
        "published": published,
        "comparable": kind != "value",
        "verdict": verdict,
        "note": note,
    }


def _values(cell: PaperCell, known: Mapping[int, Anchor], note: str) -> list[Row]:
    found = []
    for name, ours, field in (
        ("a", cell.decay.a, "a"),
        ("x_intercept_tokens", cell.x_intercept_tokens, "x_intercept"),
    ):
        theirs = {f"batch {batch}": list(getattr(c, field)) for batch, c in known.items()}
        more = ""
        if field == "x_intercept":
            more = "; published ones lie 0.6 to 2.2 factors of ten beyond the data"
            if cell.decay.extrapolated:
                more += f", ours beyond its data too, which end at {cell.decay.last:.2f}"
        found.append(
            _row(
                f"{cell.arm}/{cell.depth}/{name}",
                "value",
                ours,
                theirs,
                "not comparable: the value of another model",
                note + more,
            )
        )
    return found


def _form(cell: PaperCell, bound: float) -> Row:
    r2 = cell.decay.r2
    if r2 is None:
        verdict = "no R2: the curve is constant"
    else:
        verdict = "as published" if r2 >= bound else "a straight line fits worse than published"
    return _row(
        f"{cell.arm}/{cell.depth}/line_on_log_time",
        "form",
        r2,
        f"R2 above {bound:.2f}",
        verdict,
        "R2 falls with noise as well as with curvature, and depends on the number of probes",
    )


def _sign(cell: PaperCell, known: Mapping[int, Anchor], intervals: Intervals) -> Row:
    values = [a for c in known.values() for a in c.a]
    return _row(
        f"{cell.arm}/{cell.depth}/sign_of_a",
        "sign",
        cell.decay.a,
        f"positive in {sum(a > 0 for a in values)} of {len(values)} cells",
        _verdict(intervals.get(f"{cell.arm}/{cell.depth}/decay/published/a"), 1),
        "positive: the gain is forgotten",
    )


def _depth_orderings(cells, arm: str, intervals: Intervals, published: Anchors) -> list[Row]:
    """Effectivity and a between neighbouring depths of an arm."""
    rows = []
    for one, other in itertools.pairwise(DEPTHS):
        if (arm, one) not in cells or (arm, other) not in cells:
            continue
        a, b = cells[arm, one], cells[arm, other]
        label = f"{arm}/{one}-minus-{other}"
        claim = f"effectivity of {one} larger than of {other} in every arm (Fig. 2, Sec. 4)"
        if (arm, one) == ("paraphrase", "memorization"):
            claim += "; the gap nearly vanishes in this one"
        rows.append(_effectivity_row(label, a, b, claim, intervals))
        if a.decay and b.decay and published.at(arm, one):
            pairs = _pairs(published.at(arm, one), published.at(arm, other))
            rows.append(_decay_row(label, a, b, pairs, intervals))
    return rows


def _arm_orderings(cells, intervals: Intervals, published: Anchors) -> list[Row]:
    """Effectivity and a between arms at a depth."""
    rows = []
    for depth in DEPTHS:
        for one, other in (("once", "duplication"), ("duplication", "paraphrase")):
            if (one, depth) not in cells or (other, depth) not in cells:
                continue
            a, b = cells[one, depth], cells[other, depth]
            label = f"{one}-minus-{other}/{depth}"
            claim = f"effectivity of {one} larger than of {other} (App. E)"
            rows.append(_effectivity_row(label, a, b, claim, intervals))
            known = published.at(one, depth)
            if a.decay and b.decay and known:
                pairs = _pairs(known, published.at(other, depth))
                rows.append(_decay_row(label, a, b, pairs, intervals))
    return rows


def _first_encounter(cells, arm: str) -> list[Row]:
    """The first gain against the mean of the later ones."""
    rows = []
    for depth in DEPTHS:
        cell = cells.get((arm, depth))
        means = [gain.mean for gain in cell.per_encounter] if cell else []
        if len(means) < 2 or None in means:
            continue
        rows.append(
            _row(
                f"{arm}/{depth}/first-minus-later-encounters/effectivity",
                "ordering",
                means[0] - sum(means[1:]) / (len(means) - 1),
                "the first encounter gains most, later ones about the same (App. H)",
                _NO_INTERVAL,
                "failure cases excluded",
            )
        )
    return rows


def _effectivity_row(label, one: PaperCell, other: PaperCell, claim, intervals) -> Row:
    interval = _interval(label, "effectivity", intervals)
    return _row(
        f"{label}/effectivity",
        "ordering",
        one.effectivity - other.effectivity,
        claim,
        _verdict(interval, 1, "in the run's own results "),
        ""
        if interval is None
        else "those results are less the control where there is one and filter no outliers",
    )


def _decay_row(label, one: PaperCell, other: PaperCell, pairs, intervals) -> Row:
    published = {
        f"batch {batch}": f"larger in {sum(a > b for a, b in pair)}, equal in "
        f"{sum(a == b for a, b in pair)}, smaller in {sum(a < b for a, b in pair)} of {len(pair)}"
        for batch, pair in pairs.items()
    }
    signs = {(a > b) - (a < b) for pair in pairs.values() for a, b in pair}
    direction = next(iter(signs)) if len(signs) == 1 else 0
    return _row(
        f"{label}/a",
        "ordering",
        one.decay.a - other.decay.a,
        published,
        _verdict(_interval(label, "decay_published", intervals), direction),
        "" if direction else "the published cells do not agree with each other",
    )


def _pairs(ones: Mapping[int, Anchor], others: Mapping[int, Anchor]):
    """batch -> (a of one, a of the other) at every stage."""
    return {batch: list(zip(c.a, others[batch].a, strict=True)) for batch, c in ones.items()}


def _interval(label: str, key: str, intervals: Intervals) -> tuple[float, float] | None:
    """The interval of a difference, under its name or that of the opposite difference."""
    name = f"ordering/{label}/{key}"
    if name in intervals:
        return intervals[name]
    head, _, rest = label.partition("/")
    one, _, other = head.partition("-minus-")
    turned = intervals.get(f"ordering/{other}-minus-{one}/{rest}/{key}")
    return None if turned is None else (-turned[1], -turned[0])


def _verdict(interval: tuple[float, float] | None, direction: int, where: str = "") -> str:
    """What an interval of a difference says of a published direction (0 = mixed)."""
    if interval is None:
        return _NO_INTERVAL
    low, high = interval
    if low <= 0 <= high:
        return f"not shown: {where}the interval {low:.3g} to {high:.3g} includes 0"
    shown = f"shown: {where}{low:.3g} to {high:.3g}, "
    if not direction:
        return shown + "where published cells are mixed"
    return shown + ("as published" if (low > 0) == (direction > 0) else "against the published")
