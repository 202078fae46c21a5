import io
import json
import socket
import subprocess
import sys
from contextlib import redirect_stderr
from pathlib import Path
from unittest import mock

from absl.testing import absltest, parameterized

from experiments import cli, facts, facts_presets
from llm_dynamics.errors import UserError
from llm_dynamics.train.run_folder import RunFolder


class OverridesTest(parameterized.TestCase):
    def test_config_arguments_are_taken_out_of_the_command_line(self):
        overrides, rest = cli.split_overrides(
            ["facts", "--preset=smoke", "--config.train.steps=7", "--config.facts.file=a=b"]
        )
        self.assertEqual(overrides, {"train.steps": "7", "facts.file": "a=b"})
        self.assertEqual(rest, ["facts", "--preset=smoke"])

    def test_files_of_settings_say_what_the_command_line_does_not(self):
        path = Path(self.create_tempfile(content="# a model\na.b=1\n\nc=x#<|y|>\n").full_path)
        asked = ["facts", f"--settings={path}", "--config.a.b=2", "--dry_run"]
        overrides, rest = cli.split_overrides(asked)
        self.assertEqual(overrides, {"a.b": "2", "c": "x#<|y|>"})
        self.assertEqual(rest, ["facts", "--dry_run"])
        overrides, rest = cli.split_overrides(["--settings", str(path), "--dry_run"])
        self.assertEqual((overrides["a.b"], rest), ("1", ["--dry_run"]))
        path.write_text("a.b\n")
        for file, words in (
            (path, "got 'a.b' in .*, line 1"),
            (path.parent / "no", "No such file"),
        ):
            said = io.StringIO()
            with redirect_stderr(said), self.assertRaises(SystemExit):
                cli.split_overrides([f"--settings={file}"])
            self.assertRegex(said.getvalue(), words)

    @parameterized.parameters(
        ({"train.stepz": "7"}, "unknown key 'train.stepz'; did you mean 'steps'"),
        ({"train.steps": "many"}, "'train.steps' expects a whole number, got 'many'"),
        ({"train.steps": "30"}, "fit into 30 steps.*lengthen the run or lower"),
        ({"data.length": "4096"}, "data.length 4096 exceeds model.max_length 1024"),
        ({"train.accumulate": "3"}, "16 does not split into train.accumulate 3"),
        ({"optim.schedule.kind": "cosinus"}, "did you mean 'cosine'"),
        ({"train.checkpoint.keep": "0"}, "keep >= 1"),
    )
    def test_what_cannot_work_is_refused_before_anything_runs(self, overrides, message):
        with self.assertRaisesRegex(UserError, message):
            cli.resolve(facts_presets.smoke(), "", overrides)

    @parameterized.parameters(
        ({"probe.every": "2"}, "probes at every step from an encounter.*probe.around_events=6"),
        ({"train.mesh.tensor": "5"}, "does not fit"),
        ({"optim.schedule.warmup": "81"}, "needs 81 steps"),
    )
    def test_what_would_fail_later_is_refused_while_preparing(self, overrides, message):
        spec = cli.resolve(
            facts_presets.smoke(), "", overrides | {"data.sources": "no-such-corpus"}
        )
        with self.assertRaisesRegex(UserError, message):
            facts.prepare(spec)

    def test_a_model_by_name_keeps_the_vocabulary_of_the_preset(self):
        spec = cli.resolve(facts_presets.smoke(), "pythia-14m", {"model.num_layers": "2"})
        self.assertEqual(spec.model.width, 128)
        self.assertEqual((spec.model.vocab_size, spec.model.num_layers), (1024, 2))
        with self.assertRaisesRegex(UserError, "pythia-14m"):
            cli.resolve(facts_presets.smoke(), "pythia-14", {})

    def test_a_model_by_name_keeps_what_the_preset_chose_for_the_machine(self):
        spec = cli.resolve(facts_presets.paper(), "pythia-14m", {})
        self.assertEqual((spec.model.compute_dtype, spec.model.remat), ("bfloat16", "full"))


