"""The log on disk: labelled, durable, and the same bytes whatever way it was written."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
from unittest import mock

import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.probe import log as log_module
from llm_dynamics.probe.log import ProbeLog, open_log
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES

PROBES = (
    Probe("f0/mem", "Zuxia lies by", "the sea", {"fact": "f0", "arm": "once"}),
    Probe("f0/sem", "The place é is", "ßea", {"fact": "f0", "depth": "semantic"}),
    Probe("f1/mem", "Keel was born in", "1820", {"fact": "f1", "arm": "control"}),
)
STEPS = [*range(70), 80, 100]
VALUES = np.random.default_rng(0).normal(size=(len(STEPS), 3, len(MEASURES))).astype(np.float32)


def new_log(path, probes=PROBES, steps=STEPS, tokens=None, **kwargs):
    tokens = [4096 * step for step in steps] if tokens is None else tokens
    return ProbeLog(path, probes, [2, 1, 1][: len(probes)], steps, tokens, **kwargs)


def tree(path):
    """Every file below `path` and its bytes."""
    files = sorted(f for f in pathlib.Path(path).rglob("*") if f.is_file())
    return {str(f.relative_to(path)): f.read_bytes() for f in files}


class LogTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(self.create_tempdir().full_path)
        self.path = self.folder / "probes"

    def written(self, name="probes"):
        with new_log(self.folder / name) as log:
            for row, step in enumerate(STEPS):
                log.write(step, VALUES[row])
        return self.folder / name


class ReadTest(LogTestCase):
    def test_xarray_reads_it_as_it_is(self):
        log = xr.open_zarr(self.written(), chunks=None).load()
        self.assertEqual(log["score"].dims, ("step", "probe", "measure"))
        self.assertEqual(log["score"].dtype, np.float32)
        np.testing.assert_array_equal(log["score"], VALUES)
        np.testing.assert_array_equal(log["step"], STEPS)
        np.testing.assert_array_equal(log["tokens"], 4096 * np.array(STEPS))
        self.assertEqual(log["step"].dtype, np.int64)
        self.assertEqual(log["tokens"].dtype, np.int64)
        self.assertEqual(log["measure"].values.tolist(), list(MEASURES))
        self.assertEqual(log["probe"].values.tolist(), [p.name for p in PROBES])
        self.assertEqual(log["fact"].values.tolist(), ["f0", "f0", "f1"])
        self.assertEqual(log["arm"].values.tolist(), ["once", "", "control"])
        self.assertEqual(log["depth"].values.tolist(), ["", "semantic", ""])
        self.assertEqual(log["context"].values.tolist(), [p.context for p in PROBES])
        self.assertEqual(log["target"].values.tolist(), ["the sea", "ßea", "1820"])
        self.assertEqual(log["num_target_tokens"].values.tolist(), [2, 1, 1])
        self.assertIn("before update t", log.attrs["step_convention"])
        self.assertEqual(set(log["score"].attrs["definitions"]), set(MEASURES))
        by_arm = log["score"].sel(measure="logprob_sum", step=80).groupby("arm").mean()
        self.assertAlmostEqual(float(by_arm.sel(arm="once")), VALUES[70, 0, 1], places=6)

    def test_open_log_equals_xarray(self):
        path = self.written()
        xr.testing.assert_identical(open_log(path), xr.open_zarr(path, chunks=None).load())

    def test_unwritten_rows_are_nan_and_missing(self):
        log = new_log(self.path)
        for row in (0, 1, 40, 71):
            log.write(STEPS[row], VALUES[row])
        self.assertEqual(log.missing(3), [2])
        log.flush()
        self.assertEqual(log.missing(42), [s for s in range(42) if s not in (0, 1, 40)])
        unwritten = np.isnan(open_log(self.path)["score"].values).all(axis=(1, 2))
        self.assertEqual(np.flatnonzero(~unwritten).tolist(), [0, 1, 40, 71])

    def test_missing_and_damaged(self):
        with self.assertRaisesRegex(UserError, "found nothing"):
            open_log(self.folder / "nowhere")
        self.path.mkdir()
        with self.assertRaisesRegex(UserError, "cannot be read"):
            open_log(self.path)
        path = self.written("other")
        chunk = path / "score" / "1.0.0"
        chunk.write_bytes(chunk.read_bytes()[:20])
        with self.assertRaisesRegex(UserError, "cannot be read"):
            open_log(path)
        log = new_log(path)
        with self.assertRaisesRegex(UserError, "cannot be read"):
            log.write(40, VALUES[40])
        (path / ".zmetadata").write_text("{")
        with self.assertRaisesRegex(UserError, "cannot be read"):
            new_log(path)

    def test_a_store_whose_array_lost_its_description_is_damaged(self):
        (self.written() / "score" / ".zarray").unlink()
        with self.assertRaisesRegex(UserError, "cannot be read as one"):
            new_log(self.path)

    def test_a_store_without_scores_is_damaged(self):
        xr.Dataset(coords={"step": [1]}).to_zarr(self.path, zarr_format=2, consolidated=True)
        with self.assertRaisesRegex(UserError, "without probe, measure, score"):
            open_log(self.path)


class WriteTest(LogTestCase):
    def test_same_bytes_whatever_the_order(self):
        """Out of order, twice, with other values first, reopened mid-way, flushed often."""
        expected = tree(self.written())
        self.assertIn("score/2.0.0", expected)
        order = np.random.default_rng(1).permutation(len(STEPS))
        with new_log(self.folder / "b", attrs=None) as log:
            for row in order[:40]:
                log.write(STEPS[row], VALUES[row] + 1)
        with new_log(self.folder / "b") as log:
            for row in order[::-1]:
                log.write(STEPS[row], VALUES[row])
                if row % 7 == 0:
                    log.flush()
        self.assertEqual(tree(self.folder / "b"), expected)

    def test_few_chunks_are_held_in_memory(self):
        expected = tree(self.written())
        with mock.patch.object(log_module, "_MAX_DIRTY", 1), new_log(self.folder / "b") as log:
            for row in np.random.default_rng(1).permutation(len(STEPS)):
                log.write(STEPS[row], VALUES[row])
                self.assertLessEqual(len(log._dirty), 1)
        self.assertEqual(tree(self.folder / "b"), expected)

    def test_nothing_is_stored_before_a_flush_and_everything_after(self):
        log = new_log(self.path)
        log.write(3, VALUES[3])
        self.assertTrue(np.isnan(open_log(self.path)["score"].values).all())
        log.flush()
        np.testing.assert_array_equal(open_log(self.path)["score"][3], VALUES[3])

    def test_buffer_is_a_copy(self):
        log, row = new_log(self.path), VALUES[3].copy()
        log.write(3, row)
        row[:] = 0
        log.flush()
        np.testing.assert_array_equal(open_log(self.path)["score"][3], VALUES[3])

    def test_mistakes_of_the_program(self):
        log = new_log(self.path)
        with self.assertRaisesRegex(ValueError, "step 75"):
            log.write(75, VALUES[0])
        with self.assertRaisesRegex(ValueError, "expected values"):
            log.write(3, VALUES[0, :2])
        with self.assertRaisesRegex(ValueError, "ascending"):
            new_log(self.folder / "b", steps=[0, 2, 1])

    @parameterized.named_parameters(
        ("steps", {"steps": [*STEPS[:-1], 120]}, "step: 72 -> 72 entries, entry 71: 100 -> 120"),
        ("more_steps", {"steps": [*STEPS, 120]}, "step: 72 -> 73 entries, entry 72: .none. -> 120"),
        ("tokens", {"tokens": [8 * s for s in STEPS]}, "tokens: .*entry 1: 4096 -> 8"),
        ("probes", {"probes": PROBES[:2]}, "probe: 3 -> 2 entries, entry 2: f1/mem"),
        (
            "label",
            {"probes": (*PROBES[:2], Probe("f1/mem", "Keel was born in", "1820", {"fact": "f2"}))},
            "arm: 3 -> 3 entries, entry 2: control -> (.|\n)*fact: .*f1 -> f2",
        ),
        (
            "new_label",
            {"probes": (*PROBES[:2], Probe("f1/mem", "Keel was born in", "1820", {"town": "x"}))},
            "town: only in this run",
        ),
        ("attrs", {"attrs": {"fingerprint": "b"}}, "fingerprint: None -> 'b'"),
    )
    def test_another_run_is_refused_and_nothing_is_lost(self, changes, message):
        path = self.written()
        before = tree(path)
        with self.assertRaisesRegex(UserError, f"another run(.|\n)*{message}"):
            new_log(path, **changes)
        self.assertEqual(tree(path), before)

    @parameterized.named_parameters(
        ("reserved", (Probe("a", "b", "c", {"step": "1"}),), "label 'step'"),
        ("not_a_name", (Probe("a", "b", "c", {"my key": "1"}),), "label 'my key'"),
        ("twice", (Probe("a", "b", "c"), Probe("a", "d", "e")), "unique names"),
        ("none", (), "no probe"),
    )
    def test_refused_probes(self, probes, message):
        with self.assertRaisesRegex(UserError, message):
            new_log(self.path, probes=probes)
        self.assertFalse(self.path.exists())


class FailureTest(LogTestCase):
    def test_full_disk_loses_only_the_buffer(self):
        log = new_log(self.path)
        log.write(0, VALUES[0])
        log.flush()
        stored = tree(self.path)
        log.write(1, VALUES[1])
        full = OSError(errno.ENOSPC, "No space left on device")
        with (
            mock.patch.object(pathlib.Path, "write_bytes", side_effect=full),
            self.assertRaisesRegex(UserError, "full.*steps 0 to 31.*flushed before is intact"),
        ):
            log.flush()
        self.assertEqual(tree(self.path), stored)
        log.flush()  # space again: the buffer was kept
        np.testing.assert_array_equal(open_log(self.path)["score"][:2], VALUES[:2])

    def test_full_disk_at_the_start(self):
        full = OSError(errno.ENOSPC, "No space left on device")
        with (
            mock.patch.object(pathlib.Path, "write_bytes", side_effect=full),
            self.assertRaisesRegex(UserError, "full.*nothing was stored"),
        ):
            new_log(self.path)
        self.assertFalse(self.path.exists())
        new_log(self.path)
        new_log(self.folder / "other")
        self.assertEqual(tree(self.path), tree(self.folder / "other"))

    def test_other_errors_are_not_called_a_full_disk(self):
        log = new_log(self.path)
        log.write(1, VALUES[1])
        denied = PermissionError(errno.EACCES, "Permission denied")
        with (
            mock.patch.object(pathlib.Path, "write_bytes", side_effect=denied),
            self.assertRaises(PermissionError),
        ):
            log.flush()

    def test_leftovers_of_a_killed_writer_go(self):
        expected = tree(self.written())
        (self.path / "score" / ".0.0.0.abcd1234").write_bytes(b"half")
        (self.folder / "probes.new").mkdir()
        new_log(self.path)
        self.assertEqual(tree(self.path), expected)
        self.assertFalse((self.folder / "probes.new").exists())

    def test_kill_never_damages_what_was_flushed(self):
        """A process that rewrites one chunk for ever, killed at four moments."""
        program = textwrap.dedent("""
            import sys
            import numpy as np
            from llm_dynamics.probe.log import ProbeLog
            from llm_dynamics.probe.probes import Probe
            probes = [Probe(f"p{i}", "a", "b") for i in range(400)]
            log = ProbeLog(sys.argv[1], probes, [1] * 400, range(32), range(32))
            values = np.random.default_rng(0).normal(size=(32, 400, 5)).astype(np.float32)
            for step in range(32):
                log.write(step, values[step])
            log.flush()
            print("flushed", flush=True)
            while True:
                log.write(0, values[0])
                log.flush()
        """)
        root = pathlib.Path(__file__).parents[2]
        command = [sys.executable, "-c", program, str(self.path)]
        environment = os.environ | {"PYTHONPATH": str(root)}
        values = np.random.default_rng(0).normal(size=(32, 400, 5)).astype(np.float32)
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, start_new_session=True
        )
        with child:
            try:
                self.assertEqual(child.stdout.readline(), b"flushed\n")
                for _ in range(4):
                    # A stopped process is what a killed one would leave at this instant.
                    time.sleep(0.013)
                    os.kill(child.pid, signal.SIGSTOP)
                    np.testing.assert_array_equal(open_log(self.path)["score"], values)
                    os.kill(child.pid, signal.SIGCONT)
            finally:
                child.kill()
        np.testing.assert_array_equal(open_log(self.path)["score"], values)
        probes = [Probe(f"p{i}", "a", "b") for i in range(400)]
        with ProbeLog(self.path, probes, [1] * 400, range(32), range(32)) as log:
            self.assertEqual(log.missing(32), [])


if __name__ == "__main__":
    absltest.main()
