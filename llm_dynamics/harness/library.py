"""lm-evaluation-harness as it is used here: installed, and without any network."""

import importlib.util
import os
from importlib.metadata import version
from pathlib import Path

from llm_dynamics.data.cache import cache_folder
from llm_dynamics.errors import UserError

_NEEDED = {"lm_eval": "lm-eval", "transformers": "transformers"}


def prepare(cache_dir: str | Path = "") -> str:
    """Readies the harness; to be called before anything of it is imported. Returns its version.

    Nothing is fetched from a hub: `HF_HUB_OFFLINE` and `HF_DATASETS_OFFLINE` are set, and what
    `datasets` keeps goes to the cache folder unless `HF_DATASETS_CACHE` says otherwise.

    Raises:
      UserError: it is not installed; says how to.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"expected {' and '.join(_NEEDED[name] for name in missing)} to be installed, found "
            "none; run `EXTRAS=eval launch/local evaluate ...`, or "
            "`pip install 'llm_dynamics[eval]'`"
        )
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    os.environ.setdefault("HF_DATASETS_CACHE", str(cache_folder(str(cache_dir)) / "datasets"))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return version("lm-eval")
