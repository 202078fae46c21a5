"""What a model is: one frozen record that covers the families of decoders, and encoders."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from llm_dynamics.errors import UserError
from llm_dynamics.model.rotary import RotaryScaling
from llm_dynamics.spec import nearest

KINDS = ("decoder", "encoder")
NORMS = ("layernorm", "rmsnorm", "nonparametric_layernorm")
NORM_ORDERS = ("before", "after", "both")
QK_NORMS = ("none", "head", "whole")
MLPS = ("gelu", "gelu_tanh", "swiglu", "geglu_tanh")
POSITIONS = ("rotary", "learned")
DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("auto", "reference", "batched", "xla", "cudnn")
REMATS = ("none", "dots", "full")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape and arithmetic of a model. Zero in a field marked so means "derive it"."""

    kind: str = "decoder"  # one of KINDS; see `build.build_model`
    vocab_size: int = 4096  # V
    width: int = 128  # D
    num_layers: int = 4  # N
    num_heads: int = 4  # H
    num_kv_heads: int = 0  # K; 0 = num_heads
    head_dim: int = 0  # E; 0 = width // num_heads
    mlp_width: int = 512  # F
    max_length: int = 2048  # rows of the learned position table; a note of the limit with rotary
    norm: str = "layernorm"  # one of NORMS
    norm_eps: float = 1e-5
    norm_order: str = "before"  # one of NORM_ORDERS: where norms stand around attention and MLP
    qk_norm: str = "none"  # one of QK_NORMS: an RMSNorm of queries and keys, by head or over all
    mlp: str = "gelu"  # one of MLPS; gelu is the exact one, gelu_tanh is GPT-2's gelu_new
    position: str = "rotary"  # one of POSITIONS
    rotary_fraction: float = 1.0  # leading part of each head that is rotated
    rotary_base: float = 10000.0
    rotary_scaling: RotaryScaling = dataclasses.field(default_factory=RotaryScaling)
    query_scalar: float = 0.0  # scores are divided by its root; 0 = head_dim
    window: int = 0  # tokens that a local layer reads, the last one included; 0 = no layer is local
    global_every: int = 0  # with a window, every so many-th layer reads all; 0 = none does
    local_rotary_base: float = 0.0  # of local layers, unscaled; 0 = they turn as the global ones
    parallel_residual: bool = False  # attention and MLP read the same residual stream
    use_bias: bool = False  # biases of the linear maps inside the layers
    qkv_bias: bool = False  # biases of queries, keys and values, whatever the others have
    scale_embeddings: bool = False  # a token's vector enters the stream times the root of width
    tie_embeddings: bool = False  # the unembedding is the transposed embedding
    compute_dtype: str = "float32"  # one of DTYPES; parameters are always float32
    attention: str = "auto"  # one of ATTENTIONS
    remat: str = "none"  # one of REMATS: what the backward pass computes again
    scan_unroll: int = 0  # layers per iteration of the scan; 0 = all on CPU, 1 elsewhere
    loss_chunk: int = 0  # tokens whose logits exist at once; 0 = chosen from V
    mask_token: int = -1  # encoders: the id that hides a token, in no text; -1 = vocab_size - 1

    def __post_init__(self):
        for field in ("vocab_size", "width", "num_layers", "num_heads", "mlp_width", "max_length"):
            if getattr(self, field) < 1:
                raise UserError(f"{field} must be at least 1, got {getattr(self, field)}")
        for field in (
            "num_kv_heads", "head_dim", "query_scalar", "window", "global_every",
            "local_rotary_base", "scan_unroll", "loss_chunk",
        ):  # fmt: skip
            if getattr(self, field) < 0:
                raise UserError(f"{field} must not be negative, got {getattr(self, field)}")
        for field, known in (
            ("kind", KINDS),
            ("norm", NORMS),
            ("norm_order", NORM_ORDERS),
            ("qk_norm", QK_NORMS),
            ("mlp", MLPS),
            ("position", POSITIONS),
            ("compute_dtype", DTYPES),
            ("attention", ATTENTIONS),
            ("remat", REMATS),
        ):
            value = getattr(self, field)
            if value not in known:
                raise UserError(f"unknown {field} {value!r}; {nearest(value, known)}")
        if not self.head_dim and self.width % self.num_heads:
            raise UserError(
                f"width {self.width} is not a multiple of num_heads {self.num_heads}; "
                "change one of them or set head_dim"
            )
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.kv_heads}"
            )
        if not 0 < self.norm_eps < 1:
            raise UserError(f"norm_eps must lie between 0 and 1, got {self.norm_eps}")
        if self.rotary_base <= (1 if self.rotary_scaling.kind == "yarn" else 0):
            raise UserError(
                f"rotary_base must be positive, and above 1 with yarn, got {self.rotary_base}"
            )
        if self.position == "rotary" and (
            not 0 < self.rotary_fraction <= 1 or self.rotary_size < 2 or self.rotary_size % 2
        ):
            raise UserError(
                "rotary_fraction must rotate an even number of head dimensions, got "
                f"{self.rotary_fraction} of {self.head_size}"
            )
        if self.position != "rotary" and self.rotary_scaling.kind != "default":
            raise UserError(
                f"rotary_scaling {self.rotary_scaling.kind!r} expects position 'rotary', got "
                f"{self.position!r}; set one of them"
            )
        if self.norm_order != "before" and self.norm != "rmsnorm":
            raise UserError(
                f"norm_order {self.norm_order!r} expects norm 'rmsnorm', as in OLMo-2 and Gemma 3, "
                f"got {self.norm!r}; set one of them"
            )
        if not self.window and (self.global_every or self.local_rotary_base):
            raise UserError(
                "global_every and local_rotary_base expect local layers, got window 0; set window, "
                "or leave both at 0"
            )
        if not -1 <= self.mask_token < self.vocab_size:
            raise UserError(
                f"mask_token must be an id below vocab_size {self.vocab_size}, or -1 for the last "
                f"one, got {self.mask_token}"
            )
        if not self.causal:
            self._check_encoder()

    def _check_encoder(self) -> None:
        for field, wanted in (
            ("position", "learned"),
            ("norm", "layernorm"),
            ("tie_embeddings", True),
            ("parallel_residual", False),
            ("window", 0),
            ("scale_embeddings", False),
        ):
            if (value := getattr(self, field)) != wanted:
                raise UserError(
                    f"an encoder is made as BERT is, with {field} {wanted!r}, got {value!r}; set "
                    f"{field} or use a decoder"
                )

    @property
    def causal(self) -> bool:
        """Whether it predicts the next token from those before it; an encoder reads all."""
        return self.kind == "decoder"

    @property
    def mask_id(self) -> int:
        """The id that hides a token from an encoder."""
        return self.vocab_size - 1 if self.mask_token < 0 else self.mask_token

    @property
    def kv_heads(self) -> int:
        """K, with the default resolved."""
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        """E, with the default resolved."""
        return self.head_dim or self.width // self.num_heads

    @property
    def gated(self) -> bool:
        """Whether the MLP has a third matrix, whose units pass through the nonlinearity."""
        return self.mlp in ("swiglu", "geglu_tanh")

    @property
    def query_factor(self) -> float:
        """What queries are multiplied by before scores, which are divided by the root of E."""
        return math.sqrt(self.head_size / (self.query_scalar or self.head_size))

    @property
    def rotary_size(self) -> int:
        """How many dimensions of a head the rotary encoding turns."""
        return int(self.head_size * self.rotary_fraction)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of activations and of the operands of every product."""
        return jnp.dtype(self.compute_dtype)

    @property
    def unroll(self) -> int:
        """Layers per scan iteration on the default backend.

        Unrolling is worth about a quarter of the step on CPU, but XLA then undoes
        rematerialisation, so a config that asks for it keeps the loop.
        """
        if self.scan_unroll:
            return min(self.scan_unroll, self.num_layers)
        unrolled = jax.default_backend() == "cpu" and self.remat == "none"
        return self.num_layers if unrolled else 1
