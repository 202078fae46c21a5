"""Biographies of people who do not exist, with an exact no-knowledge baseline.

After Zucchet et al. 2025 (arXiv 2503.21676) and Allen-Zhu & Li, Physics 3.1 and 3.3 (arXiv
2309.14316, 2404.05405), with texts of our own. Every sentence names its person in full and ends
in the answer. Answers are dealt to people so that their shares are the wanted distribution up to
rounding, and are independent of names, wordings and each other: whoever does not know the person
cannot lose less, on average, than the entropy of the answers. Axes: K people, A attributes.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from llm_dynamics.data.digest import update_digest
from llm_dynamics.data.sources import Source
from llm_dynamics.errors import UserError
from llm_dynamics.facts import names
from llm_dynamics.facts.biography_templates import TEMPLATES
from llm_dynamics.facts.draws import draw, shuffled
from llm_dynamics.probe.probes import Probe
from llm_dynamics.spec import nearest

SOURCE = "biographies"  # its name among data.sources
EXPOSURES = ("uniform", "zipf")
HELD_OUT = ("person", "everyone")
WORDINGS = ("training", "held_out")
GROUPS = ("seen", "unseen")
ATTRIBUTES = tuple(TEMPLATES)
NUM_WORDINGS = min(len(wordings) for _, wordings in TEMPLATES.values())
MAX_ANSWERS = min(len(answers) for answers, _ in TEMPLATES.values())


@dataclasses.dataclass(frozen=True)
class BiographyConfig:
    """A population and how often, and in how many wordings, it is written about."""

    people: int = 300  # written about
    unseen: int = 100  # never written about, asked for all the same
    name_words: int = 60  # first names, and as many last names, shared by all people
    answers: int = 20  # size of every attribute's closed set
    skew: float = 0.0  # probability of the i-th answer proportional to i^-skew
    texts: int = 5  # documents of a person in one pass over the corpus, on average
    fixed_share: float = 0.0  # of the people: the same text each time, the others rewritten
    exposure: str = "uniform"  # one of EXPOSURES
    zipf_exponent: float = 0.7  # zipf: documents of the r-th person proportional to r^-exponent
    held_out_wordings: int = 2  # of each attribute's NUM_WORDINGS
    held_out: str = "person"  # drawn for each person, or the same for everyone
    probed: int = 0  # seen people asked for; 0 = all
    seed: int = 0

    def __post_init__(self):
        for name, low, high in (
            ("people", 2, 10**6),
            ("unseen", 2, 10**6),
            ("name_words", 2, 2000),
            ("answers", 2, MAX_ANSWERS),
            ("texts", 1, 1000),
            ("held_out_wordings", 1, NUM_WORDINGS - 1),
            ("probed", 0, self.people),
            ("fixed_share", 0, 1),
            ("skew", 0, 4),
            ("zipf_exponent", 0, 4),
        ):
            if not low <= getattr(self, name) <= high:
                raise UserError(
                    f"expected biographies.{name} from {low} to {high}, got {getattr(self, name)}"
                )
        for name, known in (("exposure", EXPOSURES), ("held_out", HELD_OUT)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"unknown biographies.{name} {getattr(self, name)!r}; "
                    f"{nearest(getattr(self, name), known)}"
                )
        if self.name_words**2 < 2 * (self.people + self.unseen):
            raise UserError(
                f"expected at least {2 * (self.people + self.unseen)} full names (twice the "
                f"people), got {self.name_words**2}; raise biographies.name_words"
            )
        if min(quotas(distribution(self), self.people)) < 1:
            raise UserError(
                f"expected every answer to belong to someone, got {self.people} people for "
                f"{self.answers} answers of skew {self.skew}; raise biographies.people, or lower "
                "biographies.answers or biographies.skew"
            )


@dataclasses.dataclass(frozen=True)
class Person:
    """One invented person.

    Attributes:
      number: seen people first, then unseen ones.
      name: first and last name, unique.
      group: "seen" or "unseen".
      answers: one of each attribute, in the order of ATTRIBUTES.
      wordings: for each attribute the indices of its templates, training ones first.
      held_out: how many of them, the last ones, never occur in a text about this person.
      is_fixed: every document about the person is the same text.
      documents: about the person in one pass over the corpus; 0 for unseen people.
    """

    number: int
    name: str
    group: str
    answers: tuple[str, ...]
    wordings: tuple[tuple[int, ...], ...]
    held_out: int
    is_fixed: bool
    documents: int

    def sentence(self, attribute: int, wording: int) -> str:
        """The sentence of an attribute in its `wording`-th template of this person."""
        template = TEMPLATES[ATTRIBUTES[attribute]][1][self.wordings[attribute][wording]]
        return template.format(n=self.name, x=self.answers[attribute])


def distribution(config: BiographyConfig) -> np.ndarray:
    """Probabilities of an attribute's answers, the likeliest first."""
    weights = np.arange(1, config.answers + 1) ** -float(config.skew)
    return weights / weights.sum()


