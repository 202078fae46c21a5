"""Numbers as people read them, and what may be said of an estimate with its interval."""

import math
from typing import Any

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: Any, digits: int = 3) -> str:
    """`value` to `digits` significant figures: `0.412`, `1,470`, `2.0 × 10⁻⁴`; `–` when missing."""
    if missing(value):
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}".replace("-", "−")
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    exponent = math.floor(math.log10(abs(value)))
    if not -4 < exponent < 7:
        mantissa = f"{value / 10.0**exponent:.{max(digits - 2, 0)}f}"
        return f"{mantissa} × 10{str(exponent).translate(_SUPERSCRIPT)}".replace("-", "−")
    return f"{value:,.{max(digits - 1 - exponent, 0)}f}".replace("-", "−")


def estimate(value: Any, low: Any, high: Any, signed: bool = False) -> tuple[str, str]:
    """An estimate and its interval to the same decimals: `("0.41", "[0.32, 0.51]")`.

    Two figures of the interval's half width decide the decimals, at most three of the value; a
    bare value gets three and the interval "".
    """
    if missing(value):
        return "–", ""
    known = not (missing(low) or missing(high))
    half = (high - low) / 2 if known else 0.0
    size = max(abs(value), half)
    if not math.isfinite(size) or (size and not 1e-3 <= size < 1e6):
        return number(value), f"[{number(low)}, {number(high)}]" if known else ""
    decimals = min(max(2 - math.floor(math.log10(size)), 0), 5) if size else 2
    if half:
        decimals = min(decimals, max(1 - math.floor(math.log10(half)), int(abs(value) < 1)))
    elif not known and float(value).is_integer():
        decimals = 0

    def text(x: float, sign: str = "") -> str:
        shown = f"{x:{sign},.{decimals}f}"
        return shown.replace("-", "−") if float(shown.replace(",", "")) else f"{0:.{decimals}f}"

    return text(value, "+" if signed else ""), f"[{text(low)}, {text(high)}]" if known else ""


def power_of_ten(value: float) -> str:
    """A tick of a log axis: `1`, `10`, `100`, then `10³`, `10⁶`."""
    exponent = round(math.log10(value))
    return (
        f"{10**exponent:g}" if 0 <= exponent < 3 else f"10{str(exponent).translate(_SUPERSCRIPT)}"
    )


def verdict(low: Any, high: Any) -> str:
    """What an interval lets one say about a difference: above, below, or not shown."""
    if missing(low) or missing(high):
        return "no interval"
    if low > 0:
        return "above zero"
    if high < 0:
        return "below zero"
    return "not shown: the interval covers zero"


def missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
