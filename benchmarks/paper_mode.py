"""How long the published procedure takes on a log of the published size.

    python -m benchmarks.paper_mode

Analyses 2,501 steps x 1,950 probes (130 passages, three arms and a control on the schedule of ten
encounters), invented scores, best and median of five; then reads a file in the published layout.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from llm_dynamics.facts import paper, published_log
from llm_dynamics.facts.cells import CONTROL

_STEPS = flags.DEFINE_integer("steps", 2501, "steps of the log that is analysed")
_FILE_STEPS = flags.DEFINE_integer("file_steps", 60, "steps of the file that is read")
_PASSAGES, _PROBES = 130, 5


def write_file(path: Path, cross_entropy_SxDxKxI: np.ndarray) -> None:
    """A file in the published layout with the same values in all its lists."""
    with path.open("w", encoding="utf-8") as file:
        for s, values in enumerate(cross_entropy_SxDxKxI):
            record = {"step": s}
            for prefix, lists in zip(("mem", "gen", "gen_hard"), values.tolist(), strict=True):
                record |= {f"{prefix}_{kind}": lists for kind in ("first", "target", "full")}
            record["def"] = values[0, :, 0].tolist()
            file.write(("[" if not s else ",\n") + json.dumps(record, indent=4))
        file.write("]")


def main(argv):
    del argv
    rng = np.random.default_rng(0)
    steps, probes = _STEPS.value, 3 * _PASSAGES * _PROBES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.json"
        shape = (_FILE_STEPS.value, 3, _PASSAGES, _PROBES)
        write_file(path, rng.uniform(0.1, 9, shape))
        size = path.stat().st_size
        start = time.perf_counter()
        log = published_log.read_published_log(path)
        each = (time.perf_counter() - start) / _FILE_STEPS.value
    print(
        f"reading: {each * 1e3:.1f} ms and {size / _FILE_STEPS.value / 1e3:.0f} kB a step, "
        f"{each * steps:.0f} s for {steps:,} steps"
    )
    # The same labels with as many steps: a rise after every encounter that fades.
    walk_SxP = 0.02 * rng.standard_normal((steps, probes)).cumsum(0) + rng.normal(-5, 1, probes)
    log = log.isel(step=np.zeros(steps, int)).assign_coords(
        step=np.arange(steps), tokens=("step", np.arange(steps) * published_log.TOKENS_PER_STEP)
    )
    log["score"].loc[{"measure": "logprob_mean"}] = walk_SxP
    schedule = dict(published_log.SCHEDULE) | {CONTROL: published_log.SCHEDULE["duplication"]}
    times = []
    for _ in range(5):
        start = time.perf_counter()
        cells = paper.analyse(log, schedule)
        times.append(time.perf_counter() - start)
    print(
        f"analysing {steps:,} steps x {probes:,} probes: {min(times):.2f} s best, "
        f"{statistics.median(times):.2f} s median, {len(cells)} cells"
    )


if __name__ == "__main__":
    app.run(main)
