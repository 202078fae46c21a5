"""Scores are right, and do not depend on which other probes share the batch."""

import dataclasses
import functools
import importlib.util
import pathlib
from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.model import sharding
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.probe import scoring
from llm_dynamics.probe.packing import pack
from llm_dynamics.probe.probes import EncodedProbe
from llm_dynamics.probe.scoring import MEASURES, make_scorer

CONFIG = ModelConfig(
    vocab_size=64, width=32, num_layers=2, num_heads=4, mlp_width=64, scan_unroll=1
)


@functools.cache
def model(**changes):
    """A decoder with weights large enough that probabilities differ from 1/V."""
    decoder = Decoder(dataclasses.replace(CONFIG, **changes))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.25, x.dtype),
        sharding.abstract_params(decoder),
    )
    return decoder, params


def probes(count=23, vocab=64, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 15, count)
    targets = [int(rng.integers(1, min(n, 6))) for n in sizes]
    return [
        EncodedProbe(f"p{i}", tuple(int(t) for t in rng.integers(0, vocab, n)), m)
        for i, (n, m) in enumerate(zip(sizes, targets, strict=True))
    ]


def branch(stem, end):
    """A probe that begins as one does and ends as another."""
    ids = stem.ids[: len(stem.ids) - 1] + end.ids
    return EncodedProbe("", ids[:15], 1)


def definition(probe, logits_LxV):
    """The measures of one probe from the full logits of its text, in float64."""
    m = probe.num_target
    logits_WxV = np.asarray(logits_LxV, np.float64)[-m - 1 : -1]
    target_W = np.array(probe.ids[-m:])
    logit_W = logits_WxV[np.arange(m), target_W]
    logprob_W = logit_W - np.log(np.exp(logits_WxV).sum(axis=1))
    return {
        "logprob_mean": logprob_W.mean(),
        "logprob_sum": logprob_W.sum(),
        "logprob_first": logprob_W[0],
        "rank_first": 1 + (logits_WxV[0] > logit_W[0]).sum(),
        "greedy_match": float((logits_WxV.argmax(axis=1) == target_W).all()),
    }


@functools.cache
def full_logits(decoder):
    """All logits of one row of 16 tokens; what stands to the right of a text cannot change it."""

    def run(params, tokens_L):
        h_1xLxD = decoder.apply({"params": params}, tokens_L[None])
        return decoder.apply({"params": params}, h_1xLxD[0], method="unembed")

    jitted = jax.jit(run)
    return lambda params, ids: jitted(params, np.pad(ids, (0, 16 - len(ids))))[: len(ids)]


def one_by_one(decoder, params, encoded):
    """The plain way: every probe alone, unpacked, its full logits."""
    values = []
    for probe in encoded:
        measures = definition(probe, full_logits(decoder)(params, probe.ids))
        values.append([measures[name] for name in MEASURES])
    return np.array(values)


def greedy(decoder, params, probe):
    """The same probe, its target replaced by what the model would write."""
    ids = list(probe.ids)
    for i in range(len(ids) - probe.num_target, len(ids)):
        ids[i] = int(np.argmax(full_logits(decoder)(params, ids[:i])[-1]))
    return dataclasses.replace(probe, ids=tuple(ids))


@functools.cache
def compiled(decoder):
    return jax.jit(functools.partial(scoring._score, decoder))


def score(decoder, params, packed):
    """`scoring.score`, compiled: eager dispatch of a whole model is slow."""
    return compiled(decoder)(params, packed.rows, scoring._compact(packed))


class ScoreTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("rotary", {}),
        ("learned_positions_tied", {"position": "learned", "tie_embeddings": True}),
        ("windows", {"window": 4, "global_every": 2}),
    )
    def test_equals_each_probe_alone_and_unpacked(self, changes):
        decoder, params = model(**changes)
        encoded = probes()
        encoded += [branch(*encoded[i : i + 2]) for i in (0, 5, 5, 9)] + [encoded[7]]
        encoded[4] = greedy(decoder, params, encoded[4])
        expected = one_by_one(decoder, params, encoded)
        values_PxM = score(decoder, params, pack(encoded, 32))
        self.assertEqual(values_PxM.dtype, jnp.float32)
        np.testing.assert_allclose(values_PxM, expected, atol=1e-5)
        self.assertEqual(values_PxM[4, MEASURES.index("greedy_match")], 1)
        self.assertEqual(values_PxM[4, MEASURES.index("rank_first")], 1)
        self.assertGreater(np.ptp(expected[:, 2]), 1)  # not all alike

    def test_does_not_depend_on_the_company(self):
        decoder, params = model()
        encoded = probes()
        values_PxM = score(decoder, params, pack(encoded, 32))
        order = np.random.default_rng(1).permutation(len(encoded))
        shuffled_PxM = score(decoder, params, pack([encoded[i] for i in order], 32))
        np.testing.assert_allclose(shuffled_PxM, values_PxM[order], atol=1e-5)
        longer_PxM = score(decoder, params, pack(encoded, 57, rows_multiple=4))
        np.testing.assert_allclose(longer_PxM, values_PxM, atol=1e-5)
        for p in (0, 22):
            alone_1xM = score(decoder, params, pack([encoded[p]], 16))
            np.testing.assert_allclose(alone_1xM[0], values_PxM[p], atol=1e-5)
        others = encoded[:11] + probes(12, seed=9)
        np.testing.assert_allclose(
            score(decoder, params, pack(others, 32))[:11], values_PxM[:11], atol=1e-5
        )

    def test_parameters_of_numpy_score_as_those_of_jax(self):
        decoder, params = model()
        packed = pack(probes(3), 32)
        theirs = jax.tree.map(np.asarray, params)
        values_PxM = jax.jit(lambda: scoring.score(decoder, theirs, packed))()
        np.testing.assert_allclose(values_PxM, score(decoder, params, packed), atol=1e-5)

    def test_rest_of_the_vocabulary_in_chunks(self):
        decoder, params = model()
        packed = pack(probes(), 32)
        expected_PxM = score(decoder, params, packed)
        with mock.patch.object(scoring, "_LOGITS_BUDGET", 64 * 16):
            chunked = jax.jit(lambda p: scoring.score(decoder, p, packed))
            self.assertEqual(
                chunked.lower(params).as_text().count("stablehlo.while"), 2
            )  # + layers
            np.testing.assert_allclose(chunked(params), expected_PxM, atol=1e-5)

    def test_logits_memory_is_bounded(self):
        decoder, params = model(vocab_size=8192)
        encoded = probes(600, vocab=8192)
        tokens = sum(probe.num_target for probe in encoded)
        with mock.patch.object(scoring, "_LOGITS_BUDGET", 8192 * 64):
            run = jax.jit(functools.partial(scoring._score, decoder))
            packed = pack(encoded, 16)
            program = run.lower(params, packed.rows, scoring._compact(packed)).compile()
        temporary = program.memory_analysis().temp_size_in_bytes
        self.assertLess(temporary, tokens * 8192 * 4 / 4)

    def test_a_log_probability_of_zero_counts(self):
        """A certain first token and an uncertain second: the mean is over two, not one."""
        decoder, params = model()
        logits_2xV = np.zeros((2, 64), np.float32)
        logits_2xV[0, 5] = 200.0  # ln p = 0 exactly in float32
        probe = EncodedProbe("p", (1, 5, 9), 2)
        with mock.patch.object(Decoder, "unembed", lambda self, h: jnp.asarray(logits_2xV)):
            values = dict(zip(MEASURES, score(decoder, params, pack([probe], 4))[0], strict=True))
        self.assertEqual(values["logprob_first"], 0.0)
        self.assertAlmostEqual(values["logprob_sum"], -np.log(64), places=5)
        self.assertAlmostEqual(values["logprob_mean"], -np.log(64) / 2, places=5)
        self.assertEqual(values["rank_first"], 1)
        self.assertEqual(values["greedy_match"], 1)  # 64 equal logits: none is larger

    def test_non_finite_logits_are_not_a_rank(self):
        decoder, params = model()
        broken = jax.tree.map(lambda x: x * jnp.nan, params)
        self.assertTrue(np.isnan(score(decoder, broken, pack(probes(3), 32))).all())

    def test_bfloat16_model_has_a_float32_softmax(self):
        decoder, params = model(compute_dtype="bfloat16")
        encoded = probes()
        values_PxM = score(decoder, params, pack(encoded, 32))
        self.assertEqual(values_PxM.dtype, jnp.float32)
        expected = one_by_one(decoder, params, encoded)
        np.testing.assert_allclose(values_PxM[:, 0], expected[:, 0], atol=0.2)
        # A bfloat16 softmax would leave at most 8 significant bits.
        rounded = values_PxM.astype(jnp.bfloat16).astype(jnp.float32)
        self.assertGreater(np.mean(rounded[:, 0] != values_PxM[:, 0]), 0.8)


