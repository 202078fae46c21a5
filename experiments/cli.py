"""The command line every study shares: presets, overrides, dry runs and plain errors."""

import dataclasses
import hashlib
import logging
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import absl.logging
import jax
from absl import app, flags

from llm_dynamics import files
from llm_dynamics import spec as specs
from llm_dynamics.data.cache import cache_folder
from llm_dynamics.errors import UserError, disk_full
from llm_dynamics.model import presets

_PREFIX, _SETTINGS = "--config.", ("--settings", "-settings")
_KEPT_SECONDS = 0.2  # of compilation, above which the result is kept
_JOIN_SECONDS = 120  # that a process waits for the others


@dataclasses.dataclass(frozen=True)
class Study:
    """What the command line needs to know of a study.

    Attributes:
      name: of its file in experiments/ and of its default workdir.
      presets: name -> a function that builds the resolved spec.
      run: (spec, workdir, command) -> the path of the report.
      describe: spec -> the lines that --dry_run prints; refuses what cannot work.
      explain: (spec, step) -> what --explain=STEP prints.
      default: the preset that runs when none is named.
      advise: (spec, workdir, command) -> the lines that --advise prints; None = has no such flag.
    """

    name: str
    presets: Mapping[str, Callable[[], Any]]
    run: Callable[[Any, Path, str], Path]
    describe: Callable[[Any], list[str]]
    explain: Callable[[Any, int], str]
    default: str = "laptop"  # preset
    advise: Callable[[Any, Path, str], list[str]] | None = None


def start(study: Study) -> None:
    """Parses the flags and runs the study; the body of `if __name__ == "__main__"`."""
    flags.DEFINE_enum("preset", study.default, sorted(study.presets), "size of the run")
    flags.DEFINE_string("workdir", "", f"run folder; default runs/{study.name}-PRESET")
    flags.DEFINE_string("model", "", "a named model (llm_dynamics/model/presets.py)")
    flags.DEFINE_string("settings", "", "file of KEY=VALUE, a line each: as --config.KEY=VALUE")
    flags.DEFINE_bool("dry_run", False, "print the whole plan and stop")
    flags.DEFINE_integer("explain", None, "print what every row of this step holds, and stop")
    if study.advise:
        flags.DEFINE_bool("advise", False, "run a short sweep and print what to do")
    flags.DEFINE_string("coordinator", "", "several processes: HOST:PORT of process 0, or 'auto'")
    flags.DEFINE_integer("num_processes", 1, "several processes: how many")
    flags.DEFINE_integer("process_id", 0, "several processes: which one this is")
    overrides, rest = split_overrides(sys.argv)
    command = shlex.join(["launch/local", study.name, *sys.argv[1:]])

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(
                f"unexpected argument {argv[1]!r}; settings are given as --config.KEY=VALUE"
            )
        speak()
        plainly(lambda: _main(study, overrides, command))

    app.run(main, argv=rest)


def plainly(work: Callable[[], None]) -> None:
    """Runs `work`; what a user can mend becomes one line on standard error and a status."""
    try:
        work()
    except UserError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command resumes the run", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not disk_full(error):
            raise
        _stop(
            "the disk is full; what was written before is kept. Free some space and run the same "
            "command again"
        )


def resolve(spec: Any, model: str, overrides: Mapping[str, str]) -> Any:
    """The preset with a named model and the overrides put in.

    Raises:
      UserError: an unknown name or key, or settings that do not fit each other.
    """
    if model:
        if not hasattr(spec, "model"):
            raise UserError(
                f"--model={model} expects a study of one model; name the models of this one by "
                "--config.sizes=NAME,NAME"
            )
        named = presets.named(model, vocab_size=spec.model.vocab_size)
        # What the preset chose for the machine rather than for the model stays.
        named = dataclasses.replace(
            named, compute_dtype=spec.model.compute_dtype, remat=spec.model.remat
        )
        spec = dataclasses.replace(spec, model=named)
    return specs.override(spec, overrides)


