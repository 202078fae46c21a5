"""Texts of a language, a pure function of its config and a key, with the best prediction of each.

Axes as in `languages`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from llm_dynamics.errors import UserError
from llm_dynamics.skills.languages import (
    BOS,
    FIRST_SKILL,
    LEAST_ACCEPTED,
    SEP,
    LanguageConfig,
    Tables,
    measure,
    tables,
)

_TRIALS = 20_000  # texts drawn to learn how many fit


class Texts(NamedTuple):
    """Texts of one size with what is to be known about them.

    Attributes:
      tokens_TxL: int32 inputs, BOS as padding behind the end.
      segment_ids_TxL: 1 in the text, 0 behind it.
      columns_A: the positions that predict the answers.
      answer_TxA: int32, the answers as tokens.
      bayes_TxAxQ: the best possible prediction of each over the symbols: their exact probabilities
        given what stands before.
      skills_TxK: int32, from 0.
    """

    tokens_TxL: jax.Array
    segment_ids_TxL: jax.Array
    columns_A: np.ndarray
    answer_TxA: jax.Array
    bayes_TxAxQ: jax.Array
    skills_TxK: jax.Array


def draw(
    config: LanguageConfig,
    made: Tables,
    key: jax.Array,
    count: int,
    size: int,
    held_out: bool = False,
) -> Texts:
    """Texts of one size, a pure function of its arguments; traceable.

    Args:
      config: the language; its seed is not read here.
      made: its tables.
      key: of the random numbers.
      count: T.
      size: K, one of `config.sizes`.
      held_out: only texts with a pair that training has not; otherwise only texts without.
    """
    key_skills, key_text = jax.random.split(key)
    skills_TxK = _skills(config, made, key_skills, count, size, held_out)
    write = {"serial": _serial, "latent": _latent}.get(config.kind, _pairs)
    return write(config, jnp.asarray(made.pi_SxQ), key_text, skills_TxK)


def has_held_out(config: LanguageConfig, made: Tables, skills_TxK: jax.Array) -> jax.Array:
    """Whether texts have a pair that is held out, T."""
    mask_SxS = jnp.asarray(made.held_out_SxS)
    if config.kind == "serial":
        return jnp.any(mask_SxS[skills_TxK[:, :-1], skills_TxK[:, 1:]], axis=1)
    return jnp.any(mask_SxS[skills_TxK[:, :, None], skills_TxK[:, None, :]], axis=(1, 2))


def check_held_out(config: LanguageConfig, size: int) -> None:
    """Refuses to ask for held-out texts where there are none or hardly any.

    Raises:
      UserError: a text of that size has no pair, nothing is held out, or too rarely.
    """
    pairs = size - 1
    if not pairs or not config.held_out:
        raise UserError(
            f"texts of {size} skills have no held-out pair with held_out={config.held_out}; raise "
            "held_out or ask for larger texts"
        )
    rng = np.random.default_rng(0)
    skills_TxK = rng.choice(config.skills, (_TRIALS, size), p=measure(config))
    if has_held_out(config, tables(config), skills_TxK).mean() < LEAST_ACCEPTED:
        raise UserError(f"hardly any text of {size} skills has a held-out pair; raise held_out")


class Lesson(NamedTuple):
    """A training batch: texts of all sizes, padded. B texts, L positions, A answers at most.

    Attributes:
      tokens_BxL: int32 inputs.
      segment_ids_BxL: 1 in the text, 0 behind it.
      columns_BxA: the positions that predict the answers, 0 as padding.
      answer_BxA: int32, the answers as tokens.
      mask_BxA: float32, 1 where there is an answer.
    """

    tokens_BxL: jax.Array
    segment_ids_BxL: jax.Array
    columns_BxA: jax.Array
    answer_BxA: jax.Array
    mask_BxA: jax.Array


def lesson(config: LanguageConfig, made: Tables, key: jax.Array, count: int) -> Lesson:
    """`count` texts of all sizes, a pure function of its arguments; traceable."""
    most, parts = max(map(config.answers, config.sizes)), []
    for size, rows in zip(config.sizes, config.rows(count), strict=True):
        texts = draw(config, made, jax.random.fold_in(key, size), rows, size)
        fill = ((0, 0), (0, most - config.answers(size)))
        columns_BxA = jnp.broadcast_to(texts.columns_A, texts.answer_TxA.shape)
        mask_BxA = jnp.ones(columns_BxA.shape, jnp.float32)
        answers = (jnp.pad(x, fill) for x in (columns_BxA, texts.answer_TxA, mask_BxA))
        parts.append(Lesson(texts.tokens_TxL, texts.segment_ids_TxL, *answers))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


# ---- skills --------------------------------------------------------------------------------------


def _plain_skills(config: LanguageConfig, key, count: int, size: int) -> jax.Array:
    below_S = jnp.asarray(np.cumsum(measure(config))[:-1], jnp.float32)
    uniform_TxK = jax.random.uniform(key, (count, size))
    return jnp.searchsorted(below_S, uniform_TxK, side="right").astype(jnp.int32)


def _skills(config: LanguageConfig, made: Tables, key, count, size, held_out: bool) -> jax.Array:
    """i.i.d. skills, drawn again text by text until the text is one that is asked for."""
    if not config.held_out and not held_out:
        return _plain_skills(config, key, count, size)

    def fits(skills_TxK):
        return has_held_out(config, made, skills_TxK) == held_out

    def again(carry):
        turn, skills_TxK = carry
        fresh_TxK = _plain_skills(config, jax.random.fold_in(key, turn), count, size)
        return turn + 1, jnp.where(fits(skills_TxK)[:, None], skills_TxK, fresh_TxK)

    first = jnp.int32(1), _plain_skills(config, jax.random.fold_in(key, 0), count, size)
    return jax.lax.while_loop(lambda c: ~jnp.all(fits(c[1])), again, first)[1]


# ---- texts ---------------------------------------------------------------------------------------


def _symbols(config: LanguageConfig, key, shape) -> jax.Array:
    return jax.random.randint(key, shape, 0, config.symbols, jnp.int32)


def _noisy(config: LanguageConfig, key, y: jax.Array) -> jax.Array:
    """y with some symbols replaced by uniform ones."""
    if not config.noise:
        return y
    key_which, key_what = jax.random.split(key)
    which = jax.random.bernoulli(key_which, config.noise, y.shape)
    return jnp.where(which, _symbols(config, key_what, y.shape), y)


def _channel(config: LanguageConfig, y: jax.Array) -> jax.Array:
    """Probabilities of what is read where y was meant, ... x Q."""
    one_hot = jax.nn.one_hot(y, config.symbols, dtype=jnp.float32)
    return (1 - config.noise) * one_hot + config.noise / config.symbols


def _padded(config: LanguageConfig, tokens_TxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens and segments filled to the longest text of the language."""
    fill = ((0, 0), (0, config.length - tokens_TxL.shape[1]))
    tokens_TxL = tokens_TxL.astype(jnp.int32)
    segments_TxL = jnp.ones_like(tokens_TxL)
    return jnp.pad(tokens_TxL, fill, constant_values=BOS), jnp.pad(segments_TxL, fill)