def quotas(shares: np.ndarray, total: int) -> list[int]:
    """Whole numbers that sum to `total` in proportion to `shares` (largest remainders)."""
    exact = np.asarray(shares) / np.sum(shares) * total
    counts = np.floor(exact + 1e-9).astype(int)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts.tolist()


def invent(config: BiographyConfig) -> tuple[Person, ...]:
    """The population: `people` seen ones, then `unseen` ones; a pure function of the config.

    Raises:
      UserError: too few names are left for the unseen, whose every word a seen name must hold.
    """
    seed, total = config.seed, config.people + config.unseen
    full = _full_names(config)
    answers = [
        [
            answer
            for group, count in (("seen", config.people), ("unseen", config.unseen))
            for answer in _deal(attribute, group, count, config)
        ]
        for attribute in ATTRIBUTES
    ]
    fixed = set(
        shuffled(range(config.people), seed, "fixed")[: round(config.fixed_share * config.people)]
    )
    documents = [*_documents_of_each(config), *([0] * config.unseen)]
    people = []
    for k in range(total):
        whose = k if config.held_out == "person" else "everyone"
        wordings = tuple(
            tuple(shuffled(range(NUM_WORDINGS), seed, "wordings", attribute, whose))
            for attribute in ATTRIBUTES
        )
        people.append(
            Person(
                number=k,
                name=full[k],
                group="seen" if k < config.people else "unseen",
                answers=tuple(column[k] for column in answers),
                wordings=wordings,
                held_out=config.held_out_wordings,
                is_fixed=k in fixed,
                documents=documents[k],
            )
        )
    return tuple(people)


def _full_names(config: BiographyConfig) -> list[str]:
    """Unique full names; each word of an unseen person's name stands in some seen person's."""
    first, last = (_name_words(config, part) for part in ("first", "last"))
    pairs = shuffled([(f, x) for f in first for x in last], config.seed, "names")
    seen = pairs[: config.people]
    known = ({f for f, _ in seen}, {x for _, x in seen})
    rest = [p for p in pairs[config.people :] if p[0] in known[0] and p[1] in known[1]]
    if len(rest) < config.unseen:
        raise UserError(
            f"expected {config.unseen} names for unseen people made of words that seen people's "
            f"names hold, got {len(rest)}; raise biographies.people or lower biographies.unseen"
        )
    return [" ".join(pair) for pair in (*seen, *rest[: config.unseen])]


def _name_words(config: BiographyConfig, part: str) -> list[str]:
    """Invented words; first and last names differ in their number of syllables."""
    parts = (names.ONSETS, names.VOWELS, names.CODAS)
    if part == "last":
        parts = (names.ONSETS, names.VOWELS, *parts)
    found: dict[str, None] = {}
    attempt = 0
    while len(found) < config.name_words:
        word = "".join(p[draw(len(p), config.seed, part, attempt, i)] for i, p in enumerate(parts))
        found.setdefault(word.capitalize())
        attempt += 1
        if attempt > 200 * config.name_words:
            raise UserError(
                f"expected {config.name_words} different {part} names, got {len(found)}; lower "
                "biographies.name_words"
            )
    return list(found)


def _deal(attribute: str, group: str, count: int, config: BiographyConfig) -> list[str]:
    """An answer for each of `count` people, in the wanted shares."""
    options = shuffled(TEMPLATES[attribute][0], config.seed, "answers", attribute)
    counts = quotas(distribution(config), count)
    deck = [option for option, times in zip(options, counts, strict=False) for _ in range(times)]
    return shuffled(deck, config.seed, "deal", attribute, group)


def _documents_of_each(config: BiographyConfig) -> list[int]:
    """Documents a pass for each seen person; at least one."""
    if config.exposure == "uniform":
        return [config.texts] * config.people
    order = shuffled(range(config.people), config.seed, "rank")
    weights = np.arange(1, config.people + 1) ** -float(config.zipf_exponent)
    counts = quotas(weights, (config.texts - 1) * config.people)
    by_person = np.empty(config.people, int)
    by_person[order] = 1 + np.array(counts)
    return by_person.tolist()


# ---- texts ---------------------------------------------------------------------------------------


def biography(person: Person, copy: int, seed: int) -> str:
    """The `copy`-th text about a seen person: a sentence a line, one of every attribute.

    Each rewrite draws a training wording for every attribute and a new order of the sentences;
    all copies of a fixed person are its copy 0. Lines, not spaces, part the sentences, so that a
    name is tokenised alike wherever its sentence stands.
    """
    if person.is_fixed:
        copy = 0
    training = NUM_WORDINGS - person.held_out
    lines = [
        person.sentence(a, draw(training, seed, "wording", person.number, copy, attribute)) + "."
        for a, attribute in enumerate(ATTRIBUTES)
    ]
    return "\n".join(shuffled(lines, seed, "order", person.number, copy))