def keep_compiled() -> None:
    """What was compiled once is read back, by the later runs of a study and by later commands.

    It is the same program, so results stay what they are to the bit. It lies in the cache folder,
    by machine, as it holds instructions that another one may lack; $JAX_COMPILATION_CACHE_DIR goes
    first. Where the folder cannot be written everything is compiled each time.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        folder = cache_folder() / "compiled" / _machine()
    except UserError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _KEPT_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _machine() -> str:
    """A digest of what the processors can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    kept = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    words = "\n".join([platform.machine(), *sorted(kept or lines)])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _main(study: Study, overrides: Mapping[str, str], command: str) -> None:
    values = flags.FLAGS
    if values.coordinator:
        _join(values.coordinator, values.num_processes, values.process_id)
    elif values.num_processes != 1 or values.process_id:
        raise UserError(
            "--num_processes and --process_id expect a --coordinator=HOST:PORT, got none"
        )
    spec = resolve(study.presets[values.preset](), values.model, overrides)
    keep_compiled()
    if values.dry_run:
        print("\n".join(study.describe(spec)))
        return
    if values.explain is not None:
        print(study.explain(spec, values.explain))
        return
    if study.advise and values.advise:
        workdir = Path(values.workdir or f"runs/{study.name}-{values.preset}-advice")
        print("\n".join(study.advise(spec, workdir, command)))
        return
    workdir = Path(values.workdir or f"runs/{study.name}-{values.preset}")
    print(f"report: {study.run(spec, workdir, command)}")


def speak() -> None:
    """Our own progress lines go to standard error as they are.

    Libraries report failures by raising; what they log besides (a traceback for every thread that
    a full disk stops) would bury the one line that says what to do.
    """
    absl.logging.set_verbosity(absl.logging.FATAL)
    logger, handler = logging.getLogger("llm_dynamics"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _join(coordinator: str, count: int, index: int) -> None:
    if coordinator == "auto":
        who, where = "this process", "what the cluster tells"
        advice = "off a cluster, give --coordinator=HOST:PORT, --num_processes and --process_id"
        given = {}
    else:
        _check_address(coordinator)
        if not 0 <= index < count:
            raise UserError(
                f"expected 0 <= process_id < num_processes, got {index} and {count}; every process "
                "gets the same --coordinator and --num_processes and its own --process_id"
            )
        if index:
            _await(coordinator)
        who, where = f"process {index} of {count}", coordinator
        advice = (
            "start all processes with the same --coordinator, which process 0 must be able to "
            "listen on"
        )
        given = {
            "coordinator_address": coordinator,
            "num_processes": count,
            "process_id": index,
        }
    try:
        jax.distributed.initialize(**given, initialization_timeout=_JOIN_SECONDS)
    except (RuntimeError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"{who} could not join at {where} ({said}); {advice}") from None


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UserError(
            "expected --coordinator=HOST:PORT with a port of 1 to 65535, or 'auto' on a cluster, "
            f"got {address!r}"
        )


def _await(address: str) -> None:
    """Waits until process 0 listens: joining where nobody does ends in an abort, not an error."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + _JOIN_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() >= end:
                raise UserError(
                    f"expected process 0 to answer at {address} within {_JOIN_SECONDS} s, got: "
                    f"{error.strerror or error}; start all processes with the same --coordinator"
                ) from None
        time.sleep(0.5)


def split_overrides(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Takes the settings out of a command line: --config.KEY=VALUE, and the files of --settings.

    A file holds KEY=VALUE, a line each; what the command line says itself goes before it.
    """
    from_files: dict[str, str] = {}
    overrides, rest, args = {}, [], iter(argv)
    for arg in args:
        name, equals, value = arg.partition("=")
        if name in _SETTINGS:
            path = value if equals else next(args, "")
            for number, line in enumerate(_lines(path), 1):
                if line.strip() and not line.startswith("#"):
                    _put(from_files, line.strip(), f"{path}, line {number}")
        elif arg.startswith(_PREFIX):
            _put(overrides, arg[len(_PREFIX) :], "the command line")
        else:
            rest.append(arg)
    return from_files | overrides, rest


def _lines(path: str) -> list[str]:
    try:
        return files.expanded(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, UserError) as error:
        _stop(f"expected a file of settings at {path!r}: {error}")


def _put(overrides: dict[str, str], setting: str, where: str) -> None:
    key, equals, value = setting.removeprefix(_PREFIX).partition("=")
    if not equals or not key:
        _stop(f"expected {_PREFIX}KEY=VALUE, in a file KEY=VALUE, got {setting!r} in {where}")
    overrides[key] = value


def numbers(name: str, words: Sequence[str], kind: type = int) -> tuple:
    """The values of a flag that is a list of numbers.

    Raises:
      UserError: something else is among them.
    """
    try:
        return tuple(kind(word) for word in words)
    except ValueError:
        raise UserError(f"expected --{name} as numbers by commas, got {','.join(words)}") from None


def _stop(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
