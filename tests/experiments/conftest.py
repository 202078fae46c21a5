"""One uninterrupted run that several tests compare with."""

import pytest
import text
from runs import run


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """A folder with corpus.jsonl, cache and the finished run."""
    root = tmp_path_factory.mktemp("uninterrupted")
    corpus = text.write_corpus(root / "corpus.jsonl")
    flags = text.small_run(root / "run", corpus, root / "cache")
    # Compiled for itself: runs that compile again, as users' do, have to give the same bits.
    done = run("none", flags, JAX_ENABLE_COMPILATION_CACHE="false")
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(root / "run" / "report.html") in done.stdout
    return root
