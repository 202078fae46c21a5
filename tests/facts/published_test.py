"""The published schema: read as it is, refused where malformed, audited where imperfect."""

import copy
import json
import pathlib

import pytest
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts.audit import audit, faults
from llm_dynamics.facts.published import load_published


def record(index: int, paraphrases: int | None = 9) -> dict:
    """An invented record of the schema; its five targets occur in passage and paraphrases."""
    targets = [f"Target{index} {word}" for word in ("Ala", "Bor", "Cid", "Dun", "Eef")]
    made = {
        "train_context": " ".join(
            f"Sentence {i} of {index} ends in {t}." for i, t in enumerate(targets)
        ),
        "mem_input": [f"Sentence {i} of {index} ends in" for i in range(5)],
        "mem_target": targets,
        "gen_input": [f"What closes part {i} of text {index} is" for i in range(5)],
        "gen_target": targets,
        "hard_gen_input": [
            f"After both halves of {index} one thinks of item {i}," for i in range(5)
        ],
        "hard_gen_target": targets,
    }
    if paraphrases is not None:
        made["paraphrases"] = [f"Version {j}: " + ", ".join(targets) for j in range(paraphrases)]
    return made


@pytest.fixture
def write(tmp_path):
    def to_file(records) -> pathlib.Path:
        path = tmp_path / "facts.json"
        path.write_text(json.dumps(records), encoding="utf-8")
        return path

    return to_file


def test_a_home_folder_is_found(write, monkeypatch):
    monkeypatch.setenv("HOME", str(write([record(0)]).parent))
    assert len(load_published("~/facts.json")) == 1


def test_reads_records_with_and_without_paraphrases(write):
    facts = load_published(write([record(0), record(1, None), record(2, 0)]))
    assert [len(f.paraphrases) for f in facts] == [9, 0, 0]
    assert [f.name for f in facts] == ["passage-000", "passage-001", "passage-002"]
    for fact in facts:
        assert len(fact.probes) == 15
        depths = [p.labels["depth"] for p in fact.probes]
        assert depths == ["memorization"] * 5 + ["semantic"] * 5 + ["compositional"] * 5
    probe = facts[1].probes[7]
    assert (probe.name, probe.text) == (
        "passage-001/semantic/2",
        "What closes part 2 of text 1 is Target1 Cid",
    )
    assert probe.labels["attribute"] == "2" and probe.labels["candidates"] == ""


def _without(field):
    return lambda r: r.pop(field)


def _set(field, value):
    return lambda r: r.__setitem__(field, value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("gen_target"), "record 1: expected field 'gen_target', got none"),
        (_set("note", "x"), "record 1: unexpected field 'note'"),
        (_set("mem_input", "text"), "record 1: expected a list in 'mem_input', got str"),
        (_set("mem_input", []), "record 1: expected as many mem_target as mem_input"),
        (_set("hard_gen_target", ["a"] * 4), "hard_gen_target as hard_gen_input.*got 4 and 5"),
        (_set("gen_input", ["a"] * 4 + [7]), r"text in 'gen_input\[4\]', got int"),
        (_set("gen_input", ["a"] * 4 + ["b "]), r"outer white space in 'gen_input\[4\]', got 'b '"),
        (_set("mem_target", [""] * 5), r"'mem_target\[0\]', got ''"),
        (_set("train_context", 3), "expected text in 'train_context', got int"),
        (_set("paraphrases", None), "expected a list in 'paraphrases', got NoneType"),
        (_set("train_context", record(0)["train_context"]), "record 0 again in record 1"),
    ],
)
def test_malformed_records_are_named(write, spoil, message):
    records = [record(0), record(1)]
    spoil(records[1])
    with pytest.raises(UserError, match=message):
        load_published(write(records))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "non-empty JSON list"),
        (b'{"a": 1}', "non-empty JSON list"),
        (b"[3]", "record 0: expected an object, got int"),
        (b'[{"train_context": "a', "fault at line 1"),
        (b"[\xff]", "UTF-8 .* byte 1"),
        (b"[" + b"9" * 5000 + b"]", "ordinary size .* ValueError"),
        (b"[" * 200_000, "ordinary size .* RecursionError"),
    ],
)
def test_unreadable_files(tmp_path, content, message):
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_published(path)
    with pytest.raises(UserError, match="got nothing there"):
        load_published(tmp_path / "absent.json")


class Characters:
    """A tokenizer of characters that glues a comma to the space after it."""

    def encode(self, text):
        return [ord(c) for c in text.replace(", ", "\x01")]

    def decode(self, ids):
        return "".join(map(chr, ids)).replace("\x01", ", ")


def test_audit_finds_planted_faults(write):
    good = record(0)
    bad = copy.deepcopy(record(1))
    bad["mem_input"][0] += ' "'  # not verbatim
    bad["gen_input"][1] += " target1 BOR or"  # the answer, in another case
    bad["hard_gen_input"][4] = 'Was it "Target1 Eef"? It was'
    bad["hard_gen_target"] = ["Other"] * 5  # reused, and nowhere in the passage
    bad["train_context"] += " Café."
    bad["paraphrases"] = ["Target1 Ala, Target1 Bor."] * 3 + ["nothing at all"]
    facts = load_published(write([good, bad, record(2, None)]))
    found = audit(facts, Characters())
    assert (found.facts, found.probes, found.paraphrased) == (3, 45, 2)
    assert found.not_verbatim == ("passage-001/memorization/0",)
    assert found.leaking["memorization"] == ()
    assert found.leaking["semantic"] == ("passage-001/semantic/1",)
    assert found.leaking["compositional"] == ()  # its target was changed to Other
    assert found.reusing == ("passage-001",)
    assert found.not_ascii == ("passage-001",)
    assert found.compositional_verbatim == 10
    # 9 paraphrases x 5 hits, and 3 x 2 of 4 x 5.
    assert found.coverage["memorization"] == pytest.approx((45 + 6) / (45 + 20))
    assert found.coverage["compositional"] == pytest.approx(45 / 65)
    assert found.never_covered == tuple(f"passage-001/memorization/{i}" for i in (2, 3, 4))
    # The comma before the target of compositional probes swallows the space, except where the
    # context was replaced.
    assert len(found.boundary) == 14
    assert audit(facts).boundary is None
    assert [line.split(" ")[0] for line in faults(found)] == ["1", "1", "1", "3"]
    assert faults(audit(facts[:1])) == []


class EmptyAuditTest(parameterized.TestCase):
    def test_no_paraphrases(self):
        from llm_dynamics.facts.generator import generate

        found = audit(generate(3, num_paraphrases=0))
        self.assertIsNone(found.word_ratio)
        self.assertIsNone(found.coverage["memorization"])
