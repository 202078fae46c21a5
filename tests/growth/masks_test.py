"""Masked growth, against a masked decoder in numpy and float64, written from its definition."""

import dataclasses
import functools

import jax
import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.growth import apply, masks, presets
from tests.growth import reference, toys

WHOLE = {
    "width": 80, "num_layers": 5, "num_heads": 12, "num_kv_heads": 3, "head_dim": 24,
    "mlp_width": 100,
}  # fmt: skip
AXES = {
    "stream": {"width": 80},
    "heads": {"num_heads": 12},
    "key_heads": {"num_heads": 12, "num_kv_heads": 3},
    "head_dim": {"head_dim": 24},
    "units": {"mlp_width": 100},
    "depth": {"num_layers": 5},
    "all": WHOLE,
}


def _grow(small, changes, pattern="append"):
    """The target, its drawn parameters and what fades in."""
    return _grown(small, tuple(changes.items()), pattern)


@functools.lru_cache
def _grown(small, changes, pattern):
    changes = dict(changes)
    large = dataclasses.replace(small, **changes)
    eps = presets.WIDTHS["masked"](toys.pair(small, large)).eps
    if eps is not None:
        large = dataclasses.replace(large, norm_eps=eps)
    pair = toys.pair(small, large)
    operator = presets.make(pair, "masked", pattern)
    presets.require_exact(operator)
    with jax.enable_x64(True):
        wide = jax.tree.map(np.float64, toys.params(small))

        def grow(params):
            return apply.grow(operator, pair.source, pair.target, params, jax.random.key(0))

        params = jax.tree.map(np.asarray, jax.jit(grow)(wide))
    return large, params, masks.fades(pair, pattern)


def _seen(fades, params, c):
    with jax.enable_x64(True):
        seen = jax.jit(lambda p: masks.effective(fades, p, c))(params)
        return jax.tree.map(np.asarray, seen)


def _sum(params):
    return sum(x.sum() for x in jax.tree.leaves(params))


def _masked_logits(small, large, params, c, added_N):
    """The masked model: masks stand where the definition has them, parameters are as drawn."""

    def mask(old, new):
        return np.where(np.arange(new) < old, 1.0, c)

    m_D = mask(small.width, large.width)
    m_E = mask(small.head_size, large.head_size)
    group, old_group = large.num_heads // large.kv_heads, small.num_heads // small.kv_heads
    place, inside = np.divmod(np.arange(large.num_heads), group)
    m_H = np.where((inside < old_group) & (place < small.kv_heads), 1.0, c)
    rotated = _places(small, large)
    m_Q = np.where(rotated, 1.0, c)
    m_F = mask(small.mlp_width, large.mlp_width)
    eps = large.norm_eps / m_D.mean()

    def norm(gain, x, masked=True):
        y = gain * x / np.sqrt((m_D * x * x).sum(-1, keepdims=True) / m_D.sum() + eps)
        return m_D * y if masked else y

    p = reference._float64(params)
    length = toys.TOKENS.shape[1]
    causal = np.tril(np.ones((length, length), bool))
    h = p["embed"]["embedding"][toys.TOKENS]
    for n in range(large.num_layers):
        layer = reference._pick(p["layers"], n)
        m_branch = c if added_N[n] else 1.0
        x, w = norm(layer["attention_norm"]["scale"], h), layer["attention"]
        q, k, v = (np.einsum("BLD,DHE->BLHE", x, w[i]["kernel"]) for i in ("query", "key", "value"))
        q, k = m_Q * reference._rotate(large, q), reference._rotate(large, k)
        k, v = (np.repeat(y, group, axis=2) for y in (k, v))
        scores = np.einsum("BLHE,BMHE->BHLM", q, k) / np.sqrt(m_Q.sum())
        scores = np.exp(np.where(causal, scores, -np.inf))
        out = np.einsum("BHLM,BMHE->BLHE", scores / scores.sum(-1, keepdims=True), v)
        out = out * m_H[:, None] * m_E
        h = h + m_branch * np.einsum("BLHE,HED->BLD", out, w["out"]["kernel"])
        x, w = norm(layer["mlp_norm"]["scale"], h), layer["mlp"]
        gate, up = x @ w["gate"]["kernel"], x @ w["up"]["kernel"]
        h = h + m_branch * (m_F * gate / (1 + np.exp(-gate)) * up) @ w["down"]["kernel"]
    h = norm(p["final_norm"]["scale"], h)
    return h @ (p["embed"]["embedding"].T if large.tie_embeddings else p["unembed"]["kernel"])


