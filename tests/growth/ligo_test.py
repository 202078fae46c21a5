"""LiGO: the published counts, what it can express, and where it must not start."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.growth import apply, axes, ligo, presets
from llm_dynamics.growth.ligo import PRESETS, LigoConfig
from llm_dynamics.growth.traits import Traits
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.model.layers import Axes
from tests.growth import reference, toys


def bert(layers, width, mlp, vocab=30522):
    """The axis graph of a BERT with a head that has a transform of its own."""
    heads = width // 64

    def box(shape, names, reads=0):
        return Axes(jax.ShapeDtypeStruct(shape, jnp.float32), names, reads=reads)

    def linear(name, inputs, outputs):
        names, sizes = zip(*inputs, *outputs, strict=True)
        kernel = box((layers, *sizes), ("layers", *names), len(inputs))
        names, sizes = zip(*outputs, strict=True)
        return {name: {"kernel": kernel, "bias": box((layers, *sizes), ("layers", *names))}}

    stream, units = ("embed", width), ("mlp", mlp)

    def head(name):
        return (f"{name}_heads", heads), (f"{name}_dim", 64)

    def norm(*names):
        part = box((layers,) * len(names[1:]) + (width,), names[1:] + names[:1])
        return {"scale": part, "bias": part}

    inside = {"attention_norm": norm("embed", "layers"), "mlp_norm": norm("embed", "layers")}
    inside["attention"] = {
        **linear("query", (stream,), head("query")),
        **linear("key", (stream,), head("key")),
        **linear("value", (stream,), head("value")),
        **linear("out", head("attended"), (stream,)),
    }
    inside["mlp"] = {**linear("up", (stream,), (units,)), **linear("down", (units,), (stream,))}
    return axes.graph(
        {
            "embed": {"embedding": box((vocab, width), ("vocab", "embed"), 1)},
            "transform": {"kernel": box((width, width), ("embed", "transform"), 1)},
            "layers": inside,
        }
    )


def bert_pair(small, large):
    traits = Traits(centred=True, gained=True, eps=1e-12, before=False)
    return presets.Pair(bert(*small), bert(*large), traits, traits)


SMALL, BASE, LARGE = (6, 512, 2048), (12, 768, 3072), (24, 1024, 4096)


class CountTest(parameterized.TestCase):
    """Numbers that an operator has, of which the paper gives orders only."""

    @parameterized.named_parameters(
        ("shared", "shared", 4 * 768 * 512 + 3072 * 2048 + 8 * 12 * 6, 7_864_896),
        (
            "paper", "paper", 768 * 512 * 19 + 3072 * 2048 * 6 + 8 * 12 * 6,
            45_220_416,
        ),
    )  # fmt: skip
    def test_published_forms(self, preset, formula, golden):
        learned = self._learned(preset, SMALL, BASE, without="transform")
        self.assertEqual(formula, golden)
        self.assertEqual(ligo.num_learned(learned), golden)

    @parameterized.parameters((SMALL, BASE, 30_147_712), (BASE, LARGE, 90_051_072))
    def test_released_form(self, small, large, golden):
        self.assertEqual(ligo.num_learned(self._learned("released", small, large)), golden)

    def _learned(self, preset, small, large, without=""):
        learned = jax.eval_shape(lambda: ligo.init(PRESETS[preset], bert_pair(small, large)))
        learned["write"].pop(without, None)
        return learned


class StartTest(parameterized.TestCase):
    @parameterized.parameters("mean", "softmax", "select", "select_noisy", "tile")
    def test_rows_of_new_entries_are_means_of_old_ones(self, start):
        rng = np.random.default_rng(0)
        rows = ligo._width_start(start, 6, 10, rng)
        np.testing.assert_array_equal(rows[:6], np.eye(6))
        np.testing.assert_allclose(rows[6:].sum(axis=1), 1)

    def test_noisy_stack(self):
        small = toys.source()
        pair = toys.pair(small, dataclasses.replace(small, num_layers=6))
        learned = ligo.init(LigoConfig(), pair)
        for weights in learned["depth"].values():
            np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
            np.testing.assert_array_equal(weights.argmax(axis=1), np.arange(6) % 3)
            self.assertGreater(weights.max(), 0.9)
            self.assertGreater(weights.min(), 0)

    def test_zero_start_is_refused(self):
        with self.assertRaisesRegex(UserError, "no gradient"):
            LigoConfig(width_start="zeros")

    @parameterized.parameters("paper", "shared", "released", "untied")
    def test_grown_shapes(self, preset):
        small = toys.source()
        changes = {"width": 96, "num_heads": 16, "num_kv_heads": 4, "mlp_width": 80}
        large = dataclasses.replace(small, num_layers=5, **changes)
        pair = toys.pair(small, large)
        operator = ligo.operator(PRESETS[preset], pair, ligo.init(PRESETS[preset], pair))
        grown = apply.grow(operator, pair.source, pair.target, toys.params(small))
        shapes = {path: value.shape for path, value in apply.flat(grown).items()}
        self.assertEqual(shapes, {p: x.shape for p, x in pair.target.params.items()})
        self.assertTrue(all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grown)))


class ExpressTest(parameterized.TestCase):
    def test_untied_tiles_exactly(self):
        """A != B can share out what copies write; the tied form cannot (HyperCloning)."""
        small = toys.source()
        changes = {"width": 96, "num_heads": 16, "num_kv_heads": 4, "mlp_width": 128}
        large = dataclasses.replace(small, **changes)
        pair = toys.pair(small, large)
        errors = {}
        for name in ("untied", "tied"):
            config = LigoConfig(tied=name == "tied", width_start="tile", depth_start="stack")
            operator = ligo.operator(config, pair, ligo.init(config, pair))
            new = toys.grown(operator, small, large, toys.params(small))
            ours = reference.logits(large, new, toys.TOKENS)
            theirs = reference.logits(small, toys.params(small), toys.TOKENS)
            errors[name] = np.abs(ours - theirs).max()
        self.assertLess(errors["untied"], 1e-5)
        self.assertGreater(errors["tied"], 0.1)

    def test_heads_are_mixed_and_keep_their_frequencies(self):
        """Under rotary positions a dimension of a head comes from the same one of other heads."""
        small = toys.source("neox")
        large = dataclasses.replace(small, num_heads=12, num_kv_heads=12)
        pair = toys.pair(small, large)
        config = LigoConfig()
        learned = ligo.init(config, pair)
        weights = toys.params(small)
        grown = apply.grow(ligo.operator(config, pair, learned), pair.source, pair.target, weights)
        old, new = (p["layers"]["attention"]["key"]["kernel"] for p in (weights, grown))
        mixed = np.einsum("HK,NDKE->NDHE", learned["write"]["key_heads"], old)
        np.testing.assert_allclose(new, mixed, rtol=1e-5, atol=1e-6)

    def test_queries_follow_their_keys(self):
        small = toys.source()
        large = dataclasses.replace(small, num_heads=12, num_kv_heads=3)
        pair = toys.pair(small, large)
        learned = ligo.init(LigoConfig(), pair)
        matrix = learned["write"]["query_heads"]
        grown = apply.grow(
            ligo.operator(LigoConfig(), pair, learned), pair.source, pair.target,
            toys.params(small),
        )  # fmt: skip
        old = toys.params(small)["layers"]["attention"]["query"]["kernel"].reshape(3, 48, 2, 4, 12)
        new = grown["layers"]["attention"]["query"]["kernel"].reshape(3, 48, 3, 4, 12)
        np.testing.assert_allclose(new, np.einsum("Kk,NDkGE->NDKGE", matrix, old), atol=1e-6)

    def test_heads_that_grow_are_refused(self):
        small = toys.source()
        with self.assertRaisesRegex(UserError, "keep head_dim"):
            ligo.init(LigoConfig(), toys.pair(small, dataclasses.replace(small, head_dim=24)))


class GradientTest(parameterized.TestCase):
    """At C = 0 what is tied has no gradient: new rows meet the loss only as products."""

    @parameterized.parameters((0.0, True), (0.02, False))
    def test_new_rows(self, size, dead):
        small = toys.source("neox")
        changes = {"width": 96, "num_heads": 16, "num_kv_heads": 16, "mlp_width": 128}
        large = dataclasses.replace(small, head_dim=12, **changes)
        pair = toys.pair(small, large)
        config = LigoConfig(corner=True)
        learned = jax.tree.map(jnp.asarray, ligo.init(config, pair))
        learned["write"] = jax.tree.map(lambda x: jnp.full_like(x, size), learned["write"])

        decoder, weights = Decoder(large), toys.params(small)

        def loss(learned):
            operator = ligo.operator(config, pair, learned)
            params = apply.grow(operator, pair.source, pair.target, weights)
            hidden = decoder.apply({"params": params}, toys.TOKENS)
            logits = decoder.apply({"params": params}, hidden, method="unembed")
            return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - logits[..., 3])

        grads = jax.jit(jax.grad(loss))(learned)["write"]
        for role in ("query_heads", "key_heads", ligo.VALUES, "mlp"):
            largest = float(jnp.abs(grads[role]).max())
            self.assertEqual(largest == 0, dead, f"{role}: {largest}")
