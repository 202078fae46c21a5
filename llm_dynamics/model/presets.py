"""Named model configurations: pocket sizes of our own, and published families."""

from llm_dynamics.errors import UserError
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.rotary import RotaryScaling
from llm_dynamics.spec import nearest, override


def _pocket(width: int, num_layers: int, num_heads: int, mlp_width: int) -> ModelConfig:
    """A plain modern decoder with tied embeddings, sized at the vocabulary of 4,096."""
    return ModelConfig(
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_width=mlp_width,
        max_length=1024,
        tie_embeddings=True,
    )


def _pythia(width: int, num_layers: int, num_heads: int) -> ModelConfig:
    """GPT-NeoX as in Pythia, Biderman et al. (2023), table 1 and the released configurations."""
    return ModelConfig(
        vocab_size=50304,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_width=4 * width,
        max_length=2048,
        rotary_fraction=0.25,
        parallel_residual=True,
        use_bias=True,
    )


def _gemma3(width: int, num_layers: int, mlp_width: int) -> ModelConfig:
    """The small ones of Gemma 3 (Gemma Team 2025): one key head, every sixth layer reads all."""
    return ModelConfig(
        vocab_size=262144,
        width=width,
        num_layers=num_layers,
        num_heads=4,
        num_kv_heads=1,
        head_dim=256,
        mlp_width=mlp_width,
        max_length=32768,
        norm="rmsnorm",
        norm_eps=1e-6,
        norm_order="both",
        qk_norm="head",
        mlp="geglu_tanh",
        rotary_base=1000000.0,
        query_scalar=256.0,
        window=512,
        global_every=6,
        local_rotary_base=10000.0,
        scale_embeddings=True,
        tie_embeddings=True,
    )


def _bert(width: int, num_layers: int) -> ModelConfig:
    """BERT as in LiGO, Wang et al. (2023), table 4: heads of 64, one segment, no output bias."""
    return ModelConfig(
        kind="encoder",
        vocab_size=30522,
        width=width,
        num_layers=num_layers,
        num_heads=max(1, width // 64),
        mlp_width=4 * width,
        max_length=512,
        norm_eps=1e-12,
        position="learned",
        use_bias=True,
        tie_embeddings=True,
        mask_token=103,
    )


def _pocket_encoder(width: int, num_layers: int, num_heads: int) -> ModelConfig:
    """The same in pocket sizes; the mask token is the last of the vocabulary."""
    return override(
        _bert(width, num_layers),
        {"vocab_size": 4096, "num_heads": num_heads, "mask_token": -1},
    )


PRESETS: dict[str, ModelConfig] = {
    "pocket-0.1m": _pocket(24, 2, 3, 96),
    "pocket-0.3m": _pocket(48, 4, 3, 192),
    "pocket-1m": _pocket(128, 4, 4, 512),
    "pocket-3m": _pocket(192, 5, 6, 768),
    "pocket-10m": _pocket(384, 5, 6, 1536),
    "pocket-encoder-0.3m": _pocket_encoder(48, 4, 3),
    "pocket-encoder-1m": _pocket_encoder(128, 4, 4),
    "pythia-14m": _pythia(128, 6, 4),
    "pythia-31m": _pythia(256, 6, 8),
    "pythia-70m": _pythia(512, 6, 8),
    "pythia-160m": _pythia(768, 12, 12),
    "pythia-410m": _pythia(1024, 24, 16),
    "pythia-1b": _pythia(2048, 16, 8),
    "pythia-1.4b": _pythia(2048, 24, 16),
    "olmo-1b": ModelConfig(
        vocab_size=50304,
        width=2048,
        num_layers=16,
        num_heads=16,
        mlp_width=8192,
        max_length=2048,
        norm="nonparametric_layernorm",
        mlp="swiglu",
        tie_embeddings=True,
    ),
    "smollm2-135m": ModelConfig(
        vocab_size=49152,
        width=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        mlp_width=1536,
        max_length=8192,
        norm="rmsnorm",
        mlp="swiglu",
        rotary_base=100000.0,
        tie_embeddings=True,
    ),
    "llama3.2-1b": ModelConfig(
        vocab_size=128256,
        width=2048,
        num_layers=16,
        num_heads=32,
        num_kv_heads=8,
        mlp_width=8192,
        max_length=131072,
        norm="rmsnorm",
        mlp="swiglu",
        rotary_base=500000.0,
        rotary_scaling=RotaryScaling("llama3", factor=32.0, original_length=8192),
        tie_embeddings=True,
    ),
    "qwen2.5-0.5b": ModelConfig(
        vocab_size=151936,
        width=896,
        num_layers=24,
        num_heads=14,
        num_kv_heads=2,
        mlp_width=4864,
        max_length=32768,
        norm="rmsnorm",
        norm_eps=1e-6,
        mlp="swiglu",
        rotary_base=1000000.0,
        qkv_bias=True,
        tie_embeddings=True,
    ),
    "qwen3-0.6b": ModelConfig(
        vocab_size=151936,
        width=1024,
        num_layers=28,
        num_heads=16,
        num_kv_heads=8,
        head_dim=128,
        mlp_width=3072,
        max_length=40960,
        norm="rmsnorm",
        norm_eps=1e-6,
        qk_norm="head",
        mlp="swiglu",
        rotary_base=1000000.0,
        tie_embeddings=True,
    ),
    "olmo2-1b": ModelConfig(
        vocab_size=100352,
        width=2048,
        num_layers=16,
        num_heads=16,
        mlp_width=8192,
        max_length=4096,
        norm="rmsnorm",
        norm_eps=1e-6,
        norm_order="after",
        qk_norm="whole",
        mlp="swiglu",
        rotary_base=500000.0,
    ),
    "gemma3-270m": _gemma3(640, 18, 2048),
    "gemma3-1b": _gemma3(1152, 26, 6912),
    "gpt2-124m": ModelConfig(
        vocab_size=50257,
        width=768,
        num_layers=12,
        num_heads=12,
        mlp_width=3072,
        max_length=1024,
        mlp="gelu_tanh",
        position="learned",
        use_bias=True,
        tie_embeddings=True,
    ),
    "bert-small": _bert(512, 6),
    "bert-base": _bert(768, 12),
    "bert-large": _bert(1024, 24),
}


def named(name: str, **changes) -> ModelConfig:
    """The preset `name`, with fields replaced.

    Raises:
      UserError: an unknown name or field; the nearest known one is given.
    """
    if name not in PRESETS:
        raise UserError(f"unknown model {name!r}; {nearest(name, PRESETS)}")
    return override(PRESETS[name], changes)
