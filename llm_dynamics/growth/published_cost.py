"""Costs and savings of growth as published: the FLOP counter, what follows from it, the tables.

The counter is that of ELECTRA (Clark et al. 2020), as released with LiGO (Wang et al. 2023): the
backward pass costs what the forward pass does, embeddings are looked up by a product with one-hot
vectors, and the logits of an encoder are of 15.625 % of the tokens. For comparisons with published
savings alone; costs of our own are counted by `model.size`.

Letters: h width, i MLP width, n heads, s length, V vocabulary, L layers, B batch.
"""

import functools
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.growth.timing import saved_from_speedup, speedup_from_saved
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.results import Interval, Row, interval_row

MASKED = 0.15625  # of the tokens of an encoder, that logits are computed of
SAVED = "1 - C_grown / C_scratch until the final loss of the model from scratch"

# ---- the counter ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """A model as the counter sees it.

    Attributes:
      layers, width, mlp, heads, vocab: sizes.
      masked: logits of `MASKED` of the tokens behind a dense layer, as in an encoder; else of all
        tokens and without it.
      key_heads: 0 = `heads`.
      head_size: 0 = width / heads.
      gated: a third matrix in the MLP. Gates and fewer key heads are not in the released counter;
        they are counted in its manner.
    """

    layers: int
    width: int
    mlp: int
    heads: int
    vocab: int = 30522
    masked: bool = True
    key_heads: int = 0
    head_size: int = 0
    gated: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is of the kind that the released counter was written for."""
        keys = self.key_heads in (0, self.heads)
        return keys and not self.gated and self.heads * self._head == self.width

    @property
    def _head(self) -> int:
        return self.head_size or self.width // self.heads

    def forward(self, length: int) -> tuple[float, float]:
        """FLOPs of the forward pass of one sequence: of a layer, and of everything else."""
        h, i, n, s = self.width, self.mlp, self.heads, length
        queries, keys = n * self._head, (self.key_heads or n) * self._head
        products = 4 * h * (queries + keys) + 4 * h * i + 4 * queries * s
        # Softmax, dropout and scale of scores; bias and GELU of units; bias, dropout, residual and
        # norm of outputs. The norm behind attention is counted as 5 in all, as it was released.
        block = products + 10 * s * n + 9 * i + 17 * h + queries + 2 * keys + 5
        if self.gated:
            block += 2 * h * i + 2 * i
        embedding = 2 * h * self.vocab + 2 * h * (s + 2) + 11 * h
        head = 2 * h * self.vocab + 7 * self.vocab
        if self.masked:
            head = MASKED * (head + 2 * h**2 + 14 * h)
        return s * block, s * (embedding + head)


BERT_SMALL = Shape(6, 512, 2048, 8)
BERT_BASE = Shape(12, 768, 3072, 12)
BERT_LARGE = Shape(24, 1024, 4096, 16)


def shape_of(config: ModelConfig) -> Shape:
    """A decoder of ours as the counter sees it."""
    return Shape(
        layers=config.num_layers,
        width=config.width,
        mlp=config.mlp_width,
        heads=config.num_heads,
        vocab=config.vocab_size,
        masked=False,
        key_heads=config.kv_heads,
        head_size=config.head_size,
        gated=config.gated,
    )


def step_flops(shape: Shape, batch: int = 256, length: int = 128) -> float:
    """FLOPs of a training step on `batch` sequences of `length` tokens; defaults are LiGO's.

    Raises:
      UserError: no sequences or tokens.
    """
    _positive(batch=batch, length=length)
    block, rest = shape.forward(length)
    return 2.0 * batch * (shape.layers * block + rest)


def materialise_flops(source: Shape, target: Shape) -> float:
    """FLOPs of making the target's weights from the source's once, and of the way back.

    As the released counter has them, for lifts whose identity part is not multiplied. It counts
    one of query, key and value.

    Raises:
      UserError: a target narrower than the source, or models that the counter does not cover.
    """
    if not (source.plain and target.plain):
        raise UserError(
            "expected models with as many key heads as heads and two matrices in the MLP, got "
            f"{source} and {target}; the released counter has no operator for others"
        )
    grown = target.width - source.width
    if grown < 0 or target.layers < source.layers:
        raise UserError(
            f"expected a target of at least {source.layers}x{source.width}, got "
            f"{target.layers}x{target.width}; exchange source and target"
        )
    h, i, d = target.width, target.mlp, source.width
    blended = source.layers * (4 * h**2 + 4 * h * i + 8 * h + i)
    lifted = grown * (8 * d**2 + 4 * d + 4 * d * i + 2 * h * i + i + 2 * h)
    return 2.0 * target.layers * (blended + lifted)


