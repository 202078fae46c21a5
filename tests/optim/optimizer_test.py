import chex
import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl.testing import absltest

from llm_dynamics.errors import UserError
from llm_dynamics.optim.optimizer import OptimConfig, decay_mask, make_optimizer
from llm_dynamics.optim.schedules import ScheduleConfig, make_schedule


def _params(rng):
    return {
        "layers": {
            "dense": {"kernel": rng.normal(size=(2, 3, 4)), "bias": rng.normal(size=(2, 4))},
            "norm": {"scale": rng.normal(size=(2, 4))},
        },
        "embed": {"embedding": rng.normal(size=(5, 3))},
    }


class OptimizerTest(absltest.TestCase):
    def test_decay_follows_names_not_ranks(self):
        mask = decay_mask(_params(np.random.default_rng(0)))
        self.assertTrue(mask["layers"]["dense"]["kernel"])
        self.assertFalse(mask["layers"]["dense"]["bias"])
        self.assertFalse(mask["layers"]["norm"]["scale"])
        self.assertTrue(mask["embed"]["embedding"])
        with self.assertRaisesRegex(ValueError, "odd/weight"):
            decay_mask({"odd": {"weight": np.zeros(2)}})

    def test_equals_torch_adamw_with_clipping(self):
        rng = np.random.default_rng(1)
        params = jax.tree.map(lambda x: x.astype(np.float32), _params(rng))
        config = OptimConfig(ScheduleConfig("linear", 0.1, warmup=2), weight_decay=0.2)
        schedule = make_schedule(config.schedule, 6)
        optimizer = make_optimizer(config, schedule)
        leaves, tree = jax.tree.flatten(params)
        twins = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in leaves]
        decays = jax.tree.leaves(decay_mask(params))
        groups = [
            {
                "params": [t for t, d in zip(twins, decays, strict=True) if d == flag],
                "weight_decay": w,
            }
            for flag, w in ((True, 0.2), (False, 0.0))
        ]
        twin = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-8)
        state = optimizer.init(params)
        for step in range(6):
            grads = [rng.normal(size=leaf.shape).astype(np.float32) for leaf in leaves]
            updates, state = optimizer.update(jax.tree.unflatten(tree, grads), state, params)
            params = jax.tree.map(jnp.add, params, updates)
            for t, g in zip(twins, grads, strict=True):
                t.grad = torch.tensor(g)
            torch.nn.utils.clip_grad_norm_(twins, 1.0)
            for group in twin.param_groups:
                group["lr"] = float(schedule(step))
            twin.step()
        expected = jax.tree.unflatten(tree, [t.detach().numpy() for t in twins])
        chex.assert_trees_all_close(params, expected, rtol=2e-5, atol=2e-6)

    def test_bad_values_are_refused(self):
        with self.assertRaisesRegex(UserError, "b1"):
            OptimConfig(b1=1.0)
        with self.assertRaisesRegex(UserError, "clip_norm"):
            OptimConfig(clip_norm=-1.0)


if __name__ == "__main__":
    absltest.main()
