"""Kill -9 at any moment, run the same command again: bit for bit the uninterrupted run."""

import signal

import text
from runs import final_state, metrics, run, tree_bytes


def test_killed_four_times_and_resumed_it_is_the_same_run(uninterrupted, tmp_path):
    flags = text.small_run(
        tmp_path / "run", uninterrupted / "corpus.jsonl", uninterrupted / "cache"
    )
    for point in ("compile", "save", "step:15", "report"):
        killed = run(point, flags)
        assert killed.returncode == -signal.SIGKILL, (point, killed.stderr[-3000:])
    first, second = uninterrupted / "run", tmp_path / "run"
    assert not (second / "report.html").exists()
    trained = (second / "metrics.jsonl").read_bytes(), tree_bytes(second / "checkpoints")
    done = run("none", flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (second / "report.html").exists()
    # What was complete is trained no further: seconds of the machine included, nothing is new.
    after = (second / "metrics.jsonl").read_bytes(), tree_bytes(second / "checkpoints")
    assert trained == after

    assert metrics(first) == metrics(second)
    assert [row["step"] for row in metrics(second)] == list(range(21))
    assert tree_bytes(first / "probes") == tree_bytes(second / "probes")
    assert (first / "results.json").read_bytes() == (second / "results.json").read_bytes()
    assert final_state(first) == final_state(second)
