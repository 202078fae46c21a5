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
        ]
        table = claims_report.claims_table(rows)
        counts = {line[0]: [re.sub(r" .*", "", str(c)) for c in line[1:]] for line in table.rows}
        self.assertEqual(
            counts,
            {
                "Raw gains are template learning in part": ["1", "0", "0", "1"],
                "Larger models gain more an encounter": ["1", "1", "0", "0"],
                "What encounters add builds up": ["1", "1", "0", "0"],
                "Half of the batch": ["1", "0", "0", "1"],
                "Learning rate": ["1", "0", "1", "0"],
            },
        )


if __name__ == "__main__":
    absltest.main()
