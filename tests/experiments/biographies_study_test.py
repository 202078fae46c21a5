import json
import re

import numpy as np
import pytest

from experiments import biographies, cli, probed
from llm_dynamics.errors import UserError
from llm_dynamics.probe.log import open_log
from llm_dynamics.train.run_folder import read_spec

TINY = {
    "data.tokenizer": "bpe:512",
    "model.vocab_size": "512",
    "data.length": "64",
    "data.batch_size": "8",
    "train.steps": "20",
    "optim.schedule.warmup": "5",
    "train.tensorboard": "false",
    "probe.every": "10",
    "biographies.people": "24",
    "biographies.unseen": "8",
    "biographies.name_words": "12",
    "biographies.answers": "4",
    "biographies.fixed_share": "0.25",
}


def tiny(cache, **more):
    return cli.resolve(biographies.smoke(), "", TINY | {"data.cache_dir": str(cache)} | more)


def test_a_tiny_run_ends_in_results_and_a_page_and_can_be_gone_on_from(tmp_path, monkeypatch):
    spec = tiny(tmp_path / "cache")
    report = biographies.run(spec, tmp_path / "run", "launch/local biographies")
    rows = {r["name"]: r for r in json.loads((tmp_path / "run" / "results.json").read_text())}
    assert rows["seen/baseline"]["value"] == pytest.approx(np.log(4), abs=1e-12)
    log = open_log(tmp_path / "run" / "probes")
    assert log["step"].values.tolist() == [0, 10, 20]
    loss = -log["score"].sel(measure="logprob_sum", step=20)
    chosen = (log["group"] == "unseen") & (log["wording"] == "held_out")
    wanted = float(loss.values[chosen.values].mean())
    assert rows["unseen/held_out/loss"]["value"] == pytest.approx(wanted, rel=1e-6)
    assert rows["seen/training/excess/fixed"]["n"] == 6
    page = report.read_text()
    shown = dict(re.findall(r'data-value="([^"]*/[^"]*)".*?data-value="([^"]*)"', page, re.DOTALL))
    for name, row in rows.items():
        if row["value"] is not None:
            assert float(shown[name]) == row["value"]
    for name in ("losses", "bits", "overconfidence", "training"):
        assert (tmp_path / "run" / "figures" / f"{name}.csv").exists()
        assert f"figures/{name}.svg" in page
    assert "Not shown: the attribute statistics" in page

    def told(parts, plan, *_, **__):
        raise StopIteration(parts.first_data_step, plan.first_step)

    monkeypatch.setattr(probed, "train", told)
    start = {
        "train.start.run": str(tmp_path / "run"),
        "train.start.continue_schedule": "false",
    }
    spec = tiny(tmp_path / "cache", **start)
    with pytest.raises(StopIteration) as stopped:
        biographies.run(spec, tmp_path / "next", "launch/local biographies")
    assert stopped.value.args == (20, 20)
    parent = read_spec(tmp_path / "next" / "spec.json")["parent"]
    assert (parent["step"], parent["data_step"]) == (20, 20)


def test_no_unseen_name_is_ever_trained_on(tmp_path):
    ready = biographies.prepare(tiny(tmp_path))
    decode = ready.tokenizer.decode
    read = " ".join(decode(row) for t in range(20) for row in ready.plan.batch(t).tokens_BxL)
    names = {
        group: [p.name for p in ready.people if p.group == group]
        for group in biographies.lib.GROUPS
    }
    assert not [name for name in names["unseen"] if name in read]
    assert [name for name in names["seen"] if name in read] == names["seen"]
    assert ready.plan.describe()["near_duplicates_removed"] == 0
    assert ready.plan.describe()["sources"][0]["documents"] == 24 * 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.sources": "wiki_leads"}, "expected 'biographies' among data.sources"),
        ({"data.validation_fraction": "0.1"}, "validation_fraction=0"),
        ({"biographies.people": "400"}, "raise biographies.name_words"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        tiny(tmp_path, **changes)


def test_the_plan_is_told_without_running(tmp_path):
    lines = "\n".join(biographies.describe(tiny(tmp_path)))
    assert "24 met" in lines and "6 with one fixed text" in lines
    assert "1.3863 nats" in lines


@pytest.mark.parametrize("preset", [biographies.smoke, biographies.laptop])
def test_presets_fit_their_vocabulary_and_answers(preset, tmp_path):
    spec = cli.resolve(preset(), "", {"data.cache_dir": str(tmp_path)})
    people = biographies.lib.invent(spec.biographies)
    assert len({p.name for p in people}) == spec.biographies.people + spec.biographies.unseen
