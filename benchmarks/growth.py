"""What growth costs: an update of a learned operator, and making a large model.

    python -m benchmarks.growth                   both
    python -m benchmarks.growth --what=update     a LiGO update over a plain one of the large model
    python -m benchmarks.growth --what=memory     135M grown to 1B parameters: peak memory, time

Updates are timed in turn, so that a machine whose speed drifts slows both; the ratio is the median
over rounds. The grown model is made in a process of its own, whose peak of resident memory is that
of the whole process.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
from absl import app, flags

from llm_dynamics.batch import Batch
from llm_dynamics.data.config import DataConfig
from llm_dynamics.growth import apply, learn, ligo, presets, stage
from llm_dynamics.growth.learn import LearnConfig
from llm_dynamics.model import presets as models
from llm_dynamics.model import sharding, size
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.model.loss import training_loss
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.train import parts
from llm_dynamics.train.config import RunSpec, TrainConfig

_WHAT = flags.DEFINE_enum("what", "both", ["both", "update", "memory", "one"], "what to measure")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "pairs of updates")
_OPERATOR = flags.DEFINE_string("operator", "tile+stack", "with --what=memory: WIDTH+DEPTH")

ROWS, LENGTH = 16, 128
SMALL = models.named("pocket-0.3m", vocab_size=2048)
LARGE = dataclasses.replace(SMALL, width=96, num_layers=8, num_heads=6, mlp_width=384)
BIG = {"width": 1152, "num_layers": 68, "num_heads": 18, "num_kv_heads": 6, "mlp_width": 3072}


def update() -> None:
    """Prints the time of an update of every LiGO preset over that of a plain training step."""
    spec = RunSpec(
        LARGE,
        DataConfig(("wordnet_glosses",), "bpe:2048", length=LENGTH, batch_size=ROWS),
        OptimConfig(ScheduleConfig("constant", 1e-3)),
        TrainConfig(10),
        ProbeConfig(),
    )
    made, rng = parts.build(spec), np.random.default_rng(0)
    tokens = rng.integers(2048, size=(ROWS, LENGTH + 1)).astype(np.int32)
    ones = np.ones((ROWS, LENGTH), np.int32)
    places = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    host = Batch(tokens[:, :-1], tokens[:, 1:], ones, places, np.ones((ROWS, LENGTH), np.float32))
    batch = jax.device_put(host, sharding.batch_sharding(made.mesh))
    step, state = made.compile_step(), made.first_state()
    pair = stage.pair_of(SMALL, LARGE)
    source = sharding.init_params(Decoder(SMALL), 0, made.mesh)
    decoder = Decoder(LARGE)
    print(f"{size.num_params(SMALL):,} -> {size.num_params(LARGE):,} parameters, {ROWS} x {LENGTH}")
    for name, config in ligo.PRESETS.items():
        fit, optimizer = learn.make_update(
            LearnConfig(), config, pair, lambda p, b: training_loss(decoder, p, b)[0], 1e-2,
            pair.traits.head_norm,
        )  # fmt: skip
        learned = jax.tree.map(jax.numpy.asarray, ligo.init(config, pair))
        moments, ratios = optimizer.init(learned), []
        with sharding.activate(made.mesh):
            learned, moments, _ = jax.block_until_ready(fit(learned, moments, source, batch))
            state, _ = jax.block_until_ready(step(state, batch))
            for _ in range(_ROUNDS.value):
                start = time.perf_counter()
                learned, moments, _ = jax.block_until_ready(fit(learned, moments, source, batch))
                middle = time.perf_counter()
                state, _ = jax.block_until_ready(step(state, batch))
                ratios.append((middle - start) / (time.perf_counter() - middle))
        print(
            f"  ligo-{name:<9} update / plain step: median {statistics.median(ratios):.2f}, "
            f"{min(ratios):.2f} to {max(ratios):.2f}"
        )


def memory() -> None:
    """Prints the peak memory and time of growing 135M to 1B parameters, in a new process."""
    command = [sys.executable, "-m", "benchmarks.growth", "--what=one"]
    command.append(f"--operator={_OPERATOR.value}")
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    target = 4 * found["parameters"]
    print(
        f"{found['source']:,} -> {found['parameters']:,} parameters by {_OPERATOR.value}: "
        f"{found['seconds']:.1f} s, peak {found['peak'] / 2**30:.2f} GiB resident, "
        f"{found['peak'] / target:.2f} x the target's {target / 2**30:.2f} GiB "
        f"({(found['peak'] - found['before']) / target:.2f} x beyond the process before it: "
        "libraries and source)"
    )


def one() -> None:
    """Grows once and prints what it took as JSON."""
    small = models.named("smollm2-135m")
    width, _, depth = _OPERATOR.value.partition("+")
    large = stage.fitting(
        small, dataclasses.replace(small, **BIG), stage.GrowthConfig(width, depth)
    )
    mesh = sharding.make_mesh()
    source = jax.block_until_ready(sharding.init_params(Decoder(small), 0, mesh))
    pair = stage.pair_of(small, large)
    operator = presets.make(pair, width, depth)
    where = sharding.param_shardings(Decoder(large), mesh)
    before, start = _peak(), time.perf_counter()
    grown = apply.grow_sharded(
        operator, pair.source, pair.target, source, where, jax.random.key(0), "final_norm"
    )
    jax.block_until_ready(grown)
    print(
        json.dumps(
            {
                "source": size.num_params(small),
                "parameters": size.num_params(large),
                "seconds": time.perf_counter() - start,
                "before": before,
                "peak": _peak(),
            }
        )
    )


def _peak() -> int:
    """Largest resident memory of this process so far, bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(argv: list[str]) -> None:
    del argv
    if _WHAT.value == "one":
        one()
        return
    if _WHAT.value in ("both", "update"):
        update()
    if _WHAT.value in ("both", "memory"):
        memory()


if __name__ == "__main__":
    app.run(main)