def documents(people: Sequence[Person], seed: int) -> Iterator[tuple[str, str]]:
    """One pass over the corpus, (id, text), people mixed; unseen people have none.

    Repeated exposure is both: `Person.documents` in a pass, and every pass of a run (an epoch).
    """
    keys = [(p.number, copy) for p in people for copy in range(p.documents)]
    for number, copy in shuffled(keys, seed, "corpus"):
        yield f"person-{number:05d}:{copy}", biography(people[number], copy, seed)


def source(people: Sequence[Person], seed: int, weight: float = 1.0) -> Source:
    """The corpus as a source of the data pipeline, held in memory."""
    corpus = tuple(documents(people, seed))
    digest = hashlib.sha256()
    for doc_id, text in corpus:
        update_digest(digest, doc_id, text.encode())
    return Source(
        name=SOURCE,
        weight=weight,
        fingerprint=digest.hexdigest()[:16],
        licence="none needed: generated for this run",
        attribution="",
        origin={"people": sum(p.documents > 0 for p in people), "seed": seed},
        is_tokenised=False,
        documents=len(corpus),
        read=lambda: iter(corpus),
    )


# ---- probes and their baseline -------------------------------------------------------------------


def answer_shares(people: Sequence[Person]) -> tuple[dict[str, float], ...]:
    """For each attribute the share of each answer among the corpus's sentences about it."""
    total = sum(person.documents for person in people)
    shares: tuple[dict[str, float], ...] = tuple({} for _ in ATTRIBUTES)
    for person in people:
        for share, answer in zip(shares, person.answers, strict=True):
            if person.documents:
                share[answer] = share.get(answer, 0.0) + person.documents / total
    return shares


def baselines(people: Sequence[Person]) -> np.ndarray:
    """No-knowledge loss K x A in nats: -ln of the share of the person's answer in the corpus.

    It is what the best predictor that cannot tell people apart loses on them. With uniform
    exposure its mean over seen people is the entropy of the answers exactly; with Zipf exposure,
    or for unseen people, it is the cross-entropy of their answers under the corpus's shares.
    """
    shares = answer_shares(people)
    return np.array(
        [[-math.log(shares[a][x]) for a, x in enumerate(person.answers)] for person in people]
    )


def probes(people: Sequence[Person], config: BiographyConfig) -> tuple[Probe, ...]:
    """For every person and attribute one training and one held-out wording, each sentence alone.

    The training wording is that of the person's first text; for unseen people the wordings are
    drawn alike. Labels: person, group, wording, attribute, style, documents (about the person in
    a pass) and baseline (nats, of this person and attribute).
    """
    chosen = set(range(config.people))
    if config.probed:
        chosen = set(shuffled(range(config.people), config.seed, "probed")[: config.probed])
    baseline_KxA = baselines(people)
    training = NUM_WORDINGS - config.held_out_wordings
    found = []
    for person in people:
        if person.group == "seen" and person.number not in chosen:
            continue
        for a, attribute in enumerate(ATTRIBUTES):
            first = draw(training, config.seed, "wording", person.number, 0, attribute)
            held = draw(config.held_out_wordings, config.seed, "held", person.number, attribute)
            for wording, index in (("training", first), ("held_out", training + held)):
                sentence = person.sentence(a, index)
                answer = person.answers[a]
                labels = {
                    "person": f"{person.number:05d}",
                    "group": person.group,
                    "wording": wording,
                    "attribute": attribute,
                    "style": "fixed" if person.is_fixed else "rewritten",
                    "documents": str(person.documents),
                    "baseline": repr(float(baseline_KxA[person.number, a])),
                }
                found.append(
                    Probe(
                        f"{person.number:05d}/{wording}/{attribute}",
                        sentence[: -len(answer) - 1],
                        answer,
                        labels,
                    )
                )
    return tuple(found)


def check_answers(targets: dict[str, dict[str, tuple[int, ...]]]) -> None:
    """Refuses tokenisations under which the baseline would not be exact.

    The probability of an answer is the product over its tokens. These sum to at most 1 over a
    closed set only if no answer's tokens begin another's.

    Args:
      targets: attribute -> answer -> its tokens.

    Raises:
      UserError: an answer whose tokens begin another answer's.
    """
    for attribute, tokens in targets.items():
        ordered = sorted(tokens, key=lambda answer: tokens[answer])
        for one, other in itertools.pairwise(ordered):
            if tokens[other][: len(tokens[one])] == tokens[one]:
                raise UserError(
                    f"expected answers of {attribute} none of which begins another, got {one!r} "
                    f"and {other!r}; use another tokenizer or lower biographies.answers"
                )
