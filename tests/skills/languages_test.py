"""Languages against a reader that knows their rules, and their best loss against enumeration."""

import itertools

import jax
import numpy as np
import pytest
from absl.testing import parameterized
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.skills import languages
from llm_dynamics.skills import texts as texts_lib
from llm_dynamics.skills.languages import BOS, FIRST_SKILL, SEP, LanguageConfig

KEY = jax.random.key(3)
DRAW = jax.jit(texts_lib.draw, static_argnums=(0, 3, 4, 5))


def drawn(config, count=300, size=None, held_out=False, key=KEY):
    size = size or config.sizes[0]
    texts = DRAW(config, languages.tables(config), key, count, size, held_out)
    return jax.tree.map(np.asarray, texts)


class TextsTest(parameterized.TestCase):
    @parameterized.parameters("parallel", "sum", "serial")
    def test_a_reader_of_the_tokens_gets_the_answers(self, kind):
        config = LanguageConfig(kind, 6, 5, (3, 1))
        pi_SxQ = languages.tables(config).pi_SxQ
        for size in config.sizes:
            texts = drawn(config, size=size)
            for row in range(50):
                tokens = np.asarray(texts.tokens_TxL[row])
                assert tokens[0] == BOS
                skills = np.asarray(texts.skills_TxK[row])
                symbol = FIRST_SKILL + config.skills
                if kind == "serial":
                    named, x = tokens[1 : size + 1], int(tokens[size + 1]) - symbol
                    for skill in skills:
                        x = pi_SxQ[skill, x]
                    answers = [x]
                else:
                    named = tokens[1 : 2 * size + 1 : 2]
                    inputs = tokens[2 : 2 * size + 2 : 2] - symbol
                    assert tokens[2 * size + 1] == SEP
                    answers = [pi_SxQ[s, x] for s, x in zip(skills, inputs, strict=True)]
                    answers = [sum(answers) % 5] if kind == "sum" else answers
                np.testing.assert_array_equal(named, FIRST_SKILL + skills)
                np.testing.assert_array_equal(texts.answer_TxA[row], symbol + np.array(answers))
                np.testing.assert_array_equal(texts.bayes_TxAxQ[row].argmax(-1), answers)
                # What is predicted stands behind the column that predicts it.
                for column, answer in zip(
                    texts.columns_A[:-1], texts.answer_TxA[row], strict=False
                ):
                    assert tokens[column + 1] == answer
            inside = np.asarray(texts.segment_ids_TxL).sum(axis=1)
            assert (inside == config.text_length(size)).all()

    def test_latent_demonstrations_obey_the_skill(self):
        config = LanguageConfig("latent", 6, 5, (2,), demos=3)
        texts = drawn(config, 40)
        pi_SxQ, symbol = languages.tables(config).pi_SxQ, FIRST_SKILL + config.skills
        whole = np.concatenate([texts.tokens_TxL[:, 1:], texts.answer_TxA[:, -1:]], axis=1) - symbol
        pairs_TxKxMx2 = whole.reshape(40, 2, 4, 2)
        for t, j in itertools.product(range(40), range(2)):
            x, y = pairs_TxKxMx2[t, j].T
            np.testing.assert_array_equal(y, pi_SxQ[int(texts.skills_TxK[t, j]), x])
            assert texts.tokens_TxL[t, texts.columns_A[j]] == symbol + x[-1]

    def test_latent_bayes_is_what_enumerating_the_skills_gives(self):
        config = LanguageConfig("latent", 7, 4, (2,), noise=0.3, demos=2, zipf=1.0)
        texts = drawn(config, 30)
        made, symbol = languages.tables(config), FIRST_SKILL + config.skills
        body = np.asarray(texts.tokens_TxL)[:, 1:] - symbol
        right, wrong = 0.7 + 0.3 / 4, 0.3 / 4
        for t in range(30):
            for j, column in enumerate(texts.columns_A):
                slot = body[t, column - 5 : column]  # x y x y x
                weights = languages.measure(config).copy()
                for s in range(7):
                    for x, y in (slot[0:2], slot[2:4]):
                        weights[s] *= right if made.pi_SxQ[s, x] == y else wrong
                weights /= weights.sum()
                expected = [
                    sum(w * (right if made.pi_SxQ[s, slot[4]] == y else wrong)
                        for s, w in enumerate(weights))
                    for y in range(4)
                ]  # fmt: skip
                np.testing.assert_allclose(texts.bayes_TxAxQ[t, j], expected, rtol=1e-4)

    @parameterized.parameters("parallel", "serial", "latent")
    def test_best_predictions_are_calibrated(self, kind):
        config = LanguageConfig(kind, 5, 4, (2,), noise=0.4, demos=2)
        texts = drawn(config, 6000)
        answers = np.asarray(texts.answer_TxA) - FIRST_SKILL - config.skills
        bayes = np.asarray(texts.bayes_TxAxQ, float)
        np.testing.assert_allclose(bayes.sum(-1), 1, rtol=1e-5)
        said = -np.log(np.take_along_axis(bayes, answers[..., None], -1)[..., 0])
        meant = stats.entropy(bayes, axis=-1)
        error = (said - meant).std() / np.sqrt(said.size)
        assert abs(said.mean() - meant.mean()) < 4.5 * error
        if kind != "latent":
            np.testing.assert_allclose(meant, languages.entropy(0.4, 4), rtol=1e-5)

    def test_entropy_of_an_answer(self):
        for noise, symbols in ((0.0, 8), (0.1, 16), (0.5, 2)):
            p = np.full(symbols, noise / symbols)
            p[0] += 1 - noise
            np.testing.assert_allclose(languages.entropy(noise, symbols), stats.entropy(p))

    def test_skills_follow_their_measure(self):
        config = LanguageConfig("parallel", 20, 4, (4,), zipf=1.0)
        skills = np.asarray(drawn(config, 5000).skills_TxK).ravel()
        counts = np.bincount(skills, minlength=20)
        expected = languages.measure(config) * skills.size
        assert stats.chisquare(counts, expected).pvalue > 1e-4
        np.testing.assert_allclose(languages.measure(config)[4] * 5, languages.measure(config)[0])

    @parameterized.parameters("parallel", "serial", "sum")
    def test_held_out_pairs_are_only_where_they_are_asked_for(self, kind):
        config = LanguageConfig(kind, 10, 4, (3,), held_out=0.3)
        made = languages.tables(config)
        pairs = 90 if kind == "serial" else 45
        found = made.held_out_SxS.sum() / (1 if kind == "serial" else 2)
        assert found == round(0.3 * pairs) and not made.held_out_SxS.diagonal().any()

        def has(row):
            pairs = itertools.pairwise(row)
            pairs = pairs if kind == "serial" else itertools.combinations(row, 2)
            return any(made.held_out_SxS[a, b] for a, b in pairs)

        assert not any(map(has, np.asarray(drawn(config).skills_TxK)))
        assert all(map(has, np.asarray(drawn(config, held_out=True).skills_TxK)))

    def test_texts_are_a_function_of_the_key_alone(self):
        config = LanguageConfig("parallel", 6, 5, (2,), held_out=0.2, noise=0.1)
        first, second, other = drawn(config), drawn(config), drawn(config, key=jax.random.key(4))
        jax.tree.map(np.testing.assert_array_equal, first, second)
        assert (first.tokens_TxL != other.tokens_TxL).any()

    def test_a_lesson_mixes_the_sizes_and_knows_where_answers_are(self):
        config = LanguageConfig("parallel", 6, 5, (1, 3), (0.25, 0.75))
        lesson = jax.jit(texts_lib.lesson, static_argnums=(0, 3))(
            config, languages.tables(config), KEY, 40
        )
        assert config.rows(40) == (10, 30) and config.rows(41) == (10, 31)
        np.testing.assert_array_equal(lesson.mask_BxA.sum(axis=1), [1] * 10 + [3] * 30)
        tokens, columns = np.asarray(lesson.tokens_BxL), np.asarray(lesson.columns_BxA)
        assert (tokens[np.arange(40), columns[:, 0]] == SEP).all()
        symbol = FIRST_SKILL + config.skills
        shown = languages.words(config, tokens[0, :5])
        assert shown.startswith("BOS s") and shown.split()[3] == "SEP" and symbol == 8

    def test_what_cannot_be_a_language(self):
        for changes, words in (
            ({"kind": "parralel"}, "did you mean 'parallel'"),
            ({"sizes": (5,), "skills": 4}, "at most 4 skills"),
            ({"sizes": ()}, "expected sizes"),
            ({"sizes": (1, 2), "shares": (1.0,)}, "a positive share for each of 2"),
            ({"noise": 1.0}, "noise"),
            ({"kind": "latent", "held_out": 0.1}, "held_out=0 in the latent"),
            ({"sizes": (8,), "held_out": 0.4}, "hold out fewer"),
        ):
            with pytest.raises(UserError, match=words):
                LanguageConfig(**changes)
        with pytest.raises(UserError, match="no held-out pair"):
            texts_lib.check_held_out(LanguageConfig(held_out=0.1), 1)
