"""A config.json read strictly: a field is mapped, known to be harmless, or refused by name."""

from collections.abc import Iterable, Mapping
from typing import Any

from llm_dynamics.errors import UserError
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.rotary import RotaryScaling
from llm_dynamics.spec import from_json

_REQUIRED = object()

# They change training, the saved file or what generates text, not the function of the weights.
HARMLESS = frozenset(
    "_attn_implementation _attn_implementation_autoset _name_or_path add_bos_token architectures "
    "attention_dropout attn_pdrop bos_token_id cache_implementation classifier_dropout dtype "
    "embd_pdrop eos_token_id finetuning_task gradient_checkpointing hidden_dropout id2label "
    "initializer_range is_decoder is_llama_config label2id model_type n_ctx "
    "name_or_path output_attentions output_hidden_states pad_token_id pretraining_tp "
    "problem_type resid_pdrop return_dict summary_activation summary_first_dropout "
    "summary_proj_to_labels summary_type summary_use_proj task_specific_params tokenizer_class "
    "torch_dtype torchscript transformers.js_config transformers_version use_bfloat16 use_cache "
    "unsloth_version unsloth_fixed".split()
)

# Kinds of rotary scaling: their words and ours, `RotaryScaling`.
SCALING_WORDS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "low_freq_factor": "low",
        "high_freq_factor": "high",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_length",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "truncate": "truncate",
        "attention_factor": "attention_factor",
    },
}


def rope_scaling(config: ModelConfig) -> dict[str, Any]:
    """The field rope_scaling of a config.json; {} where nothing is scaled."""
    scaling = config.rotary_scaling
    if scaling.kind == "default":
        return {}
    words = SCALING_WORDS[scaling.kind]
    said = {theirs: getattr(scaling, ours) for theirs, ours in words.items()}
    if not said.get("attention_factor", 1):  # derived
        del said["attention_factor"]
    return {"rope_scaling": {"rope_type": scaling.kind} | said}


class Fields:
    """The fields of a config.json; those that nobody takes are refused at the end."""

    def __init__(self, values: Mapping[str, Any], where: str):
        """The fields `values` of the file or model `where`."""
        self.where, self.refused = where, []
        self._values, self._taken = values, set()

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """The value of a field; null is the default.

        Raises:
          UserError: it is missing and has no default.
        """
        self._taken.add(name)
        value = self._values.get(name)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise UserError(f"{self.where} has no {name}; restore the file as it was published")
        return default

    def whole(self, name: str, default: Any = _REQUIRED) -> int:
        """A whole number of at least 1."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"{self.where}: expected {name} to be a whole number above 0, got {value!r}"
            )
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        """A number above 0."""
        return self.positive(name, self.take(name, default))

    def positive(self, name: str, value: Any) -> float:
        """The value of a field as a number above 0."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"{self.where}: expected {name} to be a number above 0, got {value!r}")
        return float(value)

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        """True or false."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.where}: expected {name} to be true or false, got {value!r}")
        return value

    def only(self, name: str, *known: Any, default: Any = _REQUIRED) -> Any:
        """The value of a field of which we can compute the `known` values alone; null = default."""
        value = self.take(name, known[0] if default is _REQUIRED else default)
        if value not in known:
            self.refuse(name, value, " or ".join(map(repr, known)))
        return value

    def choice(self, name: str, known: Mapping[str, str], default: Any = _REQUIRED) -> str:
        """Our word for a field's value; another value is refused and reads as the first word."""
        value = self.take(name, default)
        if not isinstance(value, str) or value not in known:
            self.refuse(name, value, " or ".join(map(repr, known)))
            return next(iter(known.values()))
        return known[value]

    def refuse(self, name: str, value: Any, wanted: str) -> None:
        """Notes that a field's value is more than our models compute; `finish` says it."""
        self.refused.append(f"{name} {value!r} (expected {wanted})")

    def rope(
        self, base: str = "rope_theta", fraction: str = "partial_rotary_factor", part: float = 1.0
    ) -> dict[str, Any]:
        """The rotary encoding as fields of `ModelConfig`, in the words of old and new files.

        Args:
          base: the older name of the base.
          fraction: the older name of the fraction that is rotated.
          part: the fraction where none is given.
        """
        scaling, parameters = (self.take(k, {}) for k in ("rope_scaling", "rope_parameters"))
        name, found = ("rope_scaling", scaling) if scaling else ("rope_parameters", parameters)
        if not isinstance(found, dict):
            raise UserError(f"{self.where}: expected {name} to be an object, got {found!r}")
        found = dict(found)
        return {
            "rotary_base": self.positive(base, found.pop("rope_theta", self.take(base, 10000.0))),
            "rotary_fraction": self.positive(
                fraction, found.pop("partial_rotary_factor", self.take(fraction, part))
            ),
            "rotary_scaling": self.scaling(name, found),
        }

    def scaling(self, name: str, found: dict[str, Any]) -> RotaryScaling:
        """The scaling of a rotary encoding, of what the field `name` says but for its base."""
        old, kind = found.pop("type", None), found.pop("rope_type", None)
        kind = kind or old or "default"
        if kind not in SCALING_WORDS:
            self.refuse(f"{name}.rope_type", kind, " or ".join(map(repr, SCALING_WORDS)))
            return RotaryScaling()
        said = {}
        for key, value in found.items():
            if key in SCALING_WORDS[kind] and value is not None:
                said[SCALING_WORDS[kind][key]] = value
            elif value is not None and kind != "default":
                self.refuse(f"{name}.{key}", value, f"no such field with {kind}")
            elif value is not None and key != "original_max_position_embeddings":
                self.refuse(f"{name}.{key}", value, "no such field")
        if kind != "default" and "factor" not in said:
            self.refuse(f"{name}.factor", None, "a number")
            return RotaryScaling()
        if "original_max_position_embeddings" in SCALING_WORDS[kind]:
            said.setdefault("original_length", self.whole("max_position_embeddings"))
        return from_json(RotaryScaling, {"kind": kind} | said, f"{self.where} {name}")

    def finish(self, ignored: Iterable[str] = ()) -> None:
        """Refuses what was noted and every field that was not taken.

        Args:
          ignored: fields that the user says are harmless.

        Raises:
          UserError: names all of them with their values.
        """
        spared = self._taken | HARMLESS | set(ignored)
        unknown = [f"{k} {v!r}" for k, v in self._values.items() if k not in spared]
        said = []
        if self.refused:
            said.append(
                f"{self.where} asks for what our models do not compute: {'; '.join(self.refused)}"
            )
        if unknown:
            said.append(
                f"{self.where} has fields that are not known to be harmless: "
                f"{'; '.join(unknown)}; name those that do not change the function of the weights "
                "in --ignore=FIELD,FIELD"
            )
        if said:
            raise UserError("; and ".join(said))
