"""What the page of a continual study says of given numbers."""

from pathlib import Path

import numpy as np
import pytest

from llm_dynamics.continual.measures import arm_rows, matrix_rows
from llm_dynamics.continual.stage_log import Arm, StageLog
from llm_dynamics.report import continual_figures as figures
from llm_dynamics.report import continual_report as lib
from llm_dynamics.report import continual_tables as tables
from llm_dynamics.report.continual_study import ContinualStudy, Kept
from llm_dynamics.report.figures import render
from llm_dynamics.results import exact, interval_row

_SHARES = ("0", "0.01", "0.05", "0.1", "0.25", "0.5")


def _log(name, start, end, ledger=None):
    losses_SxZ = np.array([[start[0], start[1]], [end[0], end[1]]])
    ledger = ledger or {"a": {"new": 10, "replayed": 0, "repeated": 30}}
    return StageLog(Path(name), np.array([0, 4]), losses_SxZ, np.full(4, 0.1), 10, ledger)


def _arm(variant, rise, seeds=3, ledger=None):
    before = {s: _log(f"old-seed{s}", (6, 9), (4 + 0.1 * s, 8)) for s in range(seeds)}
    runs = {
        s: _log(variant, (4 + 0.1 * s, 8), (4 + 0.1 * s + rise, 5), ledger) for s in range(seeds)
    }
    return Arm(("old", "far"), runs, before)


def _kept(seeds=3):
    before = {s: (np.array([0, 2, 4]), np.array([0.0, 0.5, 1.0 + s])) for s in range(seeds)}
    after = {s: (np.array([0, 4]), np.array([1.0 + s, 0.25 + s])) for s in range(seeds)}
    return Kept(before, after)


@pytest.fixture
def study():
    replayed = {"a": {"new": 0, "replayed": 50, "repeated": 0}}
    arms = {"old": Arm(("old", "far"), _arm("x", 1).before, {})}
    for share in _SHARES:
        ledger = None if share == "0" else replayed
        arms[f"rewarm-replay-{share}"] = _arm(f"r{share}", 1.0 - float(share), ledger=ledger)
    arms["same"] = _arm("same", 0.1, seeds=1)
    arms["floor"] = _arm("floor", 0.5)
    arms["extra"] = _arm("extra", 0.7)
    plain, rows = arms["rewarm-replay-0"].matrix, []
    for variant, arm in arms.items():
        name = f"far/{variant}"
        for data in arm.datasets:
            rows.append(interval_row(f"{name}/{data}/loss", exact(5.0), "x", len(arm.runs), "d"))
        if arm.before:
            rows += matrix_rows(name, arm.matrix)
            rows += arm_rows(name, arm.matrix, arm.curves, plain if "0." in variant else None)
    verdict = interval_row("far/expected/peak_2_over_1", exact(0.2), "1", 3, "d; expected: above 0")
    rows.append({**verdict, "note": "not shown; one seed"})
    return ContinualStudy(
        rows=rows,
        arms={"far": arms},
        facts={"far": {v: _kept() for v in arms if v not in ("old", "same")}},
        words={},
        seeds=3,
        steps=(4, 4),
        sources={"old": "text", "far": "other_text"},
        num_runs=9,
        command="command",
        sweep=tuple(f"rewarm-replay-{share}" for share in _SHARES),
        drawn=("rewarm-replay-0", "rewarm-replay-0.25", "floor"),
    )


def _lines(table):
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_the_table_has_the_published_layout_and_a_row_for_the_first_stage(study):
    table = tables.main_table("far", study)
    assert table.columns[:6] == ("run", "n", "old", "new", "average", "forgetting")
    lines = _lines(table)
    assert lines["rewarm-replay-0.05"]["forgetting"].key == pytest.approx(0.95)
    assert lines["rewarm-replay-0.25"]["removed by replay"].key == pytest.approx(0.25)
    assert lines["rewarm-replay-0"]["removed by replay"] == "–"
    assert lines["old"]["old"].key == 5.0 and lines["old"]["forgetting"] == "–"
    assert lines["floor"]["n"].key == 3 and lines["same"]["n"].key == 1


def test_the_loss_matrix_is_shown_stage_by_data_set(study):
    line = _lines(tables.matrix_table("far", study))["floor"]
    found = [line[f"after {stage}: {data}"].key for stage in ("old", "new") for data in
             ("old", "new")]  # fmt: skip
    assert found == pytest.approx([4.1, 8.0, 5.0, 5.0])


