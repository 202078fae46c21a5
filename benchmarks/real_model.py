"""SmolLM2-135M from its package, as a run of ours and as a model of transformers."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from absl import logging

from llm_dynamics.hub import packaged
from llm_dynamics.hub.runs import import_run
from llm_dynamics.train.finished import FinishedRun, finished_run

NAME = "smollm2-135m-instruct"


class RealModel(NamedTuple):
    """The same weights in both libraries, float32."""

    run: FinishedRun  # its only checkpoint is that of step 0
    theirs: transformers.PreTrainedModel


def open_model(folder: Path) -> RealModel:
    """Fetches the package if need be; each library reads the GGUF file in its own way.

    Args:
      folder: a new or empty one, for the file and the run folder that is made of it.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers.utils.logging.disable_progress_bar()
    logging.set_verbosity(logging.WARNING)
    path = packaged.extract(NAME, folder)
    run = finished_run(import_run(path, folder / "run").run)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=path.name, dtype=torch.float32, local_files_only=True
    )
    return RealModel(run, theirs.eval())
