"""Runs the facts study and kills itself (SIGKILL) at a named moment: python crash.py POINT ARGS.

Points: compile, step:K, save (while a checkpoint is being written), report, none.
"""

import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path


def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def after(seconds: float) -> None:
    threading.Timer(seconds, die).start()


def arm(point: str, workdir: Path) -> None:
    """Plants the moment of death around the real code."""
    if point == "compile":
        import jax

        lower = jax.stages.Lowered.compile

        def compile_and_die(self, *args, **kwargs):
            after(0.2)
            return lower(self, *args, **kwargs)

        jax.stages.Lowered.compile = compile_and_die
    elif point.startswith("step:"):
        from llm_dynamics.train.metrics import MetricsLog

        write = MetricsLog.write

        def write_and_die(self, step, values):
            if step == int(point[5:]):
                die()
            write(self, step, values)

        MetricsLog.write = write_and_die
    elif point == "save":

        def watch():
            folder = workdir / "checkpoints"
            before = set(os.listdir(folder)) if folder.exists() else set()
            while True:
                found = set(os.listdir(folder)) if folder.exists() else set()
                if any("tmp" in name for name in found - before):
                    die()
                time.sleep(0.0005)

        threading.Thread(target=watch, daemon=True).start()
    elif point == "report":
        from llm_dynamics import files

        replacing, seen = files.replacing, []

        def replace_and_die(path):
            seen.append(path)
            if Path(path).suffix == ".svg" and len(seen) > 3:
                die()
            return replacing(path)

        files.replacing = replace_and_die


if __name__ == "__main__":
    point, *rest = sys.argv[1:]
    workdir = next(arg.partition("=")[2] for arg in rest if arg.startswith("--workdir="))
    arm(point, Path(workdir))
    sys.argv = ["facts", *rest]
    runpy.run_module("experiments.facts", run_name="__main__", alter_sys=True)
