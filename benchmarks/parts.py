"""Where the time of a training step goes: attention, MLP, loss, optimizer, and the rest."""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.batch import Batch
from llm_dynamics.model import sharding
from llm_dynamics.model.attention import Attention, attention_mask
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.model.layers import Mlp, rotary_angles
from llm_dynamics.model.loss import training_loss
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer


def seconds(call: Callable, *args, rounds: int = 7) -> float:
    """Median time of a jitted call, compilation left out."""
    jax.block_until_ready(call(*args))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(call(*args))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def breakdown(config: ModelConfig, batch: Batch) -> None:
    """Prints milliseconds of the forward and backward pass of each part of one step."""
    decoder, one = Decoder(config), jax.devices()[:1]
    params = sharding.init_params(decoder, 0, sharding.make_mesh(1, 1, 1, devices=one))
    layer = jax.tree.map(lambda x: x[0], params["layers"])
    h = jax.random.normal(jax.random.key(1), (*batch.tokens_BxL.shape, config.width), config.dtype)
    mask = attention_mask(jnp.asarray(batch.segment_ids_BxL))
    learned = config.position == "learned"
    angles = None if learned else rotary_angles(config, jnp.asarray(batch.positions_BxL))

    def grad_of(function):
        return jax.jit(jax.grad(lambda p, x: jnp.sum(function(p, x).astype(jnp.float32)), (0, 1)))

    attention = grad_of(lambda p, x: Attention(config).apply({"params": p}, x, mask, angles))
    mlp = grad_of(lambda p, x: Mlp(config).apply({"params": p}, x))
    whole = jax.jit(jax.grad(lambda p, b: training_loss(decoder, p, b)[0]))
    optimizer = make_optimizer(OptimConfig(), lambda _: 1e-3)
    state = optimizer.init(params)
    batch = jax.tree.map(jnp.asarray, batch)
    found = {
        "attention, all layers": config.num_layers * seconds(attention, layer["attention"], h),
        "MLP, all layers": config.num_layers * seconds(mlp, layer["mlp"], h),
        "optimizer": seconds(jax.jit(optimizer.update), params, state, params),
    }
    total = seconds(whole, params, batch)
    rest = total - found["attention, all layers"] - found["MLP, all layers"]
    found["embedding, norms and loss (the rest)"] = rest
    print(f"  parts of our {config.compute_dtype} step (forward and backward, ms)")
    for name, value in found.items():
        print(f"    {name:<38} {1000 * value:8.1f}")
    flops = 6.0 * sum(np.prod(x.shape) for x in jax.tree.leaves(params)) * batch.tokens_BxL.size
    print(f"    whole gradient {1000 * total:.1f} ms, about {flops / total / 1e9:.0f} GFLOP/s")
