"""Multitask sparse parity: the control bits that are on say which task bits' parity is the answer.

Task k has its own control bits, one (Michaud et al. 2023) or several; with several the answer is
the parity of the union of what each alone reads (Michaud, Parker-Sartori & Tegmark 2025). Tasks
are drawn with P(k) ~ k^-(a+1). Bits are written as signs, so the parity of bits is the product of
their signs, the skill function of task k is

    g_k = that product for examples of task k, 0 for all others,

and E[g_k g_l] = P(k) if k = l, else 0 (Nam et al. 2024). Every batch is a function of (seed, step).
Letters: B examples, K tasks, A control bits, J task bits, I = A + J.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.errors import UserError

_WORD = 32  # bits that are drawn at once
_MEASURING = 2**32 - 1  # no step, so what is measured with is never trained on


@dataclasses.dataclass(frozen=True)
class ParityConfig:
    """A family of tasks.

    Attributes:
      codes: the control bits of each task, most frequent task first.
      bits: task bits J.
      subset: how many task bits one control bit reads, m.
      a: tasks have P(k) ~ k^-(a+1); -1 = all alike.
      disjoint: whether no task bit is read by two control bits.
    """

    codes: tuple[tuple[int, ...], ...]
    bits: int
    subset: int = 3
    a: float = 0.6
    disjoint: bool = False

    def __post_init__(self):
        if not self.codes or any(not code or min(code) < 0 for code in self.codes):
            raise UserError(
                f"expected codes of one or more control bits from 0 on, got {self.codes}"
            )
        if len({frozenset(code) for code in self.codes}) < len(self.codes) or any(
            len(set(code)) < len(code) for code in self.codes
        ):
            raise UserError(f"expected codes that differ, each bit once in one, got {self.codes}")
        if self.subset < 1:
            raise UserError(f"expected a subset of at least 1 task bit, got {self.subset}")
        needed = self.subset * (self.controls if self.disjoint else 1)
        if self.bits < needed:
            raise UserError(
                f"expected at least {needed} task bits for subsets of {self.subset}, got "
                f"{self.bits}; raise bits or lower subset"
            )
        if not -1 <= self.a < np.inf:
            raise UserError(f"expected a of at least -1, where all tasks are alike, got {self.a}")

    @property
    def controls(self) -> int:
        """Control bits A."""
        return 1 + max(max(code) for code in self.codes)

    @property
    def inputs(self) -> int:
        """I."""
        return self.controls + self.bits


def one_hot(tasks: int) -> tuple[tuple[int, ...], ...]:
    """The codes of tasks with one control bit each."""
    return tuple((k,) for k in range(tasks))


class Tasks(NamedTuple):
    """Tasks with their subsets.

    Attributes:
      member_KxJ: 1 where the answer depends on a task bit.
      threshold_K: uint32; a uniform word below the k-th and not below the one before is task k.
    """

    member_KxJ: np.ndarray
    threshold_K: np.ndarray


class Examples(NamedTuple):
    """What was drawn.

    Attributes:
      which_B: int32, the task.
      bits_BxJ: int32, 0 or 1.
    """

    which_B: jax.Array | np.ndarray
    bits_BxJ: jax.Array | np.ndarray


def zipf(tasks: int, a: float) -> np.ndarray:
    """P(k) ~ k^-(a+1) for k = 1 .. K, sums to 1 (Michaud et al. 2023; Nam et al. 2024)."""
    weight_K = np.arange(1, tasks + 1, dtype=float) ** -(a + 1)
    return weight_K / weight_K.sum()


def make_tasks(config: ParityConfig, seed: int) -> Tasks:
    """Draws which task bits every control bit reads."""
    generator = np.random.default_rng(seed)
    reads_AxJ = np.zeros((config.controls, config.bits), np.int32)
    order = generator.permutation(config.bits)
    for control in range(config.controls):
        here = order[control * config.subset :][: config.subset]
        if not config.disjoint:
            here = generator.choice(config.bits, config.subset, replace=False)
        reads_AxJ[control, here] = 1
    member_KxJ = np.stack([reads_AxJ[list(code)].any(axis=0) for code in config.codes])
    cumulative_K = np.cumsum(zipf(len(config.codes), config.a))
    threshold_K = np.minimum(np.round(cumulative_K * 2.0**_WORD), 2**_WORD - 1).astype(np.uint32)
    return Tasks(member_KxJ.astype(np.int32), threshold_K)


def draw(tasks: Tasks, seed: int | jax.Array, step: int | jax.Array, size: int) -> Examples:
    """The examples of a step; `seed` and `step` may be traced."""
    first, second = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
    which_B = _task(tasks, jax.random.bits(first, (size,), jnp.uint32), jnp)
    return _examples(which_B, tasks, lambda shape: jax.random.bits(second, shape, jnp.uint32), jnp)


def draw_numpy(tasks: Tasks, seed: int, step: int, size: int) -> Examples:
    """Examples of the same law as `draw`'s, of another stream."""
    generator = np.random.default_rng([seed, step])

    def words(shape):
        return generator.integers(2**_WORD, size=shape, dtype=np.uint32)

    return _examples(_task(tasks, words((size,)), np), tasks, words, np)


def draw_each(tasks: Tasks, seed: int | jax.Array, count: int) -> Examples:
    """`count` examples of every task, task after task, for measuring; of a stream of their own."""
    amount = tasks.member_KxJ.shape[0]
    key = jax.random.fold_in(jax.random.key(seed), _MEASURING)
    which_B = jnp.repeat(jnp.arange(amount, dtype=jnp.int32), count)
    return _examples(which_B, tasks, lambda shape: jax.random.bits(key, shape, jnp.uint32), jnp)


def answers(tasks: Tasks, examples: Examples) -> jax.Array | np.ndarray:
    """The value of each example's own skill function, B, -1 or 1; those of the others are 0."""
    read_B = (examples.bits_BxJ * tasks.member_KxJ[examples.which_B]).sum(axis=-1)
    return 1 - 2 * (read_B % 2)


def control_bits(config: ParityConfig) -> np.ndarray:
    """1 where a task's control bit is on, int32, KxA."""
    control_KxA = np.zeros((len(config.codes), config.controls), np.int32)
    for k, code in enumerate(config.codes):
        control_KxA[k, list(code)] = 1
    return control_KxA


def inputs(control_KxA: np.ndarray, examples: Examples) -> jax.Array:
    """What a network sees, float32 BxI: control bits as 0 and 1, task bits as signs."""
    control_BxA = jnp.asarray(control_KxA)[examples.which_B]
    parts = [control_BxA, 1 - 2 * examples.bits_BxJ]
    return jnp.concatenate(parts, axis=-1).astype(jnp.float32)


def _task(tasks: Tasks, word_B, xp):
    found_B = xp.searchsorted(xp.asarray(tasks.threshold_K), word_B, side="right")
    return xp.minimum(found_B, len(tasks.threshold_K) - 1).astype(xp.int32)


def _examples(which_B, tasks: Tasks, words, xp) -> Examples:
    size, count = which_B.shape[0], tasks.member_KxJ.shape[1]
    words_BxWx1 = words((size, -(-count // _WORD)))[..., None]
    shifts = xp.arange(_WORD, dtype=xp.uint32)[None, None]
    bits_BxJ = ((words_BxWx1 >> shifts) & 1).reshape(size, -1)[:, :count]
    return Examples(which_B, bits_BxJ.astype(xp.int32))
