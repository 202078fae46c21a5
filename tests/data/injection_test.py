"""Passages in their rows to the token, and what it gives each arm."""

import numpy as np
from absl.testing import parameterized

from llm_dynamics.data.injection import Injection, dose, insert, place
from llm_dynamics.data.row_policies import Slot, prefix
from llm_dynamics.errors import UserError
from tests.data.fakes import FakeTokenizer

TOKENIZER = FakeTokenizer()


def _place(injections, num_rows=4, row_length=9, **others):
    return place(injections, TOKENIZER, num_rows, row_length, **others)


class PlaceTest(parameterized.TestCase):
    def test_passage_i_goes_to_row_i_closed_by_the_end_token(self):
        placed = _place([Injection(3, "ab", "f"), Injection(3, "c", "g")])
        self.assertEqual([(p.row, p.offset) for p in placed], [(0, 0), (1, 0)])
        self.assertEqual(TOKENIZER.decode(placed[0].tokens), "ab$")

    def test_more_passages_than_rows_share_them_in_order(self):
        self.assertEqual(
            [slot[:2] for slot in prefix(0, 0, [1] * 7, 3, 99)],
            [(0, 0), (1, 0), (2, 0), (0, 0), (1, 0), (2, 0), (0, 0)],
        )

    def test_encounters_are_counted_by_name_in_order_of_step(self):
        placed = _place([Injection(9, "x", "f"), Injection(2, "y", "f"), Injection(2, "z", "g")])
        found = [(p.injection.step, p.injection.name, p.encounter) for p in placed]
        self.assertEqual(found, [(2, "f", 1), (2, "g", 1), (9, "f", 2)])

    def test_passage_that_just_fits(self):
        self.assertLen(_place([Injection(0, "12345678", "f")])[0].tokens, 9)

    def test_passage_too_long(self):
        with self.assertRaisesRegex(
            UserError, r"step 5: the passage of 'f' has 10 tokens .* row 0 has room for 9"
        ):
            _place([Injection(5, "123456789", "f")])

    def test_shared_row_overfull(self):
        passages = [Injection(5, "1234", f"f{k}") for k in range(5)]
        _place(passages[:4], num_rows=2, row_length=10)
        with self.assertRaisesRegex(UserError, r"step 5: .*'f4' has 5 .* row 0 has room for 0"):
            _place(passages, num_rows=2, row_length=10)

    @parameterized.parameters(-1, 100, 250)
    def test_step_outside_the_run(self, step):
        with self.assertRaisesRegex(
            UserError, rf"does not fit the run.*'f'.* step {step}.* 0 to 99"
        ):
            _place([Injection(step, "x", "f")], steps=100)

    def test_last_step_is_inside_the_run(self):
        self.assertLen(_place([Injection(99, "x", "f")], steps=100), 1)

    def test_another_policy(self):
        last_row = lambda seed, step, lengths, num_rows, row_length: [  # noqa: E731
            Slot(num_rows - 1, row_length - n) for n in lengths
        ]
        (item,) = _place([Injection(0, "ab", "f")], policy=last_row)
        self.assertEqual((item.row, item.offset), (3, 6))
        with self.assertRaisesRegex(UserError, "room for 2"):
            _place(
                [Injection(0, "ab", "f")],
                policy=lambda *given: [Slot(0, given[-1] - 2)],
            )


class InsertTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("prefix", [(0, [90, 91])], [90, 91, 0, 1, 2]),
        ("two_in_front", [(0, [90]), (0, [80, 81])], [90, 80, 81, 0, 1]),
        ("middle", [(2, [90])], [0, 1, 90, 2, 3]),
        ("both", [(0, [90]), (3, [80])], [90, 0, 1, 2, 80]),
        ("whole_row", [(0, [5, 6, 7, 8, 9])], [5, 6, 7, 8, 9]),
    )
    def test_insert(self, passages, expected):
        row = np.arange(5)
        passages = [(offset, (np.array(p), -np.array(p))) for offset, p in passages]
        tokens, other = insert((row, row * 0), passages)
        self.assertEqual(tokens.tolist(), expected)
        self.assertEqual(other.tolist(), [-t if t >= 5 else 0 for t in expected])


class DoseTest(parameterized.TestCase):
    def _paper(self, num_rows):
        """The published schedule, with passages of the published 59,374 tokens in total."""
        sizes = [494] * 94 + [495] * 26  # 120 passages with their end tokens
        sizes[-1] += 59_374 - sum(sizes)
        arms = ["paraphrase"] * 40 + ["duplication"] * 40 + ["once"] * 40
        injections = [
            Injection(step, "x" * (sizes[k] - 1), f"p{k}", {"arm": arms[k]})
            for step in range(0, 1000, 100)
            for k in range(120 if step == 0 else 80)
        ]
        return place(injections, TOKENIZER, num_rows, 2049, steps=2500)

    @parameterized.parameters((2048, 0.014, 0.059), (128, 0.226, 0.94))
    def test_published_schedule(self, num_rows, token_share, row_share):
        placed = self._paper(num_rows)
        self.assertLen(placed, 840)
        self.assertEqual({p.injection.step for p in placed}, set(range(0, 1000, 100)))
        first = dose([p for p in placed if p.injection.step == 0]).values()
        tokens, rows = sum(d["tokens"] for d in first), sum(d["rows"] for d in first)
        self.assertEqual((tokens, rows), (59_374, 120))
        self.assertAlmostEqual(tokens / (num_rows * 2048), token_share, delta=5e-4)
        self.assertAlmostEqual(rows / num_rows, row_share, delta=5e-3)

    def test_by_arm(self):
        doses = dose(self._paper(2048))
        self.assertEqual(
            {arm: (d["passages"], d["encounters"], d["rows"]) for arm, d in doses.items()},
            {"paraphrase": (40, 400, 400), "duplication": (40, 400, 400), "once": (40, 40, 40)},
        )

    def test_rows_that_are_shared_count_once(self):
        placed = _place([Injection(0, "a", f"f{k}", {"arm": "x"}) for k in range(6)])
        self.assertEqual(dose(placed)["x"]["rows"], 4)
        self.assertEqual(list(dose(_place([Injection(0, "a", "f")]))), [""])
