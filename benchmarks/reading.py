"""What reading costs: the time to build a batch, and what of it the training loop waits for.

    python -m benchmarks.reading

At the laptop preset of the facts study and at that of the continual study with 5 % of replay, whose
data is fetched if need be, and at the latter's shape with a mixture of 1,000 sources of random
tokens and 5 % of replay. Steps are done as the loop does them: the next batch is built and placed
by one thread while the device computes, and the wait is the time until that thread is done once the
step before was dispatched. The goal is less than 2 % of the step. Where the machine is busy with
other work, processor time says more than the clock: both are printed. The first rows of a source
cost more, as its order is drawn then.
"""

import dataclasses
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from absl import app, flags

from experiments import continual_stages, facts_presets
from experiments.continual_spec import seeded
from llm_dynamics.data.build import build_plan, build_tokenizer, open_data, read_sources
from llm_dynamics.data.corpus_rows import CorpusRows, PlanSource, Replayed
from llm_dynamics.data.lineage import Lineage, Replay, Stage
from llm_dynamics.data.plan import Plan
from llm_dynamics.data.plan_sources import plan_sources
from llm_dynamics.data.rows import TokenStream
from llm_dynamics.model import sharding
from llm_dynamics.train import parts as parts_lib
from llm_dynamics.train.config import RunSpec

_STEPS = flags.DEFINE_integer("steps", 60, "steps that are timed, after ten that are not")
_SOURCES = flags.DEFINE_integer("sources", 1000, "of the mixture of many")
_WARM = 10
_LATER = 400  # steps after which the sources have their orders


def measure(name: str, spec: RunSpec, plan: Plan) -> None:
    """Times batches alone, at first and later; then steps with the next one built beside them."""
    spec = dataclasses.replace(spec, data=dataclasses.replace(spec.data, replay=()))
    run = parts_lib.build(spec)
    where = sharding.batch_sharding(run.mesh)
    state, step_fn = run.first_state(), run.compile_step()

    def place(step: int):
        return jax.device_put(plan.batch(step), where)

    def building(steps: range) -> float:
        """Median processor time of a batch, in milliseconds."""
        times = []
        for step in steps:
            start = time.thread_time()
            plan.batch(step)
            times.append(time.thread_time() - start)
        return 1000 * statistics.median(times)

    first = building(range(_STEPS.value))
    building(range(_STEPS.value, _LATER))
    later = building(range(_LATER, _LATER + _STEPS.value))

    waits, steps, metrics, used = [], [], None, 0.0
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(place, 0)
        for step in range(_WARM + _STEPS.value):
            if step == _WARM:
                used = time.process_time()
            start = time.perf_counter()
            batch = ahead.result()
            waits.append(time.perf_counter() - start)
            ahead = pool.submit(place, step + 1)
            state, now = step_fn(state, batch)
            jax.block_until_ready(metrics)  # of the step before, as the loop reads it
            metrics = now
            steps.append(time.perf_counter() - start)
        jax.block_until_ready(metrics)
        used = 1000 * (time.process_time() - used) / _STEPS.value
    share, wall = sum(waits[_WARM:]) / sum(steps[_WARM:]), 1000 * statistics.median(steps[_WARM:])
    print(
        f"{name}: {spec.data.batch_size} rows of {spec.data.length} tokens\n"
        f"  step {wall:.1f} ms, {used:.1f} ms of processor time\n"
        f"  building a batch {first:.2f} ms of processor time at first, {later:.2f} ms later "
        f"({later / used:.2%} of the step's)\n"
        f"  the loop waits {share:.2%} of its time",
        flush=True,
    )


def with_replay(spec: RunSpec) -> Plan:
    """The plan of a second stage: the new source, and 5 % of what the first stage has read."""
    old = open_data(spec.data)
    tokenizer = build_tokenizer(spec.data, old)
    rows = spec.train.steps * spec.data.batch_size
    sources = read_sources(plan_sources(old, tokenizer), spec.data.length)
    first = Stage("first", spec.data, tokenizer.fingerprint, sources, 0, rows)
    data = dataclasses.replace(spec.data, sources=("gcide",), replay=("first@0.05",))
    lineage = Lineage((first,), (Replay(0, 0.05, 0),))
    return build_plan(data, tokenizer, steps=spec.train.steps, lineage=lineage)


def many_sources(spec: RunSpec, count: int) -> Plan:
    """A mixture of so many sources of 2,000 rows each in unequal shares, with 5 % of replay."""
    rng = np.random.default_rng(0)
    length, vocabulary = spec.data.length, spec.model.vocab_size
    sources = [_random(rng, f"source-{z}", 1 + z % 7, 2000 * length, vocabulary)
               for z in range(count)]  # fmt: skip
    past = CorpusRows(sources[: count // 2], length, 0)
    replayed = [Replayed("first", past, 0.05, 50_000, 0)]
    return Plan(sources, length, spec.data.batch_size, replayed=replayed)


def _random(rng, name: str, weight: float, tokens: int, vocabulary: int) -> PlanSource:
    """A source of documents of 64 tokens."""
    starts = np.arange(0, tokens + 1, 64)
    stream = TokenStream(
        rng.integers(0, vocabulary, tokens, np.uint16),
        starts,
        np.zeros(0, np.uint8),
        np.zeros(len(starts), np.int64),
    )
    return PlanSource(name, weight, name, stream, stream)


def main(argv: list[str]) -> None:
    del argv
    facts = facts_presets.laptop()
    run = RunSpec(facts.model, facts.data, facts.optim, facts.train, facts.probe)
    measure("facts, laptop", run, build_plan(run.data, steps=run.train.steps))
    study = continual_stages.laptop()
    base = seeded(study, 0)
    measure("continual, laptop and desk, 5 % replayed", base, with_replay(base))
    count = _SOURCES.value
    measure(f"{count:,} sources, 5 % replayed", base, many_sources(base, count))


if __name__ == "__main__":
    app.run(main)
