"""The Python standard library of this machine, without tests: one source file a document."""

import sys
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from llm_dynamics.data.corpora.base import CorpusBuilder

_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


class Builder(CorpusBuilder):
    """`stdlib_code`; the id is the path. The data set's version is that of Python."""

    VERSION = tfds.core.Version(".".join(str(part) for part in sys.version_info[:3]))

    def documents(self, archive: None) -> Iterator[tuple[str, str]]:
        del archive
        yield from read_sources(Path(sysconfig.get_path("stdlib")))


def read_sources(root: Path) -> Iterator[tuple[str, str]]:
    """Yields (path below `root`, source) of every Python file that declares its encoding right."""
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        if _SKIPPED & set(relative.parts):
            continue
        try:
            with tokenize.open(path) as file:
                text = file.read()
        except (SyntaxError, UnicodeDecodeError):  # a few are samples of broken encodings
            continue
        if text.strip():
            yield relative.as_posix(), text
