"""Facts about people, towns and books that do not exist, deterministic in their seed.

Each sentence states one attribute and ends in its answer, drawn from a closed set, so chance is
known. The first twelve wordings of a passage share no sentence, later ones put sentences together
anew; all keep every answer. Templates and the name
space are shared by all facts: what a model learns from them without learning the fact shows on
facts that were never injected.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator

from llm_dynamics.errors import UserError
from llm_dynamics.facts import names
from llm_dynamics.facts.draws import draw, shuffled
from llm_dynamics.facts.facts import DEPTHS, Fact, normalise
from llm_dynamics.facts.templates import FRAMES, KINDS, Kind, Relation
from llm_dynamics.probe.probes import Probe

MAX_FACTS = 2000  # keeps pairs of answers unique, so that two clues identify one entity


def generate(
    num_facts: int,
    seed: int = 0,
    num_paraphrases: int = 9,
    attributes_per_fact: int = 3,
    probes_per_depth: int = 0,
    matched: int = 1,
) -> tuple[Fact, ...]:
    """Invents `num_facts` facts, kinds in turn; fewer facts are a prefix of more.

    Args:
      num_facts: at most `MAX_FACTS`.
      seed: any whole number.
      num_paraphrases: wordings besides the original; at most the square of the templates of a
        relation, less one. Up to their number no sentence comes twice; after that no passage does.
      attributes_per_fact: sentences of a passage, 3 or 4.
      probes_per_depth: attributes asked for at each depth; 0 = all of them.
      matched: facts in turn that form a set: same kind, relations and templates, same answer to
        the one attribute that is asked (`probes_per_depth` must be 1), other names and other
        attributes. What a model learns of templates and answers is then the same for all facts of
        a set. Their probes carry the label `set`.

    Returns:
      Facts named `person-0000-Velor-Tansik`. Probes: *memorization*, the sentence of the original
      passage; *semantic*, a rewording that no training text uses; *compositional*, the entity
      described by two of its other attributes instead of its name, so that several sentences
      must be put together. No pair of attributes is shared by two entities of a kind.

    Raises:
      UserError: an argument outside its range.
    """
    most = min(len(r.statements) for kind in KINDS for r in kind.relations) ** 2 - 1
    relations = min(len(kind.relations) for kind in KINDS)
    for key, value, low, high in (
        ("num_facts", num_facts, 1, MAX_FACTS),
        ("paraphrases", num_paraphrases, 0, most),
        ("attributes", attributes_per_fact, 3, relations),
        ("probes_per_depth", probes_per_depth, 0, attributes_per_fact),
    ):
        if not low <= value <= high:
            raise UserError(f"expected facts.{key} from {low} to {high}, got {value}")
    if matched > 1 and probes_per_depth != 1:
        raise UserError(
            "expected facts.probes_per_depth=1 with facts.matched, whose facts share the answer "
            f"that is asked and no other, got {probes_per_depth}"
        )
    words = _new_words(seed)
    used_pairs: set[tuple[str, ...]] = set()
    facts: list[Fact] = []
    values: list[tuple[Relation, str]] = []
    for index in range(num_facts):
        group = index // matched  # decides everything that the facts of a set share
        kind = KINDS[group % len(KINDS)]
        entity = " ".join(next(words) for _ in range(kind.name_words))
        chosen = shuffled(kind.relations, seed, "relations", group)[:attributes_per_fact]
        shared = values[0] if index % matched else None
        values = _unique_values(kind, chosen, used_pairs, seed, index, shared)
        wordings = _wordings(entity, values, num_paraphrases + 1, seed, group)
        name = f"{kind.name}-{index:04d}-{entity.replace(' ', '-')}"
        asked = probes_per_depth or attributes_per_fact
        probes = _probes(name, kind, entity, values, asked, seed, group)
        if matched > 1:
            probes = tuple(
                dataclasses.replace(probe, labels={**probe.labels, "set": str(group)})
                for probe in probes
            )
        facts.append(Fact(name, wordings[0], tuple(wordings[1:]), probes, kind.name))
    return tuple(facts)


def _new_words(seed: int) -> Iterator[str]:
    """Invented capitalised words, none twice, none a word of the world's sentences or answers."""
    taken = _world_words()
    for attempt in range(names.NAME_SPACE):
        parts = (names.ONSETS, names.VOWELS, names.ONSETS, names.VOWELS, names.CODAS)
        word = "".join(p[draw(len(p), seed, "name", attempt, i)] for i, p in enumerate(parts))
        if word not in taken:
            taken.add(word)
            yield word.capitalize()


