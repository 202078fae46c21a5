"""How every figure and page looks: one palette that colour-blind readers can tell apart.

A colour is a role with a light and a dark value. Figure files carry the light value; in the page
each one becomes a CSS variable, so that the same drawing follows the reader's light or dark mode.
The series colours are those of Okabe and Ito (2008), darkened where they would be faint on white.
"""

from typing import Any

COLORS = {  # role: (on white, on dark)
    "ink": ("#1c2128", "#e6e9ee"),
    "muted": ("#5b6470", "#a3adba"),
    "axis": ("#aab2bd", "#566070"),
    "grid": ("#e3e7ec", "#2d343e"),
    "event": ("#cfd5dd", "#46505e"),
    "series-1": ("#0072b2", "#58b4ee"),
    "series-2": ("#d55e00", "#ff9350"),
    "series-3": ("#009e73", "#3fd3a5"),
    "series-4": ("#b0578d", "#e79ac8"),
    "series-5": ("#8c6d00", "#e0be3c"),
    "control": ("#6e7681", "#98a2af"),
}


def color(role: str) -> str:
    """The value of a role on white, as figures are drawn with it."""
    return COLORS[role][0]


def series(index: int) -> str:
    """The colour of the `index`-th series (from 0); five differ, then they repeat."""
    return color(f"series-{index % 5 + 1}")


def line(index: int) -> tuple[str, str]:
    """Colour and dashes of the `index`-th line; ten differ, since colours come again dashed."""
    return series(index), ("-", "--")[index // 5 % 2]


# Text stays text in SVG: small, selectable, and set in the page's own font. PDF embeds TrueType
# outlines (42), which journals accept where they refuse Type 3.
RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "path.simplify": True,
    "path.simplify_threshold": 0.2,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": color("ink"),
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": color("axis"),
    "axes.linewidth": 0.8,
    "axes.labelcolor": color("muted"),
    "axes.labelsize": 8.5,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": color("grid"),
    "grid.linewidth": 0.7,
    "xtick.color": color("axis"),
    "ytick.color": color("axis"),
    "xtick.labelcolor": color("muted"),
    "ytick.labelcolor": color("muted"),
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 1.5,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}
