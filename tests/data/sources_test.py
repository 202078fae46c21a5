"""Everything a user can bring reads alike, and everything wrong with it is said at the door."""

import gzip
import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
import zstandard

from llm_dynamics.data import cache, sources
from llm_dynamics.errors import UserError

TEXTS = ["The first document.", "Das zweite, mit Umlaut: größer.", "def third():\n    return 3"]


def jsonl(texts=TEXTS, field="text"):
    return "".join(json.dumps({field: text, "n": 1}) + "\n" for text in texts).encode()


def texts_of(spec, tmp_path):
    source = sources.open_source(str(spec), tmp_path / "cache")
    documents = list(source)
    assert len(source) == len(documents)
    assert list(source) == documents  # a second pass gives the same
    return [text for _, text in documents]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("wiki_leads", ("wiki_leads", "", 1.0)),
        ("wiki_leads/fr@0.25", ("wiki_leads/fr", "", 0.25)),
        ("data/a.jsonl#body@3", ("data/a.jsonl", "body", 3.0)),
        ("tfds:mine/big:train[:10%]#body", ("tfds:mine/big:train[:10%]", "body", 1.0)),
        ("me@host/a.txt", ("me@host/a.txt", "", 1.0)),
    ],
)
def test_parse_source(spec, expected):
    assert sources.parse_source(spec) == expected


@pytest.mark.parametrize("spec", ["a@", "a@-1", "a@inf", "a@x", "@1", "#text", ""])
def test_parse_source_refuses(spec):
    with pytest.raises(UserError, match="expects"):
        sources.parse_source(spec)


def test_signs_in_an_existing_path_belong_to_the_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a@2").touch()
    (tmp_path / "b#1").touch()
    assert sources.parse_source("a@2") == ("a@2", "", 1.0)
    assert sources.parse_source("b#1@5") == ("b#1", "", 5.0)


@pytest.mark.parametrize(
    ("folder", "message"),
    [("~no_such_user/x", "user without a home folder"), ("/proc/x", "cannot write /proc/x")],
)
def test_a_cache_folder_that_cannot_be_is_refused(folder, message):
    with pytest.raises(UserError, match=message):
        cache.cache_folder(folder)


def test_text_file_folder_and_glob(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "b.txt").write_bytes(b"\xef\xbb\xbfB\r\nlines")
    (tmp_path / "in" / "sub" / "a.md").write_text("A")
    (tmp_path / "in" / ".hidden.txt").write_text("hidden")
    (tmp_path / "in" / "picture.png").write_bytes(b"\x89PNG")
    source = sources.open_source(f"{tmp_path / 'in'}@2", tmp_path)
    assert list(source) == [("b.txt", "B\nlines"), ("sub/a.md", "A")]
    assert source.weight == 2.0
    assert source.origin["files"] == 2
    assert not source.is_tokenised
    assert texts_of(tmp_path / "in" / "b.txt", tmp_path) == ["B\nlines"]
    assert texts_of(f"{tmp_path}/in/**/*.md", tmp_path) == ["A"]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", lambda data: data),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", lambda data: zstandard.ZstdCompressor().compress(data)),
        # Two frames, as `cat a.zst b.zst` makes them.
        (
            "b.jsonl.zst",
            lambda data: (
                zstandard.ZstdCompressor().compress(data[:40])
                + zstandard.ZstdCompressor().compress(data[40:])
            ),
        ),
    ],
)
def test_jsonl(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(jsonl() + b'\n{"text": null}\n{"text": " "}'))
    source = sources.open_source(str(tmp_path / name), tmp_path)
    assert list(source) == [(f"{name}:{i + 1}", text) for i, text in enumerate(TEXTS)]


def test_jsonl_lines_longer_than_the_read_block(tmp_path, monkeypatch):
    monkeypatch.setattr("llm_dynamics.data.files._CHUNK", 7)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(jsonl()))
    assert texts_of(tmp_path / "a.jsonl.gz", tmp_path) == TEXTS


