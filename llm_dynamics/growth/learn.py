"""Fitting a LiGO operator: a few steps of the large model's loss, through the grown parameters.

The source's parameters are an argument that is not differentiated, so they stay as they are.
"""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_dynamics.errors import UserError
from llm_dynamics.growth import apply, ligo
from llm_dynamics.growth.ligo import LigoConfig
from llm_dynamics.growth.presets import Pair

_log = logging.getLogger(__name__)

Loss = Callable[[Any, Any], jax.Array]  # (parameters, batch) -> nats per token


@dataclasses.dataclass(frozen=True)
class LearnConfig:
    """How the operator is fitted. The paper names neither rate nor optimizer (Sec. 4.1).

    The released script asks for 100 steps and inherits a warm-up of 10,000, so its rate never
    passes a hundredth of its peak (`RELEASED`); here the warm-up belongs to the fit.

    Raises:
      UserError: values out of their range.
    """

    steps: int = 100
    rates: tuple[float, ...] = (1e-2,)  # peaks; with several, the one with the lowest loss
    warmup: int = 5
    decay: str = "linear"  # to 0 at the end, or "none"
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0  # of the operator's numbers
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.steps < 0 or self.warmup < 0 or not self.rates or min(self.rates) <= 0:
            raise UserError(
                "expected steps and warmup of at least 0 and rates above 0, got "
                f"{self.steps}, {self.warmup} and {self.rates}"
            )
        if self.decay not in ("linear", "none"):
            raise UserError(f"expected decay linear or none, got {self.decay!r}")

    def schedule(self, peak: float) -> optax.Schedule:
        """The rate at update t."""
        rest = max(self.steps - self.warmup, 1)
        end = 0.0 if self.decay == "linear" else peak
        parts = [optax.linear_schedule(0.0, peak, max(self.warmup, 1))] if self.warmup else []
        parts.append(optax.linear_schedule(peak, end, rest))
        return optax.join_schedules(parts, [self.warmup] if self.warmup else [])


RELEASED = LearnConfig(
    rates=(2e-4,), warmup=10_000, decay="none", b2=0.999, eps=1e-6, weight_decay=0.1
)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A fitted operator and the course of its fit.

    Attributes:
      learned: its numbers; see `ligo.init`.
      rate: the peak it was fitted at.
      losses: peak -> loss of the grown model at every update, nats per token.
      travel: part of the operator -> how far it is from its start, relative to its norm.
      updates: of all fits, the peaks that were not taken included.
    """

    learned: Any
    rate: float
    losses: dict[float, np.ndarray]
    travel: dict[str, float]
    updates: int


def fit(
    config: LearnConfig,
    operator: LigoConfig,
    pair: Pair,
    source_params: Any,
    loss: Loss,
    batches: Callable[[int], Any],
    head_norm: str = "",
) -> Fitted:
    """Fits at every peak and takes the best; see `LearnConfig`.

    Args:
      config: of the fit.
      operator: what is learned.
      pair: source and target.
      source_params: of the source; never changed.
      loss: of the target, nats per token.
      batches: t -> what update t reads, the same for every peak.
      head_norm: path of the norm that the head reads.

    Raises:
      UserError: sizes that do not fit, or a loss that is not finite at every peak.
    """
    start = jax.tree.map(jnp.asarray, ligo.init(operator, pair))
    found, losses = {}, {}
    for peak in config.rates:
        update, optimizer = make_update(config, operator, pair, loss, peak, head_norm)
        learned, state, course = start, optimizer.init(start), []
        for t in range(config.steps):
            learned, state, value = update(learned, state, source_params, batches(t))
            course.append(value)
        losses[peak] = np.array([float(value) for value in course])
        found[peak] = learned
        if config.steps:
            _log.info("operator at rate %g: loss %.3f to %.3f", peak, *losses[peak][[0, -1]])
    best = _best(losses, config)
    learned = found[best]
    far = {part: float(value) for part, value in ligo.travel(learned, start).items()}
    return Fitted(learned, best, losses, far, config.steps * len(config.rates))


def make_update(
    config: LearnConfig,
    operator: LigoConfig,
    pair: Pair,
    loss: Loss,
    peak: float,
    head_norm: str = "",
):
    """The jitted update and its optimizer.

    Returns:
      `(learned, state, source_params, batch) -> (learned, state, loss)`, without changing them,
      and the optax transformation.
    """
    optimizer = optax.chain(
        *([optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []),
        optax.adamw(
            config.schedule(peak), config.b1, config.b2, config.eps,
            weight_decay=config.weight_decay,
        ),
    )  # fmt: skip

    def grown_loss(learned, source_params, batch):
        made = ligo.operator(operator, pair, learned)
        params = apply.grow(
            made, pair.source, pair.target, source_params, jax.random.key(0), head_norm
        )
        return loss(params, batch)

    def update(learned, state, source_params, batch):
        value, grads = jax.value_and_grad(grown_loss)(learned, source_params, batch)
        updates, state = optimizer.update(grads, state, learned)
        return optax.apply_updates(learned, updates), state, value

    return jax.jit(update), optimizer


def _best(losses: dict[float, np.ndarray], config: LearnConfig) -> float:
    """The peak with the lowest mean loss over the last tenth of its updates."""
    last = max(1, config.steps // 10)
    ends = {peak: float(np.mean(course[-last:])) for peak, course in losses.items() if len(course)}
    finite = {peak: end for peak, end in ends.items() if np.isfinite(end)}
    if not ends:
        return config.rates[0]
    if not finite:
        raise UserError(
            f"the operator's loss is not finite at any rate of {', '.join(map(str, ends))}; lower "
            "the rates"
        )
    return min(finite, key=finite.get)
