"""One self-contained page: sections of text, tables and figures; it fetches nothing.

A study composes a `Page` out of the blocks below and calls `write_page`; everything that reads
from the run is escaped by the template.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_dynamics import files
from llm_dynamics.errors import UserError
from llm_dynamics.report import numbers, style
from llm_dynamics.report.figures import Drawn, Figure, inline_svg, write_figures


@dataclass(frozen=True)
class Text:
    """Paragraphs separated by blank lines; `code` between back quotes."""

    text: str
    tone: str = "plain"  # plain | lead | note


@dataclass(frozen=True)
class Items:
    """A list, one text an item."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """One headline number. With an interval, a small mark shows it against zero."""

    label: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    note: str = ""
    role: str = "series-1"  # colour role of the mark


@dataclass(frozen=True)
class Cards:
    cards: tuple[Card, ...]

    def scale(self, unit: str) -> tuple[float, float]:
        """Common axis of the marks of one unit; always holds zero."""
        alike = [c for c in self.cards if c.unit == unit]
        ends = [x for c in alike for x in (c.low, c.high, c.value) if not numbers.missing(x)]
        low, high = min([0.0, *ends]), max([0.0, *ends])
        room = 0.06 * (high - low or 1.0)
        return low - room, high + room


@dataclass(frozen=True)
class Cell:
    """A table cell that sorts by `key` (exact) and shows `text` (rounded)."""

    text: str
    key: Any = None


@dataclass(frozen=True)
class Table:
    """A captioned table. `numeric` names the columns set flush right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    numeric: tuple[str, ...] = ()
    sortable: bool = False
    row_header: bool = True  # the first column names the row

    def __post_init__(self):
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.caption!r}: a row of {len(row)} cells: {row}")


@dataclass(frozen=True)
class Code:
    text: str
    caption: str = ""


@dataclass(frozen=True)
class Terms:
    """Definitions: (term, what it means)."""

    terms: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Quote:
    """Words of the data, with where they come from."""

    text: str
    source: str = ""


@dataclass(frozen=True)
class Fold:
    """Blocks behind a line that opens them; printed as the reader left it."""

    summary: str
    blocks: tuple[Any, ...]
    open: bool = False


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Any, ...]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    title: str
    subtitle: str
    sections: tuple[Section, ...]
    footer: str = ""


def figures_of(blocks: Sequence[Any]) -> Iterator[Figure]:
    """All figures among `blocks`, in the order in which they are read."""
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Section | Fold):
            yield from figures_of(block.blocks)


def write_page(page: Page, run_dir: Path) -> Path:
    """Writes RUN/figures/* and then RUN/report.html, and returns the path of the page.

    Every file is replaced as a whole, the page last, so a kill leaves an older report or none.

    Raises:
      UserError: the folder cannot be written.
    """
    path = run_dir / "report.html"
    try:
        drawn = write_figures(figures_of(page.sections), run_dir / "figures")
        files.write_text(path, render_page(page, drawn))
    except OSError as error:
        raise UserError(
            f"expected to write the report into {run_dir}, got: {error.strerror or error}; the "
            "run itself is untouched, so mend that and run the same command again"
        ) from error
    return path


def render_page(page: Page, drawn: Mapping[str, Drawn]) -> str:
    """The page as HTML; `drawn` holds its figures by name."""
    import jinja2
    from markupsafe import Markup

    def svg(figure: Figure) -> Markup:
        return Markup(inline_svg(drawn[figure.name].svg, figure.name, figure.alt))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    return environment.get_template("template.html.j2").render(
        page=page,
        svg=svg,
        kind=lambda block: type(block).__name__,
        as_cell=lambda value: value if isinstance(value, Cell) else Cell(str(value)),
        estimate=numbers.estimate,
        verdict=numbers.verdict,
        missing=numbers.missing,
        palette=style.COLORS,
    )


def _prose(text: str) -> Any:
    """Escapes one paragraph and sets `code` between back quotes; paths may break at slashes."""
    from markupsafe import Markup, escape

    def code(match: re.Match) -> str:
        return f"<code>{match.group(1).replace('/', '/<wbr>')}</code>"

    return Markup(re.sub(r"`([^`]+)`", code, str(escape(text))))
