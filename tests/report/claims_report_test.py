"""Which contrasts stand behind which claim of the page."""

import re

from absl.testing import absltest

from llm_dynamics.report import claims_report


def _row(name, low, high):
    return {"name": name, "value": (low + high) / 2, "low": low, "high": high}


class ClaimsTableTest(absltest.TestCase):
    def test_contrasts_are_counted_where_they_belong_and_nowhere_else(self):
        rows = [
            _row("size-1m-minus-size-0.3m/semantic/effectivity", 0.1, 0.2),
            _row("size-1m-minus-size-0.3m/semantic/share-after-100", 0.1, 0.2),  # another question
            _row("rate-triple-minus-size-0.3m/semantic/effectivity", -0.2, -0.1),
            _row("batch-half-minus-size-0.3m/semantic/gain", -0.1, 0.1),
            _row("batch-half-facts-half/semantic/gain", 0.1, 0.2),  # no contrast
            _row("batch-half-facts-half/semantic/gain/raw", 0.1, 0.2),
            _row("size-1m/semantic/inflation", 0.5, 1.5),
            _row("size-1m/semantic/accumulation/every10", 0.1, 0.2),
            _row("size-1m/semantic/foretold/every10", -0.2, -0.1),
            _row("size-1m/semantic/threshold/every10", -0.2, -0.1),  # says the same
            _row("size-1m/semantic/threshold/predicted", 1.0, 2.0),  # no contrast
            _row("size-1m/semantic/long-tail/measured", 0.1, 0.2),
            _row("size-1m/semantic/long-tail/predicted", 0.1, 0.2),
            _row("size-1m/semantic/duplication-minus-paraphrase6/gain", 0.1, 0.2),
            _row("size-1m/semantic/duplication-minus-paraphrase6/lost-after-100", 0.1, 0.2),
            _row("size-1m/semantic/duplication-minus-paraphrase6/share-after-100", -0.2, -0.1),
            _row("size-1m/semantic/share-after-100/paraphrase6", 0.1, 0.2),
            _row("cosine-rate-minus-size-0.3m/semantic/gain", -0.2, -0.1),
            _row("cosine-rate/semantic/gain", 0.1, 0.2),
        ]
        table = claims_report.claims_table(rows)
        counts = {line[0]: [re.sub(r" .*", "", str(c)) for c in line[1:]] for line in table.rows}
        self.assertEqual(
            counts,
            {
                "Raw gains are template learning in part": ["1", "0", "0", "1"],
                "Larger models gain more an encounter": ["1", "1", "0", "0"],
                "Duplication gains more than paraphrases at the same number of encounters": [
                    *("1", "1", "0", "0")
                ],
                "Duplicates are forgotten faster than paraphrases: nats lost after the last "
                "maximum": ["1", "1", "0", "0"],
                "Duplicates are forgotten faster than paraphrases: share of the gain kept": [
                    *("1", "0", "1", "0")
                ],
                "What encounters add builds up": ["1", "1", "0", "0"],
                "What encounters add is foretold to build up, by the line of forgetting": [
                    *("1", "0", "1", "0")
                ],
                "Frequent facts end higher": ["1", "1", "0", "0"],
                "Cosine instead of a constant rate": ["1", "0", "1", "0"],
                "Half of the batch": ["1", "0", "0", "1"],
                "Learning rate": ["1", "0", "1", "0"],
            },
        )

    def test_what_is_kept_says_what_every_setting_was_given(self):
        whole = claims_report.ArmDose(12, 6, 3600.0, 0.003)
        study = claims_report.ClaimsStudy(
            rows=[
                {
                    **_row("size-1m/semantic/threshold/every10", 0.0, 0.0),
                    **{"value": -1.2, "low": None, "high": None, "unit": "log10 steps", "n": 24},
                    "note": "unbounded: the interval of the predicted threshold reaches; more",
                }
            ],
            changes={"size-1m": "8 runs", "decay-none": "2 runs; optim.weight_decay: 0.1 -> 0.0"},
            num_runs=10,
            studies={},
            sizes={},
            intervals=(),
            same="duplication",
            horizons={"size-1m": 3333.3},
            doses={
                "size-1m": {"duplication": whole, "once": whole._replace(encounters=1)},
                "decay-none": {"duplication": claims_report.ArmDose.mean([whole, whole])},
            },
            command="launch/local claims",
        )
        kept = claims_report.markdown(study)
        self.assertIn("threshold/every10 | −1.20 | – | log10 steps | 24 | unbounded |\n", kept)
        self.assertIn("| size-1m | 8 runs: the reference | 3,333 |", kept)
        self.assertIn("| decay-none | 2 runs; optim.weight_decay: 0.1 -> 0.0 | none |", kept)
        self.assertIn("| setting | duplication | once |\n|---|---:|---:|\n", kept)
        self.assertIn(
            "| size-1m | 12 x 6, 3,600 (0.3 %) | 12 x 1, 3,600 (0.3 %) |\n"
            "| decay-none | 12 x 6, 3,600 (0.3 %) | – |\n",
            kept,
        )


if __name__ == "__main__":
    absltest.main()
