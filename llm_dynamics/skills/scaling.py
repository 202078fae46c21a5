"""From the size of a model and of its data to excess loss, and from that to failed texts.

Laws have the form L(N, D) = floor + B / N^b + C / D^d, nats per token, N parameters, D tokens;
what can be reduced, B / N^b + C / D^d, is the mean divergence of the model from the language.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from llm_dynamics.errors import UserError

_FLOPS = 6  # operations per parameter and token of training


@dataclass(frozen=True)
class Law:
    """Constants of L(N, D) = floor + b / N^n_power + c / D^d_power."""

    floor: float
    b: float
    n_power: float
    c: float
    d_power: float


HOFFMANN = Law(1.69, 406.4, 0.34, 410.7, 0.28)  # Hoffmann et al. 2022, arXiv:2203.15556
AS_PRINTED = Law(1.61, 406.4, 0.34, 410.7, 0.28)  # with the floor that Arora & Goyal print
BESIROGLU = Law(1.82, 482.0, 0.348, 2085.0, 0.366)  # refit, Besiroglu et al. 2024, 2404.10102


def excess_loss(parameters: ArrayLike, tokens: ArrayLike, law: Law = HOFFMANN) -> np.ndarray:
    """B / N^b + C / D^d, nats per token.

    Raises:
      UserError: numbers not above 0.
    """
    n, d = _positive(parameters=parameters, tokens=tokens)
    return law.b / n**law.n_power + law.c / d**law.d_power


def fall(
    parameters: ArrayLike, tokens: ArrayLike, scale: ArrayLike = 10, law: Law = HOFFMANN
) -> np.ndarray:
    """By which factor the excess falls when N and D both grow by `scale`.

    Raises:
      UserError: numbers not above 0.
    """
    (scale,) = _positive(scale=scale)
    n, d = _positive(parameters=parameters, tokens=tokens)
    return excess_loss(n, d, law) / excess_loss(n * scale, d * scale, law)


def scale_for(divide_by: ArrayLike, law: Law = HOFFMANN) -> tuple[np.ndarray, np.ndarray]:
    """Factors for N and for D that divide the excess by a number, each of its terms alike.

    Raises:
      UserError: a number not above 0.
    """
    (divide_by,) = _positive(divide_by=divide_by)
    return divide_by ** (1 / law.n_power), divide_by ** (1 / law.d_power)


def binary_error(excess: ArrayLike) -> np.ndarray:
    """Bound on the probability of a wrong answer to a binary question, sqrt(2 excess), at most 1.

    Pinsker's inequality at a position of that excess (Arora & Goyal 2023, Theorem 3).

    Raises:
      UserError: an excess below 0.
    """
    return np.minimum(np.sqrt(2 * _excess(excess)), 1)


def failed_by_loss(excess_per_text: ArrayLike) -> np.ndarray:
    """Bound on the mass of texts whose summed excess is at least 1/2: 2 delta, at most 1 (Markov).

    Raises:
      UserError: an excess below 0.
    """
    return np.minimum(2 * _excess(excess_per_text), 1)


def failed_by_argmax(excess_per_text: ArrayLike) -> np.ndarray:
    """The same for texts with a wrong most likely answer where one is certain: delta / ln 2.

    A wrong answer of the largest probability leaves at most 1/2 to the right one, which costs
    ln 2 nats.

    Raises:
      UserError: an excess below 0.
    """
    return np.minimum(_excess(excess_per_text) / math.log(2), 1)


def failed_of_compute(
    flops: ArrayLike,
    tokens_per_text: float,
    law: Law = HOFFMANN,
    tokens_per_parameter: float = 20.0,
    cloze_factor: float = 1.0,
    argmax: bool = False,
) -> np.ndarray:
    """Bound on the mass of failed texts after training with an amount of compute.

    It rests on four assumptions. Compute is 6 N D, and D / N is fixed. The law's excess per token
    is that of the texts, also outside of the sizes that it was fitted to. Questions about a text
    lose as much as its tokens, up to a factor (Assumption 2 of Arora & Goyal 2023), summed over
    its tokens. And failures are as many as Markov's inequality allows.

    Args:
      flops: of training.
      tokens_per_text: at which a text may fail.
      law: of the loss.
      tokens_per_parameter: D / N.
      cloze_factor: loss of questions over loss of tokens.
      argmax: a text fails by a wrong most likely answer, and not by a loss of 1/2.

    Raises:
      UserError: numbers not above 0.
    """
    flops, length, ratio, factor = _positive(
        flops=flops,
        tokens_per_text=tokens_per_text,
        tokens_per_parameter=tokens_per_parameter,
        cloze_factor=cloze_factor,
    )
    parameters = np.sqrt(flops / (_FLOPS * ratio))
    excess = factor * length * excess_loss(parameters, ratio * parameters, law)
    return failed_by_argmax(excess) if argmax else failed_by_loss(excess)


def _positive(**given: ArrayLike) -> list[np.ndarray]:
    arrays = {name: np.asarray(value, float) for name, value in given.items()}
    for name, values in arrays.items():
        if not np.all(values > 0):
            raise UserError(f"expected {name} above 0, got {given[name]}")
    return list(arrays.values())


def _excess(given: ArrayLike) -> np.ndarray:
    values = np.asarray(given, float)
    if not np.all(values >= 0):
        raise UserError(
            f"expected an excess loss of at least 0 nats, got {given}; subtract the entropy"
        )
    return values
