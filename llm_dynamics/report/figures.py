"""A figure is a drawing, its words, and the table it was drawn from: SVG, PDF and CSV of one thing.

The bytes depend on the figure alone: no dates, no program versions, identifiers from its name.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_dynamics import files
from llm_dynamics.report import style


@dataclass(frozen=True)
class Figure:
    """One figure of a report.

    Attributes:
      name: stem of its files, letters, digits and `_`.
      title: the heading above it.
      caption: what is seen, how it was computed, what the bands are.
      alt: the same in a sentence for those who do not see it.
      draw: makes the matplotlib figure; called inside the shared style.
      data: tidy table of everything drawn, column -> values, all of one length and not thinned.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Any]
    data: Mapping[str, Sequence[Any]]

    def __post_init__(self):
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise ValueError(f"figure name must be letters, digits and _, got {self.name!r}")
        lengths = {column: len(values) for column, values in self.data.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of figure {self.name!r} differ in length: {lengths}")


@dataclass(frozen=True)
class Drawn:
    """A figure turned into files: `svg` and `csv` as text, `pdf` as bytes."""

    svg: str
    pdf: bytes
    csv: str


def render(figure: Figure) -> Drawn:
    """Draws `figure` once and returns its three files. Equal figures give equal bytes."""
    import matplotlib

    with matplotlib.rc_context({**style.RC, "svg.hashsalt": figure.name}):
        canvas = figure.draw()
        if layout := canvas.get_layout_engine():
            layout.execute(canvas)  # once for both files
            canvas.set_layout_engine("none")
        svg, pdf = io.BytesIO(), io.BytesIO()
        no_svg = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(svg, format="svg", metadata=no_svg)
        no_pdf = dict.fromkeys(("CreationDate", "Creator", "Producer"))
        canvas.savefig(pdf, format="pdf", metadata=no_pdf)
    return Drawn(_shorten(svg.getvalue().decode()), pdf.getvalue(), to_csv(figure.data))


def write_figures(figures: Iterable[Figure], folder: Path) -> dict[str, Drawn]:
    """Writes NAME.svg, NAME.pdf and NAME.csv of every figure; returns what was drawn by name."""
    drawn: dict[str, Drawn] = {}
    for figure in figures:
        if figure.name in drawn:
            raise ValueError(f"two figures are named {figure.name!r}")
        made = drawn[figure.name] = render(figure)
        files.write_text(folder / f"{figure.name}.svg", made.svg)
        files.write_text(folder / f"{figure.name}.csv", made.csv)
        with files.replacing(folder / f"{figure.name}.pdf") as temporary:
            temporary.write_bytes(made.pdf)
    return drawn


def inline_svg(svg: str, name: str, alt: str) -> str:
    """Turns an SVG file into markup for a page: no prolog, themed, its identifiers its own.

    Colours become CSS variables (`style.COLORS`), identifiers get the figure's name in front so
    that several drawings share a page, and text follows the page's font.
    """
    from markupsafe import escape

    body = re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    head = re.match(r"<svg[^>]*>", body)
    box = re.search(r'viewBox="([^"]*)"', head.group(0)).group(1)
    body = body[head.end() :]
    body = re.sub(r'(?<![\w-])id="', f'id="{name}-', body)
    body = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', body)
    body = body.replace("url(#", f"url(#{name}-")
    for role, (light, _) in style.COLORS.items():
        body = body.replace(light, f"var(--{role})")
    body = re.sub(r"'DejaVu Sans'(, [^;\"]*)?(?=[;\"])", "var(--sans)", body)
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(alt)}">{body}'


def to_csv(table: Mapping[str, Sequence[Any]]) -> str:
    """A tidy table as CSV: a header, one row an observation, floats in full, NaN left empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*map(_column, table.values()), strict=True))
    return out.getvalue()


def canvas(rows: int, columns: int, height: float, **shared: bool):
    """A page-wide matplotlib figure and its array of axes, rows x columns; `shared` as subplots."""
    from matplotlib.figure import Figure as Canvas

    drawing = Canvas(figsize=(10.2, height), layout="constrained")
    drawing.get_layout_engine().set(w_pad=0.06, h_pad=0.05, wspace=0.03, hspace=0.04)
    return drawing, drawing.subplots(rows, columns, squeeze=False, **shared)


def stack(tables: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Joins tables into one tidy table.

    A scalar is repeated along its table's arrays; a column that a table lacks is left empty there.
    """
    tables = [dict(table) for table in tables]
    columns = list(dict.fromkeys(column for table in tables for column in table))
    joined: dict[str, list[Any]] = {column: [] for column in columns}
    for table in tables:
        sizes = {np.size(v) for v in table.values() if np.ndim(v) == 1}
        if len(sizes) > 1:
            raise ValueError(f"columns of one table differ in length: {sorted(sizes)}")
        size = sizes.pop() if sizes else 1
        for column in columns:
            value = table.get(column, "")
            joined[column].extend(_plain(value) if np.ndim(value) == 1 else [value] * size)
    return joined


def band(name: str, values_RxS: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Columns of a line over R runs: their mean as `name`, the lowest and the highest run."""
    values_RxS = np.stack(list(values_RxS))
    ends = {"low": values_RxS.min(axis=0), "high": values_RxS.max(axis=0)}
    return {name: values_RxS.mean(axis=0), **ends}


def thin(x: np.ndarray, keep: Iterable[float] = (), limit: int = 400, log: bool = False):
    """Indices of at most about `limit` points of a rising `x` that still show the curve.

    The points are evenly spaced along the axis as it is drawn (linear or `log`); the ends, and the
    points at and after each of `keep` (where a curve jumps), always stay.
    """
    x = np.asarray(x, float)
    if len(x) <= limit:
        return np.arange(len(x))
    axis = np.log10(np.maximum(x, 1e-12)) if log else x
    start = axis[x > 0][0] if log and (x > 0).any() else axis[0]
    targets = np.linspace(start, axis[-1], limit)
    indices = [np.searchsorted(axis, targets).clip(0, len(x) - 1), [0, len(x) - 1]]
    jumps = np.searchsorted(x, np.asarray(list(keep), float))
    indices += [(jumps + shift).clip(0, len(x) - 1) for shift in (0, 1)]
    return np.unique(np.concatenate(indices)).astype(int)


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves label positions at least `gap` apart, in order, inside [low, high] where they fit."""
    order = np.argsort(values, kind="stable")
    placed = np.asarray(values, float)[order].clip(low, high)
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    if len(placed) and placed[-1] > high:
        placed[-1] = high
        for i in range(len(placed) - 2, -1, -1):
            placed[i] = min(placed[i], placed[i + 1] - gap)
    result = np.empty(len(placed))
    result[order] = placed
    return result.tolist()


def _plain(values: Any) -> list[Any]:
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        return values.tolist()
    return list(values)


def _shorten(svg: str) -> str:
    """Two decimals of a point are enough for coordinates; the rest is two thirds of the file."""

    def round_all(match: re.Match) -> str:
        return re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m.group()):.2f}", match.group())

    return re.sub(r' (?:d|x|y|width|height|transform)="[^"]*"', round_all, svg)


def _column(values: Sequence[Any]) -> list[Any]:
    """A column as cells; a float32 as the shortest text that reads back to the same float32."""
    if isinstance(values, np.ndarray):
        if values.dtype == np.float32:
            values = [float(str(value)) for value in values]
        else:
            values = values.tolist()
    return [_cell(value) for value in values]


def _cell(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = float(str(value)) if isinstance(value, np.floating) else value.item()
    if value is None or value != value:
        return ""
    return repr(value) if isinstance(value, float) else value
