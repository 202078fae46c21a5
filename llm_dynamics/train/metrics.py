"""Metrics by step: one JSON line each, with TensorBoard and Weights & Biases as mirrors."""

import json
import os
from pathlib import Path
from typing import Any

from llm_dynamics import files
from llm_dynamics.errors import UserError
from llm_dynamics.spec import fingerprint

# Fields that measure the machine, not the run: they differ between two runs of one spec.
WALL_CLOCK = ("seconds", "tokens_per_second")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut short by a killed process is left out.

    Raises:
      UserError: a file that is not UTF-8 text, a line other than the last that is not JSON, or
        one that is not an object with a step.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as text ({type(error).__name__}); restore the file or start a "
            "new workdir"
        ) from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number < len(lines):
                raise UserError(
                    f"{path} line {number} is not JSON; restore the file or start a new workdir"
                ) from None
            continue
        if not isinstance(row, dict) or type(row.get("step")) is not int:
            raise UserError(
                f"{path} line {number} is not an object with a step; restore the file or start a "
                "new workdir"
            )
        rows.append(row)
    return rows


class MetricsLog:
    """Appends to RUN/metrics.jsonl and its mirrors. Open it on one process only."""

    def __init__(
        self,
        folder: Path,
        *,
        start: int,
        tensorboard: bool = False,
        wandb_project: str = "",
        config: dict[str, Any] | None = None,
    ):
        """Keeps the lines before step `start` and drops the rest, which are about to be redone.

        Raises:
          UserError: the file lacks a step before `start`.
        """
        self._path = Path(folder) / "metrics.jsonl"
        kept = [r for r in read(self._path) if r["step"] < start] if self._path.exists() else []
        if [r["step"] for r in kept] != list(range(start)):
            raise UserError(
                f"the run resumes at step {start}, but {self._path} does not hold exactly the "
                f"steps 0 to {start - 1}; restore the file or start a new workdir"
            )
        files.write_text(self._path, "".join(json.dumps(r) + "\n" for r in kept))
        self._file = self._path.open("a", encoding="utf-8")
        self._board = self._wandb = None
        if tensorboard:
            import tensorboardX

            self._board = tensorboardX.SummaryWriter(
                str(Path(folder) / "tensorboard"), purge_step=start, flush_secs=30
            )
        if wandb_project:
            self._wandb = _start_wandb(wandb_project, Path(folder), config or {})

    def write(self, step: int, values: dict[str, float]) -> None:
        """Appends one line for `step`."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.log(values, step=step)

    def flush(self) -> None:
        """Makes every line written so far survive a power cut."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes the file and its mirrors."""
        self.flush()
        self._file.close()
        if self._board:
            self._board.close()
        if self._wandb:
            self._wandb.finish()


def _start_wandb(project: str, folder: Path, config: dict[str, Any]):
    import wandb

    # The same folder and spec is the same run; a folder of the same name elsewhere is not.
    identity = fingerprint([str(folder.absolute()), config])
    return wandb.init(
        project=project,
        name=folder.name,
        dir=str(folder),
        id=identity,
        resume="allow",
        config=config,
    )
