"""How long a run trains, how it is laid out, and when it saves and validates."""

import dataclasses

from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.model import dropping
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.optim import carried
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.probe.cadence import ProbeConfig


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; -1 takes what is left."""

    data: int = -1  # copies of the model, each with its own rows
    fsdp: int = 1  # parameters and rows sharded together
    tensor: int = 1  # heads, feed-forward width and vocabulary sharded


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved. The last step is always saved."""

    every: int = 0  # save after every so many updates; 0 = only `steps`
    steps: tuple[int, ...] = ()  # saved and kept for ever
    early: bool = False  # also 0, 1, 2, 4, ... 512, kept for ever (as Pythia has)
    keep: int = 2  # of the regular ones, how many of the latest stay

    def __post_init__(self):
        if self.every < 0 or self.keep < 1 or any(s < 0 for s in self.steps):
            raise UserError(
                "checkpoints expect every >= 0, keep >= 1 and steps >= 0, got every "
                f"{self.every}, keep {self.keep}, steps {self.steps}"
            )

    def kept(self) -> tuple[int, ...]:
        """The steps whose checkpoints are never deleted."""
        early = (0, *(2**k for k in range(10))) if self.early else ()
        return tuple(sorted({*self.steps, *early}))


@dataclasses.dataclass(frozen=True)
class StartConfig:
    """The checkpoint of another run that this one starts from; the run's own steps begin at 0."""

    run: str = ""  # its run folder; "" = none, fresh parameters
    step: int = -1  # of the checkpoint; -1 = the last one
    optimizer: str = "keep"  # what is kept of its state, one of optim.carried.POLICIES
    continue_schedule: bool = True  # the learning rate is read from the checkpoint's step on
    changed_schedule: str = "refuse"  # where its rates so far were others; or "accept" the jump
    data: str = "continue"  # the next rows of its data, or "fresh": the data from the beginning

    def __post_init__(self):
        if self.step < -1:
            raise UserError(f"expected train.start.step of at least -1, got {self.step}")
        carried.parse(self.optimizer)
        for key, known in (
            ("changed_schedule", ("refuse", "accept")),
            ("data", ("continue", "fresh")),
        ):
            if getattr(self, key) not in known:
                raise UserError(
                    f"expected train.start.{key} {' or '.join(known)}, got {getattr(self, key)!r}"
                )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop of one run."""

    steps: int = 1000  # optimizer updates
    accumulate: int = 1  # micro-batches summed into one update
    validate_every: int = 100  # steps between validations; 0 = only at the end
    validation_batches: int = 8  # at most so many batches each time
    layer_drop: float = 0.0  # rows skip layer i of N at this rate times i / N; see model.dropping
    token_drop: float = 0.0  # share of the tokens that skip all layers but the first and the last
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    start: StartConfig = dataclasses.field(default_factory=StartConfig)
    tensorboard: bool = True  # event files beside metrics.jsonl
    wandb: str = ""  # Weights & Biases project; "" = off

    def __post_init__(self):
        if self.steps < 1 or self.accumulate < 1:
            raise UserError(
                f"expected at least 1 step and 1 micro-batch, got steps {self.steps} "
                f"and accumulate {self.accumulate}"
            )
        if self.validate_every < 0 or self.validation_batches < 1:
            raise UserError(
                "expected validate_every >= 0 and validation_batches >= 1, got "
                f"{self.validate_every} and {self.validation_batches}"
            )


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One run, resolved: everything that decides what is computed."""

    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    probe: ProbeConfig
    seed: int = 0  # of the initial parameters

    def __post_init__(self):
        # Seeds are taken modulo 2^32, so a larger one would be another name for the same run.
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2**32):
            raise UserError(f"expected a whole seed of 0 to {2**32 - 1}, got {self.seed}")
        dropping.check(self.model.num_layers, self.train.layer_drop, self.train.token_drop)
        last = max(self.train.checkpoint.steps, default=0)
        if last > self.train.steps:
            raise UserError(
                f"expected train.checkpoint.steps up to {self.train.steps}, the end of the run, "
                f"got {last}; lengthen the run or drop the step"
            )
        # Before the tokenizer is trained, which takes longer than everything else here.
        kind, _, size = self.data.tokenizer.partition(":")
        if kind == "bpe" and int(size) > self.model.vocab_size:
            raise UserError(
                f"data.tokenizer {self.data.tokenizer} has more ids than the model's "
                f"{self.model.vocab_size} embeddings; set model.vocab_size to at least {size}, or "
                f"data.tokenizer to bpe:{self.model.vocab_size}"
            )
        rows, parts = self.data.batch_size, self.train.accumulate
        if rows % parts:
            raise UserError(
                f"data.batch_size {rows} does not split into train.accumulate {parts} "
                "equal micro-batches; choose a divisor"
            )
        if self.data.length > self.model.max_length:
            raise UserError(
                f"data.length {self.data.length} exceeds model.max_length "
                f"{self.model.max_length}; shorten the rows or enlarge the model's context"
            )
