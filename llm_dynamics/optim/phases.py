"""Pieces of a learning-rate schedule: how the rate goes from one value to another.

Every shape is a function of the progress p in [0, 1] through its phase, exact at both ends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import optax

from llm_dynamics.errors import UserError
from llm_dynamics.spec import nearest


def _inverse_sqrt(p, a, b, alpha):
    def h(x):
        return 1 / (1 + alpha * x) ** 0.5 - 1

    return a + (b - a) * h(p) / h(1.0)


def _cosine(p, a, b):
    return b + (a - b) / 2 * (1 + jnp.cos(jnp.pi * p))


def _linear(p, a, b):
    return a + (b - a) * p


# From a to b. Haegele et al. 2024 (arXiv:2405.18392) unless another source is named.
SHAPES = {
    "constant": lambda p, a, b, _: a + 0 * p,
    "linear": lambda p, a, b, _: _linear(p, a, b),
    "cosine": lambda p, a, b, _: _cosine(p, a, b),
    "mirror_cosine": lambda p, a, b, _: 2 * _linear(p, a, b) - _cosine(p, a, b),
    "square": lambda p, a, b, _: b + (a - b) * (1 - p**2),
    "one_minus_sqrt": lambda p, a, b, _: b + (a - b) * (1 - p**0.5),
    "exponential": lambda p, a, b, _: a * (b / a) ** p,
    # Linear in the inverse of the rate: WSD-S, Wen et al. 2024 (arXiv:2410.05192).
    "inverse": lambda p, a, b, _: 1 / (p / b + (1 - p) / a),
    # Ibrahim et al. 2024 (arXiv:2403.08763), section 7.2.
    "inverse_sqrt": _inverse_sqrt,
}
_POSITIVE = ("exponential", "inverse")  # have no way from or to 0


@dataclass(frozen=True)
class Phase:
    """Some steps of a schedule.

    Attributes:
      shape: key of `SHAPES`.
      steps: its length; a fraction of a step is kept, as boundaries need not be whole.
      start, end: rates at its beginning and at its end.
      timescale: of inverse_sqrt alone.
    """

    shape: str
    steps: float
    start: float
    end: float
    timescale: float = 10.0

    def __post_init__(self):
        if self.shape not in SHAPES:
            raise UserError(f"unknown shape {self.shape!r}; {nearest(self.shape, SHAPES)}")
        if self.steps < 0 or self.start < 0 or self.end < 0 or self.timescale <= 0:
            raise UserError(f"expected a phase of steps and rates >= 0 and timescale > 0: {self}")
        if self.shape in _POSITIVE and not (self.start > 0 and self.end > 0):
            raise UserError(
                f"expected rates above 0 at both ends of a phase of shape {self.shape}, which "
                f"never reaches 0, got {self.start:g} and {self.end:g}; raise "
                "optim.schedule.floor or choose another shape"
            )

    def __call__(self, t):
        """The rate t steps after the beginning of the phase; its ends outside."""
        p = jnp.clip(jnp.asarray(t) / self.steps, 0, 1)
        return SHAPES[self.shape](p, self.start, self.end, self.timescale)


def join(phases: Sequence[Phase]) -> optax.Schedule:
    """The phases one after another; the last one's end from then on.

    A phase of no steps is a jump. At a boundary the later phase decides, so a rate that jumps has
    its new value there.
    """
    kept = [phase for phase in phases if phase.steps]
    if not kept:
        raise UserError("expected a schedule of at least one step, got none")
    ends, at = [], 0.0
    for phase in kept[:-1]:
        at += phase.steps
        ends.append(at)
    return optax.join_schedules(kept, ends)


def parse(entry: str, start: float, peak: float) -> Phase:
    """The phase written SHAPE:STEPS:END, END as a fraction of the peak, e.g. cosine:900:0.1.

    SHAPE:STEPS:START:END jumps to START first; `constant` needs no END.

    Raises:
      UserError: not of that form.
    """
    shape, *numbers = entry.split(":")
    try:
        steps, *rates = (float(number) for number in numbers)
        first = rates[0] * peak if len(rates) == 2 else start
        last = rates[-1] * peak if rates else first
        if len(rates) > 2 or not all(map(math.isfinite, (steps, first, last))):
            raise ValueError
    except ValueError:
        raise UserError(
            "expected optim.schedule.phases as SHAPE:STEPS:END or SHAPE:STEPS:START:END, rates as "
            f"fractions of the peak, e.g. linear:100:1,cosine:900:0.1, got {entry!r}"
        ) from None
    if shape == "constant":
        first = last
    elif not rates:
        raise UserError(f"expected an END in the phase {entry!r} of optim.schedule.phases")
    return Phase(shape, steps, first, last)