def test_another_field(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(field="body"))
    assert texts_of(f"{tmp_path}/a.jsonl#body@2", tmp_path) == TEXTS


def test_parquet(tmp_path):
    table = pa.table({"text": [*TEXTS, None], "n": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    source = sources.open_source(str(tmp_path / "a.parquet"), tmp_path)
    assert list(source) == [(f"a.parquet:{i}", text) for i, text in enumerate(TEXTS)]


def test_token_arrays(tmp_path):
    np.save(tmp_path / "stream.npy", np.array([5, 6, 70000], np.uint32))
    np.save(tmp_path / "rows.npy", np.arange(6, dtype=np.uint16).reshape(2, 3))
    stream = sources.open_source(str(tmp_path / "stream.npy"), tmp_path)
    assert stream.is_tokenised
    assert stream.origin["max_id"] == 70000
    ((doc_id, ids),) = stream
    assert (doc_id, ids.tolist()) == ("stream.npy", [5, 6, 70000])
    rows = sources.open_source(str(tmp_path / "rows.npy"), tmp_path)
    assert [(d, ids.tolist()) for d, ids in rows] == [
        ("rows.npy:0", [0, 1, 2]),
        ("rows.npy:1", [3, 4, 5]),
    ]


def test_fingerprint_is_of_the_content_and_its_boundaries(tmp_path):
    def fingerprint(*texts):
        (tmp_path / "a.jsonl").write_bytes(jsonl(texts))
        return sources.open_source(str(tmp_path / "a.jsonl"), tmp_path).fingerprint

    assert fingerprint("ab", "c") == fingerprint("ab", "c")
    assert len({fingerprint("ab", "c"), fingerprint("a", "bc"), fingerprint("c", "ab")}) == 3
    expected = hashlib.sha256("9 1 a.jsonl:1x9 2 a.jsonl:2é".encode()).hexdigest()[:16]
    assert fingerprint("x", "é") == expected


def write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def save(name, array):
    return lambda folder: np.save(folder / name, array)


def parquet_bytes(table):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


GZ = gzip.compress(jsonl())
ZST = zstandard.ZstdCompressor().compress(jsonl())
PARQUET = parquet_bytes(pa.table({"text": TEXTS}))
NPY = np.arange(100)


@pytest.mark.parametrize(
    ("make", "spec", "message"),
    [
        (write("x", b""), "gone.txt", r"no file or folder .*gone\.txt"),
        (write("x", b""), "*.txt", "no file matches"),
        (write("e.txt", b""), "e.txt", r"e\.txt is empty"),
        (write("e.txt", b" \n"), "e.txt", "holds no text at all"),
        (write("e.png", b"x"), "e.png", r"e\.png: its suffix is not supported; supported: \.txt"),
        (write("e.png", b"x"), ".", "holds no file that can be read"),
        (write("l.txt", b"abc\xe9"), "l.txt", "byte 0xe9 at offset 3"),
        (write("l.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n'), "l.jsonl", "0xe9 at offset 24"),
        (write("t.jsonl", jsonl()[:-9]), "t.jsonl", "line 3: not a complete JSON value"),
        (write("t.jsonl", b"[1]\n"), "t.jsonl", "line 1: expected a JSON object"),
        (write("t.jsonl", b'{"text": 1}\n'), "t.jsonl", "line 1: field 'text' expects text, got i"),
        (write("t.jsonl", jsonl() + b'{"texts": "x"}'), "t.jsonl", "line 4.*did you mean #texts"),
        (write("t.jsonl", b'{"zzz": "x"}'), "t.jsonl", "line 1.*fields there: zzz"),
        (write("t.jsonl", b'{"text": "\\ud800"}'), "t.jsonl", r"t\.jsonl:1: half of a surrogate"),
        (write("t.jsonl.gz", GZ[:-12]), "t.jsonl.gz", "truncated after line"),
        (write("t.jsonl.gz", b"not gzip"), "t.jsonl.gz", "truncated after line 0"),
        (write("t.jsonl.zst", ZST[:-5]), "t.jsonl.zst", "truncated after line"),
        (write("t.jsonl.zst", b"not zstd"), "t.jsonl.zst", "truncated after line 0"),
        (write("t.parquet", PARQUET[:-20]), "t.parquet", "damaged or truncated"),
        (write("t.parquet", PARQUET), "t.parquet#txt", "no field 'txt'; did you mean #text"),
        (
            write("t.parquet", parquet_bytes(pa.table({"text": [1]}))),
            "t.parquet",
            "column 'text' expects text, got int64",
        ),
        (save("a.npy", np.ones(3)), "a.npy", "integers in 1 or 2 dimensions, got float64 in 1"),
        (save("a.npy", np.array([3, -1])), "a.npy", "negative id -1"),
        (save("a.npy", np.zeros((0, 3), int)), "a.npy", "holds no token"),
        (write("a.npy", b"\x93NUMPY\x01\x00"), "a.npy", "not a complete .npy file"),
        (write("a.txt", b"x"), "a.txt#text", "has no fields"),
        (write("x", b""), "~no_such_user/x", "user without a home folder"),
        (write("t.jsonl", b"9" * 5000), "t.jsonl", "line 1: JSON that cannot be read .ValueError"),
        (write("t.jsonl", b"[" * 200_000), "t.jsonl", "line 1: JSON .* .RecursionError"),
        (write("x", b""), "wiki_lead", "unknown corpus 'wiki_lead'.*did you mean 'wiki_leads'"),
        (write("x", b""), "wiki_leads/de", "unknown corpus 'wiki_leads/de'"),
        (write("x", b""), "wiki_leads#body", "has one text only"),
        (write("x", b""), "tfds:no_such_thing_here", "no TFDS data set 'no_such_thing_here'"),
    ],
)
def test_bad_input_gives_one_clear_message(tmp_path, monkeypatch, make, spec, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        sources.open_source(spec, tmp_path / "cache")


def test_truncated_array(tmp_path):
    np.save(tmp_path / "a.npy", NPY)
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data[:-8])
    with pytest.raises(UserError, match=r"not a complete \.npy file"):
        sources.open_source(str(tmp_path / "a.npy"), tmp_path)


def test_text_and_arrays_do_not_mix(tmp_path):
    np.save(tmp_path / "a.npy", NPY)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="mixes text and token arrays"):
        sources.open_source(str(tmp_path), tmp_path)


class TinyTfds(tfds.core.GeneratorBasedBuilder):
    """A data set as a user may have prepared it: no id, another feature name."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"body": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, license="CC0")

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(), "test": iter([(0, {"body": "T"})])}

    def _generate_examples(self):
        for i, text in enumerate(TEXTS):
            yield i, {"body": text}


@pytest.fixture(scope="module")
def tiny_tfds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    builder = TinyTfds(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


def test_prepared_tfds(tiny_tfds, tmp_path):
    source = sources.open_source(f"tfds:{tiny_tfds}#body@3", tmp_path)
    assert sorted(text for _, text in source) == sorted(TEXTS)
    assert [doc_id for doc_id, _ in source] == ["train:0", "train:1", "train:2"]
    assert (source.weight, source.licence) == (3.0, "CC0")
    assert texts_of(f"tfds:{tiny_tfds}:test#body", tmp_path) == ["T"]


@pytest.mark.parametrize(
    ("ending", "message"),
    [("", "no field 'text'; fields there: body"), (":dev#body", "no split 'dev'; it has")],
)
def test_prepared_tfds_refuses(tiny_tfds, tmp_path, ending, message):
    with pytest.raises(UserError, match=message):
        sources.open_source(f"tfds:{tiny_tfds}{ending}", tmp_path)
