"""Names of checkpoints as workdirs compare them: the same from every folder."""

import glob
import os
from collections.abc import Iterable

from llm_dynamics.files import expanded
from llm_dynamics.hub import revisions


def whole(names: Iterable[str | os.PathLike]) -> tuple[str, ...]:
    """Paths and patterns of them from the root; REPO@REVISION of the hub's cache as given.

    What lies on this machine goes first, as where checkpoints are opened.
    """
    return tuple(map(_whole, map(str, names)))


def _whole(name: str) -> str:
    path = str(expanded(name))
    if revisions.parted(name) and not os.path.exists(path) and not glob.glob(path):
        return name
    return os.path.abspath(path)
