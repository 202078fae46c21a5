"""Frequencies of the rotary encoding, and how they are stretched to longer texts.

A pair of dimensions turns by position times frequency. Scaling makes the slow pairs slower, so that
positions beyond those that were trained on meet angles that were.
"""

import dataclasses
import math

import numpy as np

from llm_dynamics.errors import UserError

SCALINGS = ("default", "linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class RotaryScaling:
    """How the frequencies of a rotary encoding are stretched; the numbers of other kinds idle."""

    kind: str = "default"  # one of SCALINGS; default = they are not
    factor: float = 1.0  # by which slow pairs are slowed down
    original_length: int = 0  # llama3, yarn: tokens of a text before the stretch
    low: float = 1.0  # llama3: pairs of fewer turns in original_length are slowed by the factor
    high: float = 4.0  # llama3: pairs of more turns are left alone
    beta_fast: float = 32.0  # yarn: the same as high, rounded to a pair
    beta_slow: float = 1.0  # yarn: the same as low
    truncate: bool = True  # yarn: whether it is rounded
    attention_factor: float = 0.0  # yarn: of queries and of keys; 0 = 0.1 ln(factor) + 1

    def __post_init__(self):
        if self.kind not in SCALINGS:
            raise UserError(
                f"expected a rotary scaling of the kind {', '.join(SCALINGS)}, got {self.kind!r}; "
                "others depend on the length of the text, or on a table, and are not computed here"
            )
        if self.factor < 1 or self.attention_factor < 0:
            raise UserError(
                "a rotary scaling expects a factor of at least 1 and an attention_factor of at "
                f"least 0, got {self.factor} and {self.attention_factor}"
            )
        if self.kind in ("llama3", "yarn") and self.original_length < 1:
            raise UserError(
                f"rotary scaling {self.kind!r} expects original_length, the length of texts before "
                f"the stretch, got {self.original_length}"
            )
        for kind, slow, fast in (
            ("llama3", self.low, self.high),
            ("yarn", self.beta_slow, self.beta_fast),
        ):
            if self.kind == kind and not 0 < slow < fast:
                names = "low < high" if kind == "llama3" else "beta_slow < beta_fast"
                raise UserError(
                    f"rotary scaling {kind!r} expects 0 < {names}, got {slow} and {fast}"
                )

    @property
    def size(self) -> float:
        """What queries and keys are multiplied by."""
        if self.kind != "yarn":
            return 1.0
        return self.attention_factor or 0.1 * math.log(self.factor) + 1.0


def frequencies(size: int, base: float, scaling: RotaryScaling) -> np.ndarray:
    """Radians a position of each pair, size / 2, float64.

    Args:
      size: dimensions that are turned.
      base: the slowest unscaled pair turns by nearly 1 / base.
      scaling: "linear" divides all by the factor (Chen et al. 2023); "llama3" those of long
        wavelength, with a linear passage in turns per original length (Llama 3.1); "yarn" the same
        with a passage that is linear in pairs (Peng et al. 2023, Sec. 3.2).
    """
    half = size // 2
    plain = base ** (-np.arange(half) / half)
    if scaling.kind == "default":
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "llama3":
        turns = scaling.original_length * plain / (2 * math.pi)
        kept = (turns - scaling.low) / (scaling.high - scaling.low)
    else:
        first, last = _passage(size, base, scaling)
        kept = 1 - (np.arange(half) - first) / (last - first)
    kept = np.clip(kept, 0, 1)
    return plain * (kept + (1 - kept) / scaling.factor)


def _passage(size: int, base: float, scaling: RotaryScaling) -> tuple[float, float]:
    """The pairs between which yarn passes from what it keeps to what it slows down."""

    def pair(turns: float) -> float:
        length = scaling.original_length / (2 * math.pi * turns)
        return size * math.log(length) / (2 * math.log(base))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    return first, last + 0.001 if first == last else last