class CoordinatorTest(parameterized.TestCase):
    def _joined(self, coordinator, index, error=None):
        with mock.patch.object(cli.jax.distributed, "initialize", side_effect=error) as join:
            cli._join(coordinator, 2, index)
        return join.call_args.kwargs

    @parameterized.parameters("nohost", ":8476", "host:", "host:0", "127.0.0.1:99999", "host:8a")
    def test_an_address_that_is_none_is_refused_before_joining(self, address):
        with self.assertRaisesRegex(UserError, "HOST:PORT with a port of 1 to 65535"):
            self._joined(address, 0, AssertionError("joined"))

    def test_auto_off_a_cluster_says_what_to_give_instead(self):
        error = ValueError("coordinator_address should be defined.")
        with self.assertRaisesRegex(UserError, "off a cluster, give --coordinator=HOST:PORT"):
            self._joined("auto", 0, error)

    def test_joining_has_an_end(self):
        self.assertEqual(self._joined("host:81", 0)["initialization_timeout"], 120)
        late = RuntimeError("Timed out.\nDetails")
        with self.assertRaisesRegex(UserError, r"process 0 of 2 .* host:81 \(Timed out.\)"):
            self._joined("host:81", 0, late)

    def test_a_process_says_when_nobody_listens_at_the_coordinator(self):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{other.getsockname()[1]}"
            with (
                mock.patch.object(cli, "_JOIN_SECONDS", 0),
                self.assertRaisesRegex(UserError, f"process 0 to answer at {address} within 0 s"),
            ):
                self._joined(address, 1)
            other.listen()
            self.assertEqual(self._joined(address, 1)["process_id"], 1)


class ErrorsTest(parameterized.TestCase):
    def _said(self, error):
        def fail():
            raise error

        err = io.StringIO()
        with redirect_stderr(err), self.assertRaises(SystemExit) as stopped:
            cli.plainly(fail)
        return stopped.exception.code, err.getvalue()

    def test_a_users_mistake_is_one_line_and_status_2(self):
        code, text = self._said(UserError("expected a, got b, do c"))
        self.assertEqual((code, text), (2, "error: expected a, got b, do c\n"))

    def test_a_full_disk_is_named_however_deep_it_lies(self):
        try:
            with open("/dev/full", "w") as full:
                full.write("x" * 100_000)
        except OSError as error:
            wrapped = RuntimeError("saving failed")
            wrapped.__cause__ = error
        code, text = self._said(wrapped)
        self.assertEqual(code, 2)
        self.assertIn("disk is full; what was written before is kept", text)
        code, text = self._said(RuntimeError("tensorstore: No space left on device: write"))
        self.assertIn("disk is full", text)

    def test_other_errors_keep_their_traceback(self):
        def fail():
            raise ValueError("a bug")

        with self.assertRaisesRegex(ValueError, "a bug"):
            cli.plainly(fail)


class WorkdirTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.folder = Path(self.create_tempdir().full_path) / "run"

    def _claim(self, spec, fingerprint="f"):
        return RunFolder(self.folder).claim(spec, {"fingerprint": fingerprint})

    def test_the_same_spec_may_return_and_another_is_shown_the_difference(self):
        self.assertTrue(self._claim(facts_presets.smoke()))
        self.assertFalse(self._claim(facts_presets.smoke()))
        other = cli.resolve(facts_presets.smoke(), "", {"train.steps": "90"})
        with self.assertRaisesRegex(UserError, r"another spec(.|\n)*train.steps: 80 -> 90"):
            self._claim(other)
        with self.assertRaisesRegex(UserError, "fingerprint differs"):
            self._claim(facts_presets.smoke(), "g")
        record = json.loads((self.folder / "spec.json").read_text())
        self.assertEqual(record["spec"]["train"]["steps"], 80)
        self.assertIn("jax", record["versions"])

    def test_a_living_owner_a_strange_folder_and_a_file_are_refused(self):
        owner = RunFolder(self.folder)
        owner.claim(facts_presets.smoke(), {"fingerprint": "f"})
        with self.assertRaisesRegex(UserError, "another process is running"):
            self._claim(facts_presets.smoke())
        strange = self.folder.parent / "photos"
        strange.mkdir()
        (strange / "cat.png").write_bytes(b"x")
        with self.assertRaisesRegex(UserError, "not empty and holds no run.*cat.png"):
            RunFolder(strange).claim(facts_presets.smoke(), {"fingerprint": "f"})
        self.assertEqual([p.name for p in strange.iterdir()], ["cat.png"])
        with self.assertRaisesRegex(UserError, "cannot be written"):
            RunFolder(strange / "cat.png").claim(facts_presets.smoke(), {"fingerprint": "f"})

    def test_a_damaged_spec_is_refused(self):
        self._claim(facts_presets.smoke())
        (self.folder / "spec.json").write_text("{")
        with self.assertRaisesRegex(UserError, "not a run's spec"):
            self._claim(facts_presets.smoke())


def test_an_unknown_flag_names_the_nearest_and_nothing_is_written(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "experiments.facts", "--prest=smoke", f"--workdir={tmp_path}/r"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=120,
    )
    assert done.returncode != 0
    assert "preset" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "r").exists()


if __name__ == "__main__":
    absltest.main()
