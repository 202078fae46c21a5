"""One configuration for every test: eight fake devices, strict ranks, parsed flags.

Compiling is most of what the suite costs. So it is done quickly rather than well, and what was
compiled once is read back. Processes that tests start do the same, unless a test says otherwise.
The cache is new in every session: nothing is taken from an earlier one.
"""

import atexit
import os
import shutil
import tempfile

import compiling

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    if "XLA_FLAGS" not in os.environ:
        os.environ["XLA_FLAGS"] = compiling.quickly()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax
from absl import flags

jax.config.update("jax_numpy_rank_promotion", "raise")
flags.FLAGS.mark_as_parsed()

# Of the files that take half a minute and more, most hold few tests.
LONG = (
    "growth_study_test.py", "continual_study_test.py", "resume_test.py", "moments_test.py",
    "claims_study_test.py", "exact_test.py", "skills_study_test.py", "continual_advice_test.py",
    "stages_command_test.py", "processes_test.py", "published_study_test.py",
)  # fmt: skip


def pytest_configure(config):
    """Files are dealt in the order of the tests; without this, those with the most tests first."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Puts long files first, so that the processes end together."""
    last = len(LONG)
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else last)