def operator_step_flops(
    source: Shape, target: Shape, batch: int = 256, length: int = 128, replicas: int | None = None
) -> float:
    """FLOPs of a step that fits the operator on the target's loss.

    Args:
      source, target: of the operator.
      batch: sequences.
      length: tokens a sequence.
      replicas: None = as published, where weights are made anew for every sequence; else they are
        made once on each of so many replicas, as is done in fact.

    Raises:
      UserError: see `materialise_flops`; no sequences, tokens or replicas.
    """
    times = batch if replicas is None else replicas
    _positive(replicas=times)
    return step_flops(target, batch, length) + times * materialise_flops(source, target)


# ---- what follows from it ------------------------------------------------------------------------


def saved(converged: float, operator: float, scratch: float, ratio: float) -> float:
    """Share of compute that LiGO says is saved; the source is not charged.

    Args:
      converged: steps of the grown model until the loss is reached.
      operator: steps that fit the operator.
      scratch: steps of the model from scratch.
      ratio: cost of a step of the latter kind over that of the others.

    Raises:
      UserError: no steps from scratch.
    """
    _positive(scratch=scratch)
    return 1 - (converged + operator * ratio) / scratch


def converged_scratch_steps(converged: float, operator: float, ratio: float, share: float) -> float:
    """Steps of the model from scratch, which are not printed, from a share saved that is.

    Args:
      converged, operator, ratio: as of `saved`.
      share: saved, a fraction below 1.

    Raises:
      UserError: another share.
    """
    if not share < 1:
        raise UserError(f"expected a share saved below 1, got {share}; give a fraction")
    return (converged + operator * ratio) / (1 - share)


def reconstructed_rows() -> list[Row]:
    """The ablation of operator steps from its first line alone, and the source's charge.

    Names are LiGO/scratch_steps, LiGO/STEPS/saved, LiGO/SOURCE STEPS/share/source and
    LiGO/SOURCE STEPS/saved/source. Intervals are those of rounding.
    """
    known = published()
    first, *others = known.operator_steps
    step, small = step_flops(BERT_BASE), step_flops(BERT_SMALL)
    ratio = operator_step_flops(BERT_SMALL, BERT_BASE) / step

    def scratch(percent: float, converged: float) -> float:
        return converged_scratch_steps(converged, first.steps, ratio, percent / 100)

    printed = ((first.saved, 0.05), (first.converged_steps, 500))
    rows = [
        interval_row(
            "LiGO/scratch_steps",
            _over_rounding(scratch, *printed),
            "steps",
            1,
            "steps of BERT-Base from scratch that 44.7 % saved at 215K steps stand for",
            _ROUNDING,
        )
    ]
    for line in others:

        def predicted(percent, converged, own, steps=line.steps):
            return saved(own, steps, scratch(percent, converged), ratio)

        rows.append(
            interval_row(
                f"LiGO/{line.steps}/saved",
                _over_rounding(predicted, *printed, (line.converged_steps, 500)),
                "1",
                1,
                f"{SAVED}; operator charged, source not; from the line of 100 steps",
                f"{_ROUNDING}; printed: {line.saved} %",
            )
        )
    for steps, figure in (
        (220_000, known.figure("LiGO", "BERT-Base", "BERT 6x512")),
        (50_000, known.figure("LiGO", "BERT-Base", "BERT 6x512 at 50K steps")),
    ):

        def charge(percent, converged, steps=steps):
            return steps * small / (step * scratch(percent, converged))

        def net(percent, converged, own, charge=charge):
            return own / 100 - charge(percent, converged)

        note = f"{_ROUNDING}; if, as it seems, {figure.flops} % leave the source out"
        rows += [
            interval_row(
                f"LiGO/{steps}/share/source",
                _over_rounding(charge, *printed),
                "1",
                1,
                "cost of training the source over that of the model from scratch",
                _ROUNDING,
            ),
            interval_row(
                f"LiGO/{steps}/saved/source",
                _over_rounding(net, *printed, (figure.flops, 0.05)),
                "1",
                1,
                f"{SAVED}; operator and source charged",
                note,
            ),
        ]
    return rows


