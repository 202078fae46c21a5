"""The study of images on runs of a few steps: rows, table, and what it refuses."""

import json

import pytest

from experiments import cli, growth_images
from llm_dynamics.errors import UserError

TINY = {
    "small.width": "8",
    "small.num_layers": "1",
    "small.num_heads": "1",
    "small.head_dim": "8",
    "small.mlp_width": "8",
    "small.patch_size": "4",
    "small.scan_unroll": "1",
    "large.width": "16",
    "large.num_layers": "2",
    "large.num_heads": "2",
    "large.head_dim": "8",
    "large.mlp_width": "16",
    "large.patch_size": "4",
    "large.scan_unroll": "1",
    "operators": "tile+identity,ligo-shared",
    "small_steps": "12",
    "steps": "12",
    "scratch_steps": "12",
    "every": "6",
    "batch": "8",
    "learn.steps": "2",
    "seeds": "2",
    "test_share": "0.02",
}


def tiny(**more):
    return cli.resolve(growth_images.smoke(), "", TINY | more)


@pytest.mark.slow
def test_a_tiny_study_ends_in_rows_and_a_table(tmp_path, capsys):
    page = growth_images.run(tiny(), tmp_path / "run", "launch/local growth_images")
    rows = {r["name"]: r for r in json.loads((tmp_path / "run" / "results.json").read_text())}
    assert rows["tile+identity/difference"]["value"] < 1e-5
    assert rows["ligo-shared/difference"]["value"] > 1e-3
    assert rows["tile+identity/loss_at_growth"]["value"] == pytest.approx(
        rows["small/loss"]["value"], abs=1e-5
    )
    assert {row["n"] for name, row in rows.items() if name.endswith("/accuracy")} == {2}
    for name in ("tile+identity", "ligo-shared"):
        for charge in ("alone", "operator", "source", "all"):
            assert f"{name}/flops/at_100%/{charge}/saved" in rows
    assert rows["scratch/loss"]["low"] < rows["scratch/loss"]["value"]
    text = page.read_text()
    assert text.count("\n| ") == 5 and "| tile+identity | " in text
    assert text in capsys.readouterr().out


def test_the_plan():
    lines = growth_images.describe(tiny())
    assert "operators: tile+identity, ligo-shared" in lines
    small, grown = (growth_images.graph_of(c).num_params() for c in (tiny().small, tiny().large))
    assert lines[0].startswith(f"small: {small:,} parameters")
    assert lines[1].startswith(f"grown: {grown:,} parameters")
    assert growth_images.explain(tiny(), 3).count("digit") == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operators": "tyle+stack"}, "did you mean 'tile'"),
        ({"operators": "ligo-sharde"}, "did you mean 'ligo-shared'"),
        ({"operators": "tile+stack,tile+stack"}, "each once"),
        ({"steps": "10"}, "steps to be a multiple of every = 6, got 10"),
        ({"optim.schedule.kind": "cosine"}, "kind must be constant, got cosine"),
        ({"seeds": "0"}, "seeds of at least 1, got 0"),
        ({"large.width": "4", "large.num_heads": "2"}, "growth does not shrink an axis"),
        ({"large.use_bias": "false"}, "not the same parameters"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        tiny(**changes)


def test_models_of_other_images_are_refused():
    with pytest.raises(UserError, match="8x8x1 in 10 classes, got a model of 12x12x1 in 10"):
        growth_images.describe(tiny(**{"small.image_size": "12", "large.image_size": "12"}))
