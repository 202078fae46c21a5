"""On eight fake devices: the same parameters bit for bit, close values, clear refusals."""

import contextlib
import dataclasses
import functools
import os
import tempfile

import flax.linen as nn
import jax
import numpy as np
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.model import loss, sharding
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder

# What later families have: norms everywhere, two kinds of layers.
LATER = {
    "norm": "rmsnorm", "norm_order": "both", "qk_norm": "whole", "mlp": "geglu_tanh", "window": 7,
    "global_every": 2, "local_rotary_base": 100.0, "scale_embeddings": True,
}  # fmt: skip
CONFIG = ModelConfig(
    vocab_size=128,
    width=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    mlp_width=64,
    use_bias=True,
    scan_unroll=1,
    loss_chunk=48,
)


def _one_device():
    return sharding.make_mesh(devices=jax.devices()[:1])


def _config(tied, later=False):
    return dataclasses.replace(CONFIG, tie_embeddings=tied, **LATER if later else {})


@functools.lru_cache
def _init(tied, *sizes, later=False):
    """Parameters on one device, or on a mesh of the given sizes."""
    mesh = sharding.make_mesh(*sizes) if sizes else _one_device()
    return sharding.init_params(Decoder(_config(tied, later)), 3, mesh)


@contextlib.contextmanager
def _standard_error():
    """What is written to standard error, by the compiler too; complete once the block is left."""
    said, kept = bytearray(), os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said += file.read()


class InitTest(parameterized.TestCase):
    @parameterized.parameters((2, 2, 2), (1, 8, 1))
    def test_equals_one_device_bit_for_bit(self, data, fsdp, tensor):
        one, many = _init(False), _init(False, data, fsdp, tensor)
        self.assertEqual(jax.tree.structure(one), jax.tree.structure(many))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
            self.assertEqual(a.dtype, b.dtype)
            self.assertEqual(np.asarray(a).tobytes(), np.asarray(b).tobytes())

    def test_another_seed_is_another_model(self):
        a, b = _init(False), sharding.init_params(Decoder(CONFIG), 4, _one_device())
        self.assertGreater(np.abs(a["embed"]["embedding"] - b["embed"]["embedding"]).max(), 0.01)

    def test_no_device_holds_a_full_copy(self):
        params = _init(False, 2, 2, 2)
        self.assertEqual(
            params["layers"]["mlp"]["up"]["kernel"].addressable_shards[0].data.shape, (2, 16, 32)
        )
        held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(params))
        total = sum(x.nbytes for x in jax.tree.leaves(params))
        self.assertLess(held, total / 3.5)

    def test_init_itself_never_makes_a_full_copy(self):
        mesh, decoder = sharding.make_mesh(1, 4, 2), Decoder(CONFIG)
        lowered = jax.jit(
            lambda key: nn.unbox(decoder.new_params(key)),
            out_shardings=sharding.param_shardings(decoder, mesh),
        ).lower(jax.random.key(0))
        memory = lowered.compile().memory_analysis()
        total = sum(4 * x.size for x in jax.tree.leaves(sharding.abstract_params(decoder)))
        self.assertLess(memory.temp_size_in_bytes + memory.output_size_in_bytes, total)

    def test_abstract_params_match(self):
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), _init(False))
        abstract = sharding.abstract_params(Decoder(CONFIG))
        abstract = jax.tree.map(lambda x: (x.shape, x.dtype), abstract)
        self.assertEqual(shapes, abstract)


class StepTest(parameterized.TestCase):
    @parameterized.parameters((False, False), (True, False), (True, True))
    def test_gradient_on_a_mesh_equals_one_device(self, tied, later):
        decoder = Decoder(_config(tied, later))
        rng = np.random.default_rng(0)
        tokens = rng.integers(0, CONFIG.vocab_size, (8, 25)).astype(np.int32)
        segment_ids_BxL = np.sort(rng.integers(0, 3, (8, 24))).astype(np.int32)
        positions_BxL = np.tile(np.arange(24, dtype=np.int32), (8, 1))
        mask_BxL = (segment_ids_BxL > 0).astype(np.float32)
        batch = Batch(tokens[:, :-1], tokens[:, 1:], segment_ids_BxL, positions_BxL, mask_BxL)

        def step(params, batch):
            return jax.value_and_grad(loss.training_loss, argnums=1, has_aux=True)(
                decoder, params, batch
            )

        results = []
        for sizes in ((), (2, 2, 2)):
            mesh = sharding.make_mesh(*sizes) if sizes else _one_device()
            params = _init(tied, *sizes, later=later)
            with sharding.activate(mesh):
                placed = jax.device_put(batch, sharding.batch_sharding(mesh))
                out = (
                    (sharding.replicated(mesh), sharding.batch_sharding(mesh)),
                    sharding.param_shardings(decoder, mesh),
                )
                with _standard_error() as said:
                    results.append(jax.jit(step, out_shardings=out)(params, placed))
                self.assertNotIn(b"rematerialization", said)
        for a, b in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-4)


class MeshTest(parameterized.TestCase):
    def test_what_is_left(self):
        mesh = sharding.make_mesh(-1, 2, 2)
        self.assertEqual(dict(mesh.shape), {"data": 2, "fsdp": 2, "tensor": 2})

    @parameterized.parameters(
        (3, 1, 1), (-1, 3, 1), (-1, -1, 1), (0, 1, 8), (16, 1, 1), (-1, 16, 1)
    )
    def test_refuses_sizes(self, data, fsdp, tensor):
        with self.assertRaisesRegex(UserError, "mesh"):
            sharding.make_mesh(data, fsdp, tensor)

    @parameterized.named_parameters(
        ("heads", {"num_heads": 3, "num_kv_heads": 3, "head_dim": 8}, 8, "num_heads 3"),
        ("kv_heads", {"num_kv_heads": 1}, 8, "num_kv_heads 1"),
        ("mlp", {"mlp_width": 63}, 8, "mlp_width 63"),
        ("vocab", {"vocab_size": 101}, 8, "vocab_size 101.*use vocab_size 102"),
        ("width", {"width": 33, "head_dim": 8}, 8, "width 33"),
        ("batch", {}, 6, "batch size 6"),
    )
    def test_refuses_a_mesh_that_does_not_divide(self, changes, batch_size, message):
        config = dataclasses.replace(CONFIG, **changes)
        with self.assertRaisesRegex(UserError, message):
            sharding.check_mesh(config, sharding.make_mesh(2, 2, 2), batch_size)

    def test_accepts(self):
        sharding.check_mesh(CONFIG, sharding.make_mesh(2, 2, 2), 8)
