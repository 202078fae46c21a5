"""Trained runs: pure, scored as the loss says, kept on disk, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.model.build import build_model
from llm_dynamics.model.loss import token_losses
from llm_dynamics.skills import languages, training
from llm_dynamics.skills import texts as texts_lib
from llm_dynamics.skills.languages import LanguageConfig
from llm_dynamics.skills.training import TrainedConfig

SMALL = TrainedConfig(
    LanguageConfig("parallel", 4, 4, (1, 2), held_out=0.3),
    width=16, layers=1, heads=2, steps=120, batch=64, peak=1e-2, warmup=10, looks=4, texts=256,
)  # fmt: skip


@pytest.fixture(scope="module")
def small():
    return training.train(SMALL)


def test_a_run_learns_and_is_looked_at_where_it_says(small):
    np.testing.assert_array_equal(small.steps_N, [0, 30, 60, 90, 120])
    assert set(small.seen) == {"k1", "k2", "k2/held_out"}
    first, last = small.outcomes("k1", 0), small.outcomes("k1", -1)
    assert last.delta < 0.5 * first.delta and last.theta < first.theta
    assert np.isnan(small.loss_N[0]) and small.loss_N[-1] < small.loss_N[1]


def test_looking_more_often_changes_nothing(small):
    often = training.train(dataclasses.replace(SMALL, looks=8))
    np.testing.assert_array_equal(often.seen["k2"].excess_NxT[-1], small.seen["k2"].excess_NxT[-1])


def test_another_seed_is_another_run(small):
    other = training.train(dataclasses.replace(SMALL, seed=1, looks=1))
    assert (other.seen["k2"].excess_NxT[-1] != small.seen["k2"].excess_NxT[-1]).any()


class ScoreTest(parameterized.TestCase):
    @parameterized.parameters("parallel", "serial", "sum", "latent")
    def test_the_excess_is_the_loss_less_the_best_one(self, kind):
        language = LanguageConfig(kind, 4, 4, (2,), noise=0.0 if kind == "sum" else 0.2, demos=2)
        config = dataclasses.replace(SMALL, language=language, texts=64)
        made = languages.tables(language)
        texts = texts_lib.draw(language, made, jax.random.key(0), 64, 2)
        params = training._compiled(config)[0](jax.random.key(1))[0]
        right_TxA, excess_T = training.score(config.model, language.skills, params, texts)
        # The model's losses of every symbol at every answer, from the loss that trains decoders.
        decoder, first = build_model(config.model), languages.FIRST_SKILL + language.skills
        loss_QxTxA = []
        for symbol in range(language.symbols):
            targets = np.full(texts.tokens_TxL.shape, first + symbol)
            positions = np.broadcast_to(np.arange(targets.shape[1]), targets.shape)
            batch = Batch(texts.tokens_TxL, targets, texts.segment_ids_TxL, positions, None)
            loss_QxTxA.append(token_losses(decoder, params, batch)[:, texts.columns_A])
        loss_TxAxQ = np.moveaxis(np.array(loss_QxTxA), 0, -1)
        best_TxAxQ = np.asarray(texts.bayes_TxAxQ, float)
        own = -np.sum(best_TxAxQ * np.log(np.maximum(best_TxAxQ, 1e-30)), axis=-1)
        expected = np.sum(best_TxAxQ * loss_TxAxQ, axis=-1) - own
        np.testing.assert_allclose(excess_T, expected.sum(axis=1), rtol=2e-4, atol=2e-5)
        # An answer is right if it is one of the best, which demonstrations may leave equal.
        chosen_TxAx1 = loss_TxAxQ.argmin(-1)[..., None]
        had = np.take_along_axis(best_TxAxQ, chosen_TxAx1, -1)[..., 0]
        best = had >= best_TxAxQ.max(-1) - 1e-5
        assert not np.any(np.asarray(right_TxA) & ~best)


def test_a_run_on_disk_is_the_run(small, tmp_path):
    path = tmp_path / "runs" / "one.npz"
    training.save(small, path)
    again = training.load(SMALL, path)
    for name, seen in small.seen.items():
        for field in ("skills_TxK", "right_NxTxA", "excess_NxT"):
            np.testing.assert_array_equal(getattr(again.seen[name], field), getattr(seen, field))
    assert [p.name for p in path.parent.iterdir()] == ["one.npz"]


def test_damaged_and_foreign_files_are_refused(small, tmp_path):
    path = tmp_path / "one.npz"
    training.save(small, path)
    with pytest.raises(UserError, match="another run than asked for"):
        training.load(dataclasses.replace(SMALL, seed=1), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="delete it, and the same command trains"):
        training.load(SMALL, path)


def test_what_cannot_be_trained():
    for changes, words in (
        ({"texts": 1500}, "a multiple of it, got 1500"),
        ({"looks": 500}, "at most as many looks as 120 steps"),
        ({"width": 17}, "width 17 is not a multiple"),
        ({"warmup": 500}, "warmup"),
        ({"seed": -1}, "a seed of 0"),
    ):
        with pytest.raises(UserError, match=words):
            dataclasses.replace(SMALL, **changes)
    with pytest.raises(UserError, match="lower peak"):
        training.train(dataclasses.replace(SMALL, peak=1e30, looks=1, steps=40))


def test_the_best_loss_is_the_entropy_of_the_answers():
    noisy = dataclasses.replace(SMALL.language, noise=0.2)
    config = dataclasses.replace(SMALL, language=noisy)
    np.testing.assert_allclose(training.best_loss(config, "k2"), 2 * languages.entropy(0.2, 4))
    assert training.best_loss(SMALL, "k2") == 0
    # Shown nothing but noise, a latent skill leaves a uniform answer.
    latent = LanguageConfig("latent", 4, 4, (2,), noise=0.999, demos=1)
    config = dataclasses.replace(SMALL, language=latent, texts=64)
    np.testing.assert_allclose(training.best_loss(config, "k2"), 2 * np.log(4), rtol=1e-3)
