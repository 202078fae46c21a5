"""PyTorch's contestants: a plain GPT, eager or compiled, and a step's matrix products alone."""

from collections.abc import Callable

import torch

from benchmarks.shapes import HEAD_SIZE, linear_sizes, tokens


class TorchBlock(torch.nn.Module):
    """A pre-norm GPT block as PyTorch users write it, with its fused attention."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, h):
        rows, length, width = h.shape
        qkv = self.qkv(self.norm1(h)).view(rows, length, 3, width // HEAD_SIZE, HEAD_SIZE)
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
        self.blocks = torch.nn.ModuleList(TorchBlock(width) for _ in range(shape["num_layers"]))
        self.norm = torch.nn.LayerNorm(width)
        # PyTorch's own scale of 1 would make logits so large that softmax gradients underflow to
        # subnormal numbers, which slow the first steps tenfold.
        for table in (self.tokens, self.positions):
            torch.nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids, targets):
        h = self.tokens(ids) + self.positions.weight
        for block in self.blocks:
            h = block(h)
        logits = torch.nn.functional.linear(self.norm(h), self.tokens.weight)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def trainer(
    shape: dict, *, bfloat16: bool = False, compiled: bool = False
) -> Callable[[int], None]:
    """A function that trains for so many steps, in float32 or bfloat16 autocast."""
    torch.manual_seed(0)
    model = TorchGpt(shape)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)
    forward = torch.compile(model) if compiled else model
    data = [torch.tensor(ids).long() for ids in tokens(shape)]
    data = [(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()) for ids in data]

    def train(steps: int) -> None:
        for k in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = forward(*data[k % len(data)])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    return train


def products(shape: dict) -> Callable[[int], None]:
    """A function that computes the matrix products of so many steps, and nothing else.

    Each product runs forward and in its two backward forms, in float32 into memory taken once;
    layers share it, so caches are warmer than a real step finds them. Query, key and value are one
    product. The attention's products cover all pairs of positions, not the causal half.
    """
    torch.manual_seed(0)
    count, length = shape["rows"] * shape["length"], shape["length"]
    calls = []
    for inputs, outputs, times in linear_sizes(shape):
        x, weight = torch.randn(count, inputs), torch.randn(outputs, inputs)
        y = torch.randn(count, outputs)
        made, dx, dweight = torch.empty_like(y), torch.empty_like(x), torch.empty_like(weight)
        forms = [(x, weight.T, made), (y, weight, dx), (y.T, x, dweight)]
        calls += [(torch.mm, form) for form in forms] * times
    matrices = shape["rows"] * shape["width"] // HEAD_SIZE
    x, y = torch.randn(2, matrices, length, HEAD_SIZE)
    pairs = torch.randn(matrices, length, length)
    made, pairs_made = torch.empty_like(x), torch.empty_like(pairs)
    # Scores and their gradient, the mixture, and the gradients of query, key and value.
    forms = [(x, y.mT, pairs_made)] * 2 + [(pairs, x, made)] * 2 + [(pairs.mT, x, made)] * 2
    calls += [(torch.bmm, form) for form in forms] * shape["num_layers"]

    def run(steps: int) -> None:
        for _ in range(steps):
            for product, (left, right, out) in calls:
                product(left, right, out=out)

    return run
