"""The shapes that the throughput comparison trains, and the tokens every contestant is given."""

import numpy as np

SHAPES = {
    "small": {"width": 128, "num_layers": 4, "length": 128, "rows": 32, "vocab": 4096},
    "large": {"width": 256, "num_layers": 6, "length": 256, "rows": 16, "vocab": 4096},
}
HEAD_SIZE = 32
NUM_BATCHES = 4  # that every contestant cycles through


def tokens(shape: dict, count: int = NUM_BATCHES) -> list[np.ndarray]:
    """Random int32 tokens, `count` arrays of rows x (length + 1); the targets are shifted by 1."""
    rng = np.random.default_rng(0)
    size = (shape["rows"], shape["length"] + 1)
    return [rng.integers(0, shape["vocab"], size).astype(np.int32) for _ in range(count)]


def linear_sizes(shape: dict) -> list[tuple[int, int, int]]:
    """(inputs, outputs, times a step) of every product of all tokens with a weight matrix."""
    width, layers = shape["width"], shape["num_layers"]
    sizes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    return [(*size, layers) for size in sizes] + [(width, shape["vocab"], 1)]


def product_flops(shape: dict) -> tuple[float, float]:
    """Floating-point operations of a step's products: of the weights, and of the attention."""
    count, heads = shape["rows"] * shape["length"], shape["width"] // HEAD_SIZE
    weights = sum(6.0 * count * m * n * times for m, n, times in linear_sizes(shape))
    attention = 12.0 * count * shape["length"] * HEAD_SIZE * heads * shape["num_layers"]
    return weights, attention
