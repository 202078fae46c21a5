"""The published layout, written small, comes back as our own log; whatever is wrong is named."""

import copy
import json
import tracemalloc

import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.facts import paper, published_log, results
from llm_dynamics.facts.published_log import read_published_log
from llm_dynamics.probe.log import ProbeLog, open_log
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES

PREFIXES = ("mem", "gen", "gen_hard")


def steps_of(count, passages=130, probes=5, first=40000, seed=0):
    """Objects of the published layout with invented cross-entropies."""
    rng = np.random.default_rng(seed)
    records = []
    for s in range(count):
        record = {"step": first + s}
        for prefix in PREFIXES:
            for kind in ("first", "target", "full"):
                record[f"{prefix}_{kind}"] = rng.uniform(0, 9, (passages, probes)).tolist()
        record["def"] = rng.uniform(1, 4, passages).tolist()
        records.append(record)
    return records


def write(path, records):
    path.write_text(json.dumps(records, indent=4))
    return path


def test_labels_arms_and_values(tmp_path):
    records = steps_of(3)
    records[1]["gen_target"][41][2] = 0  # certain; an integer as JSON may have it
    log = read_published_log(write(tmp_path / "log.json", records), tokens_per_step=100)
    assert dict(log.sizes) == {"step": 3, "probe": 1950, "measure": 5}
    assert log["step"].values.tolist() == [0, 1, 2]
    assert log["tokens"].values.tolist() == [0, 100, 200]
    assert log.attrs["first_step"] == 40000
    names, counts = np.unique(log["arm"].values, return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {
        "control": 150,
        "duplication": 600,
        "once": 600,
        "paraphrase": 600,
    }
    for passage, arm in (
        (0, "paraphrase"),
        (39, "paraphrase"),
        (40, "duplication"),
        (79, "duplication"),
        (80, "once"),
        (119, "once"),
        (120, "control"),
        (129, "control"),
    ):
        for prefix, depth in zip(
            PREFIXES, ("memorization", "semantic", "compositional"), strict=True
        ):
            for i in range(5):
                probe = log.sel(probe=f"passage-{passage:03d}/{depth}/{i}")
                assert (probe["arm"], probe["depth"]) == (arm, depth)
                assert (probe["fact"], probe["attribute"]) == (f"passage-{passage:03d}", str(i))
                for kind, measure in (("target", "logprob_mean"), ("first", "logprob_first")):
                    want = [-record[f"{prefix}_{kind}"][passage][i] for record in records]
                    assert probe["score"].sel(measure=measure).values.tolist() == want
    certain = log["score"].sel(probe="passage-041/semantic/2", measure="logprob_mean")
    assert certain.values[1] == 0
    for measure in ("logprob_sum", "rank_first", "greedy_match"):
        assert np.isnan(log["score"].sel(measure=measure).values).all()


def test_the_same_procedure_gives_the_same_on_it_and_on_our_own_log(tmp_path):
    records = steps_of(70, passages=90, probes=1)
    theirs = read_published_log(write(tmp_path / "log.json", records))
    probes = [
        Probe(
            name,
            "context",
            "target",
            {key: str(theirs[key].values[p]) for key in ("fact", "arm", "depth", "attribute")},
        )
        for p, name in enumerate(theirs["probe"].values.tolist())
    ]
    steps = theirs["step"].values
    with ProbeLog(
        tmp_path / "ours", probes, [3] * len(probes), steps, theirs["tokens"].values
    ) as writer:
        for s in steps:
            writer.write(s, theirs["score"].values[s])
    ours = open_log(tmp_path / "ours")
    assert set(ours.coords) <= set(theirs.coords)
    assert theirs["score"].dims == ours["score"].dims
    schedule = {"paraphrase": (0, 20), "duplication": (0, 20), "once": (0,)}
    pairs = list(
        zip(paper.analyse(theirs, schedule, 15), paper.analyse(ours, schedule, 15), strict=True)
    )
    assert len(pairs) == 9
    for a, b in pairs:
        assert (a.arm, a.depth, a.probes) == (b.arm, b.depth, b.probes)
        np.testing.assert_allclose(a.effectivity, b.effectivity, rtol=1e-5)  # float32 in ours
        np.testing.assert_allclose(a.curve_T, b.curve_T, rtol=1e-4, atol=1e-5)
        assert a.x_intercept_tokens == pytest.approx(b.x_intercept_tokens, rel=1e-3)


def test_the_right_mode_reads_it_too(tmp_path):
    log = read_published_log(write(tmp_path / "log.json", steps_of(30, probes=1)))
    schedule = {"paraphrase": (0, 10), "duplication": (0, 10), "once": (0,), "control": ()}
    rows = results.compute(log, schedule, window=8, resamples=20)
    assert any(row["name"].endswith("effectivity/subtracted") and row["low"] for row in rows)


def test_published_schedule():
    schedule = published_log.SCHEDULE
    assert schedule["paraphrase"] == schedule["duplication"] == tuple(range(0, 901, 100))
    assert schedule["once"] == (0,)
    # 120 passages at step 0, 80 at each of the nine others.
    sizes = dict(published_log.ARMS)
    assert sum(sizes[arm] * len(steps) for arm, steps in schedule.items()) == 840


def test_memory_is_that_of_the_result_and_a_few_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(published_log, "_CHUNK", 1 << 14)
    path = write(tmp_path / "log.json", steps_of(40, passages=30))
    read_published_log(path)  # whatever is allocated once
    tracemalloc.start()
    log = read_published_log(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    kept = log["score"].values.nbytes * (1 + 2 / len(MEASURES))
    assert peak < kept + 10 * path.stat().st_size / 40


def test_without_line_breaks_and_in_small_pieces(tmp_path, monkeypatch):
    records = steps_of(5, passages=3, probes=2)
    plain = read_published_log(write(tmp_path / "a.json", records))
    (tmp_path / "b.json").write_text(json.dumps(records, separators=(",", ":")) + "\n \n")
    for size in (1, 7, 1000):
        monkeypatch.setattr(published_log, "_CHUNK", size)
        again = read_published_log(tmp_path / "b.json")
        np.testing.assert_array_equal(again["score"].values, plain["score"].values)


def changed(change):
    records = steps_of(4, passages=3, probes=2)
    change(records)
    return records


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop(2), "expected step 40002 after 40001, got 40003"),
        (lambda r: r.insert(2, copy.deepcopy(r[1])), "expected step 40002 after 40001, got 40001"),
        (lambda r: r[1].pop("gen_target"), "step 40001: expected the list 'gen_target', got none"),
        (lambda r: r[1].pop("step"), "'step' in object 1, got None"),
        (lambda r: r[1].update(step=1.5), "'step' in object 1, got 1.5"),
        (lambda r: r[2]["mem_target"].pop(), "step 40002: expected 3 x 2.*'mem_target'.*got 2 x 2"),
        (lambda r: r[2]["mem_target"][1].pop(), "step 40002: expected numbers in 'mem_target'"),
        (lambda r: r[0]["mem_target"].pop(), "step 40000: .*as many passages.*mem_target 2"),
        (lambda r: [k.pop() for k in r[0]["gen_first"]], "'gen_first' as in 'gen_target'"),
        (lambda r: r[0].update(mem_target=[1.0, 2.0]), "expected passages x probes in 'mem_tar"),
        (lambda r: r[0].update(mem_target="none"), "expected numbers in 'mem_target'"),
        (
            lambda r: r[3]["gen_hard_target"][2].__setitem__(1, float("nan")),
            "step 40003.*nan.*be 1 ",
        ),
        (lambda r: r[3]["gen_hard_target"][2].__setitem__(1, None), "nan for probe 1 of passage 2"),
        (lambda r: r[3]["mem_target"][0].__setitem__(0, -0.1), "step 40003.*got -0.1"),
        (lambda r: r[3]["mem_target"][0].__setitem__(0, float("inf")), "step 40003.*got inf"),
        (lambda r: r.clear(), "got an empty list"),
        (lambda r: r.__setitem__(1, [1]), "got .* after 1 steps"),
    ],
)
def test_wrong_content(tmp_path, change, message):
    path = write(tmp_path / "log.json", changed(change))
    with pytest.raises(UserError, match=message):
        read_published_log(path)


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (lambda t: t[: len(t) // 2], "end of a truncated file after [12] steps"),
        (lambda t: t[: t.rindex("]")], "end of a truncated file after 4 steps"),
        (lambda t: t[: t.index("}") + 1] + ",\n", "end of a truncated file after 1 steps"),
        (lambda t: "[", "end of a truncated file at its start"),
        (lambda t: "", "end of a truncated file at its start"),
        (lambda t: t + "{}", "after 4 steps"),
        (lambda t: t.replace(": 40002", " 40002"), "after 2 steps"),
        (lambda t: "{" + t, "at its start"),
        (lambda t: "not JSON at all", "got 'notJSONatall' at its start"),
        (lambda t: "version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_truncated_or_foreign_file(tmp_path, cut, message):
    path = tmp_path / "log.json"
    path.write_text(cut(json.dumps(steps_of(4, passages=3, probes=2), indent=4)))
    with pytest.raises(UserError, match=message):
        read_published_log(path)


def test_unreadable(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="got nothing there"):
        read_published_log(tmp_path / "absent.json")
    with pytest.raises(UserError, match="readable file"):
        read_published_log(tmp_path)
    (tmp_path / "bytes.json").write_bytes(b"[\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        read_published_log(tmp_path / "bytes.json")
    monkeypatch.setattr(published_log, "_LONGEST", 1000)
    (tmp_path / "long.json").write_text("[" + "1," * 1000)
    with pytest.raises(UserError, match="more than 1,000 characters"):
        read_published_log(tmp_path / "long.json")


def test_more_passages_than_published(tmp_path):
    path = write(tmp_path / "log.json", steps_of(1, passages=131, probes=1))
    with pytest.raises(UserError, match="at most 130"):
        read_published_log(path)