def _symbol_token(config: LanguageConfig, x: jax.Array) -> jax.Array:
    return FIRST_SKILL + config.skills + x


def _pairs(config: LanguageConfig, pi_SxQ, key, skills_TxK) -> Texts:
    """Parallel and sum: named skills with their inputs, then the answers."""
    count, size = skills_TxK.shape
    key_x, key_noise = jax.random.split(key)
    x_TxK = _symbols(config, key_x, (count, size))
    y_TxA = pi_SxQ[skills_TxK, x_TxK]
    if config.kind == "sum":
        y_TxA = jnp.sum(y_TxA, axis=1, keepdims=True) % config.symbols
    answer_TxA = _symbol_token(config, _noisy(config, key_noise, y_TxA))
    pairs_TxKx2 = jnp.stack([FIRST_SKILL + skills_TxK, _symbol_token(config, x_TxK)], axis=2)
    edge_Tx1 = jnp.ones((count, 1), jnp.int32)
    tokens = [BOS * edge_Tx1, pairs_TxKx2.reshape(count, -1), SEP * edge_Tx1, answer_TxA[:, :-1]]
    columns_A = 2 * size + 1 + np.arange(config.answers(size))
    filled = _padded(config, jnp.concatenate(tokens, axis=1))
    return Texts(*filled, columns_A, answer_TxA, _channel(config, y_TxA), skills_TxK)


