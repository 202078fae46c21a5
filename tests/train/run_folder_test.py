"""A run folder is claimed by one spec, and files that are not what they should be are named."""

import dataclasses
import json
from pathlib import Path

from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.report.run import read_run
from llm_dynamics.train import metrics
from llm_dynamics.train.run_folder import RunFolder, read_spec


@dataclasses.dataclass(frozen=True)
class Part:
    width: int = 3
    gained: int = 7


@dataclasses.dataclass(frozen=True)
class Whole:
    part: Part = dataclasses.field(default_factory=Part)
    steps: int = 5


DATA = {"fingerprint": "abc"}


class RunFolderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.root = Path(self.create_tempdir().full_path) / "run"

    def _claim(self, spec):
        folder = RunFolder(self.root)
        try:
            return folder.claim(spec, DATA)
        finally:
            if folder._lock:
                folder._lock.close()

    def _edit(self, change):
        path = self.root / "spec.json"
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))

    def test_a_field_gained_since_counts_only_away_from_its_default(self):
        self.assertTrue(self._claim(Whole()))
        self._edit(lambda record: record["spec"]["part"].pop("gained"))
        self.assertFalse(self._claim(Whole()))
        with self.assertRaisesRegex(UserError, "part.gained: 7 -> 8"):
            self._claim(Whole(Part(gained=8)))
        self._edit(lambda record: record["spec"].update(lost=1))
        with self.assertRaisesRegex(UserError, r"lost: 1 -> \(absent\)"):
            self._claim(Whole())

    @parameterized.parameters("spec", "data", "versions")
    def test_a_spec_with_a_part_of_another_type_is_refused(self, key):
        self._claim(Whole())
        self._edit(lambda record: record.update({key: None}))
        with self.assertRaisesRegex(UserError, f"is not a run's spec .TypeError: {key}"):
            read_spec(self.root / "spec.json")

    def test_a_report_wants_the_tokens_of_a_step(self):
        self._claim(Whole())
        with self.assertRaisesRegex(UserError, "expected data.tokens_per_step .*, got None"):
            read_run(self.root)

    def test_a_file_for_a_folder_and_a_folder_for_a_file_are_refused(self):
        self._claim(Whole())
        (self.root / "results.json").mkdir()
        with self.assertRaisesRegex(UserError, "results.json to be a file, got a folder"):
            self._claim(Whole())
        (self.root / "results.json").rmdir()
        (self.root / "checkpoints").touch()
        with self.assertRaisesRegex(UserError, "checkpoints to be a folder, got a file"):
            self._claim(Whole())

    @parameterized.parameters(
        (b"\xff\n", "cannot be read as text .UnicodeDecodeError"),
        (b'{"step": 0}\n3\n', "line 2 is not an object with a step"),
        (b'{"loss": 1.0}\n{"step": 1}\n', "line 1 is not an object with a step"),
    )
    def test_damaged_metrics_are_refused(self, content, message):
        self.root.mkdir()
        path = self.root / "metrics.jsonl"
        path.write_bytes(b'{"step": 0}\n{"st')
        self.assertEqual(metrics.read(path), [{"step": 0}])
        path.write_bytes(content)
        with self.assertRaisesRegex(UserError, message):
            metrics.read(path)


if __name__ == "__main__":
    absltest.main()
