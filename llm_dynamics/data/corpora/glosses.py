"""Reads `word<TAB>gloss | gloss` lists, the form of the WordNet and the Wiktionary corpus."""

import gzip
import zipfile
from collections.abc import Iterator
from pathlib import Path


def read_glosses(archive: Path, member: str) -> Iterator[tuple[str, str]]:
    """Yields (word, "word: gloss; gloss"); a repeated word gets its line number in the id."""
    with zipfile.ZipFile(archive) as wheel:
        lines = gzip.decompress(wheel.read(member)).decode().split("\n")
    seen = set()
    for number, line in enumerate(lines, start=1):
        word, tab, rest = line.rstrip("\r").partition("\t")
        glosses = dict.fromkeys(gloss.strip() for gloss in rest.split(" | ") if gloss.strip())
        if tab and word and glosses:
            doc_id = word if word not in seen else f"{word}:{number}"
            seen.add(word)
            yield doc_id, f"{word}: {'; '.join(glosses)}"