def _serial(config: LanguageConfig, pi_SxQ, key, skills_TxK) -> Texts:
    """Named skills in their order, one input, one answer."""
    count, size = skills_TxK.shape
    key_x, key_noise = jax.random.split(key)
    x_T = _symbols(config, key_x, (count,))
    y_T = x_T
    for j in range(size):
        y_T = pi_SxQ[skills_TxK[:, j], y_T]
    answer_TxA = _symbol_token(config, _noisy(config, key_noise, y_T))[:, None]
    bos_Tx1 = jnp.full((count, 1), BOS, jnp.int32)
    input_Tx1 = _symbol_token(config, x_T)[:, None]
    tokens_TxL = jnp.concatenate([bos_Tx1, FIRST_SKILL + skills_TxK, input_Tx1], axis=1)
    filled = _padded(config, tokens_TxL)
    return Texts(
        *filled, np.array([size + 1]), answer_TxA, _channel(config, y_T)[:, None], skills_TxK
    )


def _latent(config: LanguageConfig, pi_SxQ, key, skills_TxK) -> Texts:
    """Unnamed skills: demonstrations of each, and a query."""
    count, size = skills_TxK.shape
    key_x, key_noise = jax.random.split(key)
    x_TxKxM = _symbols(config, key_x, (count, size, config.demos + 1))
    y_TxKxM = _noisy(config, key_noise, pi_SxQ[skills_TxK[:, :, None], x_TxKxM])
    seen_TxKx2M = jnp.stack([x_TxKxM, y_TxKxM], axis=3).reshape(count, size, -1)
    body_TxL = _symbol_token(config, seen_TxKx2M.reshape(count, -1))
    bos_Tx1 = jnp.full((count, 1), BOS, jnp.int32)
    # The last answer is only ever predicted.
    filled = _padded(config, jnp.concatenate([bos_Tx1, body_TxL[:, :-1]], axis=1))
    slot = 2 * config.demos + 2
    columns_A = 1 + slot * np.arange(size) + 2 * config.demos
    bayes_TxAxQ = latent_predictive(config, pi_SxQ, x_TxKxM, y_TxKxM)
    answer_TxA = _symbol_token(config, y_TxKxM[:, :, -1])
    return Texts(*filled, columns_A, answer_TxA, bayes_TxAxQ, skills_TxK)


def latent_predictive(config: LanguageConfig, pi_SxQ, x_TxKxM, y_TxKxM) -> jax.Array:
    """The answer's exact probabilities given a slot's demonstrations, T x K x Q.

    p(s | demos) is proportional to mu_s prod_j p(y_j | x_j, s); the query is the last of M.
    """
    channel_SxQxQ = _channel(config, pi_SxQ)
    log_SxQxQ = jnp.log(channel_SxQxQ)  # -inf without noise where a skill says otherwise
    log_TxKxMxS = jnp.moveaxis(log_SxQxQ[:, x_TxKxM[..., :-1], y_TxKxM[..., :-1]], 0, -1)
    prior_1x1xS = jnp.log(jnp.asarray(measure(config), jnp.float32))[None, None]
    posterior_TxKxS = jax.nn.softmax(prior_1x1xS + jnp.sum(log_TxKxMxS, axis=2), axis=-1)
    query_TxKxSxQ = jnp.moveaxis(channel_SxQxQ[:, x_TxKxM[..., -1]], 0, 2)
    return jnp.einsum("tks,tksq->tkq", posterior_TxKxS, query_TxKxSxQ)
