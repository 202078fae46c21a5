"""The small language against another reading of its grammar, and its training texts."""

import itertools

import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix import synth, synth_texts
from llm_dynamics.skillmix.items import Item
from llm_dynamics.skillmix.skills import Skill
from llm_dynamics.skillmix.synth_texts import SynthConfig

# ---- a recogniser that walks over words, with no regular expression ------------------------------


def nps(words, i):
    """Where a noun phrase that starts at i may end: nowhere or at one place."""
    if i < len(words) and words[i] in synth.DETERMINERS:
        i += 1
        while i < len(words) and words[i] in synth.ADJECTIVES:
            i += 1
        if i < len(words) and words[i] in synth.NOUNS:
            yield i + 1


def then(words, i, *expected):
    if tuple(words[i : i + len(expected)]) == expected:
        yield i + len(expected)


def objects(words, i):
    for a in nps(words, i):
        yield a
        for b in then(words, a, "and"):
            yield from nps(words, b)
        for b in then(words, a, ","):
            for c in nps(words, b):
                for d in then(words, c, "and"):
                    yield from nps(words, d)


def clauses(words, i):
    for a in nps(words, i):
        a = a + 1 if words[a : a + 1] == ["not"] else a
        if a >= len(words) or words[a] not in synth.VERBS:
            continue
        for b in {a + 1, *then(words, a, words[a], words[a])}:
            for c in objects(words, b):
                yield c
                if words[c : c + 3 : 2] == ["as", "as"] and words[c + 1] in synth.ADJECTIVES:
                    yield from nps(words, c + 3)


def is_text(words):
    """Whether the base grammar makes the words, by trying all ends of all parts."""
    ends, done = {0}, False
    while ends:
        after = set()
        for i in ends:
            starts = {i}
            if words[i : i + 1] and words[i] in synth.OPENERS and words[i + 1 : i + 2] == [","]:
                starts.add(i + 2)
            for start in starts:
                for a in clauses(words, start):
                    more = [c for b in then(words, a, "but") for c in clauses(words, b)]
                    after |= {b + 1 for b in (a, *more) if words[b : b + 1] in (["."], ["?"])}
        done = done or len(words) in after
        ends = {i for i in after if i < len(words)}
    return done


def shown_by_hand(words):
    """Skills by walking over words."""
    joined = [*words, "", "", ""]
    found = set()
    adjectives = [w for w in words if w in synth.ADJECTIVES]
    for i, word in enumerate(words):
        after = joined[i + 1]
        is_thing = after in synth.ADJECTIVES or after in synth.NOUNS
        if word in synth.ADJECTIVES and is_thing and after[0] == word[0]:
            found.add("alliteration")
        if word in synth.VERBS and word == after:
            found.add("doubling")
        if word == "as" and after in synth.ADJECTIVES and joined[i + 2] == "as":
            found.add("simile")
        if word in synth.OPENERS and after == "," and (i == 0 or words[i - 1] in (".", "?")):
            found.add("opener")
        for a in nps(words, i):
            for b in then(words, a, ","):
                for c in nps(words, b):
                    for d in then(words, c, "and"):
                        found |= {"triad" for _ in nps(words, d)}
    found |= {"question"} if "?" in words[1:] else set()
    found |= {"negation"} if "not" in words else set()
    found |= {"contrast"} if "but" in words else set()
    if adjectives and len(adjectives) % 2 == 0:
        found.add("balance")
    for stop, part in itertools.groupby(words, lambda w: w in (".", "?")):
        part = list(part)
        if not stop:
            start = 2 if part[0] in synth.OPENERS and part[1:2] == [","] else 0
            for end in nps(part, start):
                if end < len(part) - 1 and part[-1] == part[end - 1]:
                    found.add("ring")
    return found


def damaged(words, draw):
    """The words with one of them changed, dropped, doubled or moved."""
    words, i = list(words), int(draw.integers(len(words)))
    kind = int(draw.integers(4))
    if kind == 0:
        vocabulary = (*synth.ADJECTIVES, *synth.NOUNS, *synth.VERBS, *synth.OPENERS)
        every = [*vocabulary, "the", "not", "as", "but", "and", ",", ".", "?", "zebra"]
        words[i] = every[int(draw.integers(len(every)))]
    elif kind == 1:
        del words[i]
    elif kind == 2:
        words.insert(i, words[i])
    else:
        words.append(words.pop(i))
    return words


