"""Checkpoints that are asked one after another: what each has to be, and those of run folders."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from llm_dynamics.data.tokenizers import Tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.spec import fingerprint
from llm_dynamics.train import checkpoint_reader as reader
from llm_dynamics.train.checkpoint import leaves
from llm_dynamics.train.finished import FinishedRun, shapes


class Checkpoint(Protocol):
    """A decoder at one moment of its training.

    Attributes:
      run: name of the run, or of the model where there is one checkpoint of each.
      step: updates done.
      tokens: training tokens seen; 0 = not known.
      config: of the decoder.
      identity: tells its parameters from all others, across sessions.
      tokenizer: of its text.
    """

    @property
    def run(self) -> str: ...

    @property
    def step(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    @property
    def config(self) -> ModelConfig: ...

    @property
    def identity(self) -> str: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def check(self) -> None:
        """Refuses parameters that are not those of `config`, without reading them."""
        ...

    def params(self) -> Any:
        """The parameters, on this device."""
        ...


@dataclasses.dataclass(frozen=True)
class OwnCheckpoint:
    """A `Checkpoint` of a run folder."""

    of: FinishedRun
    step: int

    @property
    def run(self) -> str:
        return self.of.name

    @property
    def tokens(self) -> int:
        return self.step * self.of.data.batch_size * self.of.data.length

    @property
    def config(self) -> ModelConfig:
        return self.of.config

    @property
    def identity(self) -> str:
        # Imported parameters may differ under one spec, and training again writes a new folder.
        written = (self.of.folder.checkpoints / str(self.step)).stat().st_mtime_ns
        return fingerprint([self.of.record, self.step, written])

    @property
    def tokenizer(self) -> Tokenizer:
        return self.of.tokenizer

    def check(self) -> None:
        try:
            found = reader.stored(self.of.folder.path, self.step, reader.NOTHING)
        except UserError as error:
            raise self._unreadable() from error
        for name, wanted in leaves({"params": shapes(self.config)}).items():
            if found.get(name) != wanted:
                raise UserError(
                    f"the checkpoint of step {self.step} in {self.of.folder.path} is not of the "
                    f"model that its record says: expected {name} as {wanted}, got "
                    f"{found.get(name, 'none')}"
                )

    def params(self) -> Any:
        try:
            return self.of.params(self.step)
        except UserError as error:
            raise self._unreadable() from error

    def _unreadable(self) -> UserError:
        return UserError(
            f"the checkpoint of step {self.step} in {self.of.folder.path} cannot be read; "
            "leave it out by --steps"
        )


@dataclasses.dataclass(frozen=True)
class Member:
    """A `Checkpoint` by its place in a series, which may be another than its own folder says.

    Attributes:
      of: the checkpoint.
      run: name of the series, and so
      step: and
      tokens: are; 0 = not known.
      is_placed: whether anything says the step; else it is 0.
    """

    of: Checkpoint
    run: str
    step: int
    tokens: int
    is_placed: bool = True

    @property
    def config(self) -> ModelConfig:
        return self.of.config

    @property
    def identity(self) -> str:
        return self.of.identity

    @property
    def tokenizer(self) -> Tokenizer:
        return self.of.tokenizer

    def check(self) -> None:
        self.of.check()

    def params(self) -> Any:
        return self.of.params()


def refuse_twice(runs: Sequence[str], steps: Sequence[int]) -> None:
    """Refuses what would give two points one name.

    Raises:
      UserError: two runs of one name, or a step twice.
    """
    if twice := _twice(runs):
        raise UserError(f"expected runs of different names, got {twice[0]!r} twice; rename one")
    if twice := _twice(steps):
        raise UserError(f"expected every step once, got {twice[0]} twice; leave one out")


def checkpoints(runs: Sequence[FinishedRun], steps: Sequence[int] = ()) -> list[OwnCheckpoint]:
    """The checkpoints of runs, all of them or those of some steps.

    Raises:
      UserError: a run without checkpoints or one of the steps, or see `refuse_twice`.
    """
    refuse_twice([run.name for run in runs], steps)
    found = []
    for run in runs:
        if not run.steps:
            raise UserError(
                f"{run.folder.path} has no checkpoint; train it with train.checkpoint.every or "
                "train.checkpoint.steps"
            )
        for step in steps or run.steps:
            if step not in run.steps:
                known = ", ".join(map(str, run.steps))
                raise UserError(
                    f"{run.folder.path} has no checkpoint of step {step}; it has {known}"
                )
            found.append(OwnCheckpoint(run, step))
    return found


def _twice(values: Sequence[Any]) -> list[Any]:
    return sorted({value for value in values if values.count(value) > 1})


@jax.jit
def are_finite(params: Any) -> jax.Array:
    """Whether no parameter is NaN or infinite: those of a run that diverged are."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()
