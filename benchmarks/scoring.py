"""Two thousand probes of a real model: ours against transformers with its best batching.

    EXTRAS=hf launch/local --help                  # torch and transformers into .venv
    python -m benchmarks.scoring [--probes=2000] [--rounds=5]

The probes are the facts study's: texts of one or two sentences whose last words are scored. The
model is SmolLM2-135M in float32, both libraries on all cores. Transformers gets what its users can
do: probes sorted by length, padded to the longest of a batch, logits at the target's positions
alone, and the best of several batch sizes. Rounds alternate; a ratio is a median of ratios within
rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import torch
from absl import app, flags

from benchmarks.real_model import RealModel, open_model
from llm_dynamics.facts.generator import generate
from llm_dynamics.probe.probes import EncodedProbe, encode_all
from llm_dynamics.probe.scoring import MEASURES
from llm_dynamics.train.asking import scorers

_PROBES = flags.DEFINE_integer("probes", 2000, "how many")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds of both contestants")
_BATCHES = flags.DEFINE_list("batches", ["8", "16", "32", "64", "128"], "sizes that are tried")


def asked(model: RealModel) -> list[EncodedProbe]:
    """Probes of invented facts, as the model's tokenizer cuts them."""
    facts = generate(num_facts=1 + _PROBES.value // 6, seed=0)
    probes = [probe for fact in facts for probe in fact.probes]
    return encode_all(probes[: _PROBES.value], model.run.tokenizer)


def theirs(model: RealModel, encoded: Sequence[EncodedProbe], batch: int) -> np.ndarray:
    """Mean log-probability of every target, by transformers."""
    found = np.zeros(len(encoded))
    order = sorted(range(len(encoded)), key=lambda p: len(encoded[p].ids))
    with torch.no_grad():
        for start in range(0, len(order), batch):
            members = order[start : start + batch]
            rows = [encoded[p].ids[:-1] for p in members]
            longest = max(map(len, rows))
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for r, row in enumerate(rows):
                ids[r, : len(row)], mask[r, : len(row)] = torch.tensor(row), 1
            hidden = model.theirs.model(ids, attention_mask=mask).last_hidden_state
            at = [
                (r, len(encoded[p].ids) - 1 - encoded[p].num_target + k, p, k)
                for r, p in enumerate(members)
                for k in range(encoded[p].num_target)
            ]
            row, column = torch.tensor([a[:2] for a in at]).T
            logprob = model.theirs.lm_head(hidden[row, column]).log_softmax(-1)
            tokens = torch.tensor([encoded[p].ids[-encoded[p].num_target :][k] for *_, p, k in at])
            picked = logprob.gather(1, tokens[:, None])[:, 0].numpy()
            np.add.at(found, [a[2] for a in at], picked)
    return found / [probe.num_target for probe in encoded]


def main(argv: list[str]) -> None:
    del argv
    with tempfile.TemporaryDirectory() as folder:
        model = open_model(Path(folder))
        params, encoded = model.run.params(0), asked(model)
        config = model.run.config
    lengths = [len(probe.ids) - 1 for probe in encoded]
    print(
        f"{len(encoded)} probes of {min(lengths)} to {max(lengths)} tokens, {sum(lengths)} in all"
    )
    programs = scorers(config, encoded)

    def ours() -> np.ndarray:
        found = np.concatenate([np.asarray(ask(params)) for ask in programs])
        return found[:, MEASURES.index("logprob_mean")]

    sizes = {int(size): _seconds(theirs, model, encoded, int(size)) for size in _BATCHES.value}
    for size, seconds in sizes.items():
        print(f"  transformers, batches of {size:>4}: {seconds:6.2f} s", flush=True)
    best = min(sizes, key=sizes.__getitem__)
    difference = np.abs(ours() - theirs(model, encoded, best)).max()
    times = [(_seconds(ours), _seconds(theirs, model, encoded, best)) for _ in range(_ROUNDS.value)]
    mine, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = sorted(t / o for o, t in times)
    print(
        f"ours {mine:.2f} s, transformers in batches of {best} {other:.2f} s; transformers / ours "
        f"{statistics.median(ratios):.2f}x (rounds {ratios[0]:.2f} to {ratios[-1]:.2f}); largest "
        f"difference of a mean log-probability {difference:.1e} nats per token; "
        f"{torch.get_num_threads()} threads, jax {jax.__version__}, torch {torch.__version__}"
    )


def _seconds(call: Callable, *args) -> float:
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


if __name__ == "__main__":
    app.run(main)