def test_markdown_keeps_every_table(study):
    text = lib.markdown(study)
    assert text.startswith("`command`") and "3 seeds, side arms of 1" in text
    assert "| rewarm-replay-0.05 | 3 |" in text and "loss matrix" in text
    assert "not shown" in text and "Tokens" not in text and "tokens read" in text


def test_published_shares_removed():
    found = {row[0]: row[-1].text for row in tables.published_table().rows}
    assert found["SlimPajama, 0.01 replayed"] == "0.67" and found["German, 0.25 replayed"] == "0.88"
    assert found["German, 0 replayed"] == "–"


def test_the_ledger_shows_every_stage_and_whether_seeds_are_alike(study):
    table = tables.ledger_table("far", study)
    lines = _lines(table)
    assert lines["old, first stage"]["new"].key == 10 and "old" not in lines
    assert lines["rewarm-replay-0.05"]["replayed"].key == 50
    assert lines["rewarm-replay-0.05"]["all"].key == 50
    assert "every seed reads the same" in table.caption
    arm = study.arms["far"]["floor"]
    arm.runs[1].ledger["a"]["new"] = 11
    assert "others read otherwise" in tables.ledger_table("far", study).caption


def test_how_much_the_same_data_was_repeated_is_said(study):
    words = tables.repeated_words("same", study.arms["far"]["same"])
    assert words == "`same` read 40 tokens, of which 30 (75.0%) had been read before."


def test_verdicts_are_shown(study):
    line = tables.expected_table(study).rows[0]
    assert (line[0], line[2], line[-1]) == ("far", "above 0", "not shown")


def test_loss_and_facts_share_their_tokens(study):
    figure = figures.both("far", study)
    rows = [dict(zip(figure.data, row, strict=True)) for row in
            zip(*figure.data.values(), strict=True)]  # fmt: skip
    mine = [row for row in rows if row["run"] == "floor"]
    old = [row for row in mine if row["what"] == "loss on old data"]
    assert [row["tokens"] for row in old] == [0, 40, 80]
    assert [row["mean"] for row in old] == pytest.approx([6, 4.1, 4.6])
    assert (old[1]["least"], old[1]["most"]) == pytest.approx((4.0, 4.2))
    facts = [row for row in mine if row["what"] == "facts"]
    assert [row["tokens"] for row in facts] == [0, 20, 40, 80]
    assert [row["mean"] for row in facts] == pytest.approx([0, 0.5, 2, 1.25])
    assert render(figure).svg


def test_what_is_not_drawn_is_said_and_kept(study):
    figure = figures.both("far", study)
    assert "rewarm-replay-0, rewarm-replay-0.25, floor; 5 more are in the CSV" in figure.caption
    drawn = dict(zip(figure.data["run"], figure.data["drawn"], strict=True))
    assert drawn["extra"] == "no" and drawn["floor"] == "yes"
    figure = figures.curves("far", study)
    assert "rewarm-replay-0.5; 3 more are in the CSV" in figure.caption
    assert set(figure.data["run"]) == set(study.arms["far"]) - {"old"}


def test_parts_without_a_shift(study):
    logs = {s: [_log("a", (6, 9), (5, 8)), _log("b", (5, 8), (4 + s, 7))] for s in range(3)}
    rows = [interval_row("splits/rewarm/after_1/loss", exact(5.0), "x", 3, "d"),
            interval_row("splits/rewarm/loss", exact(4.5), "x", 3, "d"),
            interval_row("splits/long/loss", exact(4.0), "x", 3, "d")]  # fmt: skip
    long = {s: [_log("c", (6, 9), (4, 7))] for s in range(3)}
    study = ContinualStudy(
        **{
            **vars(study),
            "rows": [*study.rows, *rows],
            "splits": {"rewarm": logs, "long": long},
            "split_words": {"rewarm": "again", "long": "one"},
        }
    )
    line = _lines(lib.splits_table(study))["rewarm"]
    assert (line["after 1"].key, line["at the end"].key) == (5.0, 4.5)
    figure = figures.splits(study)
    assert figure.data["tokens"] == [0, 40, 80, 0, 40] and render(figure).svg
    ledger = _lines(tables.splits_ledger_table(study))
    assert set(ledger) == {"rewarm, part 1", "rewarm, part 2", "long"}
    assert "No shift: text in parts" in lib.markdown(study)
