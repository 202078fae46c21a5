"""A probe log whose steps may become more: what was answered moves into the longer one.

Axes: P probes, M measures.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr

from llm_dynamics.errors import UserError
from llm_dynamics.files import sync
from llm_dynamics.probe.log import ProbeLog, open_log, refuse_other_probes
from llm_dynamics.probe.probes import Probe

_KEPT = "checkpoints"  # attribute of the log: {step: identity}


class LogRow(NamedTuple):
    """What is known of a row before it is written."""

    step: int
    tokens: int
    identity: str  # tells whose scores it holds


def open_growing(
    path: Path,
    probes: Sequence[Probe],
    num_target_tokens: Sequence[int],
    rows: Sequence[LogRow],
    attrs: Mapping[str, str],
) -> ProbeLog:
    """Opens a log for these rows and all that it holds already.

    A kill at any moment leaves the log as it was, or longer.

    Args:
      path: the folder of the store.
      probes: as for `ProbeLog`, and so are
      num_target_tokens: and
      attrs: of the store.
      rows: that will be written or were, by ascending step.

    Raises:
      UserError: a log of other probes, a row that holds the scores of something else, or see
        `ProbeLog`.
    """
    old_path, next_path = (path.with_name(path.name + end) for end in (".old", ".next"))
    if old_path.exists() and not path.exists():
        os.replace(old_path, path)
    for leftover in (old_path, next_path):
        shutil.rmtree(leftover, ignore_errors=True)
    by_step = {row.step: row for row in rows}
    old = open_log(path) if path.exists() else None
    if old is not None:
        refuse_other_probes(old, probes, num_target_tokens)
    answered = {} if old is None else _answered(old)
    for step, (there, _) in answered.items():
        asked = by_step.setdefault(step, there)
        if asked.identity != there.identity:
            raise UserError(
                f"step {step} of the log {path} was answered by another checkpoint than the one "
                "that is there now; choose another workdir"
            )
    merged = sorted(by_step.values())

    def opened(where: Path) -> ProbeLog:
        steps, tokens, identities = zip(*merged, strict=True)
        kept = {_KEPT: {str(s): i for s, i in zip(steps, identities, strict=True)}}
        return ProbeLog(where, probes, num_target_tokens, steps, tokens, {**attrs, **kept})

    if old is None or _rows(old) == merged:
        return opened(path)
    with opened(next_path) as grown:
        for step, (_, values_PxM) in answered.items():
            grown.write(step, values_PxM)
    os.replace(path, old_path)
    os.replace(next_path, path)
    sync(path.parent)
    shutil.rmtree(old_path, ignore_errors=True)
    return opened(path)


def _rows(log: xr.Dataset) -> list[LogRow]:
    kept = log.attrs.get(_KEPT, {})
    steps, tokens = log["step"].values.tolist(), log["tokens"].values.tolist()
    return [LogRow(s, t, kept.get(str(s), "")) for s, t in zip(steps, tokens, strict=True)]


def _answered(log: xr.Dataset) -> dict[int, tuple[LogRow, np.ndarray]]:
    """{step: its row and scores} of what is written."""
    scores = log["score"].values
    return {
        row.step: (row, values_PxM)
        for row, values_PxM in zip(_rows(log), scores, strict=True)
        if not np.isnan(values_PxM).all()
    }
