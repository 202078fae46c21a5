"""When to grow and by how much, after the published laws, and the two ways to say what is saved.

Du et al. 2024 (arXiv:2405.15319, "G_stack"): a small model trained on d tokens is stacked g times
to N parameters, and goes on until C = 6 N T FLOPs, T tokens, would be spent from scratch:

    log10 d = 0.88 log10 N + 163.27 / log10 C - 5.74
    log10 g = 1.01 log10 N - 29.88 / log10 C - 7.36      (its authors call this one mediocre)

The smallest published target has 410M parameters. Below, and for short runs, the law fails: at 410M
and 20 tokens a parameter it asks for a source trained on 2.4 times the whole budget.
"""

import math
from dataclasses import dataclass

from llm_dynamics.errors import UserError

SMALLEST = 4.1e8  # parameters of the smallest published target
FACTORS = (2.0, 4.0)  # of growth, between which the published optimum lies; 4 is recommended


@dataclass(frozen=True)
class Timing:
    """When to grow.

    Attributes:
      tokens: that the source is to be trained on; at most what was allowed.
      law_tokens: as the law says.
      warning: why the law is not to be relied on here; "" where it was measured.
    """

    tokens: float
    law_tokens: float
    warning: str


@dataclass(frozen=True)
class Factor:
    """By how much to grow.

    Attributes:
      factor: target's parameters over the source's, within `FACTORS`.
      law: as the law says.
      warning: why the law is not to be relied on here; "" where it was measured.
    """

    factor: float
    law: float
    warning: str


def growth_tokens(params: float, budget: float, most: float = 1.0) -> Timing:
    """Tokens that a source is trained on before it is grown (Du et al. 2024, section 4.2).

    Args:
      params: of the target.
      budget: tokens that the target would be trained on from scratch.
      most: share of the budget that the source may have. Published: 10B of 100B tokens at 1.1B.

    Returns:
      The time of growth, with a warning where the law is extrapolated or beyond what is allowed.

    Raises:
      UserError: less than one parameter or token, or a share that is none.
    """
    if not 0 < most <= 1:
        raise UserError(f"expected a share above 0 and at most 1, got {most}; give a fraction")
    log_compute = _log_compute(params, budget)
    law = 10 ** (0.88 * math.log10(params) + 163.27 / log_compute - 5.74)
    allowed = most * budget
    warnings = _extrapolated(params)
    if law > allowed:
        bound = "the budget" if most == 1 else f"{100 * most:g} % of the budget"
        warnings.append(
            f"the law asks for {law:.3g} tokens, beyond {bound} ({allowed:.3g} tokens): it gives "
            "no time of growth here; try several"
        )
    return Timing(min(law, allowed), law, "; ".join(warnings))


def growth_factor(params: float, budget: float) -> Factor:
    """Target's parameters over those of its source (Du et al. 2024, section 4.2).

    Args:
      params: of the target.
      budget: tokens that the target would be trained on from scratch.

    Raises:
      UserError: less than one parameter or token.
    """
    log_compute = _log_compute(params, budget)
    law = 10 ** (1.01 * math.log10(params) - 29.88 / log_compute - 7.36)
    warnings = _extrapolated(params)
    low, high = FACTORS
    if not low <= law <= high:
        warnings.append(
            f"the law asks for a factor of {law:.3g}; measured optima are {low:g} to {high:g}"
        )
    return Factor(min(max(law, low), high), law, "; ".join(warnings))


def saved_from_speedup(speedup: float) -> float:
    """1 - C_grown / C_scratch, from C_scratch / C_grown - 1; both as fractions.

    Raises:
      UserError: a speedup of -1 or less: costs are positive.
    """
    if not speedup > -1:
        raise UserError(
            f"expected a speedup above -1, got {speedup}; give C_scratch / C_grown - 1 as a "
            "fraction, not in percent"
        )
    return speedup / (1 + speedup)


def speedup_from_saved(saved: float) -> float:
    """C_scratch / C_grown - 1, from 1 - C_grown / C_scratch; both as fractions.

    Raises:
      UserError: all or more is saved.
    """
    if not saved < 1:
        raise UserError(
            f"expected savings below 1, got {saved}; give 1 - C_grown / C_scratch as a fraction, "
            "not in percent"
        )
    return saved / (1 - saved)


def _log_compute(params: float, budget: float) -> float:
    """log10 of C = 6 N T."""
    for name, value in (("parameters", params), ("tokens", budget)):
        if not 1 <= value < math.inf:
            raise UserError(
                f"expected a finite number of {name}, at least 1, got {value}; give those of the "
                "target's run from scratch, not in billions"
            )
    return math.log10(6 * params * budget)


def _extrapolated(params: float) -> list[str]:
    if params >= SMALLEST:
        return []
    return [
        f"extrapolated: the target has {params / 1e6:.3g}M parameters, the smallest published one "
        "410M"
    ]
