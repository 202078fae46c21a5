"""How much memory a whole training step may take besides the state, as the compiler counts it."""

import dataclasses

import jax
import numpy as np
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.model import presets, sharding
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.train.state import abstract_state
from llm_dynamics.train.step import make_train_step

B, L = 4, 128


def temporaries(config) -> float:
    """MiB of temporaries of a step on one device."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    decoder, optim = Decoder(config), OptimConfig()
    schedule = make_schedule(optim.schedule, 10)
    optimizer = make_optimizer(optim, schedule)
    abstract = abstract_state(decoder, optimizer, mesh)
    step = make_train_step(decoder, optimizer, schedule, mesh, abstract)
    ids = jax.ShapeDtypeStruct((B, L), np.int32, sharding=sharding.batch_sharding(mesh))
    batch = Batch(*[ids] * 4, ids.update(dtype=np.float32))
    with sharding.activate(mesh):
        compiled = step.lower(abstract, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


class MemoryTest(parameterized.TestCase):
    # As measured at 4 rows of 128 tokens; a tenth more is a regression.
    @parameterized.parameters(
        ("pocket-0.1m", 12.9),
        ("pocket-1m", 48.4),
        ("pocket-10m", 192.8),
    )
    def test_step_of_a_pocket_model_stays_within_its_bound(self, name, measured):
        config = dataclasses.replace(presets.named(name), scan_unroll=1)
        self.assertLess(temporaries(config), 1.1 * measured)