# ---- the tables ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One published figure of growth.

    Attributes:
      paper: a key of `Published.sources`.
      place: table, figure or section.
      method: of growth.
      source, target: models; "" where it is not known.
      measure: "saved" or "speedup".
      source_charged: whether training the source is part of the cost; None = not known.
      flops, wall: in percent; None where nothing is printed.
      mark: a key of `Published.marks`.
    """

    paper: str
    place: str
    method: str
    source: str
    target: str
    measure: str
    source_charged: bool | None
    flops: float
    wall: float | None
    mark: str

    @property
    def saved(self) -> float:
        """1 - C_grown / C_scratch in FLOPs, a fraction."""
        share = self.flops / 100
        return share if self.measure == "saved" else saved_from_speedup(share)

    @property
    def speedup(self) -> float:
        """C_scratch / C_grown - 1 in FLOPs, a fraction."""
        share = self.flops / 100
        return share if self.measure == "speedup" else speedup_from_saved(share)


@dataclass(frozen=True)
class OperatorSteps:
    """A line of the ablation of operator steps.

    Attributes:
      steps: that fit the operator.
      extra_flops: of them.
      saved: in percent.
      converged_steps: of the grown model.
    """

    steps: int
    extra_flops: float
    saved: float
    converged_steps: int


@dataclass(frozen=True)
class Published:
    """Everything that was transcribed.

    Attributes:
      sources: papers.
      marks: mark -> what it means.
      measures: measure -> its definition.
      notes: of definitions, conflicts and gaps.
      figures: savings and speedups.
      operator_steps: LiGO Table 3.
      points_gained: by what LiGO was combined with, with place and mark.
    """

    sources: Mapping[str, str]
    marks: Mapping[str, str]
    measures: Mapping[str, str]
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    operator_steps: tuple[OperatorSteps, ...]
    points_gained: Mapping[str, Any]

    def figure(
        self, method: str, target: str, source: str | None = None, place: str | None = None
    ) -> Figure:
        """The one figure of a method and a target; `source` and `place` where it has several.

        Raises:
          UserError: none, or more than one.
        """
        found = [
            figure
            for figure in self.figures
            if (figure.method, figure.target) == (method, target)
            and source in (None, figure.source)
            and place in (None, figure.place)
        ]
        if len(found) == 1:
            return found[0]
        raise UserError(
            f"expected one figure of {method} and {target}, got {len(found)}; give source and "
            "place as in published_savings.json"
        )


@functools.cache
def published() -> Published:
    """Reads published_savings.json."""
    text = resources.files(__package__).joinpath("published_savings.json")
    raw = json.loads(text.read_text(encoding="utf-8"))
    columns, lines = raw["columns"], raw["operator_steps_columns"]
    steps = raw["operator_steps"]["rows"]
    return Published(
        sources=raw["sources"],
        marks=raw["marks"],
        measures=raw["measures"],
        notes=tuple(raw["notes"]),
        figures=tuple(Figure(**dict(zip(columns, row, strict=True))) for row in raw["figures"]),
        operator_steps=tuple(OperatorSteps(**dict(zip(lines, row, strict=True))) for row in steps),
        points_gained=raw["points_gained"],
    )


_ROUNDING = "derived; the interval is that of rounding alone, as the source has one run"


def _over_rounding(function: Callable[..., float], *printed: tuple[float, float]) -> Interval:
    """A function of printed numbers, and its range over what they were rounded from.

    Args:
      function: monotone in every number while the others are held.
      *printed: numbers, each with half a unit of its last digit.
    """
    corners = itertools.product(*((x - half, x, x + half) for x, half in printed))
    values = [function(*corner) for corner in corners]
    found = (function(*(x for x, _ in printed)), min(values), max(values))
    return Interval(*(np.array([x]) for x in found))


def _positive(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise UserError(f"expected {name} to be positive, got {value}; give what was run")
