"""Simulations against theory, and the theory's rows."""

import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.skills import adversaries, bounds, simulation, targets, theory, thresholds
from llm_dynamics.skills.simulation import SimulationConfig

SMALL = SimulationConfig(
    pieces=20_000, skills=100, k=4, thetas=(0.1, 0.2), alphas=(0.1, 0.5), seeds=3
)


def by_name(rows):
    return {row["name"]: row for row in rows}


class SimulationTest(parameterized.TestCase):
    def test_adversaries_agree_with_theory(self):
        cells = simulation.measure(SMALL)
        self.assertLen(cells, 12)
        for cell in cells:
            expected = cell.predicted[cell.expectation]
            self.assertAlmostEqual(cell.worst.mean / expected.mean, 1, delta=0.04)
            rows = {row["measure"]: row for row in simulation.rows_of(cell, SMALL)}
            self.assertEqual(rows["beta"]["n"], 3)
            self.assertLess(rows["beta"]["low"], rows["beta"]["value"])
            self.assertAlmostEqual(
                rows["agreement"]["value"], cell.worst.mean / expected.mean, delta=1e-3
            )
            self.assertRegex(rows["agreement"]["note"], "the interval includes 1|above 1|below 1")
            if "above_bound" in rows:
                self.assertEqual(rows["above_bound"]["value"], 0)

    def test_unequal_skills_are_judged_by_the_mass_they_have(self):
        config = SimulationConfig(20_000, 100, 4, 1.0, thetas=(0.1,), alphas=(0.15,), seeds=2)
        rows = by_name(simulation.simulate(config))
        for adversary in ("fixed", "greedy"):
            ratio = rows[f"theta=0.1/alpha=0.15/{adversary}/agreement"]["value"]
            self.assertAlmostEqual(ratio, 1, delta=0.05)
        self.assertNotIn("theta=0.1/alpha=0.15/chance/agreement", rows)
        outcome = adversaries.aimed_at(
            adversaries.draw(config.graph, 0),
            targets.random_set(config.graph, 0.15, 0),
            0.1,
            0.15,
        )
        fixed = simulation.measure(config)[1]
        self.assertEqual(fixed.mass.values[0], outcome.aimed_alpha)
        self.assertEqual(fixed.worst.values[0], outcome.aimed)

    def test_one_graph_has_no_interval(self):
        config = SimulationConfig(20_000, 100, 4, thetas=(0.1,), alphas=(0.1,), seeds=1)
        row = by_name(simulation.simulate(config))["theta=0.1/alpha=0.1/greedy/agreement"]
        self.assertIsNone(row["low"])
        self.assertIn("one seed", row["note"])

    @parameterized.parameters(
        ({"seeds": 0}, "at least one seed"),
        ({"thetas": (0.1, 1.0)}, "theta"),
        ({"alphas": (0.0001,)}, "raise skills"),
        ({"pieces": 5, "thetas": (0.05,)}, "raise pieces"),
        ({"pairs": True, "zipf": 1.0}, "zipf=0"),
    )
    def test_refusals(self, changes, words):
        with self.assertRaisesRegex(UserError, words):
            SimulationConfig(**changes)


class TheoryRowsTest(absltest.TestCase):
    def test_drawn_transitions_lie_at_their_limits(self):
        rows = simulation.transition_rows(2, skills=4000, sizes=(8,), means=(2,))
        self.assertLen(rows, 8)
        for row in rows:
            limit = {
                "giant": thresholds.giant_skill_share, "peeling": thresholds.unlearned_share
            }[row["panel"]]  # fmt: skip
            expected = float(limit(row["pieces_per_skill"], row["parameter"]))
            np.testing.assert_allclose(row["value"], expected, atol=0.04, err_msg=row["name"])
            self.assertEqual(row["n"], 2)

    def test_rows_hold_the_golden_values(self):
        rows = theory.all_rows()
        named = by_name(rows)
        self.assertLen(named, len(rows))
        for name, value in (
            ("alpha_max/theta=0.05/k=8", 0.609),
            ("beta/theta=0.05/k=8/alpha=0.1/theorem", 4.933),
            ("beta/theta=0.05/k=8/alpha=0.1/exact", 3.589),
            ("fall/hoffmann/N=1e+09/D=2e+10", 2.009),
            ("coverage/N2=101/k=5/tuple=2/tuples", 5050),
            ("coverage/N2=101/k=5/tuple=2/half", 350),
            ("giant/k=8/share_at_twice", 0.204),
            ("peeling/c=4/threshold", 1.4664),
        ):
            np.testing.assert_allclose(named[name]["value"], value, rtol=2e-3)
        none = named["beta/theta=0.05/k=2/alpha=0.5/theorem"]
        self.assertIsNone(none["value"])
        self.assertIn("no solution", none["note"])
        said = named["beta/theta=0.05/k=2/alpha=0.02/theorem"]["note"]
        self.assertIn(bounds.ABOVE_ONE, said)
        self.assertIn(bounds.INFORMATIVE, named["beta/theta=0.05/k=8/alpha=0.1/exact"]["note"])


if __name__ == "__main__":
    absltest.main()