def _places(small, large):
    """Which dimensions of a rotary head are of the source: pair p is at m p."""
    times, half = large.head_size // small.head_size, small.head_size // 2
    old = np.zeros(large.head_size, bool)
    old[times * np.arange(half)] = old[times * half + times * np.arange(half)] = True
    return old


class MaskedTest(parameterized.TestCase):
    @parameterized.parameters(*(("llama", axis) for axis in AXES), ("llama_tied", "all"))
    def test_at_growth_it_is_the_source(self, family, axis):
        small = toys.source(family)
        large, params, fades = _grow(small, AXES[axis])
        seen = reference.logits(large, _seen(fades, params, 0.0), toys.TOKENS)
        old = reference.logits(small, toys.params(small), toys.TOKENS)
        self.assertLess(np.abs(seen - old).max(), 1e-12)
        # New entries are drawn: none is silent by being 0.
        self.assertTrue(all((x != 0).all() for x in jax.tree.leaves(params)))
        self.assertGreater(np.abs(reference.logits(large, params, toys.TOKENS) - old).max(), 1e-3)

    @parameterized.product(family=("neox", "gpt2"), axis=("units", "depth", "heads"))
    def test_norms_that_subtract_the_mean(self, family, axis):
        small = toys.source(family)
        changes = {"num_heads": 12, "num_kv_heads": 12} if axis == "heads" else AXES[axis]
        large, params, fades = _grow(small, changes)
        seen = reference.logits(large, _seen(fades, params, 0.0), toys.TOKENS)
        old = reference.logits(small, toys.params(small), toys.TOKENS)
        self.assertLess(np.abs(seen - old).max(), 1e-12)

    @parameterized.parameters("stack", "middle", "identity")
    def test_any_depth(self, pattern):
        small = toys.source()
        large, params, fades = _grow(small, {"num_layers": 5}, pattern)
        seen = reference.logits(large, _seen(fades, params, 0.0), toys.TOKENS)
        old = reference.logits(small, toys.params(small), toys.TOKENS)
        self.assertLess(np.abs(seen - old).max(), 1e-12)

    @parameterized.product(family=("llama", "llama_tied"), c=(0.02, 0.3, 1.0))
    def test_between_it_is_the_masked_model(self, family, c):
        small = toys.source(family)
        large, params, fades = _grow(small, WHOLE)
        seen = reference.logits(large, _seen(fades, params, c), toys.TOKENS)
        added_N = np.arange(large.num_layers) >= small.num_layers
        wanted = _masked_logits(small, large, params, c, added_N)
        self.assertLess(np.abs(seen - wanted).max(), 1e-12)

    def test_at_the_end_it_is_the_identity_to_the_bit(self):
        small = toys.source("llama_tied")
        large, params, fades = _grow(small, WHOLE)
        params = jax.tree.map(np.float32, params)
        view = jax.jit(masks.view(fades, 7))
        for step in (7, 8):
            jax.tree.map(np.testing.assert_array_equal, view(params, step), params)
        before = apply.flat(view(params, 6))
        changed = [path for path, x in apply.flat(params).items() if (x != before[path]).any()]
        self.assertNotIn("layers/mlp/up/kernel", changed)
        self.assertLen(changed, 7)  # embedding, three gains, query, out, down
        self.assertEqual(large.num_layers, 5)

    def test_every_new_entry_has_a_gradient_once_it_fades_in(self):
        small = toys.source()
        _, params, fades = _grow(small, {"width": 80, "mlp_width": 100})
        params = jax.tree.map(np.float32, params)
        for c, alive in ((0.0, False), (0.1, True)):
            grads = jax.jit(jax.grad(lambda p, c=c: _sum(masks.effective(fades, p, c))))(params)
            down = grads["layers"]["mlp"]["down"]["kernel"]
            self.assertEqual(bool((down[:, 64:, 48:] != 0).all()), alive)

    @parameterized.parameters("neox", "gpt2", "olmo")
    def test_a_stream_under_layer_norms_is_refused(self, family):
        small = toys.source(family)
        large = dataclasses.replace(small, width=96)
        with self.assertRaisesRegex(UserError, "weighted mean of a LayerNorm"):
            presets.make(toys.pair(small, large), "masked", "append")
