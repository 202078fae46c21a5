"""Training throughput against a plain PyTorch GPT of the same shape, side by side in one run.

    python -m benchmarks.throughput                     both shapes on this CPU
    python -m benchmarks.throughput --shapes=small --rounds=5

The same architecture on both sides: learned positions, LayerNorm, GELU, biases, tied embeddings,
packed rows without document masks, mean cross-entropy, AdamW with clipping at 1. Every contestant
is a process of its own, so that none works in a heap or beside threads of another, and all inherit
this one's environment. Rounds alternate between the contestants, so a machine that drifts slows
all of them; each figure is the median over rounds, each ratio the median of the ratios within a
round. The matrix products of a step alone bound what any float32 step can gain over PyTorch here.
"""

import importlib
import multiprocessing
import os
import statistics
import time
from importlib.metadata import version
from multiprocessing.connection import Connection

from absl import app, flags

from benchmarks.shapes import SHAPES, product_flops

_SHAPES = flags.DEFINE_multi_enum("shapes", ["small", "large"], list(SHAPES), "which shapes")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds of every contestant")
_STEPS = flags.DEFINE_integer("steps", 4, "training steps of a round")
_COMPILE = flags.DEFINE_bool("torch_compile", True, "also time torch.compile")
_PARTS = flags.DEFINE_bool("parts", True, "also time the parts of our step")

_COMPILED, _PRODUCTS = "torch float32 compiled", "products alone"

# Label -> module, the function in it that makes `train(steps)`, and its settings. Modules are
# imported in the contestant's own process: this one loads neither JAX nor PyTorch.
CONTESTANTS = {
    "ours float32": ("benchmarks.ours", "trainer", {"dtype": "float32"}),
    "ours bfloat16": ("benchmarks.ours", "trainer", {"dtype": "bfloat16"}),
    "torch float32": ("benchmarks.theirs", "trainer", {}),
    _COMPILED: ("benchmarks.theirs", "trainer", {"compiled": True}),
    "torch bfloat16 autocast": ("benchmarks.theirs", "trainer", {"bfloat16": True}),
    _PRODUCTS: ("benchmarks.theirs", "products", {}),
}


class Contestant:
    """A process that trains so many steps when told to."""

    def __init__(self, label: str, shape: dict):
        """Starts the process and waits until it is warm.

        Raises:
          RuntimeError: it cannot train; the message is the first line of its error.
        """
        spawn = multiprocessing.get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_work, args=(theirs, *CONTESTANTS[label], shape), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            failure = self._pipe.recv()
        except EOFError:
            failure = "its process ended"
        if failure:
            self.close()
            raise RuntimeError(failure)

    def seconds(self, steps: int) -> float:
        """Wall-clock seconds of one of `steps` steps."""
        self._pipe.send(steps)
        return self._pipe.recv() / steps

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _work(pipe: Connection, module: str, maker: str, settings: dict, shape: dict) -> None:
    """The body of a contestant's process: warms up, then times steps until the pipe is closed."""
    try:
        train = getattr(importlib.import_module(module), maker)(shape, **settings)
        train(2)
    except Exception as error:
        pipe.send(
            f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''}"
        )
        return
    pipe.send(None)
    while True:
        try:
            steps = pipe.recv()
        except EOFError:
            return
        start = time.perf_counter()
        train(steps)
        pipe.send(time.perf_counter() - start)


def _breakdown(shape: dict) -> None:
    importlib.import_module("benchmarks.ours").breakdown(shape)


def measure(shape: dict) -> dict[str, list[float]]:
    """Seconds a step of every contestant that can train, one for each round."""
    contestants = {}
    for label in CONTESTANTS:
        if label == _COMPILED and not _COMPILE.value:
            continue
        try:
            contestants[label] = Contestant(label, shape)
        except RuntimeError as error:
            print(f"  {label}: left out ({error})")
    seconds = {label: [] for label in contestants}
    for _ in range(_ROUNDS.value):
        for label, contestant in contestants.items():
            seconds[label].append(contestant.seconds(_STEPS.value))
    for contestant in contestants.values():
        contestant.close()
    return seconds


def report(name: str, shape: dict, seconds: dict[str, list[float]]) -> None:
    """Prints the table of one shape and the ratios within rounds."""
    count = shape["rows"] * shape["length"]
    print(f"\n{name}: " + ", ".join(f"{k} {v}" for k, v in shape.items()))
    for label, times in seconds.items():
        middle = statistics.median(times)
        print(f"  {label:<26} {1000 * middle:8.1f} ms/step {count / middle:10,.0f} tokens/s")
    rivals = [times for label, times in seconds.items() if label.startswith("torch float32")]
    seconds = seconds | {"best torch float32": [min(times) for times in zip(*rivals, strict=True)]}

    def faster(one: str, other: str) -> float:
        pairs = zip(seconds[one], seconds[other], strict=True)
        return statistics.median(b / a for a, b in pairs)

    for other in ("best torch float32", "torch bfloat16 autocast"):
        for one in ("ours float32", "ours bfloat16"):
            if seconds.get(one) and seconds.get(other):
                print(f"  speed of {one} / {other}: {faster(one, other):.2f}x")
    if seconds.get(_PRODUCTS) and seconds["best torch float32"]:
        bound = faster(_PRODUCTS, "best torch float32")
        print(f"  time of best torch float32 / {_PRODUCTS}: {bound:.2f}x")
        weights, attention = (flops / 1e9 for flops in product_flops(shape))
        rate = (weights + attention) / statistics.median(seconds[_PRODUCTS])
        print(
            f"  {_PRODUCTS}: {weights:.1f} GFLOP with weights and {attention:.1f} of attention, "
            f"{rate:.0f} GFLOP/s"
        )


def main(argv: list[str]) -> None:
    del argv
    os.environ["JAX_PLATFORMS"] = "cpu"  # PyTorch's contestants are on the CPU too
    settings = ", ".join(
        f"{name}={os.environ.get(name, '')}" for name in ("GLIBC_TUNABLES", "LD_PRELOAD")
    )
    print(
        f"jax {version('jax')}; torch {version('torch')}; {os.cpu_count()} cores; {settings}",
        flush=True,
    )
    for name in dict.fromkeys(_SHAPES.value):
        report(name, SHAPES[name], measure(SHAPES[name]))
        if _PARTS.value:
            parts = multiprocessing.get_context("spawn").Process(
                target=_breakdown, args=(SHAPES[name],)
            )
            parts.start()
            parts.join()


if __name__ == "__main__":
    app.run(main)
