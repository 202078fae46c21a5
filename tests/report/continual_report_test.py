"""What the page of a continual study says of given numbers."""

from pathlib import Path

import numpy as np
import pytest

from llm_dynamics.continual.measures import arm_rows
from llm_dynamics.continual.stage_log import Arm, StageLog
from llm_dynamics.report import continual_report as lib
from llm_dynamics.report.page import Table


def _log(start, end):
    losses_SxZ = np.array([[start[0], start[1]], [end[0], end[1]]])
    ledger = {"a": {"new": 0, "replayed": 50, "repeated": 0}}
    return StageLog(Path("x"), np.array([0, 4]), losses_SxZ, np.full(4, 0.1), 10, ledger)


@pytest.fixture
def study():
    arms = {}
    for variant, rise in (("rewarm-replay-0", 1.0), ("rewarm-replay-0.05", 0.25)):
        before = {seed: _log((6, 9), (4 + 0.1 * seed, 8)) for seed in range(3)}
        runs = {seed: _log((4 + 0.1 * seed, 8), (4 + 0.1 * seed + rise, 5)) for seed in range(3)}
        arms[variant] = Arm(("old", "far"), runs, before)
    plain = arms["rewarm-replay-0"].matrix
    rows = [
        row
        for variant, arm in arms.items()
        for row in arm_rows(
            f"far/{variant}", arm.matrix, arm.curves, plain if "0.05" in variant else None
        )
    ]
    sources = {"old": "text", "far": "other_text"}
    return lib.ContinualStudy(rows, {"far": arms}, {}, {}, 3, (4, 4), sources, 9, "command")


def test_the_table_has_the_published_layout(study):
    table = lib.table("far", study)
    assert table.columns[:3] == ("run", "average", "forgetting")
    replayed = dict(zip(table.columns, table.rows[1], strict=True))
    assert replayed["run"] == "rewarm-replay-0.05"
    assert replayed["forgetting"].key == pytest.approx(0.25)
    assert replayed["removed by replay"].key == pytest.approx(0.75)
    assert dict(zip(table.columns, table.rows[0], strict=True))["removed by replay"] == "–"


def test_markdown_keeps_command_units_and_seeds(study):
    text = lib.markdown(study)
    assert text.startswith("`command`") and "n = 3 seeds" in text
    assert "| rewarm-replay-0.05 |" in text


def test_published_shares_removed():
    found = {row[0]: row[-1].text for row in lib._published().rows}
    assert found["SlimPajama, 0.01 replayed"] == "0.67" and found["German, 0.25 replayed"] == "0.88"
    assert found["German, 0 replayed"] == "–"


def test_ledger_is_shown(study):
    table = lib._ledger("far", study)
    assert isinstance(table, Table) and table.rows[0][:2] == ("rewarm-replay-0", "a")
    assert table.rows[0][3].key == 50
