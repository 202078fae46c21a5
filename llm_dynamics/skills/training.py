"""A small decoder trained on a language of known skills, and what it got right along the way.

A run is a pure function of its config: texts of a step come from a key folded from (seed, step),
and are made on the device inside the compiled loop. Axes as in `languages`, and N looks.
"""

import dataclasses
import functools
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.model import size as model_size
from llm_dynamics.model.build import Model, build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import hidden_at
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.optim.schedules import ScheduleConfig, make_schedule
from llm_dynamics.skills import languages
from llm_dynamics.skills import texts as texts_lib
from llm_dynamics.skills.languages import FIRST_SKILL, LanguageConfig, Tables
from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.skills.texts import Lesson, Texts

HELD_OUT = "held_out"
_DATA, _INIT, _LOOK = 0, 1, 2  # streams of random numbers of a seed
_CHUNK = 1024  # texts scored at once
_TIE = 1e-5  # probabilities that far apart are equal but for rounding
_FORMAT = 2  # raise it when a config would give another run


@dataclasses.dataclass(frozen=True)
class TrainedConfig:
    """One run: language, model, optimizer, and when it is looked at."""

    language: LanguageConfig = dataclasses.field(default_factory=LanguageConfig)
    width: int = 32  # D
    layers: int = 2
    heads: int = 4
    steps: int = 1500
    batch: int = 256  # texts of a step
    peak: float = 5e-3  # learning rate, reached after the warm-up and then lowered as a cosine
    warmup: int = 100
    looks: int = 30  # at the model, evenly spaced and at both ends
    texts: int = 4096  # of each size, each time the same
    seed: int = 0  # of parameters and texts

    def __post_init__(self):
        for key in ("steps", "batch", "looks"):
            if getattr(self, key) < 1:
                raise UserError(f"expected {key} of at least 1, got {getattr(self, key)}")
        if self.texts < 2 or self.texts % min(self.texts, _CHUNK):
            raise UserError(
                f"expected texts of at least 2 and, above {_CHUNK}, a multiple of it, got "
                f"{self.texts}"
            )
        if self.looks > self.steps:
            raise UserError(
                f"expected at most as many looks as {self.steps} steps, got {self.looks}"
            )
        if not 0 <= self.seed < 2**31:
            raise UserError(f"expected a seed of 0 to {2**31 - 1}, got {self.seed}")
        if not all(self.language.rows(self.batch)):
            raise UserError(f"expected a batch of at least a text of each size, got {self.batch}")
        # Refuse a schedule or a model that does not fit.
        make_schedule(self.optim.schedule, self.steps)
        build_model(self.model)

    @property
    def model(self) -> ModelConfig:
        """The decoder."""
        return ModelConfig(
            vocab_size=self.language.vocab_size,
            width=self.width,
            num_layers=self.layers,
            num_heads=self.heads,
            mlp_width=4 * self.width,
            max_length=self.language.length,
            position="learned",  # where a thing stands decides what it is; rotary learns it slower
        )

    @property
    def optim(self) -> OptimConfig:
        """Adam without decay: nothing here is seen twice."""
        schedule = ScheduleConfig("cosine", self.peak, warmup=self.warmup)
        return OptimConfig(schedule, b2=0.999, weight_decay=0.0)

    @property
    def look_steps(self) -> tuple[int, ...]:
        """Updates done at every look, 0 and the last among them."""
        return tuple(sorted({round(i * self.steps / self.looks) for i in range(self.looks + 1)}))

    @property
    def flops(self) -> float:
        """Of training."""
        per_token = model_size.flops_per_token(self.model, self.language.length)
        return per_token * self.batch * self.language.length * self.steps

    def sets(self) -> dict[str, tuple[int, bool]]:
        """Name of every set of texts that is looked at -> size, held out or not."""
        found = {}
        for k in self.language.sizes:
            found[f"k{k}"] = k, False
            if self.language.held_out and k > 1:
                found[f"k{k}/{HELD_OUT}"] = k, True
        return found


