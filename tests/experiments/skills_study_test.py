"""The study of skills, tiny and whole: what it writes, that it goes on, and what it refuses."""

import dataclasses
import gc
import json

import pytest

from experiments import skills, skills_spec
from llm_dynamics import spec as specs
from llm_dynamics.errors import UserError
from llm_dynamics.skills import training
from llm_dynamics.skills.languages import LanguageConfig, tables


def tiny(**changes) -> skills_spec.Spec:
    full = skills_spec.smoke()

    def few(config):
        language = dataclasses.replace(config.language, skills=4, symbols=3)
        return dataclasses.replace(
            config, language=language, steps=6, looks=3, texts=64, batch=16, width=8, layers=1,
            heads=2, warmup=2,
        )  # fmt: skip

    bases = {base: few(getattr(full, base)) for base in skills_spec.BASES}
    return dataclasses.replace(
        full,
        **bases,
        simulation=dataclasses.replace(full.simulation, pieces=2000, skills=50, thetas=(0.1,)),
        parts=("theory", "simulation", "trained"),
        arms=("parallel", "serial", "pairs~language.held_out=0.4"),
        seeds=2,
        **changes,
    )


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "run"
    skills.run(tiny(), folder, "launch/local skills")
    return folder


def test_the_folder_holds_results_runs_and_a_page(done):
    rows = {row["name"]: row for row in json.loads((done / "results.json").read_text())}
    assert rows["h1/violations"]["value"] == 0
    assert rows["trained/parallel/k3/theta"]["n"] == 2
    assert any(name.startswith("simulation/theta=0.1/") for name in rows)
    assert rows["h5/held_out=0.4/gap"]["n"] == 2
    assert len(list((done / "runs").iterdir())) == 6
    page = (done / "report.html").read_text()
    for words in ("The theory", "Simulated skill graphs", "The weakest skills", "h1/violations"):
        assert words in page
    assert "Sparse parities" not in page
    assert {"competence.csv", "weakest_skills.pdf", "held_out_pairs.svg"} <= {
        path.name for path in (done / "figures").iterdir()
    }
    assert "| H1 |" in (done / "results.md").read_text()


def test_the_same_command_trains_only_what_is_not_there(done, monkeypatch):
    before = (done / "results.json").read_text()
    lost = done / "runs" / "serial-1.npz"
    lost.unlink()
    trained = []
    real = training.train
    monkeypatch.setattr(training, "train", lambda c: trained.append(c) or real(c))
    gc.collect()  # lets go of the folder's lock
    skills.run(tiny(), done, "launch/local skills")
    assert [(c.language.kind, c.seed) for c in trained] == [("serial", 1)]
    assert (done / "results.json").read_text() == before


def test_another_spec_in_the_folder_is_refused(done):
    gc.collect()  # lets go of the folder's lock
    with pytest.raises(UserError, match="seeds: 2 -> 3"):
        skills.run(dataclasses.replace(tiny(), seeds=3), done, "")


def test_arms_change_single_settings():
    spec = dataclasses.replace(tiny(), arms=("parallel", "parallel~width=16~language.zipf=0.5"))
    found = spec.trained()["parallel~width=16~language.zipf=0.5"]
    assert found.width == 16 and found.language.zipf == 0.5
    runs = spec.runs()
    assert len(runs) == 4 and runs["parallel", 1].seed == runs["parallel", 1].language.seed == 1
    desk = skills_spec.desk()
    widths = skills_spec.family(desk.trained(), desk.parallel, skills_spec.WIDTH)
    assert list(widths) == [16, 20, 24, 28, 32] and widths[32] == "parallel"
    zipfs = skills_spec.family(desk.trained(), desk.parallel, skills_spec.ZIPF)
    assert list(zipfs) == [0.0, 0.5, 1.0, 1.5]


def test_what_cannot_be_studied_is_refused_at_once():
    for changes, words in (
        ({"arms": "paralel"}, "did you mean 'parallel'"),
        ({"arms": "parallel~widht=3"}, "did you mean 'width'"),
        ({"arms": "parallel~width"}, "expected an arm BASE~KEY=VALUE"),
        ({"arms": "parallel,parallel~width=8"}, "are the same"),
        ({"alphas": "0.1,1"}, "alphas between 0 and 1"),
        ({"parts": "theory,practice"}, "unknown part 'practice'"),
        ({"serial.language.kind": "parallel"}, "serial.language.kind to be serial"),
        ({"parallel.seed": "3"}, "the study gives every run its seed"),
        ({"parallel.language.sizes": "9"}, "at most 4 skills"),
        ({"seeds": "0"}, "at least 1 seed"),
    ):
        with pytest.raises(UserError, match=words):
            specs.override(tiny(), changes)


def test_dry_run_and_explain_say_what_will_happen():
    spec = tiny()
    lines = "\n".join(skills.describe(spec))
    assert "runs: 6," in lines and "pairs~language.held_out=0.4: " in lines
    words = skills.explain(spec, 2)
    first = words.splitlines()[1].split()
    table = LanguageConfig("parallel", 4, 3, (3,), zipf=1.0)
    assert first[0] == "BOS" and "SEP" in first and "->" in first
    # The first answer of the first text is what its skill makes of its symbol.
    skill, symbol = int(first[1][1:]), int(first[2][1:])
    answer = int(first[first.index("->") + 1][1:])
    assert tables(table).pi_SxQ[skill, symbol] == answer
    with pytest.raises(UserError, match="expected --explain=0 to 5, got 6"):
        skills.explain(spec, 6)