def _world_words() -> set[str]:
    texts: Iterable[str] = (
        text
        for kind in KINDS
        for r in kind.relations
        for text in (*r.answers, *r.statements, *r.rewordings, *r.clues, *r.questions)
    )
    return {word for text in texts for word in normalise(text).split()}


def _unique_values(
    kind: Kind,
    chosen: list[Relation],
    used: set[tuple[str, ...]],
    seed: int,
    index: int,
    shared: tuple[Relation, str] | None = None,
) -> list[tuple[Relation, str]]:
    """Draws an answer per relation until no pair of them belongs to an earlier entity.

    `shared` gives the first relation's answer instead.
    """
    for attempt in range(10_000):
        values = [
            (r, r.answers[draw(len(r.answers), seed, "answer", index, r.name, attempt)])
            for r in chosen
        ]
        if shared is not None:
            values[0] = shared
        pairs = [
            (
                kind.name,
                *(
                    part
                    for r, x in sorted(((a[0].name, a[1]), (b[0].name, b[1])))
                    for part in (r, x)
                ),
            )
            for i, a in enumerate(values)
            for b in values[:i]
        ]
        if len({x for _, x in values}) == len(values) and used.isdisjoint(pairs):
            used.update(pairs)
            return values
    raise UserError(
        f"expected room for another {kind.name} with attributes of its own, got {index} facts "
        "already; lower facts.num_facts"
    )


def _wordings(
    entity: str, values: list[tuple[Relation, str]], count: int, seed: int, index: int
) -> list[str]:
    """`count` passages: each sentence from a template of its own, sentences in a new order.

    When templates have run out, those of the i-th sentence are taken i further on in each round,
    so that sentences meet others than before.
    """
    templates = [shuffled(r.statements, seed, "statement", index, r.name) for r, _ in values]
    texts = []
    for wording in range(count):
        sentences = [
            own[(wording + i * (wording // len(own))) % len(own)].format(n=entity, x=x) + "."
            for i, (own, (_, x)) in enumerate(zip(templates, values, strict=True))
        ]
        texts.append(" ".join(shuffled(sentences, seed, "order", index, wording)))
    return texts


def _probes(
    fact: str,
    kind: Kind,
    entity: str,
    values: list[tuple[Relation, str]],
    asked: int,
    seed: int,
    index: int,
) -> tuple[Probe, ...]:
    probes = []
    for depth in DEPTHS:
        for i in range(asked):
            relation, answer = values[i]
            context = _context(depth, kind, entity, values, i, seed, index)
            candidates = len(relation.answers)
            labels = {
                "fact": fact,
                "kind": kind.name,
                "depth": depth,
                "attribute": relation.name,
                "candidates": str(candidates),
                "log_chance": f"{-math.log(candidates):.6f}",
            }
            probes.append(Probe(f"{fact}/{depth}/{relation.name}", context, answer, labels))
    return tuple(probes)


def _context(
    depth: str,
    kind: Kind,
    entity: str,
    values: list[tuple[Relation, str]],
    i: int,
    seed: int,
    index: int,
) -> str:
    """What stands before the answer, without the space between them."""
    relation, _ = values[i]

    def pick(options: tuple[str, ...], use: str) -> str:
        return options[draw(len(options), seed, use, index, relation.name)]

    if depth == "compositional":
        clues = [
            pick(r.clues, f"clue {r.name}").format(x=x)
            for r, x in (values[(i + 1) % len(values)], values[(i + 2) % len(values)])
        ]
        frame = pick(FRAMES, "frame").format(k=kind.noun, a=clues[0], b=clues[1])
        return f"{frame} {pick(relation.questions, 'question')}"
    if depth == "memorization":
        template = shuffled(relation.statements, seed, "statement", index, relation.name)[0]
    else:
        template = pick(relation.rewordings, "rewording")
    return template.format(n=entity, x="").rstrip()
