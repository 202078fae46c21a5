"""The families of decoders on the Hugging Face hub that are models of ours, and which one fits."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llm_dynamics.errors import UserError
from llm_dynamics.hub import gpt2, gpt_neox, later, llama
from llm_dynamics.hub.fields import Fields
from llm_dynamics.hub.layouts import Tensor
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.spec import difference, nearest, to_json

# How a model is computed here; no file of theirs says it. mask_token belongs to encoders.
_OURS = (
    "kind", "compute_dtype", "attention", "remat", "scan_unroll", "loss_chunk", "mask_token"
)  # fmt: skip
_FOREIGN = ("quantization_config", "auto_map")
# What of them is not the same word for the same thing: derived where it is 0.
_DERIVED = {"num_kv_heads": "kv_heads", "head_dim": "head_size"}


@dataclasses.dataclass(frozen=True)
class Family:
    """How one family says what a model is, and how its tensors lie."""

    name: str  # model_type of config.json
    architecture: str  # the class of transformers
    read: Callable[[Fields], ModelConfig]
    write: Callable[[ModelConfig], dict[str, Any]]
    fits: Callable[[ModelConfig], bool]  # roughly; what `write` cannot say is refused after it
    tensors: Callable[[ModelConfig], list[Tensor]]
    prefix: str  # of the names; files of the bare model lack it
    embedding: str  # the tensor that a tied head repeats
    head: str
    buffers: str  # pattern of names that hold no weights
    zero_biases: bool = False  # it always has biases: those that ours lacks are zeros there

    def as_written(self, config: ModelConfig) -> ModelConfig:
        """The model with the biases that the family always has."""
        return dataclasses.replace(config, use_bias=True) if self.zero_biases else config


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "gpt2", "GPT2LMHeadModel", gpt2.read, gpt2.write, gpt2.fits, gpt2.tensors,
            "transformer.", "transformer.wte.weight", "lm_head.weight",
            r"transformer\.h\.\d+\.attn\.(bias|masked_bias)", zero_biases=True,
        ),
        Family(
            "gpt_neox", "GPTNeoXForCausalLM", gpt_neox.read, gpt_neox.write, gpt_neox.fits,
            gpt_neox.tensors, "gpt_neox.", "gpt_neox.embed_in.weight", "embed_out.weight",
            r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",
            zero_biases=True,
        ),
        Family(
            "llama", "LlamaForCausalLM", llama.read, llama.write, llama.fits, llama.tensors,
            "model.", "model.embed_tokens.weight", "lm_head.weight",
            r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
        ),
        Family(
            "olmo", "OlmoForCausalLM", llama.read_olmo, llama.write_olmo, llama.fits_olmo,
            llama.tensors, "model.", "model.embed_tokens.weight", "lm_head.weight",
            r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
        ),
        *(
            Family(
                name, architecture, read, write, fits, tensors, "model.",
                "model.embed_tokens.weight", "lm_head.weight",
                r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
            )
            for name, architecture, read, write, fits, tensors in (
                ("qwen2", "Qwen2ForCausalLM", later.read_qwen2, later.write_qwen2, llama.fits,
                 llama.tensors),
                ("qwen3", "Qwen3ForCausalLM", later.read_qwen3, later.write_qwen3, llama.fits,
                 llama.tensors),
                ("olmo2", "Olmo2ForCausalLM", later.read_olmo2, later.write_olmo2, llama.fits,
                 llama.tensors),
                ("gemma3_text", "Gemma3ForCausalLM", later.read_gemma3, later.write_gemma3,
                 later.fits_gemma3, later.gemma3_tensors),
            )
        ),
    )
}  # fmt: skip


def read_config(
    values: Mapping[str, Any], where: str, ignored: Iterable[str] = ()
) -> tuple[Family, ModelConfig]:
    """The family and the model of a config.json.

    Args:
      values: its fields.
      where: what it is called in errors.
      ignored: fields that the user says are harmless.

    Raises:
      UserError: an unknown family, or fields that our models do not compute; names all of them.
    """
    kind, classes = values.get("model_type"), values.get("architectures")
    if not isinstance(kind, str) or kind not in FAMILIES:
        hint = nearest(kind, FAMILIES) if isinstance(kind, str) else f"known: {', '.join(FAMILIES)}"
        raise UserError(f"{where}: expected a model_type that can be read, got {kind!r}; {hint}")
    family = FAMILIES[kind]
    bare = family.architecture.replace("LMHeadModel", "Model").replace("ForCausalLM", "Model")
    if classes and (not isinstance(classes, list) or classes[0] not in (family.architecture, bare)):
        raise UserError(
            f"{where}: expected architectures [{family.architecture!r}] of model_type {kind!r}, "
            f"got {classes!r}; another head or another model cannot be read"
        )
    for name in _FOREIGN:
        if values.get(name) and name not in ignored:
            raise UserError(
                f"{where} has {name} {values[name]!r}; expected plain weights of the family's own "
                "class, so save the model without it"
            )
    fields = Fields(values, where)
    for name in _FOREIGN:
        fields.take(name, None)
    config = family.read(fields)
    fields.finish(ignored)
    return family, config


def family_of(config: ModelConfig, name: str = "") -> Family:
    """The family that has a model.

    Args:
      config: the model.
      name: of the family, where the user wants that one.

    Raises:
      UserError: no family has it, or not that one; says in which settings it differs.
    """
    if name and name not in FAMILIES:
        raise UserError(f"unknown family {name!r}; {nearest(name, FAMILIES)}")
    if not config.causal:
        raise UserError("expected a decoder, got an encoder; no family here has encoders")
    found = [f for f in FAMILIES.values() if f.fits(config) and name in ("", f.name)]
    if not found:
        raise UserError(
            f"{'the family ' + name if name else 'no known family'} has a model of norm "
            f"{config.norm!r}, mlp {config.mlp!r}, position {config.position!r}, parallel_residual "
            f"{config.parallel_residual}, use_bias {config.use_bias}, {config.num_heads} heads of "
            f"{config.head_size} ({config.kv_heads} of keys) in a width of {config.width}; known: "
            f"{', '.join(FAMILIES)} (docs/hub.md says what each of them can be)"
        )
    lost = [losses(family, config) for family in found]
    family, changes = min(zip(found, lost, strict=True), key=lambda pair: len(pair[1]))
    if changes:
        raise UserError(
            f"no family can be this model; the nearest, {family.name}, would be another one in "
            f"(here -> there): {'; '.join(changes)}"
        )
    return family


def losses(family: Family, config: ModelConfig) -> list[str]:
    """The settings of a model that a family's config.json does not say, `key: here -> there`."""
    _, again = read_config(
        family.write(config) | {"model_type": family.name}, f"the config.json of {family.name}"
    )
    return difference(_said(family.as_written(config)), _said(again))


def _said(config: ModelConfig) -> dict[str, Any]:
    said = {k: v for k, v in to_json(config).items() if k not in _OURS}
    said |= {name: getattr(config, derived) for name, derived in _DERIVED.items()}
    return said | {"query_scalar": config.query_scalar or config.head_size}
