"""Lists of checkpoints of any kind: what their names say, what is one series, what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llm_dynamics import files
from llm_dynamics.errors import UserError
from llm_dynamics.hub import revisions
from llm_dynamics.hub.runs import import_run
from llm_dynamics.hub.series import _refuse_another, open_members, open_series, refuse_same
from tests.hub import checkpoint_folders as made_of
from tests.hub.checkpoint_folders import MODEL, REPO, STEPS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same three checkpoints as a run, as folders and in a cache."""
    root = tmp_path_factory.mktemp("members")
    run = made_of.own_run(root / "run")
    folders = made_of.exported(run, root / "tiny")
    return run, folders, made_of.cached(folders, root / "home")


@pytest.fixture
def home(made, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(made[2]))


def bits(member):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(member.params())]


def test_the_same_checkpoints_of_every_kind(made, home):
    run, folders, _ = made
    lists = {
        "own": open_series([run]),
        "folders": open_series([folders / "step9", folders / "step0", folders / "step4"]),
        "pattern": open_series([f"{folders}/step*"]),
        "revisions": open_series([f"{REPO}@step4", f"{REPO}@step*[09]"]),
        "imported": open_series([import_run(folders / "step4", run.parent / "again-step4").run]),
    }
    assert [m.step for m in lists.pop("imported")] == [4]
    wanted = [bits(member) for member in lists["own"]]
    assert wanted[0] != wanted[1]
    for name, members in lists.items():
        assert tuple(m.step for m in members) == STEPS, name
        assert [bits(member) for member in members] == wanted, name
        assert len({m.identity for m in members}) == 3
        assert {m.config for m in members} == {MODEL}
        assert len({id(m.tokenizer) for m in members}) == 1
        for member in members:
            member.check()
    assert {name: members[0].run for name, members in lists.items()} == {
        "own": "run", "folders": "tiny", "pattern": "tiny", "revisions": "tiny",
    }  # fmt: skip
    assert [m.tokens for m in lists["own"]] == [0, 4 * 64, 9 * 64]
    assert [m.tokens for m in lists["folders"]] == [0, 0, 0]
    counted = open_series([f"{folders}/step*"], tokens_per_step=7)
    assert [m.tokens for m in counted] == [0, 28, 63]
    assert [m.tokens for m in open_series([run], tokens_per_step=7)] == [0, 256, 576]
    # What lies in the cache is known by its content, wherever it lies.
    again = [m.identity for m in open_series([f"{REPO}@step4"])]
    assert again == [lists["revisions"][1].identity]


def test_steps_are_chosen_and_given(made, tmp_path):
    run, folders, _ = made
    assert [m.step for m in open_series([run], steps=(9, 0))] == [0, 9]
    assert [m.step for m in open_members([f"{folders}/step*"], steps=(4,))] == [4]
    with pytest.raises(UserError, match=r"no checkpoint of step 5; there are 0, 4, 9$"):
        open_members([f"{folders}/step*"], steps=(4, 5))
    both = [folders / "step9", folders / "step0"]
    assert [(m.step, Path(m.of.run).name) for m in open_series(both, at=(100, 200))] == [
        (100, "step9"), (200, "step0"),
    ]  # fmt: skip
    mixed = open_series([run, folders / "step4"], at=(1, 2, 3, 4))
    assert [m.step for m in mixed] == [1, 2, 3, 4] and bits(mixed[1]) == bits(mixed[3])
    # Steps are those that --at says, not those of the names.
    three = [shutil.copytree(folders / "step4", tmp_path / n) for n in ("alpha", "beta", "gamma")]
    (only,) = open_series(three, at=(1000, 2000, 4000), steps=(2000,))
    assert (only.step, Path(only.of.run).name) == (2000, "beta")
    (only,) = open_series([folders / "step4", folders / "step9"], at=(100, 200), steps=(200,))
    assert (only.step, Path(only.of.run).name) == (200, "step9")
    for given, how, message in (
        (both, {"steps": (9, 9)}, "every step once, got 9 twice"),
        (both, {"at": (1,)}, "as many different numbers in --at as checkpoints, got 1 numbers and"),
        (both, {"at": (1, 1)}, "as many different numbers"),
        ([run], {"steps": (3,)}, "no checkpoint of step 3; there are 0, 4, 9$"),
        ([run, folders / "step4"], {}, "every step once, got two checkpoints of step 4"),
        ([], {}, "at least one checkpoint, got none"),
    ):
        with pytest.raises(UserError, match=message):
            open_series(given, **how)
    with pytest.raises(UserError, match="every checkpoint once"):
        refuse_same(open_members([folders / "step4", folders / "step4"]))


def test_an_imported_run_has_the_step_of_its_name(made, tmp_path):
    run, folders, _ = made
    named, other = (
        import_run(folders / "step4", tmp_path / name).run for name in ("step1000", "other")
    )
    assert [m.step for m in open_members([named], (1000,))] == [1000]
    found = open_members([run, named, other], (4,))
    assert [(m.run, m.step, m.is_placed) for m in found] == [
        ("run", 4, True), ("other", 0, False),
    ]  # fmt: skip
    for given, message in (
        ([named], "no checkpoint of step 4; there are 1000$"),
        ([other], "no checkpoint of step 4; no name says its step"),
    ):
        with pytest.raises(UserError, match=message):
            open_members(given, (4,))
    with pytest.raises(UserError, match="every step once, got 4 twice"):
        open_members([folders / "step4"], (4, 4))


