"""Our contestant of the throughput comparison: the training step that studies run."""

from collections.abc import Callable

import jax
import numpy as np

from benchmarks import parts
from benchmarks.shapes import HEAD_SIZE, tokens
from llm_dynamics.batch import Batch
from llm_dynamics.model import sharding
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.train.state import abstract_state, init_state
from llm_dynamics.train.step import make_train_step


def model_config(shape: dict, dtype: str) -> ModelConfig:
    """A GPT-2-like decoder of the given shape."""
    return ModelConfig(
        vocab_size=shape["vocab"],
        width=shape["width"],
        num_layers=shape["num_layers"],
        num_heads=shape["width"] // HEAD_SIZE,
        mlp_width=4 * shape["width"],
        max_length=shape["length"],
        position="learned",
        mlp="gelu_tanh",
        use_bias=True,
        tie_embeddings=True,
        compute_dtype=dtype,
    )


def batches(shape: dict) -> list[Batch]:
    """Rows of one document each, every label counting."""
    size = (shape["rows"], shape["length"])
    positions = np.tile(np.arange(size[1], dtype=np.int32), (size[0], 1))
    ones = np.ones(size, np.int32)
    return [
        Batch(ids[:, :-1], ids[:, 1:], ones, positions, ones.astype(np.float32))
        for ids in tokens(shape)
    ]


def trainer(shape: dict, *, dtype: str) -> Callable[[int], None]:
    """A function that trains for so many steps and waits."""
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    decoder = Decoder(model_config(shape, dtype))
    optimizer = make_optimizer(OptimConfig(), lambda _: 1e-3)
    abstract = abstract_state(decoder, optimizer, mesh)
    step = make_train_step(decoder, optimizer, lambda _: 1e-3, mesh, abstract)
    state = init_state(decoder, optimizer, mesh, 0)
    data = [jax.device_put(b, sharding.batch_sharding(mesh)) for b in batches(shape)]

    def train(steps: int) -> None:
        nonlocal state
        with sharding.activate(mesh):
            for k in range(steps):
                state, metrics = step(state, data[k % len(data)])
        jax.block_until_ready((state, metrics))

    return train


def breakdown(shape: dict) -> None:
    """Prints where the time of a step goes, in both precisions."""
    for dtype in ("float32", "bfloat16"):
        parts.breakdown(model_config(shape, dtype), batches(shape)[0])
