"""How much of earlier runs is read again, as it is written and counted."""

import math
from collections.abc import Sequence
from fractions import Fraction

from llm_dynamics.errors import UserError

_SMALLEST = 1e-6  # shares are taken at their face value, up to six decimals


def parse_replay(entry: str) -> tuple[str, float]:
    """Splits "RUN_FOLDER@SHARE".

    Returns:
      The folder, and the share of this run's rows that are rows which the run in it has read.

    Raises:
      UserError: no folder, or a share outside 0 < x < 1.
    """
    folder, _, text = entry.strip().rpartition("@")
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not folder or not _SMALLEST <= share < 1:
        raise UserError(
            f"replay expects RUN_FOLDER@SHARE with 0 < SHARE < 1, e.g. runs/first@0.05, got "
            f"{entry!r}; leave out what is not replayed"
        )
    return folder, share


def parse_replays(entries: Sequence[str]) -> list[tuple[str, float]]:
    """`parse_replay` of all entries of a run.

    Raises:
      UserError: a folder named twice, or shares that leave nothing for the run's own sources.
    """
    parsed = [parse_replay(entry) for entry in entries]
    folders = [folder for folder, _ in parsed]
    for folder in folders:
        if folders.count(folder) > 1:
            raise UserError(
                f"{folder} is named more than once in replay={tuple(entries)}; name it once and "
                "give it the sum of the shares"
            )
    if _total([share for _, share in parsed]) >= 1:
        raise UserError(
            f"replay={tuple(entries)} expects shares with a sum below 1, got "
            f"{float(_total([share for _, share in parsed])):g}; the rest is what the sources get"
        )
    return parsed


def additive_steps(steps: int, shares: Sequence[float]) -> int:
    """Steps of a run with replay that reads as much new text as `steps` steps without.

    By default replay is compute-equivalent: it takes the place of new text in a run of T steps
    (Ibrahim et al. 2024, section 4.2). For the other accounting, which keeps the new text and
    pays for the replay, set the run's steps to T / (1 - sum of shares), rounded up: 5 % of
    replay costs 5.3 % more steps.
    """
    return math.ceil(steps / (1 - _total(shares)))


def _total(shares: Sequence[float]) -> Fraction:
    return sum((Fraction(str(share)) for share in shares), Fraction(0))
