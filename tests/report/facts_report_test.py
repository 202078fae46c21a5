import csv
import html
import json
import re
from pathlib import Path

import invented_run
import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.facts import rows as rows_lib
from llm_dynamics.facts.curves import compute_curves
from llm_dynamics.probe.log import open_log
from llm_dynamics.report import facts_report, facts_tables, run_section
from llm_dynamics.report.figures import Drawn
from llm_dynamics.report.numbers import estimate
from llm_dynamics.report.page import figures_of, render_page
from llm_dynamics.report.run import read_run

FIGURES = ("gains", "trajectories", "retainability", "training")


def files_of(run: Path) -> dict[str, bytes]:
    paths = [run / "report.html", *sorted((run / "figures").iterdir())]
    return {path.name: path.read_bytes() for path in paths}


class FactsReportTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.run_dir = Path(cls.create_tempdir_of_class()) / "run"
        config = invented_run.small_config()
        cls.study = invented_run.make_run(cls.run_dir, invented_run.small_facts(), config, 90)
        cls.results = json.loads((cls.run_dir / "results.json").read_text())
        cls.curves = compute_curves(
            open_log(cls.run_dir / "probes"), cls.study.schedule, cls.study.window
        )
        cls.path = facts_report.write_report(cls.run_dir, study=cls.study)
        cls.page = cls.path.read_text()

    @classmethod
    def create_tempdir_of_class(cls) -> str:
        import tempfile

        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        return folder.name

    def copy(self, **changes) -> Path:
        """A second run folder with some of its files replaced (text) or removed (None)."""
        import shutil

        to = Path(self.create_tempdir().full_path) / "copy"
        shutil.copytree(self.run_dir, to, ignore=shutil.ignore_patterns("figures", "report.html"))
        for name, content in changes.items():
            path = to / name.replace("__", ".")
            path.unlink()
            if content is not None:
                path.write_text(content)
        return to

    def composed(self, **changes) -> str:
        """The page of a changed folder, with empty drawings (drawing takes seconds)."""
        page = facts_report.compose(read_run(self.copy(**changes)), self.curves, self.study)
        blank = Drawn('<svg viewBox="0 0 1 1"></svg>', b"", "")
        return render_page(page, {f.name: blank for f in figures_of(page.sections)})

    def test_sections_in_order(self):
        titles = re.findall(r"<h2[^>]*>(.*?)</h2>", self.page)
        self.assertEqual(
            titles,
            [
                "The answer",
                "What was run",
                "Around the injections",
                "Forgetting",
                "Training",
                "All results",
                "Example facts",
                "Definitions",
                "How to run it again",
            ],
        )

    def test_where_the_model_began_is_said(self):
        self.assertIn("trained from random parameters", self.page)
        record = json.loads((self.run_dir / "spec.json").read_text())
        record["spec"].setdefault("train", {})["start"] = {"run": "/a/runs/mine", "step": 7}
        page = self.composed(spec__json=json.dumps(record))
        self.assertIn("trained from step 7 of the run <code>mine</code>", page)
        self.assertNotIn("random parameters", page)

    def test_every_number_of_the_results_is_on_the_page_exactly(self):
        rows = re.findall(r"<tr>(.*?)</tr>", self.page)
        by_name = {}
        for row in rows:
            cells = re.findall(r'data-value="([^"]*)"', row)
            if "<code>" in row and cells and "/" in cells[0]:
                by_name[html.unescape(cells[0])] = (cells, re.sub(r"<[^>]*>", "|", row))
        self.assertLen(by_name, len(self.results))
        for result in self.results:
            cells, text = by_name[result["name"]]
            if result["value"] is not None:
                self.assertEqual(float(cells[1]), result["value"])
            shown = estimate(result["value"], result["low"], result["high"])
            for part in shown:
                self.assertIn(part, text)

    def test_headline_equals_the_results(self):
        by_name = {row["name"]: row for row in self.results}
        cards = re.findall(r'class="value" data-value="([^"]*)"', self.page)
        wanted = [
            by_name[f"{arm}/memorization/gain_at_last_maximum/subtracted"]["value"]
            for arm in ("duplication", "paraphrase", "once")
        ]
        wanted.append(by_name["duplication/memorization/gain_at_last_maximum/control"]["value"])
        gains = [f"duplication/{d}/gain_at_last_maximum/subtracted" for d in invented_run.DEPTHS]
        if any(by_name[name]["low"] > 0 for name in gains):
            wanted.append(by_name["duplication/memorization/decay/subtracted/a"]["value"])
        self.assertEqual([float(card) for card in cards], wanted)

    @parameterized.parameters((-0.1, False), (0.1, True))
    def test_the_decay_is_a_headline_only_of_a_shown_gain(self, low, wanted):
        rows = [dict(row) for row in self.results]
        for row in rows:
            if row["name"] == "duplication/memorization/gain_at_last_maximum/subtracted":
                row |= {"value": 0.3, "low": low, "high": 0.5}
        page = self.composed(results__json=json.dumps(rows))
        self.assertEqual("duplication: share lost as time grows tenfold" in page, wanted)

    def test_figures_are_drawn_from_what_their_data_says(self):
        drawn = self.curves
        with (self.run_dir / "figures" / "trajectories.csv").open() as file:
            rows = list(csv.DictReader(file))
        self.assertLen(rows, sum(len(c.steps_S) for c in drawn.trajectories))
        for curve in drawn.trajectories:
            own = [
                r
                for r in rows
                if (r["arm"], r["depth"], r["kind"]) == (curve.arm, curve.depth, curve.kind)
            ]
            for column, values in (("change", curve.mean_S), ("low", curve.low_S)):
                np.testing.assert_array_equal([float(r[column]) for r in own], values)
            np.testing.assert_array_equal(
                [int(r["tokens"]) for r in own], np.asarray(curve.steps_S) * 4096
            )
        with (self.run_dir / "figures" / "gains.csv").open() as file:
            found = {(r["arm"], r["depth"], r["kind"]): r for r in csv.DictReader(file)}
        names = {"raw": "raw", "control": "control", "difference": "subtracted"}
        by_name = {row["name"]: row for row in self.results}
        self.assertLen(found, 27)
        for (arm, depth, kind), row in found.items():
            result = by_name[f"{arm}/{depth}/gain_at_last_maximum/{names[kind]}"]
            self.assertEqual(float(row["gain"]), result["value"])
            self.assertEqual(float(row["low"]), result["low"])

    def test_raw_control_and_difference_are_all_shown(self):
        with (self.run_dir / "figures" / "trajectories.csv").open() as file:
            shown = {(r["arm"], r["kind"]) for r in csv.DictReader(file)}
        arms = ("duplication", "paraphrase", "once")
        wanted = {(arm, kind) for arm in arms for kind in ("raw", "difference")}
        self.assertEqual(shown, wanted | {("control", "raw")})

    def test_the_same_folder_gives_the_same_bytes(self):
        other = self.copy()
        facts_report.write_report(other, study=self.study)
        self.assertEqual(files_of(other), files_of(self.run_dir))
        names = {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "pdf", "csv")}
        self.assertEqual(set(files_of(other)), {"report.html"} | names)

    def test_nothing_is_fetched(self):
        self.assertNotRegex(self.page, r"""(?i)(src|srcset|data|action|poster)=["']?\w+:""")
        self.assertNotRegex(self.page, r"(?i)@import|url\((?!#)|<link|<iframe|<img|https?://")
        self.assertIn("default-src 'none'", self.page)

    def test_what_the_run_says_is_escaped(self):
        self.assertNotIn("<script>alert", self.page)
        self.assertNotIn("<b>&", self.page)
        self.assertIn("&lt;b&gt;&amp;&#34;bold&#34;&lt;/b&gt;", self.page)

    def test_identifiers_are_unique_and_links_lead_somewhere(self):
        markup = re.sub(r"<script>.*?</script>", "", self.page, flags=re.DOTALL)
        ids = re.findall(r'\sid="([^"]*)"', markup)
        self.assertLen(set(ids), len(ids))
        for target in re.findall(r'href="#([^"]*)"', markup) + re.findall(r"url\(#(.*?)\)", markup):
            self.assertIn(target, ids)
        for target in re.findall(r'href="(figures/[^"]*)"', markup):
            self.assertTrue((self.run_dir / target).is_file(), target)

    def test_every_table_has_a_caption_and_every_drawing_words(self):
        self.assertEqual(self.page.count("<table"), self.page.count("<caption"))
        self.assertEqual(self.page.count('role="img" aria-label="'), len(FIGURES))

    def test_command_spec_and_versions(self):
        wanted = ("optim.schedule.peak", "0.10.2", "0123abcd", "fedcba98", "pocket-1m", "2 cores")
        for part in wanted:
            self.assertIn(part, self.page)
        self.assertIn("launch/local facts --preset=laptop --workdir=NEW_FOLDER", self.page)
        self.assertNotIn("my runs/first", self.page)

    @parameterized.parameters(
        ("launch/local facts", "launch/local facts --workdir=NEW_FOLDER"),
        ("a --workdir=x --b=1", "a --b=1 --workdir=NEW_FOLDER"),
        ("a --workdir x --b='c d'", "a '--b=c d' --workdir=NEW_FOLDER"),
        ("a -workdir 'x y' --workdir=z", "a --workdir=NEW_FOLDER"),
    )
    def test_the_command_names_a_new_folder(self, command, wanted):
        self.assertEqual(run_section.in_new_folder(command), wanted)

    def test_a_run_without_its_command_says_so(self):
        record = json.loads((self.run_dir / "spec.json").read_text())
        del record["data"]["command"]
        page = self.composed(spec__json=json.dumps(record))
        self.assertIn("did not record its command", page)
        self.assertNotIn("NEW_FOLDER", page)

    @parameterized.named_parameters(
        ("shown", 0.3, 0.1, 0.5, "gained 0.30 nats per target token more than facts", "above zero"),
        ("negative", -0.3, -0.5, -0.1, "gained 0.30 nats per target token less", "below zero"),
        ("not_shown", 0.1, -0.1, 0.3, "the difference is +0.10 nats per target", "not shown: the"),
        ("one_fact", 0.1, None, None, "gained +0.100 beyond", "without an interval"),
    )
    def test_wording_follows_the_interval(self, value, low, high, sentence, mark):
        rows = [dict(row) for row in self.results]
        for row in rows:
            if row["name"] == "once/memorization/gain_at_last_maximum/subtracted":
                row |= {"value": value, "low": low, "high": high}
        page = self.composed(results__json=json.dumps(rows))
        answer = page.split("<h2")[1]
        self.assertIn(sentence, answer)
        self.assertIn(mark, answer)

    @parameterized.parameters(
        ("inside the data", "inside the data"),
        ("extrapolated by 1.0 decades beyond the data; the data end at", "extrapolated"),
        ("unbounded: the interval includes never; extrapolated by 9", "may never be reached"),
        ("interpolated; unbounded: the line does not fall", "may never be reached"),
    )
    def test_a_threshold_says_whether_the_data_reach_it(self, note, said):
        rows = [dict(row) for row in self.results]
        for row in rows:
            if row["name"] == "once/memorization/decay/published/x_intercept_tokens":
                row["note"] = note
            if row["name"] == "once/memorization/gain_at_last_maximum/raw":
                row |= {"value": 0.3, "low": 0.1, "high": 0.5}
            if row["name"] == "once/memorization/decay/published/a":
                row |= {"value": 0.3, "low": 0.1, "high": 0.5}
        table = facts_tables.decays(rows, ["duplication", "paraphrase", "once"])
        found = {(r[0], r[1], r[2]): r[-1] for r in table.rows}
        self.assertEqual(found["once", "memorization", "as measured"], said)

    def test_forms_of_forgetting_are_compared_where_they_can_be(self):
        rows = [dict(row) for row in self.results]
        values = {"log_linear": 0.05, "power": 0.02, "exponential": 0.21}
        for row in rows:
            form, measure = row["name"].split("/")[-2:]
            if not row["name"].startswith("duplication/semantic/forgetting/"):
                continue
            if measure == "heldout_error":
                row |= {"value": values.get(form, 0.3), "note": ""}
            elif form in values:
                value = values[form] - 0.05
                row |= {"value": value, "low": value - 0.01, "high": value + 0.01}
            else:
                row |= {"value": 0.01, "low": -0.1, "high": 0.1}
        _, table = facts_tables.forms(rows, ["duplication"])
        self.assertEqual(table.columns[:4], ("arm", "depth", "line on log t", "power law"))
        found = {(arm, depth): cells for arm, depth, *cells in table.rows}
        said = [cell.text for cell in found["duplication", "semantic"]]
        self.assertEqual(said, ["0.050", "0.020 better", "0.21 worse", "0.30", "0.30"])
        self.assertIn(table.caption, self.composed(results__json=json.dumps(rows)))

    @parameterized.parameters(
        (rows_lib.NO_CONTROL, "no never-injected control"),
        (rows_lib.UNCLEAR, "no gain beyond the control is shown to be positive"),
        ("fewer than 5 steps after the last maximum", "too few steps"),
    )
    def test_why_forms_are_not_compared(self, note, said):
        rows = [dict(row) for row in self.results]
        for row in rows:
            if "/forgetting/" in row["name"]:
                row |= {"value": None, "low": None, "high": None, "note": note}
        (text,) = facts_tables.forms(rows, [])
        self.assertIn(said, text.text)
        self.assertEqual(facts_tables.forms([], []), ())

    def test_without_control_the_page_says_so(self):
        rows = [
            row
            | (
                {"value": None, "low": None, "high": None}
                if "/subtracted" in row["name"]
                or row["name"].endswith(("/control", "/control_share"))
                else {}
            )
            for row in self.results
        ]
        page = self.composed(results__json=json.dumps(rows))
        self.assertIn("There was no never-injected control in this run", page)
        self.assertIn("duplication: raw gain, no control", page)

    def test_missing_metrics_are_named(self):
        page = self.composed(metrics__jsonl=None)
        self.assertIn("holds no metrics.jsonl", page)
        self.assertNotIn('id="figure-training"', page)

    def test_no_results_at_all(self):
        page = self.composed(results__json="[]")
        self.assertIn("there is no headline", page)

    @parameterized.named_parameters(
        ("no_results", {"results__json": None}, "results.json, found nothing"),
        ("cut_results", {"results__json": '[{"name": "a"'}, "not a list of results"),
        ("bare_results", {"results__json": '[{"name": "a"}]'}, "not a list of results"),
        ("no_spec", {"spec__json": None}, "spec.json"),
        ("cut_metrics", {"metrics__jsonl": '{"step": 0\n{"step": 1}\n'}, "line 1 is not JSON"),
    )
    def test_a_damaged_folder_is_refused(self, changes, message):
        run = self.copy(**changes)
        with self.assertRaisesRegex(UserError, message):
            facts_report.write_report(run, study=self.study)
        self.assertFalse((run / "report.html").exists())

    def test_no_folder(self):
        with self.assertRaisesRegex(UserError, "expected a run folder"):
            facts_report.write_report(self.run_dir / "absent", study=self.study)

    def test_a_folder_that_cannot_be_written(self):
        run = self.copy()
        (run / "figures").write_text("a file in the way")
        with self.assertRaisesRegex(UserError, "expected to write the report"):
            facts_report.write_report(run, study=self.study)


if __name__ == "__main__":
    absltest.main()
