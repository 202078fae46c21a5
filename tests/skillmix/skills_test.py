"""Lists of skills and topics: what is read, and what is refused with which words."""

import json

import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix import skills as lib
from llm_dynamics.skillmix import topics, wordnet
from llm_dynamics.skillmix.skills import Skill

TWO = [
    {"name": "irony", "definition": "says the opposite", "example": "How lovely, rain again."},
    {"name": "pun", "definition": "plays on two meanings", "frequency": 0.07},
]


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_every_format_gives_the_same_skills(tmp_path, kind):
    path = tmp_path / f"skills.{kind}"
    if kind == "csv":
        path.write_text(
            'name,definition,example,frequency\nirony,says the opposite,"How lovely, rain again.",'
            "\npun,plays on two meanings,,0.07\n"
        )
    else:
        lines = map(json.dumps, TWO)
        path.write_text(json.dumps(TWO) if kind == "json" else "\n".join(lines) + "\n\n")
    assert lib.read_skills(path) == (
        Skill("irony", "says the opposite", "How lovely, rain again."),
        Skill("pun", "plays on two meanings", "", 0.07),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"name": "a", "definition": "x"}\n{"name": "A", "definition": "y"}',
            "'A' is there twice",
        ),
        ('{"name": " ", "definition": "x"}', "line 1: expected a name, got none"),
        ('{"name": "a"}', "line 1: expected a definition"),
        ('{"name": "a", "definitoin": "x"}', "did you mean 'definition'"),
        ('{"name": "a", "definition": 3}', "to be text, got 3"),
        ('{"name": "a", "definition": "x", "frequency": 2}', "frequency of 0 to 1"),
        ("[1]", "expected fields with values"),
        ('{"name": "a"', "no valid jsonl"),
        ("", "expected skills, got none"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, words):
    path = tmp_path / "skills.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        lib.read_skills(path)


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        lib.read_skills(tmp_path / "none.csv")
    (tmp_path / "skills.xml").write_text("<a/>")
    with pytest.raises(UserError, match=r"expected a \.jsonl"):
        lib.read_skills(tmp_path / "skills.xml")


def test_the_shipped_list_has_definitions_and_examples():
    found = lib.built_in()
    assert len(found) == 12 and all(skill.example for skill in found)


def test_topics_are_read_once_each(tmp_path):
    path = tmp_path / "topics.txt"
    path.write_text("knitting\n\n beekeeping \n")
    assert lib.read_topics(path) == ("knitting", "beekeeping")
    path.write_text("knitting\nKnitting\n")
    with pytest.raises(UserError, match="twice"):
        lib.read_topics(path)
    table = tmp_path / "topics.csv"
    table.write_text("topic\nglass\n")
    assert lib.read_topics(table) == ("glass",)


def test_common_skills_are_left_out_by_name_and_by_frequency():
    found = (Skill("a", "x", frequency=0.2), Skill("b", "x", frequency=0.01), Skill("c", "x"))
    assert [s.name for s in lib.uncommon(found, ["C"])] == ["a", "b"]
    assert [s.name for s in lib.uncommon(found, most=0.05)] == ["b", "c"]
    with pytest.raises(UserError, match="no skill is called 'd'"):
        lib.uncommon(found, ["d"])
    with pytest.raises(UserError, match="frequency"):
        lib.uncommon(found[2:], most=0.05)


def test_rare_titles_lie_between_the_shares():
    text = "common " * 90 + "middling " * 8 + "seldom"
    documents = [("Common", text), ("Middling", ""), ("Seldom", ""), ("Two words", "")]
    assert topics.rare_titles(documents, 1, 0, 0.02, 0.5) == ("Middling",)
    assert set(topics.rare_titles(documents, 2, 0, 0.005, 0.5)) == {"Middling", "Seldom"}
    with pytest.raises(UserError, match="expected 3 titles"):
        topics.rare_titles(documents, 3, 0, 0.005, 0.5)


# ---- WordNet, in miniature -----------------------------------------------------------------------


def small_wordnet(folder, pointers):
    """Files in WordNet's format: {(words): (gloss, words of what is below)}; the first is root."""
    folder.mkdir(exist_ok=True)

    def line(words, offsets):
        gloss, below = pointers[words]
        links = "".join(f" ~ {offsets[b]:08d} n 0000" for b in below)
        links = f"{len(below) + 1:03d} @ 00000000 n 0000{links}"
        names = "".join(f" {word} 0" for word in words)
        return f"{offsets[words]:08d} 10 n {len(words):02x}{names} {links} | {gloss}  \n"

    offsets, at = {}, 0
    for words in pointers:
        offsets[words] = at
        at += len(line(words, dict.fromkeys(pointers, 0)))
    (folder / "data.noun").write_text("".join(line(w, offsets) for w in pointers))
    index = [f"{w} n 1 2 @ ~ 1 0 {offsets[ws]:08d}  \n" for ws in pointers for w in ws]
    (folder / "index.noun").write_text("  1 licence\n" + "".join(sorted(index)))
    return str(folder)


TREE = {
    ("device",): ("root", [("trope", "figure_of_speech"), ("echo",)]),
    ("trope", "figure_of_speech"): ("words used otherwise", [("irony",), ("echo", "ring")]),
    ("echo",): ('says it again; "again, again"; "more"', [("echo", "ring")]),
    ("irony",): ("says the opposite; as in `how nice'", []),
    ("echo", "ring"): ("sound that returns", []),
}


def test_hyponyms_of_every_depth_come_once_with_a_name_each(tmp_path):
    found = wordnet.hyponyms("device", small_wordnet(tmp_path, TREE))
    assert found == (
        Skill("trope", "words used otherwise"),
        Skill("echo", "says it again", "again, again"),
        Skill("irony", "says the opposite", "how nice"),
        Skill("ring", "sound that returns"),
    )
    assert wordnet.hyponyms("figure of speech", str(tmp_path))[1].name == "echo"


def test_what_wordnet_lacks_is_said(tmp_path):
    folder = small_wordnet(tmp_path / "wn", TREE)
    with pytest.raises(UserError, match="did you mean 'device'"):
        wordnet.hyponyms("devise", folder)
    with pytest.raises(UserError, match="1 meanings, asked for number 2"):
        wordnet.hyponyms("device", folder, sense=2)
    with pytest.raises(UserError, match="expected skills, got none"):
        wordnet.hyponyms("irony", folder)
    with pytest.raises(UserError, match="apt-get download wordnet-base"):
        wordnet.hyponyms("device", str(tmp_path / "empty"))
