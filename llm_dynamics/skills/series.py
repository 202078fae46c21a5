"""A series of checkpoints, of one run or of several, asked the same questions once.

Whatever has what `Checkpoint` names can be in a series; `own_runs` has those of run folders. Scores
are kept, one file a checkpoint, so that a series goes on where it was stopped.

Axes: P probes, M measures.
"""

import dataclasses
import hashlib
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from llm_dynamics import files
from llm_dynamics.data.tokenizers import Tokenizer
from llm_dynamics.errors import UserError
from llm_dynamics.model import size
from llm_dynamics.model.build import build_model
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.probe import packing
from llm_dynamics.probe.probes import EncodedProbe, encode_all
from llm_dynamics.probe.scoring import MEASURES, make_scorer
from llm_dynamics.skills.labelled import Labelled, check_links, in_log
from llm_dynamics.skills.outcomes import Outcomes
from llm_dynamics.spec import fingerprint

_log = logging.getLogger(__name__)
_POSITIONS = 2**18  # of probes that are scored in one program
_SHOWN = 5  # probes quoted in one message


class Checkpoint(Protocol):
    """A decoder at one moment of its training.

    Attributes:
      run: name of the run, or of the model where there is one checkpoint of each.
      step: updates done.
      tokens: training tokens seen.
      config: of the decoder.
      identity: tells its parameters from all others, across sessions.
      tokenizer: of its text.
    """

    run: str
    step: int
    tokens: int
    config: ModelConfig
    identity: str
    tokenizer: Tokenizer

    def params(self) -> Any:
        """The parameters, on this device."""
        ...


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
        self._encoded: dict[str, tuple[list[EncodedProbe], str]] = {}  # by tokenizer
        self._programs: dict[Any, list] = {}  # by model and tokenizer

    def check(self, checkpoint: Checkpoint) -> None:
        """Refuses what cannot be asked, before anything is scored.

        Raises:
          UserError: probes that the tokenizer cuts wrongly or that are too long for the model.
        """
        encoded, _ = self._encode(checkpoint.tokenizer)
        most = checkpoint.config.max_length
        long = [p for p in encoded if len(p.ids) - 1 > most]
        if long:
            names = ", ".join(f"{p.name!r} ({len(p.ids) - 1})" for p in long[:_SHOWN])
            raise UserError(
                f"{checkpoint.run}: expected probes of at most {most} tokens before the last, the "
                f"context of the model, got {len(long)} longer ones: {names}; shorten them"
            )

    def is_kept(self, checkpoint: Checkpoint) -> bool:
        """Whether the checkpoint was asked before."""
        return self._kept(checkpoint) is not None

    def tokens(self, checkpoint: Checkpoint) -> int:
        """Tokens that the model reads to answer."""
        return sum(len(p.ids) - 1 for p in self._encode(checkpoint.tokenizer)[0])

    def point(self, checkpoint: Checkpoint) -> Point:
        """Asks a checkpoint, or reads what it answered before.

        Raises:
          UserError: see `check`, or scores that are not finite.
        """
        self.check(checkpoint)
        values_PxM = self._kept(checkpoint)
        if values_PxM is None:
            _log.info("asking %s, step %d", checkpoint.run, checkpoint.step)
            params = checkpoint.params()
            values_PxM = np.concatenate([np.asarray(f(params)) for f in self._program(checkpoint)])
            with files.replacing(self._path(checkpoint)) as temporary, temporary.open("wb") as file:
                np.savez(file, values_PxM=values_PxM)
        return point(
            self._labelled, values_PxM, checkpoint.run, checkpoint.step, checkpoint.tokens,
            size.num_params(checkpoint.config),
        )  # fmt: skip

    def _encode(self, tokenizer: Tokenizer) -> tuple[list[EncodedProbe], str]:
        key = tokenizer.fingerprint
        if key not in self._encoded:
            encoded = encode_all(self._labelled.probes(), tokenizer)
            digest = hashlib.sha256()
            for probe in encoded:
                digest.update(np.array([probe.num_target, *probe.ids, -1], np.int64).tobytes())
            self._encoded[key] = encoded, digest.hexdigest()[:16]
        return self._encoded[key]

    def _path(self, checkpoint: Checkpoint) -> Path:
        asked = self._encode(checkpoint.tokenizer)[1]
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

    def _program(self, checkpoint: Checkpoint) -> list:
        encoded, digest = self._encode(checkpoint.tokenizer)
        key = (checkpoint.config, digest)
        if key not in self._programs:
            decoder = build_model(checkpoint.config)
            self._programs[key] = [
                make_scorer(
                    decoder,
                    packing.pack(block, packing.best_length(block, checkpoint.config.max_length)),
                )
                for block in blocks(encoded)
            ]
        return self._programs[key]


def blocks(encoded: Sequence[EncodedProbe], most: int = _POSITIONS) -> list[list[EncodedProbe]]:
    """Probes in order, parted so that a block has about `most` tokens: what memory allows."""
    ends = np.cumsum([len(probe.ids) for probe in encoded])
    block_P = (ends - 1) // most
    return [[encoded[p] for p in np.flatnonzero(block_P == b)] for b in np.unique(block_P)]


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
