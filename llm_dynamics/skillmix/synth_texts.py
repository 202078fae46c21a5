"""Training texts of the small language: every text shows the skills it is asked for and no others.

So which combinations a model has seen is known exactly. Pairs of skills can be held out: then no
text shows both.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from llm_dynamics.data.digest import update_digest
from llm_dynamics.data.sources import Source
from llm_dynamics.errors import UserError
from llm_dynamics.skillmix import synth

SOURCE = "skillmix_synth"
_TRIES = 2000


@dataclasses.dataclass(frozen=True)
class SynthConfig:
    """The training texts."""

    texts: int = 6000
    k_train: int = 2  # skills of a text, 1 to k_train alike often
    held_out: int = 6  # pairs of skills that no text shows
    seed: int = 0  # of texts and held-out pairs

    def __post_init__(self):
        count = len(synth.SKILLS)
        if self.texts < 1 or not 1 <= self.k_train <= count:
            raise UserError(
                f"expected texts >= 1 and k_train of 1 to {count}, got {self.texts} and "
                f"{self.k_train}"
            )
        most = len(synth.pairs()) // 2
        if not 0 <= self.held_out <= most:
            raise UserError(f"expected held_out of 0 to {most} pairs, got {self.held_out}")


@dataclasses.dataclass(frozen=True)
class TrainingText:
    """A document: what was asked for and the text that shows it."""

    names: tuple[str, ...]
    topic: str
    text: str

    @property
    def document(self) -> str:
        """As a model reads it."""
        return f"{synth.prompt(self.names, self.topic)} {self.text}"


class Novelty:
    """Which combinations of skills and topic the training texts show, by looking them up."""

    def __init__(self, texts: Iterable[tuple[frozenset[str], str]]):
        """From (skills that a text shows, its topic)."""
        self._by_topic: dict[str, set[frozenset[str]]] = {}
        for names, topic in texts:
            self._by_topic.setdefault(topic, set()).add(names)

    def is_seen(self, names: Iterable[str], topic: str | None = None) -> bool:
        """Whether one text shows all these skills, about the topic or, for None, any."""
        wanted = frozenset(names)
        topics = self._by_topic if topic is None else [topic]
        return any(wanted <= shown for t in topics for shown in self._by_topic.get(t, ()))


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Training texts with what is held out of them."""

    texts: tuple[TrainingText, ...]
    held_out: tuple[frozenset[str], ...]

    @cached_property
    def novelty(self) -> Novelty:
        """By what the texts show, found in them anew."""
        return Novelty((synth.shown(one.text), one.topic) for one in self.texts)


def corpus(config: SynthConfig) -> Corpus:
    """The training texts of a configuration."""
    generator = np.random.default_rng([config.seed, config.k_train, config.held_out])
    pairs = synth.pairs()
    chosen = generator.choice(len(pairs), config.held_out, replace=False)
    held_out = tuple(pairs[i] for i in sorted(chosen))
    names, topics = [skill.name for skill in synth.SKILLS], list(synth.TOPICS)
    texts = []
    for number in range(config.texts):
        draw = np.random.default_rng([config.seed, number])
        k = 1 + number % config.k_train
        asked = _allowed(names, k, held_out, draw)
        topic = topics[int(draw.integers(len(topics)))]
        texts.append(TrainingText(asked, topic, write(asked, topic, max(1, k - 1), draw)))
    return Corpus(tuple(texts), held_out)


def _allowed(names, k: int, held_out, draw) -> tuple[str, ...]:
    for _ in range(_TRIES):
        asked = tuple(names[i] for i in draw.permutation(len(names))[:k])
        if not any(pair <= set(asked) for pair in held_out):
            return asked
    raise UserError(f"no {k} skills are left without a held-out pair; lower held_out or k_train")


def write(names: Sequence[str], topic: str, limit: int, draw: np.random.Generator) -> str:
    """A random text that shows exactly these skills, about the topic, in up to `limit` sentences.

    Texts are drawn sentence by sentence, each skill put into one of them, until one has exactly
    the skills asked for.
    """
    wanted = frozenset(names)
    for _ in range(_TRIES):
        count = int(draw.integers(1, limit + 1))
        where = {name: int(draw.integers(count)) for name in names}
        parts = [
            _sentence({n for n, at in where.items() if at == i}, synth.TOPICS[topic], draw)
            for i in range(count)
        ]
        text = " ".join(parts)
        if synth.shown(text) == wanted:
            return text
    raise RuntimeError(f"no text of {limit} sentences shows exactly {sorted(wanted)}")


def _sentence(flags: set[str], nouns: Sequence[str], draw) -> str:
    def one(words: Sequence[str]) -> str:
        return words[int(draw.integers(len(words)))]

    # Balance needs adjectives; where it is not wanted, two of them are drawn in vain.
    rate = 0.5 if flags & {"balance", "alliteration"} else 0.2

    def np_(noun: str = "") -> str:
        noun = noun or one(nouns)
        many = int(draw.random() < rate) + int(draw.random() < rate / 2)
        return " ".join(
            [one(synth.DETERMINERS), *(one(synth.ADJECTIVES) for _ in range(many)), noun]
        )

    first = one(nouns)
    last = first if "ring" in flags else ""
    verb = one(synth.VERBS)
    words = [one(synth.OPENERS), ","] if "opener" in flags else []
    words += [np_(first), *(["not"] if "negation" in flags else []), verb]
    words += [verb] if "doubling" in flags else []
    ends = [flag for flag in ("simile", "contrast") if flag in flags]
    objects = [np_() for _ in range(3 if "triad" in flags else 1)]
    if not ends:
        objects[-1] = np_(last)
    words.append(" , ".join(objects[:-1]) + f" and {objects[-1]}" if objects[1:] else objects[0])
    if "simile" in flags:
        words.append(f"as {one(synth.ADJECTIVES)} as {np_('' if 'contrast' in flags else last)}")
    if "contrast" in flags:
        words.append(f"but {np_()} {one(synth.VERBS)} {np_(last)}")
    return " ".join([*words, "?" if "question" in flags else "."])


def source(found: Corpus, seed: int, weight: float = 1.0) -> Source:
    """The texts as a source of the data pipeline, held in memory."""
    documents = tuple((f"{SOURCE}-{i:06d}", one.document) for i, one in enumerate(found.texts))
    digest = hashlib.sha256()
    for doc_id, text in documents:
        update_digest(digest, doc_id, text.encode())
    return Source(
        name=SOURCE,
        weight=weight,
        fingerprint=digest.hexdigest()[:16],
        licence="none needed: generated for this run",
        attribution="",
        origin={"texts": len(documents), "seed": seed},
        is_tokenised=False,
        documents=len(documents),
        read=lambda: iter(documents),
    )
