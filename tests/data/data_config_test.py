"""DataConfig refuses what cannot work, and survives JSON."""

import pytest

from llm_dynamics import spec
from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError


def test_defaults_survive_json_and_the_command_line():
    config = DataConfig()
    assert spec.from_json(DataConfig, spec.to_json(config)) == config
    changed = spec.override(config, {"sources": "a.txt@2,wiki_leads/fr", "length": "64"})
    assert changed.sources == ("a.txt@2", "wiki_leads/fr")
    assert changed.length == 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "at least one source"),
        ({"sources": ("a.txt@0",)}, "number > 0, got '0'"),
        ({"sources": ("a.txt@nan",)}, "number > 0, got 'nan'"),
        ({"sources": ("a.txt@1", "a.txt@2")}, "more than once"),
        ({"tokenizer": "bpe:x"}, "bpe:N with N >= 257"),
        ({"tokenizer": "bpe:256"}, "bpe:N with N >= 257"),
        ({"tokenizer": "bpe:\u00b2"}, "bpe:N with N >= 257"),
        ({"tokenizer": "bpe:1000001"}, "at most 1,000,000"),
        ({"tokenizer": "bpe:" + "9" * 5000}, "at most 1,000,000"),
        ({"tokenizer": "gpt3"}, "unknown tokenizer 'gpt3'"),
        ({"length": 0}, "length expects"),
        ({"batch_size": -1}, "batch_size expects"),
        ({"validation_fraction": 1.0}, "validation_fraction expects"),
        ({"dedup_threshold": 0.0}, "dedup_threshold expects"),
        ({"near_duplicates": 0.05}, "near_duplicates expects 0 .* or 0.1 <= x <= 1, got 0.05"),
        ({"near_duplicates": 1.1}, "near_duplicates expects"),
        ({"near_duplicates": float("nan")}, "near_duplicates expects"),
        ({"copies": 0}, "copies expects a whole number >= 1"),
        ({"copied_share": 0.0}, "copied_share expects 0 < x <= 1"),
        ({"seed": -1}, "seed expects"),
    ],
)
def test_values_out_of_range_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**changes)
