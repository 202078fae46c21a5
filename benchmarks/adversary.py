"""What a round of the search for the worst failures costs, against numpy.

    taskset -c 0 python -m benchmarks.adversary         one core for both
    python -m benchmarks.adversary                      XLA may use all cores, numpy uses one
    python -m benchmarks.adversary --what=memory        one round at 10^8 pieces: peak memory, time

A round: fail the pieces with most skills in a set, find the worst skills for these failures. It is
timed in turn with the same round in numpy, written in two ways: as one writes it (a piece a row,
`argpartition`), and as fast as we could make it (a skill a row, an 8-bit table, a histogram in
place of `argpartition`). Ratios are taken round by round.
"""

import os
import resource
import statistics
import time

import numpy as np
from absl import app, flags

from llm_dynamics.skills import adversaries, targets
from llm_dynamics.skills.graph import SkillGraph

_WHAT = flags.DEFINE_enum("what", "time", ["time", "memory"], "what to measure")
_PIECES = flags.DEFINE_integer("pieces", None, "N1; default 10^6, with --what=memory 10^8")
_KEEP = flags.DEFINE_bool("keep", None, "keep edges; default where they fit")
_ROUNDS = flags.DEFINE_integer("rounds", 25, "rounds of every contestant")

SKILLS, K, THETA, ALPHA = 1000, 8, 0.05, 0.1


def plain(skill_PxK: np.ndarray, degree_S: np.ndarray, aim_S: np.ndarray) -> np.ndarray:
    """A round in numpy as one writes it; the worst skills."""
    failing = round(THETA * len(skill_PxK))
    count_P = aim_S[skill_PxK].sum(axis=1)
    failed_M = np.argpartition(-count_P, failing)[:failing]
    inside_S = np.bincount(skill_PxK[failed_M].ravel(), minlength=len(aim_S))
    return np.argsort(-inside_S / degree_S)[: round(ALPHA * len(aim_S))]


def tuned(skill_KxP: np.ndarray, degree_S: np.ndarray, aim_S: np.ndarray) -> np.ndarray:
    """The same with a skill a row, 8-bit counts, and a histogram for the threshold."""
    failing = round(THETA * skill_KxP.shape[1])
    table_S = aim_S.astype(np.int8)
    count_P = table_S[skill_KxP[0]]
    for skill_P in skill_KxP[1:]:
        count_P += table_S[skill_P]
    least = np.cumsum(np.bincount(count_P, minlength=K + 1)[::-1])[::-1]
    level = int((least >= failing).sum()) - 1
    above_M = np.flatnonzero(count_P > level)
    tied_M = np.flatnonzero(count_P == level)[: failing - len(above_M)]
    failed_M = np.concatenate([above_M, tied_M])
    inside_S = np.bincount(skill_KxP[:, failed_M].ravel(), minlength=len(aim_S))
    return np.argsort(-inside_S / degree_S)[: round(ALPHA * len(aim_S))]


def compare(pieces: int) -> None:
    """Times the three in turn and prints medians and ratios."""
    graph = SkillGraph(pieces, SKILLS, K)
    drawn = adversaries.draw(graph, 0, keep=True)
    aim_S = targets.random_set(graph, ALPHA, 0)
    chunks = np.asarray(drawn.kept_NxKxC).astype(np.intp)
    skill_KxP = np.ascontiguousarray(np.moveaxis(chunks, 1, 0).reshape(K, -1)[:, :pieces])
    skill_PxK = np.ascontiguousarray(skill_KxP.T)
    contestants = {
        "ours": lambda: adversaries.aimed_at(drawn, aim_S, THETA, ALPHA).worst_I,
        "numpy, plain": lambda: plain(skill_PxK, drawn.degree_I, aim_S),
        "numpy, tuned": lambda: tuned(skill_KxP, drawn.degree_I, aim_S),
    }
    np.testing.assert_array_equal(
        np.flatnonzero(contestants["ours"]()), np.sort(contestants["numpy, tuned"]())
    )
    times = {name: [] for name in contestants}
    for _ in range(_ROUNDS.value + 1):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    cores = len(os.sched_getaffinity(0))
    print(f"{pieces:,} pieces of {K} of {SKILLS:,} skills, {cores} core(s) for XLA, 1 for numpy")
    for name, values in times.items():
        kept = values[1:]
        ratios = sorted(a / b for a, b in zip(kept, times["ours"][1:], strict=True))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        print(
            f"  {name:<13} {1000 * statistics.median(kept):7.1f} ms, "
            f"{statistics.median(ratios):5.2f} times ours (80 % of rounds: {low:.2f} to {high:.2f})"
        )


def memory(pieces: int) -> None:
    """Prints time and peak memory of drawing a graph and of a round on it."""
    graph, before = SkillGraph(pieces, SKILLS, K), _peak()
    start = time.perf_counter()
    drawn = adversaries.draw(graph, 0, keep=_KEEP.value)
    made = time.perf_counter()
    found = adversaries.aimed_at(drawn, targets.random_set(graph, ALPHA, 0), THETA, ALPHA)
    print(
        f"{pieces:,} pieces of {K} skills, edges "
        f"{'made again' if drawn.kept_NxKxC is None else 'kept'}: drawn in {made - start:.1f} s, "
        f"a round in {time.perf_counter() - made:.1f} s (with compilation), peak "
        f"{_peak() / 2**30:.2f} GiB resident ({before / 2**30:.2f} before); "
        f"beta {found.aimed:.4f}"
    )


def _peak() -> int:
    """Largest resident memory of this process so far, bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(argv: list[str]) -> None:
    del argv
    if _WHAT.value == "time":
        compare(_PIECES.value or 10**6)
    else:
        memory(_PIECES.value or 10**8)


if __name__ == "__main__":
    app.run(main)
