"""Results as cells of a table, and tables as Markdown to be kept, for every study."""

from collections.abc import Mapping
from typing import Any

from llm_dynamics.report.numbers import estimate
from llm_dynamics.report.page import Cell, Table


def row_cell(row: Mapping[str, Any] | None, factor: float = 1) -> Cell | str:
    """Value and interval of a row, times a factor (100 for percent); a dash where there is none."""
    if row is None or row["value"] is None:
        return "–"
    ends = [None if row[key] is None else factor * row[key] for key in ("value", "low", "high")]
    return Cell(" ".join(estimate(*ends)).strip(), row["value"])


def as_markdown(table: Table) -> list[str]:
    """Lines of a table in Markdown, its caption first."""
    rule = "|".join("---:" if name in table.numeric else "---" for name in table.columns)
    lines = [table.caption + ".", "", "| " + " | ".join(table.columns) + " |", f"|{rule}|"]
    for row in table.rows:
        cells = [cell.text if isinstance(cell, Cell) else str(cell) for cell in row]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return lines
