"""The run folder: where everything of one run lies, and which spec owns it."""

import fcntl
import importlib.metadata
import json
import logging
import platform
import sys
from pathlib import Path
from typing import Any

from llm_dynamics import __version__, files, spec
from llm_dynamics.errors import UserError

_log = logging.getLogger(__name__)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tokenizers")


class RunFolder:
    """Paths inside RUN, and a lock that is held while the process lives."""

    def __init__(self, path: Path):
        self.path = files.expanded(path).absolute()
        self.spec = self.path / "spec.json"
        self.metrics = self.path / "metrics.jsonl"
        self.probes = self.path / "probes"
        self.checkpoints = self.path / "checkpoints"
        self.results = self.path / "results.json"
        self.report = self.path / "report.html"
        self.figures = self.path / "figures"
        self._lock = None

    def claim(self, run_spec: Any, data: dict[str, Any], parent: Any = None) -> bool:
        """Writes spec.json, or checks that the folder belongs to the same spec and data.

        Args:
          run_spec: the resolved specification (nested frozen dataclasses).
          data: a description of the data with its `fingerprint`.
          parent: the checkpoint of another run that this one starts from (`start.Origin`), if
            any.

        Returns:
          True if the folder was new.

        Raises:
          UserError: another spec, other data, or another live process owns the folder.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._refuse_strangers()
            self._refuse_other_kinds()
            self._hold()
        except OSError as error:
            raise UserError(
                f"the workdir {self.path} cannot be written ({error.strerror}); choose another "
                "--workdir"
            ) from None
        record = {
            "spec": spec.to_json(run_spec),
            "data": data,
            "parent": spec.to_json(parent),
            "versions": versions(),
        }
        if not self.spec.exists():
            files.write_json(self.spec, record)
            return True
        old = read_spec(self.spec)
        changes = spec.difference(_with_defaults(run_spec, old["spec"]), record["spec"])
        if old["data"].get("fingerprint") != data["fingerprint"]:
            changes.append("data: its fingerprint differs; another corpus, tokenizer or package")
        if changes:
            lines = "\n  ".join(changes)
            raise UserError(
                f"the workdir {self.path} holds a run of another spec; use a new --workdir, "
                f"or the same settings to resume. It differs in (there -> asked):\n  {lines}"
            )
        changes = spec.difference(old["versions"], record["versions"])
        if changes:
            _log.warning("resuming under other versions than the run began with: %s", changes)
        return False

    def _refuse_strangers(self) -> None:
        others = [p.name for p in self.path.iterdir() if not p.name.startswith(".")]
        if others and not self.spec.exists():
            raise UserError(
                f"the workdir {self.path} is not empty and holds no run (found "
                f"{', '.join(sorted(others)[:3])}); choose a new or empty folder"
            )

    def _refuse_other_kinds(self) -> None:
        holders = (self.probes, self.checkpoints, self.figures)
        for path in (*holders, self.spec, self.metrics, self.results, self.report):
            if path.exists() and path.is_dir() != (path in holders):
                kinds = ("a folder", "a file") if path in holders else ("a file", "a folder")
                raise UserError(f"expected {path} to be {kinds[0]}, got {kinds[1]}; move it away")

    def _hold(self) -> None:
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is running in {self.path}; wait for it or stop it"
            ) from None
        except OSError as error:
            _log.warning("no lock in %s (%s): keep it to one process", self.path, error.strerror)


def _with_defaults(run_spec: Any, old: dict[str, Any]) -> dict[str, Any]:
    """An older record with the fields that the spec has gained since, at their defaults."""
    try:
        return spec.to_json(spec.from_json(type(run_spec), old))
    except (UserError, TypeError):  # it has no such fields, or lacks some without a default
        return old


def read_spec(path: Path) -> dict[str, Any]:
    """The record of a run: spec, data, parent and versions.

    Raises:
      UserError: the file is missing or damaged.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {key: record[key] for key in ("spec", "data", "parent", "versions")}
        for key, value in found.items():
            if not isinstance(value, dict) and (key != "parent" or value is not None):
                raise TypeError(key)
        return found
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a run's spec ({type(error).__name__}: {error}); expected the "
            "spec.json that a run writes"
        ) from None


def versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that decide the numbers."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "llm_dynamics": __version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        **found,
    }
