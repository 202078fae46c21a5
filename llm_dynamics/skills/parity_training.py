"""Trains on multitask sparse parity: the solvable model, as a check, and networks, as the question.

Every update sees examples of its own, a function of (seed, step). A seed also draws which bits the
tasks read. Letters: B examples, K tasks, I inputs, S recorded steps.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.skills import parity
from llm_dynamics.skills.parity import ParityConfig
from llm_dynamics.skills.parity_theory import Flow

_OPTIMIZERS = {"sgd": optax.sgd, "adam": optax.adam}
_INITIAL = 2**32 - 2  # folded in for initial parameters; no step


def _check_positive(config, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise UserError(f"expected {name} above 0, got {getattr(config, name)}")


def _check_steps(config) -> None:
    _check_positive(config, "steps", "batch", "every")
    if config.steps % config.every:
        raise UserError(
            f"expected steps to be a multiple of every = {config.every}, got {config.steps}"
        )


# ---- the solvable model --------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MultilinearConfig:
    """The multilinear model, trained by plain gradient descent on fresh examples.

    Attributes:
      parity: the tasks.
      flow: learning rate, R_k(0) and S; `slowed` must be 1.
      steps: updates.
      batch: examples of one.
      every: updates between two records.
    """

    parity: ParityConfig
    flow: Flow
    steps: int
    batch: int = 256
    every: int = 20

    def __post_init__(self):
        _check_steps(self)
        if self.flow.slowed != 1:
            raise UserError(f"expected slowed = 1 of a trained model, got {self.flow.slowed}")

    @property
    def updates_S(self) -> np.ndarray:
        """Updates behind each record, the first before any."""
        return np.arange(0, self.steps + 1, self.every)

    @property
    def share_K(self) -> np.ndarray:
        """P(k)."""
        return parity.zipf(len(self.parity.codes), self.parity.a)


def train_multilinear(config: MultilinearConfig, seed: int) -> np.ndarray:
    """R_k / S over time, SxK, of f = a_i b_i g_i for an example of task i.

    The gradient comes from the loss of sampled examples, not from the closed form.
    """
    tasks = parity.make_tasks(config.parity, seed)
    return np.asarray(_multilinear(config)(tasks, seed), float)


def standardised(config: MultilinearConfig, strength_SxK: np.ndarray) -> np.ndarray:
    """Deviation from the closed form over its sampling error, where each task emerges, K.

    The log-odds of R_k / S grow by 2 eta S times the share of task k in a batch, so after t updates
    their standard error is 2 eta S sqrt(t P (1-P) / B) (derived). About standard normal while the
    rate is small; NaN where a task does not emerge within the records.
    """
    flow, share_K = config.flow, config.share_K
    closed_SxK = flow.strength(config.updates_S, share_K)
    at_K = np.abs(closed_SxK - 0.5).argmin(axis=0)
    place = at_K, np.arange(len(share_K))
    found_K, closed_K = strength_SxK[place], closed_SxK[place]
    with np.errstate(divide="ignore", invalid="ignore"):
        difference_K = np.log(found_K / (1 - found_K)) - np.log(closed_K / (1 - closed_K))
        error_K = (2 * flow.rate * flow.target) * np.sqrt(
            config.updates_S[at_K] * share_K * (1 - share_K) / config.batch
        )
        inside_K = (at_K > 0) & (at_K < len(config.updates_S) - 1)
        return np.where(inside_K, difference_K / error_K, np.nan)


@functools.cache
def _multilinear(config: MultilinearConfig):
    flow, count = config.flow, len(config.parity.codes)
    start = np.sqrt(flow.start).astype(np.float32)

    def loss(params, tasks, examples):
        strength_B = (params["a"] * params["b"])[examples.which_B]
        return ((flow.target - strength_B) * parity.answers(tasks, examples)) ** 2 / 2

    @jax.jit
    def run(tasks, seed):
        def update(params, step):
            examples = parity.draw(tasks, seed, step, config.batch)
            grads = jax.grad(lambda p: loss(p, tasks, examples).mean())(params)
            return jax.tree.map(lambda p, g: p - flow.rate * g, params, grads), None

        def record(params, first):
            params, _ = jax.lax.scan(update, params, first + jnp.arange(config.every))
            return params, params["a"] * params["b"]

        params = {name: jnp.full(count, start) for name in "ab"}
        first_S = jnp.arange(0, config.steps, config.every)
        _, strength_SxK = jax.lax.scan(record, params, first_S)
        before = jnp.full((1, count), flow.start)
        return jnp.concatenate([before, strength_SxK]) / flow.target

    return run


# ---- networks ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """A network of ReLU layers with one output, trained on S g_k by half the mean square error.

    Attributes:
      parity: the tasks.
      width, depth: units of a hidden layer, and hidden layers.
      target: S.
      last: scale of the last layer's initial weights; small = features have to be learned.
      optimizer: "sgd" or "adam".
      rate: constant learning rate.
      steps: updates.
      batch: examples of one.
      every: updates between two records.
      measured: examples of each task in a record, the same in all.
    """

    parity: ParityConfig
    width: int = 256
    depth: int = 1
    target: float = 1.0
    last: float = 1.0
    optimizer: str = "adam"
    rate: float = 1e-3
    steps: int = 3000
    batch: int = 512
    every: int = 20
    measured: int = 512

    def __post_init__(self):
        _check_steps(self)
        _check_positive(self, "width", "depth", "target", "last", "rate", "measured")
        if self.optimizer not in _OPTIMIZERS:
            nearest = specs.nearest(self.optimizer, list(_OPTIMIZERS))
            raise UserError(f"unknown optimizer {self.optimizer!r}; {nearest}")


class NetworkRun(NamedTuple):
    """What a network does on examples of each task that it is not trained on.

    Attributes:
      updates_S: behind each record, the first before any.
      strength_SxK: R_k / S, R_k = mean of f g_k.
      loss_SxK: half the mean square error over S^2 / 2, so 1 for an output of 0.
      accuracy_SxK: share of examples whose sign is right.
    """

    updates_S: np.ndarray
    strength_SxK: np.ndarray
    loss_SxK: np.ndarray
    accuracy_SxK: np.ndarray


def train_network(config: NetworkConfig, seed: int) -> NetworkRun:
    """Trains from a seed's parameters on its tasks and examples.

    Raises:
      UserError: training diverged.
    """
    tasks = parity.make_tasks(config.parity, seed)
    found = [np.asarray(x, float) for x in _network(config)(tasks, seed)]
    if not all(np.isfinite(x).all() for x in found):
        raise UserError(f"training of seed {seed} diverged; lower the rate {config.rate:g}")
    return NetworkRun(np.arange(0, config.steps + 1, config.every), *found)


class Composition(NamedTuple):
    """The composite task, last of its tasks, trained beside its atoms and alone."""

    with_atoms: NetworkRun
    alone: NetworkRun


def compositional(config: NetworkConfig, seed: int) -> Composition:
    """Is the last task learned sooner with the others present (Michaud et al. 2025)?

    Alone it gets the whole batch, and the same bits, updates and initial parameters.

    Raises:
      UserError: the last code does not consist of the others.
    """
    codes = config.parity.codes
    atoms = {code[0] for code in codes[:-1] if len(code) == 1}
    if len(codes[-1]) < 2 or set(codes[-1]) - atoms:
        raise UserError(
            "expected codes of one control bit each and then one of several of them, got "
            f"{codes}; e.g. {(*parity.one_hot(2), (0, 1))}"
        )
    alone = dataclasses.replace(config.parity, codes=codes[-1:])
    return Composition(
        train_network(config, seed),
        train_network(dataclasses.replace(config, parity=alone), seed),
    )


def emergence(updates_S: np.ndarray, strength_SxK: np.ndarray, level: float = 0.5) -> np.ndarray:
    """Updates until R_k / S first passes `level`, K; NaN where it never does.

    Straight between the record that is at or above it and the one before.
    """
    passed_SxK = strength_SxK >= level
    at_K = passed_SxK.argmax(axis=0)
    before_K, tasks_K = np.maximum(at_K - 1, 0), np.arange(strength_SxK.shape[1])
    low_K, high_K = strength_SxK[before_K, tasks_K], strength_SxK[at_K, tasks_K]
    part_K = np.where(at_K > 0, (level - low_K) / np.where(high_K > low_K, high_K - low_K, 1), 0)
    times_K = updates_S[before_K] + part_K * (updates_S[at_K] - updates_S[before_K])
    return np.where(passed_SxK.any(axis=0), times_K, np.nan)


class _Network(nn.Module):
    width: int
    depth: int
    last: float

    @nn.compact
    def __call__(self, x_BxI):
        for _ in range(self.depth):
            x_BxI = nn.relu(nn.Dense(self.width)(x_BxI))
        scale = nn.initializers.variance_scaling(self.last**2, "fan_in", "normal")
        return nn.Dense(1, kernel_init=scale)(x_BxI)[:, 0]


@functools.cache
def _network(config: NetworkConfig):
    model = _Network(config.width, config.depth, config.last)
    optimizer = _OPTIMIZERS[config.optimizer](config.rate)
    count, target = len(config.parity.codes), config.target
    control_KxA = parity.control_bits(config.parity)

    def look(params, inputs_BxI, answers_B):
        found_B = model.apply(params, inputs_BxI) * answers_B / target

        def mean(x_B):
            return x_B.reshape(count, -1).mean(axis=1)

        return mean(found_B), mean((1 - found_B) ** 2), mean((found_B > 0).astype(jnp.float32))

    @jax.jit
    def run(tasks, seed):
        held = parity.draw_each(tasks, seed, config.measured)
        held = parity.inputs(control_KxA, held), parity.answers(tasks, held)

        def update(carry, step):
            params, state = carry
            examples = parity.draw(tasks, seed, step, config.batch)
            inputs_BxI, answers_B = (
                parity.inputs(control_KxA, examples),
                parity.answers(tasks, examples),
            )

            def loss(p):
                return ((model.apply(p, inputs_BxI) - target * answers_B) ** 2).mean() / 2

            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        def record(carry, first):
            carry, _ = jax.lax.scan(update, carry, first + jnp.arange(config.every))
            return carry, look(carry[0], *held)

        key = jax.random.fold_in(jax.random.key(seed), _INITIAL)
        params = model.init(key, held[0][:1])
        before = look(params, *held)
        first_S = jnp.arange(0, config.steps, config.every)
        _, after = jax.lax.scan(record, (params, optimizer.init(params)), first_S)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), before, after)

    return run