def test_texts_and_damaged_texts_are_read_as_by_hand():
    names = [skill.name for skill in synth.SKILLS]
    parsed, kinds = 0, set()
    for number in range(400):
        draw = np.random.default_rng(number)
        asked = [names[i] for i in draw.permutation(10)[: int(draw.integers(0, 6))]]
        words = synth_texts.write(asked, "sea", 1 + number % 3, draw).split()
        for _ in range(3):
            text = " ".join(words)
            assert synth.parses(text) == is_text(words), text
            assert synth.shown(text) == shown_by_hand(words), text
            parsed += synth.parses(text)
            kinds |= synth.shown(text)
            words = damaged(words, draw)
    assert 400 <= parsed < 1000 and kinds == set(names)


@pytest.mark.parametrize("text", ["", " ", ".", "the crab", "the crab sees the boat", "?"])
def test_fragments_do_not_parse(text):
    assert not synth.parses(text)


def test_grading_gives_every_point_for_itself():
    skills = (Skill("question", "x"), Skill("negation", "x"))
    item = Item(0, skills, "sea")
    assert synth.grade(item, "the crab not sees the boat ?").points == (1, 1, 1, 1, 1)
    assert synth.grade(item, "the crab sees the boat .").points == (0, 0, 1, 1, 1)
    assert synth.grade(item, "the crab not sees the cow ?").points == (1, 1, 0, 1, 1)
    assert synth.grade(item, "crab not ?").points == (1, 1, 1, 0, 1)
    two = "the crab not sees the boat ? the crab sees the boat ."
    assert synth.grade(item, two).points == (1, 1, 1, 1, 0)
    with pytest.raises(UserError, match="no skill 'irony'"):
        synth.grade(Item(0, (Skill("irony", "x"),), "sea"), "x")
    with pytest.raises(UserError, match="no topic 'moon'"):
        synth.grade(Item(0, skills, "moon"), "x")


def test_training_texts_show_what_they_are_asked_for_and_nothing_held_out():
    config = SynthConfig(texts=240, k_train=3, held_out=5, seed=2)
    corpus = synth_texts.corpus(config)
    assert {len(one.names) for one in corpus.texts} == {1, 2, 3}
    for one in corpus.texts:
        item = Item(0, tuple(Skill(name, "x") for name in one.names), one.topic)
        assert all(synth.grade(item, one.text).points)
        assert synth.shown(one.text) == set(one.names)
        assert one.document.startswith(f"show {' '.join(one.names)} about {one.topic} : ")
    assert len(set(corpus.held_out)) == 5
    assert not any(corpus.novelty.is_seen(pair) for pair in corpus.held_out)
    assert synth_texts.corpus(config) == corpus
    assert (
        synth_texts.corpus(SynthConfig(texts=120, k_train=3, held_out=5, seed=2)).texts
        == (corpus.texts[:120])
    )


def test_novelty_is_a_lookup():
    novelty = synth_texts.Novelty([(frozenset("ab"), "sea"), (frozenset("c"), "farm")])
    assert novelty.is_seen("a", "sea") and novelty.is_seen("ab", "sea")
    assert not novelty.is_seen("ab", "farm") and not novelty.is_seen("ac")
    assert novelty.is_seen("c") and not novelty.is_seen("c", "sky")


def test_settings_that_cannot_work_are_refused():
    for wrong in ({"texts": 0}, {"k_train": 11}, {"held_out": 40}):
        with pytest.raises(UserError, match="expected"):
            SynthConfig(**wrong)


def test_the_source_is_the_documents():
    corpus = synth_texts.corpus(SynthConfig(texts=4))
    found = synth_texts.source(corpus, 0)
    assert [text for _, text in found] == [one.document for one in corpus.texts]
    assert len({doc_id for doc_id, _ in found}) == len(found) == 4
