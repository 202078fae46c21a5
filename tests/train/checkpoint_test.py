import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.model import presets, sharding
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.train.checkpoint import Checkpoints
from llm_dynamics.train.config import CheckpointConfig
from llm_dynamics.train.state import abstract_state, init_state


def _decoder(**changes):
    sizes = {"vocab_size": 64, "width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 32}
    return Decoder(presets.named("pocket-0.1m", **(sizes | changes)))


def _optimizer():
    return make_optimizer(OptimConfig(), lambda _: 1e-3)


def _mesh(*sizes):
    return sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])


def _bytes(tree):
    return [(x.dtype, np.asarray(x).tobytes()) for x in jax.tree.leaves(jax.device_get(tree))]


class CheckpointTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = self.create_tempdir().full_path
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def _saved(self, steps=(4,), config=None, mesh=None):
        state = init_state(_decoder(), _optimizer(), mesh or _mesh(1, 1, 1), seed=1)
        config = config or CheckpointConfig(every=4)
        checkpoints = Checkpoints(self.folder, config, last_step=100)
        for step in steps:
            checkpoints.save(state.replace(step=jnp.asarray(step, jnp.int32)), step, {"a": 1})
        checkpoints.close()
        return state

    def _open(self, config=None):
        checkpoints = Checkpoints(self.folder, config or CheckpointConfig(every=4), 100)
        self.addCleanup(checkpoints.close)
        return checkpoints

    def test_round_trip_is_bitwise_and_onto_another_mesh(self):
        state = self._saved()
        target = abstract_state(_decoder(), _optimizer(), _mesh(2, 2, 2))
        restored = self._open().restore(4, target)
        self.assertEqual(int(restored.step), 4)
        self.assertEqual(_bytes(state.params), _bytes(restored.params))
        self.assertEqual(_bytes(state.opt_state), _bytes(restored.opt_state))
        jax.tree.map(lambda x, t: self.assertEqual(x.sharding, t.sharding), restored, target)

    @parameterized.parameters(
        (CheckpointConfig(), {100}),
        (CheckpointConfig(every=25), {25, 50, 75, 100}),
        (CheckpointConfig(every=50, steps=(0,)), {0, 50, 100}),
        (CheckpointConfig(steps=(3, 7)), {3, 7, 100}),
        (CheckpointConfig(early=True), {0, 1, 2, 4, 8, 16, 32, 64, 100}),
    )
    def test_when_saving_is_due(self, config, expected):
        checkpoints = self._open(config)
        self.assertEqual({s for s in range(101) if checkpoints.due(s)}, expected)

    def test_listed_steps_are_kept_and_of_the_regular_ones_the_latest(self):
        config = CheckpointConfig(every=2, steps=(3,), keep=2)
        self._saved(steps=(0, 2, 3, 4, 6), config=config)
        checkpoints = self._open(config)
        kept = [s for s in (0, 2, 3, 4, 6) if not checkpoints.due(s) and self._exists(s)]
        self.assertEqual(kept, [3, 4, 6])
        self.assertEqual(checkpoints.latest(), 6)

    def _exists(self, step):
        return (pathlib.Path(self.folder) / str(step)).exists()

    @parameterized.named_parameters(
        ("shape", {"mlp_width": 48}, r"mlp.*expected float32.*found float32"),
        ("structure", {"use_bias": True}, "found nothing"),
        ("layers", {"num_layers": 3}, "expected float32"),
    )
    def test_another_model_is_refused(self, changes, message):
        self._saved()
        target = abstract_state(_decoder(**changes), _optimizer(), _mesh(1, 1, 1))
        with self.assertRaisesRegex(UserError, message):
            self._open().restore(4, target)

    def test_another_dtype_is_refused_not_cast(self):
        self._saved()
        target = abstract_state(_decoder(), _optimizer(), _mesh(1, 1, 1))
        half = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding),
            target.params,
        )
        with self.assertRaisesRegex(UserError, r"expected bfloat16.*found float32"):
            self._open().restore(4, target.replace(params=half))

    @parameterized.parameters("data", "metadata")
    def test_a_damaged_checkpoint_is_named_and_nothing_is_lost(self, part):
        self._saved(steps=(4, 8))
        folder = pathlib.Path(self.folder) / "8"
        if part == "data":
            victims = [p for p in folder.rglob("*") if p.is_file() and "/d/" in str(p)]
        else:
            victims = list(folder.rglob("_METADATA"))
        self.assertNotEmpty(victims)
        for path in victims:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        target = abstract_state(_decoder(), _optimizer(), _mesh(1, 1, 1))
        checkpoints = self._open()
        with self.assertRaisesRegex(UserError, "8 cannot be used; move it away"):
            checkpoints.restore(8, target)
        self.assertEqual(int(checkpoints.restore(4, target).step), 4)


if __name__ == "__main__":
    absltest.main()
