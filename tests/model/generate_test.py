"""Generation against one token at a time, and what the nucleus may hold."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.model import generate as lib
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.model.generate import Sampling, generate

CONFIG = ModelConfig(
    vocab_size=24, width=16, num_layers=2, num_heads=2, mlp_width=32, max_length=24, scan_unroll=1
)
PROMPTS = [[3, 1, 4], [5], [9, 2, 6, 5, 3]]


@pytest.fixture(scope="module")
def params():
    fresh = jax.jit(lambda key: nn.unbox(Decoder(CONFIG).new_params(key)))(jax.random.key(1))
    return jax.tree.map(lambda x: x * 3, fresh)  # so that texts differ from each other


def argmax_after(params, prompts, found):
    """The most likely token after each prefix that generation had, from one ordinary forward."""
    decoder, rows_BxL = Decoder(CONFIG), np.zeros((len(prompts), 12), np.int32)
    for row, prompt, text in zip(rows_BxL, prompts, found, strict=True):
        row[: len(prompt) + len(text)] = [*prompt, *text]

    @jax.jit
    def likeliest(params, rows_BxL):
        h_BxLxD = decoder.apply({"params": params}, rows_BxL)
        return decoder.apply({"params": params}, h_BxLxD, method="unembed").argmax(-1)

    best_BxL = np.asarray(likeliest(params, rows_BxL))
    ends = zip(best_BxL, prompts, found, strict=True)
    return [best[len(p) - 1 : len(p) + len(text)].tolist() for best, p, text in ends]


def test_greedy_text_is_the_argmax_of_each_step(params):
    free = generate(CONFIG, params, PROMPTS, Sampling(0, max_new=6), [0] * 3, 23, length=12)
    assert [len(text) for text in free] == [6, 6, 6]
    wanted = argmax_after(params, PROMPTS, free)
    assert free == [best[:6] for best in wanted]
    eos = free[0][2]  # a token that occurs ends its text there
    cut = generate(CONFIG, params, PROMPTS, Sampling(0, max_new=6), [0] * 3, eos, length=12)
    assert cut == [text[: text.index(eos)] if eos in text else text for text in free]
    assert len(cut[0]) <= 2


def test_a_row_is_its_own(params):
    sampling = Sampling(0.9, top_p=0.8, max_new=6)
    together = generate(CONFIG, params, PROMPTS, sampling, [7, 8, 9], eos_id=0, length=12)
    alone = generate(CONFIG, params, PROMPTS[1:2], sampling, [8], 0, length=20)
    assert together[1:2] == alone
    other = generate(CONFIG, params, PROMPTS, sampling, [1, 2, 3], eos_id=0, length=12)
    assert together != other


@pytest.mark.parametrize(("top_p", "held"), [(0.3, {2}), (0.55, {2, 0}), (0.85, {2, 0, 3})])
def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p(top_p, held):
    logits_V = jnp.log(jnp.array([0.3, 0.05, 0.5, 0.15]))
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = jax.vmap(lambda key: lib.choose(logits_V, key, Sampling(1.0, top_p)))(keys)
    assert set(np.asarray(drawn).tolist()) == held


def test_draws_follow_the_tempered_probabilities():
    probs_V = np.array([0.6, 0.3, 0.1])
    keys = jax.random.split(jax.random.key(0), 4000)
    sampling = Sampling(temperature=2.0)
    drawn = jax.vmap(lambda key: lib.choose(jnp.log(probs_V), key, sampling))(keys)
    wanted_V = np.sqrt(probs_V) / np.sqrt(probs_V).sum()
    shares_V = np.bincount(np.asarray(drawn), minlength=3) / 4000
    np.testing.assert_allclose(shares_V, wanted_V, atol=0.03)


def test_what_cannot_be_continued_is_refused(params):
    assert generate(CONFIG, params, [], Sampling(), [], 0) == []
    with pytest.raises(UserError, match="at least one token"):
        generate(CONFIG, params, [[]], Sampling(), [0], 0)
    with pytest.raises(UserError, match="max_length 24"):
        generate(CONFIG, params, [[1] * 20], Sampling(max_new=5), [0], 0)
    with pytest.raises(UserError, match="got an encoder"):
        encoder = dataclasses.replace(
            CONFIG, kind="encoder", position="learned", tie_embeddings=True
        )
        generate(encoder, params, [[1]], Sampling(), [0], 0)
    for wrong in ({"temperature": -1}, {"top_p": 0}, {"max_new": 0}):
        with pytest.raises(UserError, match="expected"):
            Sampling(**wrong)