@pytest.mark.parametrize("position", ["rotary", "learned"])
def test_the_longest_context_is_part_of_learned_positions(made, position):
    members = open_members([made[1] / "step4", made[1] / "step9"])
    one, other = (
        dataclasses.replace(
            m, of=dataclasses.replace(m.of, config=dataclasses.replace(m.config,
                position=position, tie_embeddings=True, max_length=length)))
        for m, length in zip(members, (48, 40), strict=True)
    )  # fmt: skip
    if position == "rotary":
        _refuse_another(one, other)
        return
    with pytest.raises(UserError, match=r"expected one model .*max_length: 48 -> 40"):
        _refuse_another(one, other)


@pytest.mark.parametrize(
    ("name", "run", "step", "tokens"),
    [
        ("step1000", "above", 1000, 0),
        ("checkpoint-500", "above", 500, 0),
        ("0042", "above", 42, 0),
        ("pythia-70m-step512", "pythia-70m", 512, 0),
        ("stage1-step140000-tokens294B", "stage1", 140000, 294 * 10**9),
        ("mine_Step-7", "mine", 7, 0),
        ("run.global_step30", "run", 30, 0),
        ("gpt-2", None, 0, 0),
        ("OLMo-2", None, 0, 0),
        ("step7-ingredient2", None, 0, 0),
        ("laststep", None, 0, 0),
    ],
)
def test_a_step_is_read_off_a_name(made, tmp_path, name, run, step, tokens):
    shutil.copytree(made[1] / "step4", tmp_path / "above" / name)
    given = [tmp_path / "above" / name]
    (member,) = open_members(given)
    assert (member.run, member.step, member.tokens) == (run or name, step, tokens)
    assert member.is_placed == bool(run)
    if not run:
        with pytest.raises(UserError, match=r"expected the step at the end .*--at=1000,2000"):
            open_series(given)
        assert open_series(given, at=(5,))[0].step == 5


def test_a_revision_is_found_or_how_to_fetch_it_said(made, home, monkeypatch, tmp_path):
    commit = revisions.snapshot(REPO, "step4").name
    assert revisions.snapshot(REPO, commit).name == commit
    (member,) = open_members([f"{REPO}@{commit}"])
    assert (member.run, member.is_placed) == (f"tiny-{commit}", False)
    monkeypatch.setenv("HF_HUB_CACHE", str(made[2] / "hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert [m.step for m in open_series([f"{REPO}@step9"])] == [9]
    fetch = "fetch it by `hf download them/tiny --revision step8`"
    for word, message in (
        (f"{REPO}@step8", fetch),
        (f"{REPO}@step8*", "matches no folder"),
        (f"{'o' * 200}/{'n' * 200}@{commit}", "expected the revision"),
        (f"{'o' * 200}/{'n' * 200}@step*", "matches no folder"),
        ("n" * 300, r"expected a run folder.* of 300 characters: File name too long"),
        ("n" * 300 + "*.gguf", r"of 306 characters: File name too long"),
        (f"{REPO}@../refs", "expected a run folder"),
        ("no/where", "expected a run folder"),
        (str(tmp_path / "*"), "matches no folder"),
    ):
        with pytest.raises(UserError, match=message):
            open_members([word])


def test_links_of_a_cache_stay_within_their_model(made, monkeypatch, tmp_path):
    shutil.copytree(made[2], tmp_path / "home", symlinks=True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    folder = revisions.snapshot(REPO, "step4")
    outside = tmp_path / "home" / "hub" / "models--other" / "blobs" / "b"
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        link = folder / name
        kept = link.readlink()
        files.write_text(outside, "")
        shutil.copyfile(link, outside)
        link.unlink()
        link.symlink_to(outside)
        with pytest.raises(UserError, match=r"them/tiny@step4: .* is a link that leads out"):
            open_members([f"{REPO}@step4"])
        link.unlink()
        link.symlink_to(kept)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"found neither \(if it was not fetched whole: `hf downl"):
        open_members([f"{REPO}@step4"])
    # Elsewhere a link out of the folder stays refused, whatever lies there.
    plain = tmp_path / "blobs" / "step4"
    plain.mkdir(parents=True)
    (plain / "config.json").symlink_to(made[1] / "step4" / "config.json")
    with pytest.raises(UserError, match="leads out of the folder"):
        open_members([plain])


def test_what_is_no_series_or_no_checkpoint(made, tmp_path):
    run, folders, _ = made
    wide = made_of.own_run(tmp_path / "wide", (20,), dataclasses.replace(MODEL, width=32))
    foreign = made_of.own_run(tmp_path / "foreign", (20,), texts=["other words altogether"] * 5)
    damaged = shutil.copytree(folders / "step4", tmp_path / "step20")
    arrays = load_file(damaged / "model.safetensors")
    save_file({k: v for k, v in arrays.items() if "norm" not in k}, damaged / "model.safetensors")
    (tmp_path / "empty").mkdir()
    for other, message in (
        (wide, r"expected one model .*step 0 \(run\) -> step 20 \(wide\): .*width: 16 -> 32"),
        (foreign, r"expected one tokenizer .*step 20 \(foreign\)"),
        (damaged, "the tensor .* is missing"),
        (tmp_path / "empty", "a folder with neither spec.json nor config.json"),
        (tmp_path / "absent", "expected a run folder, a folder with config.json"),
        (tmp_path / "absent.gguf", "expected a .gguf file"),
    ):
        with pytest.raises(UserError, match=message):
            open_series([run, other])
    # A record that is not of its checkpoints is found out before they are read.
    record = json.loads((run / "spec.json").read_text())
    record["spec"]["model"]["mlp_width"] = 40
    liar = shutil.copytree(run, tmp_path / "liar")
    files.write_json(liar / "spec.json", record)
    with pytest.raises(UserError, match=r"step 0 in .*liar is not of the model.*expected params/"):
        open_members([liar])[0].check()
