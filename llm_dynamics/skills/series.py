"""A series of checkpoints, of one run or of several, asked the same questions once.

Whatever has what `train.series.Checkpoint` names can be in a series. Scores are kept, one file a
checkpoint, so that a series goes on where it was stopped.

Axes: P probes, M measures.
"""

import dataclasses
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from llm_dynamics import files
from llm_dynamics.errors import UserError
from llm_dynamics.model import size
from llm_dynamics.probe.scoring import MEASURES
from llm_dynamics.skills.labelled import Labelled, check_links, in_log
from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.spec import fingerprint
from llm_dynamics.train.asking import Asker
from llm_dynamics.train.series import Checkpoint

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Point:
    """What one checkpoint got right.

    Attributes:
      run: as of its checkpoint, and so
      step: and
      tokens: are; 0 = not known.
      num_params: of the model; 0 = not known.
      outcomes: on all questions.
    """

    run: str
    step: int
    tokens: int
    num_params: int
    outcomes: Outcomes

    @property
    def name(self) -> str:
        return f"{self.run}/step={self.step}"


class Scorer:
    """Asks checkpoints the questions of a set; keeps every answer in a folder."""

    def __init__(self, labelled: Labelled, folder: Path):
        self._labelled, self._folder = labelled, Path(folder)
        self._asker = Asker(labelled.probes())
        self.check, self.tokens = self._asker.check, self._asker.tokens

    def is_kept(self, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint was asked before."""
        return self._kept(checkpoint) is not None

    def point(self, checkpoint: Checkpoint) -> Point:
        """Asks a checkpoint, or reads what it answered before.

        Raises:
          UserError: see `Asker.check`, or scores that are not finite.
        """
        self.check(checkpoint)
        values_PxM = self._kept(checkpoint)
        if values_PxM is None:
            values_PxM = self._asker.scores(checkpoint)
            with files.replacing(self._path(checkpoint)) as temporary, temporary.open("wb") as file:
                np.savez(file, values_PxM=values_PxM)
        return point(
            self._labelled, values_PxM, checkpoint.run, checkpoint.step, checkpoint.tokens,
            size.num_params(checkpoint.config),
        )  # fmt: skip

    def _path(self, checkpoint: Checkpoint) -> Path:
        asked = self._asker.digest(checkpoint.tokenizer)
        key = fingerprint([checkpoint.identity, asked, MEASURES])
        return self._folder / f"{checkpoint.run}-{checkpoint.step}-{key}.npz"

    def _kept(self, checkpoint: Checkpoint) -> np.ndarray | None:
        path = self._path(checkpoint)
        try:
            with np.load(path) as kept:
                return kept["values_PxM"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            _log.warning("%s is damaged, so the checkpoint is asked again", path)
            return None


def log_points(
    log: xr.Dataset, labelled: Labelled, where: dict[str, str], run: str, num_params: int,
    steps: Sequence[int],
) -> list[Point]:  # fmt: skip
    """The points of a probe log: row t was scored with the parameters after t updates.

    Args:
      log: from `probe.log.open_log`.
      labelled: its questions, from `labelled.from_log`.
      where: as they were chosen.
      run: name.
      num_params: of its model.
      steps: recorded ones.

    Raises:
      UserError: a step that the log lacks.
    """
    chosen, found = in_log(log, where), []
    recorded = log["step"].values
    order = [list(log["measure"].values).index(name) for name in MEASURES]
    for step in steps:
        at = np.flatnonzero(recorded == step)
        if not len(at):
            raise UserError(
                f"the log of {run} has no step {step}; it has {len(recorded)} from {recorded[0]} "
                f"to {recorded[-1]}"
            )
        values_PxM = log["score"].values[at[0]][chosen][:, order]
        tokens = int(log["tokens"].values[at[0]])
        found.append(point(labelled, values_PxM, run, int(step), tokens, num_params))
    return found


def point(
    labelled: Labelled, values_PxM: np.ndarray, run: str, step: int, tokens: int, num_params: int
) -> Point:
    """A point from scores, checked.

    Raises:
      UserError: scores that are not finite, or answers that contradict their losses.
    """
    where = f"{run}, step {step}"
    if not np.isfinite(values_PxM).all():
        raise UserError(f"{where}: expected finite scores, got others: the model diverged")
    outcomes = labelled.outcomes(values_PxM)
    check_links(outcomes, where)
    return Point(run, step, tokens, num_params, outcomes)
