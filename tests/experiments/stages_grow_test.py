"""Growth in a list of stages: what a grown stage is, and two growths in a row end to end."""

import json
from pathlib import Path

import pytest
import text

from experiments import stages as command
from experiments import stages_list as lib
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.train.run_folder import read_spec


def _spec(*entries, **changes):
    spec = specs.override(command.smoke(), {f"base.{k}": v for k, v in changes.items()})
    return specs.override(spec, {"stages": entries})


def _stages(*entries):
    return {stage.name: stage for stage in lib.stages(_spec(*entries), Path("/anywhere"))}


def test_later_stages_go_on_with_the_grown_model():
    found = _stages(
        "a:steps=10",
        "b:grow=zero_pad+identity/model.width=36/model.head_dim=8/steps=5",
        "c:steps=5",
    )
    assert found["a"].spec.model.width == 24
    assert found["b"].spec.model.width == found["c"].spec.model.width == 36
    assert found["b"].spec.model.norm_eps == found["c"].spec.model.norm_eps
    assert found["b"].spec.model.norm_eps == pytest.approx(1e-5 * 24 / 36)
    assert found["b"].growth.name == "zero_pad+identity" and found["c"].growth is None
    assert found["b"].spec.train.start.optimizer == "reset"
    assert found["c"].spec.train.start.optimizer == "keep"


def test_kept_moments_grow_with_the_entries():
    found = _stages("a:steps=10", "b:grow=tile+stack/model.num_layers=4/optimizer=keep")
    assert found["b"].growth.moments == "scale"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("b:grow=tyle+stack/model.num_layers=4", "did you mean 'tile'"),
        ("b:grow=tile+stack/model.num_layers=1", "stage b.*does not remove layers"),
        ("b:grow=tile+stack/start=fresh", "starts from fresh parameters and says grow"),
    ],
)
def test_refusals(entry, words):
    with pytest.raises(UserError, match=words):
        _stages("a:steps=10", entry)


@pytest.mark.slow
def test_two_growths_in_a_row_end_to_end(tmp_path):
    corpus = text.write_corpus(tmp_path / "text.jsonl", 120)
    spec = _spec(
        "two:steps=6/kind=constant",
        "four:grow=tile+stack/model.num_layers=3/steps=4",
        "wide:grow=tile+identity/model.width=48/model.num_heads=6/model.mlp_width=192/steps=4"
        "/optimizer=keep",
        **{
            "data.sources": str(corpus),
            "data.cache_dir": str(tmp_path / "cache"),
            "data.tokenizer": "bytes",
            "model.vocab_size": "512",
            "data.batch_size": "8",
            "data.length": "48",
        },
    )
    folder = tmp_path / "run"
    command.run(spec, folder, "launch/local stages")
    parent = read_spec(folder / "runs" / "wide" / "spec.json")["parent"]
    assert parent["run"].endswith("four") and parent["step"] == 4
    record = json.loads((folder / "runs" / "wide" / "growth.json").read_text())
    assert record["exact"] and record["preserved"]["kept"]
    rows = {row["name"]: row["value"] for row in json.loads((folder / "results.json").read_text())}
    name = next(key.split("/", 1)[1].rsplit("/", 1)[0] for key in rows)
    # Function-preserving growth: the loss goes on where it was.
    assert rows[f"wide/{name}/before"] == pytest.approx(rows[f"four/{name}/after"], abs=1e-4)
    assert rows[f"four/{name}/before"] != pytest.approx(rows[f"two/{name}/after"], abs=1e-4)
    assert "grown by tile+identity" in (folder / "report.html").read_text()
