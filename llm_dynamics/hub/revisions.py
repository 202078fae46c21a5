"""Revisions in the hub's cache on this machine; nothing is ever downloaded.

The cache is that of the package huggingface_hub: models--OWNER--NAME with refs/REVISION, which says
the commit, snapshots/COMMIT with links, and blobs, where the files are.
"""

import fnmatch
import os
import re
from pathlib import Path

from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded

_NAMED = re.compile(r"(?P<repo>[\w-][\w.-]*(?:/[\w-][\w.-]*)?)@(?P<revision>[\w*?\[][^@\s]*)")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def parted(word: str) -> tuple[str, str] | None:
    """Repository and revision of REPO@REVISION; None where a word is no such name."""
    found = _NAMED.fullmatch(word)
    if not found or ".." in word:
        return None
    return found["repo"], found["revision"]


def cache() -> Path:
    """The folder of the cache: $HF_HUB_CACHE, $HF_HOME/hub, or the usual place."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if os.environ.get(name):
            return expanded(os.environ[name])
    home = os.environ.get("HF_HOME")
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return expanded(home or usual) / "hub"


def fetching(repo: str, revision: str) -> str:
    """The command that brings a revision into the cache."""
    return f"hf download {repo} --revision {revision}"


def matching(repo: str, pattern: str) -> list[str]:
    """Names of the revisions in the cache that match a pattern, sorted."""
    refs = _model(repo) / "refs"
    found = refs.rglob("*") if os.path.isdir(refs) else ()
    names = [str(p.relative_to(refs)) for p in found if p.is_file()]
    return sorted(fnmatch.filter(names, pattern))


def snapshot(repo: str, revision: str) -> Path:
    """The folder of a revision, by its name or commit.

    Raises:
      UserError: it is not in the cache.
    """
    model = _model(repo)
    try:
        commit = (model / "refs" / revision).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        commit = revision
    found = model / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not os.path.isdir(found):
        raise UserError(
            f"expected the revision {revision} of {repo} in the cache {cache()}, found none; "
            f"nothing is downloaded here: fetch it by `{fetching(repo, revision)}`"
        )
    return found


def _model(repo: str) -> Path:
    return cache() / f"models--{repo.replace('/', '--')}"
