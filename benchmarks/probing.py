"""What probing costs: a share of the training step, and against transformers one probe at a time.

    python -m benchmarks.probing

First the laptop preset of the facts study (its data is fetched if need be): a training step and
the scoring of all its probes, in turn. Then the same probes through a Hugging Face GPT-NeoX of
the same shape on the same CPU, one probe a call, as evaluation scripts do (tests/probe proves
that both give the same values).
"""

import statistics
import time
from collections.abc import Callable

import jax
import torch
import transformers
from absl import app, flags

from benchmarks.parts import seconds
from experiments import facts, facts_presets
from llm_dynamics.model import presets, sharding
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.optim.optimizer import make_optimizer
from llm_dynamics.optim.schedules import make_schedule
from llm_dynamics.probe.packing import best_length, fill, pack
from llm_dynamics.probe.scoring import make_scorer
from llm_dynamics.train.state import abstract_state, init_state, shardings
from llm_dynamics.train.step import make_train_step

_ROUNDS = flags.DEFINE_integer("rounds", 15, "rounds of every contestant")


def step_and_probes(spec: facts_presets.Spec, ready: facts.Prepared) -> None:
    """Times the step and the scoring of the laptop preset alternately."""
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    decoder = Decoder(spec.model)
    schedule = make_schedule(spec.optim.schedule, spec.train.steps)
    optimizer = make_optimizer(spec.optim, schedule)
    abstract = abstract_state(decoder, optimizer, mesh)
    step = make_train_step(decoder, optimizer, schedule, mesh, abstract)
    state = init_state(decoder, optimizer, mesh, 0)
    packed = pack(ready.encoded, best_length(ready.encoded, spec.data.length))
    score = make_scorer(decoder, packed, mesh, shardings(abstract).params)
    batch = jax.device_put(ready.plan.batch(0), sharding.batch_sharding(mesh))
    times = {"step": [], "probes": []}
    with sharding.activate(mesh):
        for k in range(_ROUNDS.value + 2):
            start = time.perf_counter()
            jax.block_until_ready(score(state.params))
            middle = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch))
            if k >= 2:
                times["probes"].append(middle - start)
                times["step"].append(time.perf_counter() - middle)
    ratio = statistics.median(p / s for p, s in zip(*reversed(times.values()), strict=True))
    rows, length = packed.tokens_RxL.shape
    print(
        f"laptop preset: {len(ready.probes)} probes in {rows} rows of {length} tokens, "
        f"{fill(packed):.0%} full"
    )
    for name, values in times.items():
        print(f"  {name:<8} {1000 * statistics.median(values):8.1f} ms")
    print(f"  probing every step adds {ratio:.1%} to the step")


def against_transformers(spec: facts_presets.Spec, ready: facts.Prepared) -> None:
    """Times our one call and their loop over the probes, on GPT-NeoX of the preset's size."""
    config = presets.named(
        "pythia-14m", vocab_size=spec.model.vocab_size, num_layers=spec.model.num_layers
    )
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    decoder = Decoder(config)
    params = sharding.init_params(decoder, 0, mesh)
    score = make_scorer(decoder, pack(ready.encoded, best_length(ready.encoded, 128)))
    model = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.mlp_width,
            max_position_embeddings=config.max_length,
        )
    ).eval()

    def one_by_one() -> list[float]:
        values = []
        with torch.no_grad():
            for probe in ready.encoded:
                ids = torch.tensor([probe.ids])
                logprob = model(ids).logits[0, :-1].log_softmax(-1)
                target = ids[0, -probe.num_target :]
                tail = logprob[-probe.num_target :]
                values.append(tail.gather(1, target[:, None]).mean().item())
        return values

    ratio = compare(lambda: jax.block_until_ready(score(params)), one_by_one)
    print(f"the same {len(ready.probes)} probes, transformers one at a time / ours: {ratio:.1f}x")


def compare(ours: Callable, theirs: Callable) -> float:
    """Median ratio theirs / ours over rounds in turn."""
    theirs()
    ratios = []
    for _ in range(max(3, _ROUNDS.value // 3)):
        mine = seconds(ours, rounds=3)
        start = time.perf_counter()
        theirs()
        ratios.append((time.perf_counter() - start) / mine)
    return statistics.median(ratios)


def main(argv: list[str]) -> None:
    del argv
    spec = facts_presets.laptop()
    ready = facts.prepare(spec)
    step_and_probes(spec, ready)
    against_transformers(spec, ready)


if __name__ == "__main__":
    app.run(main)