@dataclasses.dataclass(frozen=True)
class Seen:
    """A set of texts and what a run made of it, look by look.

    Attributes:
      skills_TxK: of the texts.
      right_NxTxA: whether the most probable answer is the best one.
      excess_NxT: divergence of the model's answers from the best prediction, nats per text.
    """

    skills_TxK: np.ndarray
    right_NxTxA: np.ndarray
    excess_NxT: np.ndarray


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run.

    Attributes:
      config: of the run.
      steps_N: updates done at every look.
      loss_N: mean training loss since the look before, nats per answer; NaN at the first.
      seen: the sets of texts by name.
    """

    config: TrainedConfig
    steps_N: np.ndarray
    loss_N: np.ndarray
    seen: Mapping[str, Seen]

    def outcomes(self, name: str, look: int) -> Outcomes:
        """What the model got right of a set at a look."""
        seen = self.seen[name]
        return Outcomes(
            seen.skills_TxK,
            seen.right_NxTxA[look],
            seen.excess_NxT[look],
            self.config.language.skills,
        )

    @property
    def num_params(self) -> int:
        """Of the model."""
        return model_size.num_params(self.config.model)


def train(config: TrainedConfig) -> Trained:
    """Trains one run.

    Raises:
      UserError: the loss is no longer finite, or too few texts with held-out pairs.
    """
    made = languages.tables(config.language)
    shared = _shared(config)
    fresh, advance = _compiled(dataclasses.replace(shared, looks=1, texts=2))
    texts = {name: _texts(config, shared, made, *what) for name, what in config.sets().items()}
    params, state = fresh(_key(config, _INIT))
    steps = config.look_steps
    found = {name: ([], []) for name in texts}
    losses = []
    for i, step in enumerate(steps):
        loss = math.nan
        if i:
            params, state, total = advance(
                made, _key(config, _DATA), params, state, steps[i - 1], step
            )
            loss = float(total) / (step - steps[i - 1])
            if not math.isfinite(loss):
                raise UserError(f"the loss is {loss} at step {step}; lower peak")
        losses.append(loss)
        for name, asked in texts.items():
            right_TxA, excess_T = score(shared.model, shared.language.skills, params, asked)
            found[name][0].append(np.asarray(right_TxA))
            found[name][1].append(np.asarray(excess_T))
    seen = {
        name: Seen(np.asarray(texts[name].skills_TxK), np.stack(right), np.stack(excess))
        for name, (right, excess) in found.items()
    }
    return Trained(config, np.array(steps), np.array(losses), seen)


def best_loss(config: TrainedConfig, name: str) -> float:
    """The best possible loss on a set of texts, nats per text: exact given each of its texts.

    Args:
      config: of the run.
      name: of the set, one of `config.sets()`.
    """
    language, (size, held_out) = config.language, config.sets()[name]
    if language.kind != "latent":
        return language.answers(size) * languages.entropy(language.noise, language.symbols)
    texts = _texts(config, _shared(config), languages.tables(language), size, held_out)
    bayes_TxAxQ = np.asarray(texts.bayes_TxAxQ, float)
    return float(special.entr(bayes_TxAxQ).sum(axis=(1, 2)).mean())


def lesson_of(config: TrainedConfig, step: int) -> Lesson:
    """The batch of a step, numpy."""
    key = jax.random.fold_in(_key(config, _DATA), step)
    made = languages.tables(config.language)
    return jax.tree.map(np.asarray, texts_lib.lesson(config.language, made, key, config.batch))


@functools.partial(jax.jit, static_argnums=(0, 1))
def score(
    model: ModelConfig, num_skills: int, params: Any, texts: Texts
) -> tuple[jax.Array, jax.Array]:
    """Whether each answer of texts is the best one, T x A, and their excess, T.

    The excess is the divergence KL(best || model) of every answer, summed over a text: at least 0,
    and without noise the model's loss itself.
    """
    decoder, variables = build_model(model), {"params": params}

    def chunk(part):
        tokens_CxL, segments_CxL, bayes_CxAxQ = part
        shape = tokens_CxL.shape
        positions_CxL = jnp.broadcast_to(jnp.arange(shape[1]), shape)
        columns_CxA = jnp.broadcast_to(texts.columns_A, (shape[0], len(texts.columns_A)))
        rows = tokens_CxL, segments_CxL, positions_CxL
        h_CxAxD = hidden_at(decoder, params, rows, columns_CxA)
        log_CxAxV = jax.nn.log_softmax(decoder.apply(variables, h_CxAxD, method="unembed"))
        first = FIRST_SKILL + num_skills
        chosen_CxA = jnp.argmax(log_CxAxV, axis=-1) - first
        # Demonstrations may leave several answers equally good: each of them is right.
        best_CxAxQ = bayes_CxAxQ >= jnp.max(bayes_CxAxQ, axis=-1, keepdims=True) - _TIE
        symbols_Q = jnp.arange(bayes_CxAxQ.shape[-1])
        right_CxA = jnp.any(best_CxAxQ & (chosen_CxA[..., None] == symbols_Q[None, None]), axis=-1)
        # 0 ln 0 = 0: where the best prediction excludes a symbol, the model's does not count.
        entropy_CxAxQ = jax.scipy.special.xlogy(bayes_CxAxQ, bayes_CxAxQ)
        kl_CxAxQ = entropy_CxAxQ - bayes_CxAxQ * log_CxAxV[..., first:]
        return right_CxA, jnp.maximum(jnp.sum(kl_CxAxQ, axis=(1, 2)), 0.0)

    parts = texts.tokens_TxL, texts.segment_ids_TxL, texts.bayes_TxAxQ
    count = parts[0].shape[0]
    size = min(count, _CHUNK)
    chunks = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), parts)
    right, excess = jax.lax.map(chunk, chunks)
    return right.reshape(count, -1), excess.reshape(count)


def answer_loss(decoder: Model, params: Any, lesson: Lesson) -> jax.Array:
    """Mean cross-entropy of the answers of a batch, nats per answer."""
    positions_BxL = jnp.broadcast_to(
        jnp.arange(lesson.tokens_BxL.shape[1]), lesson.tokens_BxL.shape
    )
    rows = lesson.tokens_BxL, lesson.segment_ids_BxL, positions_BxL
    h_BxAxD = hidden_at(decoder, params, rows, lesson.columns_BxA)
    logits_BxAxV = decoder.apply({"params": params}, h_BxAxD, method="unembed")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits_BxAxV, lesson.answer_BxA)
    return jnp.sum(losses * lesson.mask_BxA) / jnp.sum(lesson.mask_BxA)


@functools.cache
def _compiled(config: TrainedConfig):
    """Fresh parameters from a key, and updates start .. stop - 1 with the sum of their losses."""
    decoder = build_model(config.model)
    schedule = make_schedule(config.optim.schedule, config.steps)
    optimizer = make_optimizer(config.optim, schedule)

    @jax.jit
    def fresh(key):
        params = nn.unbox(decoder.new_params(key))
        return params, optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(2, 3))
    def advance(made: Tables, key, params, state, start, stop):
        def update(step, carry):
            params, state, total = carry
            lesson = texts_lib.lesson(
                config.language, made, jax.random.fold_in(key, step), config.batch
            )
            loss, grads = jax.value_and_grad(answer_loss, 1)(decoder, params, lesson)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state, total + loss

        return jax.lax.fori_loop(start, stop, update, (params, state, jnp.float32(0)))

    return fresh, advance


def _shared(config: TrainedConfig) -> TrainedConfig:
    """What the runs of all seeds have in common, and compile once."""
    language = dataclasses.replace(config.language, seed=0)
    return dataclasses.replace(config, seed=0, language=language)


def _key(config: TrainedConfig, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(config.seed), stream)


def _texts(config: TrainedConfig, shared: TrainedConfig, made: Tables, size, held_out) -> Texts:
    if held_out:
        texts_lib.check_held_out(config.language, size)
    key = jax.random.fold_in(_key(config, _LOOK), 2 * size + held_out)
    drawn = _draw(shared.language, made, key, config.texts, size, held_out)
    # Where the answers are is no number of the device.
    return drawn._replace(columns_A=np.asarray(drawn.columns_A))


_draw = jax.jit(texts_lib.draw, static_argnums=(0, 3, 4, 5))


# ---- on disk -------------------------------------------------------------------------------------


def save(run: Trained, path: Path) -> None:
    """Writes a run as one file, which numpy reads; complete or not there at all."""
    arrays = {"steps_N": run.steps_N, "loss_N": run.loss_N}
    for name, seen in run.seen.items():
        arrays[f"{name}:skills_TxK"] = seen.skills_TxK.astype(np.int32)
        arrays[f"{name}:right_NxTxA"] = np.packbits(seen.right_NxTxA, axis=1)
        arrays[f"{name}:excess_NxT"] = seen.excess_NxT.astype(np.float32)
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays, config=np.array(_digest(run.config)))


def load(config: TrainedConfig, path: Path) -> Trained:
    """Reads what `save` wrote.

    Raises:
      UserError: the file is damaged, or of another config.
    """
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
        if str(arrays["config"]) != _digest(config):
            raise UserError(
                f"{path} is of another run than asked for, or of another version of it; use a new "
                "--workdir"
            )
        seen = {name: _stored(arrays, name, config.texts) for name in config.sets()}
        return Trained(config, arrays["steps_N"], arrays["loss_N"], seen)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({error}); delete it, and the same command trains that run "
            "again"
        ) from None


def _digest(config: TrainedConfig) -> str:
    return specs.fingerprint([_FORMAT, specs.to_json(config)])


def _stored(arrays: Mapping[str, np.ndarray], name: str, texts: int) -> Seen:
    right = np.unpackbits(arrays[f"{name}:right_NxTxA"], axis=1, count=texts).astype(bool)
    return Seen(arrays[f"{name}:skills_TxK"], right, arrays[f"{name}:excess_NxT"])