class ScorerTest(parameterized.TestCase):
    def test_one_compilation_and_no_donation(self):
        decoder, params = model()
        packed = pack(probes(), 32)
        expected = one_by_one(decoder, params, probes())
        counted = chex.assert_max_traces(scoring._score, n=1)
        with mock.patch.object(scoring, "_score", counted):
            scorer = make_scorer(decoder, packed)
            for scale in (1.0, 0.5, 1.0):
                scaled = jax.tree.map(lambda x, s=scale: x * s, params)
                values = scorer(scaled)
                jax.block_until_ready(values)
                self.assertFalse(any(x.is_deleted() for x in jax.tree.leaves(scaled)))
        np.testing.assert_allclose(values, expected, atol=1e-5)

    @parameterized.named_parameters(("data", 8, 1, 1), ("all_axes", 2, 2, 2))
    def test_on_a_mesh(self, data, fsdp, tensor):
        decoder, params = model()
        packed = pack(probes(), 32, rows_multiple=8)
        expected = one_by_one(decoder, params, probes())
        mesh = sharding.make_mesh(data, fsdp, tensor)
        where = sharding.param_shardings(decoder, mesh)
        scorer = make_scorer(decoder, packed, mesh, where)
        values_PxM = scorer(jax.device_put(params, where))
        self.assertTrue(values_PxM.sharding.is_fully_replicated)
        np.testing.assert_allclose(values_PxM, expected, atol=1e-5)

    def test_the_same_bits_every_time(self):
        decoder, params = model()
        scorer = make_scorer(decoder, pack(probes(), 32))
        self.assertEqual(np.asarray(scorer(params)).tobytes(), np.asarray(scorer(params)).tobytes())


class TransformersTest(absltest.TestCase):
    def test_equals_transformers_one_probe_at_a_time(self):
        """A random GPT-NeoX model of the transformers library, its weights copied."""
        import torch

        path = pathlib.Path(__file__).parents[1] / "model" / "families_test.py"
        spec = importlib.util.spec_from_file_location("families", path)
        families = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(families)
        torch.manual_seed(0)
        theirs, config, convert = families.neox(parallel=True, fraction=0.5)
        theirs.eval()
        encoded = probes(vocab=config.vocab_size)
        with torch.no_grad():
            for weight in theirs.parameters():
                weight.add_(torch.randn_like(weight) * 0.15)
            expected = [
                definition(probe, theirs(torch.tensor([probe.ids])).logits[0].numpy())
                for probe in encoded
            ]
        params = jax.tree.map(jnp.asarray, convert(theirs.state_dict()))
        values_PxM = score(Decoder(config), params, pack(encoded, 32))
        expected_PxM = np.array([[row[name] for name in MEASURES] for row in expected])
        np.testing.assert_allclose(values_PxM, expected_PxM, atol=1e-4)


if __name__ == "__main__":
    absltest.main()
