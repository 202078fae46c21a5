"""Two processes on one machine: train, save, die, resume; and the same run as one process."""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import text
from runs import HERE, final_state, metrics, tree_bytes

from experiments import cli, facts_presets
from llm_dynamics.train.run_folder import RunFolder


def start_pair(points: tuple[str, str], flags: list[str]) -> list[subprocess.Popen]:
    """Two processes of two devices each, their output and errors in one pipe."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Compiled in haste: what was compiled before is read back by process 0 alone.
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
    }
    pair = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return [
        subprocess.Popen(
            [
                sys.executable,
                str(HERE / "crash.py"),
                point,
                *flags,
                *pair,
                f"--process_id={index}",
            ],
            env=environment,
            cwd=HERE.parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, point in enumerate(points)
    ]


def run_pair(point: str, flags: list[str]) -> list[subprocess.CompletedProcess]:
    """Runs two processes; the second is killed when the first dies at `point`."""
    started = start_pair((point, "none"), flags)
    output = [started[0].communicate(timeout=400)[0]]
    if started[0].returncode:
        started[1].kill()
    output.append(started[1].communicate(timeout=100)[0])
    return [
        subprocess.CompletedProcess(p.args, p.returncode, text)
        for p, text in zip(started, output, strict=True)
    ]


@pytest.mark.slow
def test_two_processes_train_save_and_resume(uninterrupted, tmp_path):
    corpus, cache = uninterrupted / "corpus.jsonl", uninterrupted / "cache"
    mesh = ["--config.train.mesh.data=2", "--config.train.mesh.fsdp=2"]
    # The first pair trains to its end and is spared the drawing.
    for folder, points in (("whole", ("report",)), ("killed", ("step:8", "none"))):
        for point in points:
            flags = text.small_run(tmp_path / folder, corpus, cache)
            first, second = run_pair(point, [*flags, *mesh])
            expected = 0 if point == "none" else -signal.SIGKILL
            assert first.returncode == expected, first.stdout[-3000:]
            assert point != "none" or second.returncode == 0, second.stdout[-3000:]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert metrics(whole) == metrics(killed)
    assert tree_bytes(whole / "probes") == tree_bytes(killed / "probes")
    assert final_state(whole) == final_state(killed)
    assert (killed / "report.html").exists()

    # Reductions are ordered otherwise over four devices, so equality is within tolerance.
    np.testing.assert_allclose(
        [row.get("loss", 0.0) for row in metrics(whole)],
        [row.get("loss", 0.0) for row in metrics(uninterrupted / "run")],
        rtol=2e-3,
    )


def test_a_refusal_by_process_0_ends_both_with_one_line_and_status_2(tmp_path):
    corpus, folder = text.write_corpus(tmp_path / "corpus.jsonl", 80), tmp_path / "run"
    flags = text.small_run(folder, corpus, tmp_path / "cache")
    settings = (flag.removeprefix("--config.") for flag in flags if "--config." in flag)
    changes = dict(setting.split("=", 1) for setting in settings)
    owner = RunFolder(folder)
    owner.claim(cli.resolve(facts_presets.smoke(), "", changes), {"fingerprint": ""})
    owner._lock.close()
    before = (folder / "spec.json").read_bytes()
    started = start_pair(("none", "none"), [*flags, "--config.seed=5"])
    try:
        first, second = (p.communicate(timeout=120)[0] for p in started)
    finally:
        for process in started:
            process.kill()
    said = [
        [line for line in output.splitlines() if line.startswith("error:")]
        for output in (first, second)
    ]
    assert [p.returncode for p in started] == [2, 2], (first[-3000:], second[-3000:])
    assert len(said[0]) == 1 and "another spec" in said[0][0], first[-3000:]
    assert said[1] == ["error: process 0 stopped; its message says why"], second[-3000:]
    assert "Traceback" not in first + second
    assert (folder / "spec.json").read_bytes() == before
