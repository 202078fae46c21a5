"""The masked-language objective: some tokens are hidden, and predicted from the others.

Pure in (batch, key): the key of a training step is folded from (seed, step), so nothing is stored
and a run that resumes hides the same tokens. Validation always hides the same ones.

Axes: B rows, L positions.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from llm_dynamics.batch import Batch
from llm_dynamics.errors import UserError
from llm_dynamics.model.config import ModelConfig

# Devlin et al. (2019), section 3.1.
SHARE = 0.15  # of the tokens are predicted
HIDDEN = 0.8  # of these are replaced by the mask token
DRAWN = 0.1  # of these are replaced by a token drawn from the vocabulary; the rest stay

_TRAINING, _VALIDATION = 0x6D61736B, 0x68656C64  # set apart the keys of a seed

Objective = Callable[[Batch, jax.Array | int], Batch]


def masked(batch: Batch, key: jax.Array, config: ModelConfig) -> Batch:
    """The batch with tokens hidden; its labels are the tokens themselves, counted where chosen.

    Every token of text is chosen with probability `SHARE`, padding never.
    """
    chosen_key, how_key, drawn_key = jax.random.split(key, 3)
    tokens_BxL = jnp.asarray(batch.tokens_BxL)
    shape = tokens_BxL.shape
    text_BxL = jnp.asarray(batch.segment_ids_BxL) > 0
    chosen_BxL = (jax.random.uniform(chosen_key, shape) < SHARE) & text_BxL
    how_BxL = jax.random.uniform(how_key, shape)
    drawn_BxL = jax.random.randint(drawn_key, shape, 0, config.vocab_size, tokens_BxL.dtype)
    shown_BxL = jnp.where(
        how_BxL < HIDDEN,
        jnp.asarray(config.mask_id, tokens_BxL.dtype),
        jnp.where(how_BxL < HIDDEN + DRAWN, drawn_BxL, tokens_BxL),
    )
    return batch._replace(
        tokens_BxL=jnp.where(chosen_BxL, shown_BxL, tokens_BxL),
        targets_BxL=tokens_BxL,
        mask_BxL=chosen_BxL.astype(jnp.float32),
    )


def objective(config: ModelConfig, seed: int) -> Objective:
    """What update t of a run makes of its batch: (batch, t) -> batch; a decoder's as it is."""
    if config.causal:
        return lambda batch, step: batch
    key = jax.random.fold_in(jax.random.key(seed), _TRAINING)
    return lambda batch, step: masked(batch, jax.random.fold_in(key, step), config)


def validation(config: ModelConfig) -> Callable[[Batch], Batch]:
    """The same for held-out batches: the same positions are chosen at every time, in any run."""
    if config.causal:
        return lambda batch: batch
    return lambda batch: masked(batch, jax.random.key(_VALIDATION), config)


def check_mask_token(config: ModelConfig, ids: int, tokenizer: str) -> None:
    """Refuses a mask token that text may hold.

    A file may have one of its own, as BERT's has, so an id that was set is taken at its word there.

    Args:
      config: of the model; decoders have no such token.
      ids: of the tokenizer, whose text may hold 0 .. ids - 1.
      tokenizer: its name.

    Raises:
      UserError: says what to set.
    """
    if config.mask_token >= 0 and ".json" in tokenizer:
        return
    if not config.causal and config.mask_id < ids:
        raise UserError(
            f"an encoder hides tokens behind id {config.mask_id}, which tokenizer {tokenizer!r} "
            f"(ids 0 to {ids - 1}) uses for text; set model.vocab_size to at least {ids + 1} and "
            f"leave model.mask_token at -1, or use a smaller tokenizer such as bpe:{config.mask_id}"
        )
