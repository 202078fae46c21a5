"""Training throughput against a plain PyTorch GPT of the same shape, side by side in one run.

    python -m benchmarks.throughput                     both shapes on this CPU
    python -m benchmarks.throughput --shapes=small --rounds=5

The same architecture on both sides: learned positions, LayerNorm, GELU, biases, tied embeddings,
packed rows without document masks, mean cross-entropy, AdamW with clipping at 1. Rounds
alternate between the contestants, so a machine that drifts slows all of them; each figure is the
median over rounds, each ratio the median of the ratios within a round.
"""

import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import torch
from absl import app, flags

from benchmarks.parts import breakdown
from llm_dynamics.batch import Batch
from llm_dynamics.model import sharding
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.optim.optimizer import OptimConfig, make_optimizer
from llm_dynamics.train.state import abstract_state, init_state
from llm_dynamics.train.step import make_train_step

SHAPES = {
    "small": {"width": 128, "num_layers": 4, "length": 128, "rows": 32, "vocab": 4096},
    "large": {"width": 256, "num_layers": 6, "length": 256, "rows": 16, "vocab": 4096},
}

_SHAPES = flags.DEFINE_multi_enum("shapes", ["small", "large"], list(SHAPES), "which shapes")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "rounds of every contestant")
_STEPS = flags.DEFINE_integer("steps", 4, "training steps of a round")
_COMPILE = flags.DEFINE_bool("torch_compile", True, "also time torch.compile")
_PARTS = flags.DEFINE_bool("parts", True, "also time the parts of our step")


def model_config(shape: dict, dtype: str) -> ModelConfig:
    """Our side: a GPT-2-like decoder of the given shape."""
    return ModelConfig(
        vocab_size=shape["vocab"],
        width=shape["width"],
        num_layers=shape["num_layers"],
        num_heads=shape["width"] // 32,
        mlp_width=4 * shape["width"],
        max_length=shape["length"],
        position="learned",
        mlp="gelu_tanh",
        use_bias=True,
        tie_embeddings=True,
        compute_dtype=dtype,
    )


def batches(shape: dict, count: int = 4) -> list[Batch]:
    """The same random tokens for every contestant."""
    rng = np.random.default_rng(0)
    size = (shape["rows"], shape["length"])
    made = []
    for _ in range(count):
        tokens = rng.integers(0, shape["vocab"], (size[0], size[1] + 1)).astype(np.int32)
        positions = np.tile(np.arange(size[1], dtype=np.int32), (size[0], 1))
        ones = np.ones(size, np.int32)
        made.append(Batch(tokens[:, :-1], tokens[:, 1:], ones, positions, ones.astype(np.float32)))
    return made


def ours(shape: dict, dtype: str) -> Callable[[int], None]:
    """A function that trains for so many steps and waits."""
    mesh = sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])
    decoder = Decoder(model_config(shape, dtype))
    optimizer = make_optimizer(OptimConfig(), lambda _: 1e-3)
    abstract = abstract_state(decoder, optimizer, mesh)
    step = make_train_step(decoder, optimizer, lambda _: 1e-3, mesh, abstract)
    holder = {"state": init_state(decoder, optimizer, mesh, 0)}
    data = [jax.device_put(b, sharding.batch_sharding(mesh)) for b in batches(shape)]

    def train(steps: int) -> None:
        with sharding.activate(mesh):
            for k in range(steps):
                holder["state"], metrics = step(holder["state"], data[k % len(data)])
        jax.block_until_ready((holder["state"], metrics))

    return train


class TorchBlock(torch.nn.Module):
    """A pre-norm GPT block as PyTorch users write it, with its fused attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, h):
        rows, length, width = h.shape
        qkv = self.qkv(self.norm1(h)).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        h = h + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        hidden = torch.nn.functional.gelu(self.up(self.norm2(h)), approximate="tanh")
        return h + self.down(hidden)


class TorchGpt(torch.nn.Module):
    """The whole model; returns the mean cross-entropy."""

    def __init__(self, shape: dict):
        super().__init__()
        width = shape["width"]
        self.tokens = torch.nn.Embedding(shape["vocab"], width)
        self.positions = torch.nn.Embedding(shape["length"], width)
        self.blocks = torch.nn.ModuleList(
            TorchBlock(width, width // 32) for _ in range(shape["num_layers"])
        )
        self.norm = torch.nn.LayerNorm(width)

    def forward(self, tokens, targets):
        h = self.tokens(tokens) + self.positions.weight
        for block in self.blocks:
            h = block(h)
        logits = torch.nn.functional.linear(self.norm(h), self.tokens.weight)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def theirs(shape: dict, *, bfloat16: bool = False, compiled: bool = False) -> Callable[[int], None]:
    """The PyTorch contestant: eager or compiled, float32 or bfloat16 autocast."""
    torch.manual_seed(0)
    model = TorchGpt(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    forward = torch.compile(model) if compiled else model
    data = [
        (torch.tensor(b.tokens_BxL).long(), torch.tensor(b.targets_BxL).long())
        for b in batches(shape)
    ]

    def train(steps: int) -> None:
        for k in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = forward(*data[k % len(data)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return train


def compare(name: str, shape: dict) -> None:
    """Times every contestant on one shape and prints the table."""
    contestants = {
        "ours float32": ours(shape, "float32"),
        "ours bfloat16": ours(shape, "bfloat16"),
        "torch float32": theirs(shape),
        "torch bfloat16 autocast": theirs(shape, bfloat16=True),
    }
    if _COMPILE.value:
        contestants["torch float32 compiled"] = theirs(shape, compiled=True)
    for label, train in list(contestants.items()):
        try:
            train(2)
        except Exception as error:
            print(f"  {label}: left out ({type(error).__name__}: {str(error)[:80]})")
            del contestants[label]
    seconds = {label: [] for label in contestants}
    for _ in range(_ROUNDS.value):
        for label, train in contestants.items():
            start = time.perf_counter()
            train(_STEPS.value)
            seconds[label].append((time.perf_counter() - start) / _STEPS.value)
    tokens = shape["rows"] * shape["length"]
    print(f"\n{name}: " + ", ".join(f"{k} {v}" for k, v in shape.items()))
    for label, times in seconds.items():
        middle = statistics.median(times)
        print(f"  {label:<26} {1000 * middle:8.1f} ms/step {tokens / middle:10,.0f} tokens/s")
    rivals = [label for label in seconds if label.startswith("torch float32")]
    best = [min(seconds[label][r] for label in rivals) for r in range(_ROUNDS.value)]
    for mine in ("ours float32", "ours bfloat16"):
        ratio = statistics.median(b / m for b, m in zip(best, seconds[mine], strict=True))
        print(f"  {mine} / best torch float32: {ratio:.2f}x")
    if "torch bfloat16 autocast" in seconds:
        half = seconds["torch bfloat16 autocast"]
        for mine in ("ours float32", "ours bfloat16"):
            ratio = statistics.median(b / m for b, m in zip(half, seconds[mine], strict=True))
            print(f"  {mine} / torch bfloat16 autocast: {ratio:.2f}x")


def main(argv: list[str]) -> None:
    del argv
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads"
    )
    for name in dict.fromkeys(_SHAPES.value):
        compare(name, SHAPES[name])
        if _PARTS.value:
            for dtype in ("float32", "bfloat16"):
                breakdown(model_config(SHAPES[name], dtype), batches(SHAPES[name], 1)[0])


if __name__ == "__main__":
    app.run(main)
