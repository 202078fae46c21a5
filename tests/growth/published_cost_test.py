"""The published counter gives the published costs, and its savings follow from them."""

import dataclasses

import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.growth.published_cost import (
    BERT_BASE,
    BERT_LARGE,
    BERT_SMALL,
    converged_scratch_steps,
    materialise_flops,
    operator_step_flops,
    published,
    reconstructed_rows,
    saved,
    shape_of,
    step_flops,
)
from llm_dynamics.model.config import ModelConfig
from llm_dynamics.model.presets import PRESETS


@pytest.mark.parametrize(
    ("shape", "flops"),
    [(BERT_BASE, 1.5068e13), (BERT_SMALL, 4.9773e12), (BERT_LARGE, 4.5308e13)],
)
def test_printed_steps(shape, flops):
    assert step_flops(shape) == pytest.approx(flops, rel=5e-5)


def test_operator_step():
    flops = operator_step_flops(BERT_SMALL, BERT_BASE)
    assert flops == pytest.approx(3.6130e13, rel=2e-5)
    assert flops / step_flops(BERT_BASE) == pytest.approx(2.40, abs=0.005)


def test_extra_cost_of_the_published_table():
    flops = operator_step_flops(BERT_SMALL, BERT_BASE)
    for row in published().operator_steps:
        assert row.steps * flops == pytest.approx(row.extra_flops, rel=2e-3)


def test_weights_are_made_once_a_step_and_replica():
    once, step = materialise_flops(BERT_SMALL, BERT_BASE), step_flops(BERT_BASE)
    assert once == pytest.approx(8.2e10, rel=5e-3)
    for replicas, percent in ((1, 0.55), (4, 2.2)):
        corrected = operator_step_flops(BERT_SMALL, BERT_BASE, replicas=replicas)
        assert corrected - step == pytest.approx(replicas * once)
        assert 100 * (corrected / step - 1) == pytest.approx(percent, abs=0.05)
    # The published counter charges it to every sequence.
    assert operator_step_flops(BERT_SMALL, BERT_BASE) - step == pytest.approx(256 * once)


def test_savings_of_the_published_table():
    ratio = operator_step_flops(BERT_SMALL, BERT_BASE) / step_flops(BERT_BASE)
    scratch = converged_scratch_steps(215_000, 100, ratio, 0.447)
    assert scratch == pytest.approx(389_200, abs=50)
    expected = [44.7, 44.45, 44.15, 38.86]
    for row, percent in zip(published().operator_steps, expected, strict=True):
        found = 100 * saved(row.converged_steps, row.steps, scratch, ratio)
        assert found == pytest.approx(percent, abs=0.005)
        assert found == pytest.approx(row.saved, abs=0.1)


def test_reconstructed_rows():
    rows = {row["name"]: row for row in reconstructed_rows()}
    for steps, printed in ((500, 44.5), (1000, 44.2), (10_000, 38.9)):
        row = rows[f"LiGO/{steps}/saved"]
        assert row["low"] <= printed / 100 <= row["high"] and row["low"] < row["value"]
        assert f"{printed} %" in row["note"]
    scratch = rows["LiGO/scratch_steps"]
    assert scratch["low"] < 389_222 < scratch["high"] < 400_000
    for source, charge, net in (("220000", 18.7, 26.0), ("50000", 4.2, 31.0)):
        assert 100 * rows[f"LiGO/{source}/share/source"]["value"] == pytest.approx(charge, abs=0.05)
        assert 100 * rows[f"LiGO/{source}/saved/source"]["value"] == pytest.approx(net, abs=0.05)


def test_tables():
    known = published()
    base = {f.method: f for f in known.figures if f.place.startswith("Table 1")}
    assert {k: f.flops for k, f in base.items()} == {
        "LiGO": 44.7,
        "StackBERT": 34.1,
        "MSLT": 34.9,
        "KI": -5.7,
        "bert2BERT": 29.0,
    }
    assert known.figure("KI", "DeiT-B").wall == -36.8
    assert known.figure("LiGO", "BERT-Base", "BERT 6x512").speedup == pytest.approx(0.808, abs=1e-3)
    headline = known.figure("depth direct", "7B", place="headline, 194B tokens for 300B")
    assert headline.saved == pytest.approx(0.353, abs=5e-4)
    assert headline.speedup == pytest.approx(300 / 194 - 1, abs=1e-3)


def test_every_figure_has_a_known_mark_paper_and_measure():
    known = published()
    assert known.operator_steps and known.figures
    for figure in known.figures:
        assert figure.mark in known.marks
        assert figure.paper in known.sources
        assert figure.measure in known.measures
        # Who charges the source follows from the definition, and is unknown of abstracts.
        charged = {"LiGO": False, "G_stack": True}.get(figure.paper)
        assert figure.source_charged is charged


@pytest.mark.parametrize(("method", "target"), [("LiGO", "BERT-Base"), ("LiGO", "7B")])
def test_an_ambiguous_or_absent_figure_is_refused(method, target):
    with pytest.raises(UserError, match="expected one figure"):
        published().figure(method, target)


def test_counter_of_a_decoder():
    config = PRESETS["pythia-160m"]
    shape = shape_of(config)
    assert (shape.layers, shape.width, shape.mlp, shape.heads) == (12, 768, 3072, 12)
    bert = dataclasses.replace(BERT_BASE, vocab=50304)
    # Logits of every token, without the dense layer before them.
    head = 128 * (2 * 768 * 50304 + 7 * 50304)
    masked = 0.15625 * 128 * (2 * 768 * 50304 + 7 * 50304 + 2 * 768**2 + 14 * 768)
    assert step_flops(shape) - step_flops(bert) == pytest.approx(2 * 256 * (head - masked))


def test_gates_and_grouped_keys_are_counted_by_their_weights():
    plain = ModelConfig(width=64, num_heads=4, mlp_width=256, num_layers=2, vocab_size=100)
    base = step_flops(shape_of(plain), batch=1, length=8)
    gated = step_flops(shape_of(dataclasses.replace(plain, mlp="swiglu")), batch=1, length=8)
    # A third matrix, its bias and the product with the gate, in both layers and passes.
    assert gated - base == 2 * 2 * 8 * (2 * 64 * 256 + 2 * 256)
    grouped = step_flops(shape_of(dataclasses.replace(plain, num_kv_heads=1)), batch=1, length=8)
    # Keys and values of three heads of 16 less, with their biases.
    assert base - grouped == 2 * 2 * 8 * (2 * 2 * 64 * 48 + 2 * 48)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (BERT_BASE, BERT_SMALL),
        (BERT_SMALL, dataclasses.replace(BERT_BASE, gated=True)),
        (BERT_SMALL, dataclasses.replace(BERT_BASE, key_heads=4)),
    ],
)
def test_operator_outside_the_counter_is_refused(source, target):
    with pytest.raises(UserError, match="expected"):
        operator_step_flops(source, target)


def test_wrong_numbers_are_refused():
    for call in (
        lambda: step_flops(BERT_BASE, batch=0),
        lambda: operator_step_flops(BERT_SMALL, BERT_BASE, replicas=0),
        lambda: saved(1, 1, 0, 2.4),
        lambda: converged_scratch_steps(1, 1, 2.4, 1.0),
    ):
        with pytest.raises(UserError, match="expected"):
            call()
