"""What a run reads: sources with weights, tokenizer, rows, split, cache."""

import dataclasses

from llm_dynamics.data import sources as sources_lib
from llm_dynamics.data import tokenizers as tokenizers_lib
from llm_dynamics.data.near_duplicates import LOWEST
from llm_dynamics.data.replay import parse_replays
from llm_dynamics.data.row_policies import POLICIES
from llm_dynamics.errors import UserError
from llm_dynamics.spec import nearest


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data of a run, before anything is read.

    Raises:
      UserError: a value outside its range, or a source or tokenizer that cannot be parsed.
    """

    sources: tuple[str, ...] = ("wiki_leads@1",)  # "NAME_OR_PATH[#field]@weight", see docs/data.md
    tokenizer: str = "bpe:4096"  # "bpe:N", "gpt2", "bytes", or the path of a tokenizer.json
    length: int = 128  # tokens a row, L
    batch_size: int = 32  # rows a step, B, over all hosts
    isolate_documents: bool = True  # attention and positions stop at document boundaries
    injection_rows: str = "prefix"  # "prefix" as published, "random_offset" or "own_row"
    validation_fraction: float = 0.02  # of the documents; 0 = no validation set
    dedup_threshold: float = 0.5  # share of 5-word shingles in one training document that removes
    near_duplicates: float = 0.0  # similarity to an earlier document that removes; 0 = keep all
    copies: int = 1  # times an epoch that each of the copied training documents comes
    copied_share: float = 0.1  # of the training documents that are copied, where copies > 1
    replay: tuple[str, ...] = ()  # "RUN_FOLDER@SHARE": rows that an earlier run read come again
    tokenizer_sources: tuple[str, ...] = ()  # text of "bpe:N" in place of the sources'
    also_validate: tuple[str, ...] = ()  # sources whose validation sides are scored one by one
    seed: int = 0  # of the document order, the split and the copies
    cache_dir: str = ""  # "" = $LLM_DYNAMICS_CACHE, or ~/.cache/llm_dynamics

    def __post_init__(self):
        if not self.sources:
            raise UserError("sources expects at least one source, got none; try wiki_leads")
        targets = [sources_lib.parse_source(source)[:2] for source in self.sources]
        for target in targets:
            if targets.count(target) > 1:
                raise UserError(
                    f"source {target[0]!r} is named more than once in sources={self.sources}; "
                    "name it once and give it the sum of the weights"
                )
        tokenizers_lib.check_spec(self.tokenizer)
        parse_replays(self.replay)
        for name in ("tokenizer_sources", "also_validate"):
            _check_names(name, getattr(self, name))
        if self.tokenizer_sources and not self.tokenizer.startswith("bpe:"):
            raise UserError(
                f"tokenizer_sources is the text that bpe:N is trained on, and the tokenizer is "
                f"{self.tokenizer!r}; leave it empty"
            )
        if self.also_validate and not self.validation_fraction:
            raise UserError(
                "also_validate expects a validation_fraction above 0, got 0: nothing is held out"
            )
        if self.injection_rows not in POLICIES:
            raise UserError(
                f"unknown injection_rows {self.injection_rows!r}; "
                f"{nearest(self.injection_rows, POLICIES)}"
            )
        for name in ("length", "batch_size", "copies"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} expects a whole number >= 1, got {getattr(self, name)}")
        if not 0 <= self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction expects 0 <= x < 1, got {self.validation_fraction}"
            )
        if not 0 < self.dedup_threshold <= 1:
            raise UserError(f"dedup_threshold expects 0 < x <= 1, got {self.dedup_threshold}")
        if self.near_duplicates and not LOWEST <= self.near_duplicates <= 1:
            raise UserError(
                f"near_duplicates expects 0 (keep them) or {LOWEST} <= x <= 1, got "
                f"{self.near_duplicates}"
            )
        if not 0 < self.copied_share <= 1:
            raise UserError(f"copied_share expects 0 < x <= 1, got {self.copied_share}")
        if self.seed < 0:
            raise UserError(f"seed expects a whole number >= 0, got {self.seed}")


def _check_names(key: str, sources: tuple[str, ...]) -> None:
    """Refuses sources with a weight, or named twice, where there is no mixture."""
    names = []
    for source in sources:
        target, field, _ = sources_lib.parse_source(source)
        name = f"{target}#{field}" if field else target
        if name != source.strip():
            raise UserError(f"{key} expects NAME_OR_PATH[#field] without a weight, got {source!r}")
        if name in names:
            raise UserError(f"{key} names {name!r} more than once; name it once")
        names.append(name)
