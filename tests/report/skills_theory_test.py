"""Figures of the theory of skills hold what they draw, and are drawn."""

import numpy as np
from absl.testing import absltest

from llm_dynamics.report import figures, skills_theory
from llm_dynamics.skills.simulation import SimulationConfig, simulate


class FiguresTest(absltest.TestCase):
    def test_curves_end_where_the_theorem_does(self):
        data = skills_theory.performance_curves().data
        k, theta, theorem = (np.array(data[name]) for name in ("k", "theta", "theorem"))
        alpha = np.array(data["alpha"])
        line = (k == 4) & (theta == 0.05)
        self.assertAlmostEqual(alpha[line & ~np.isnan(theorem)].max(), 0.371, delta=0.006)
        self.assertFalse(np.isnan(data["exact"]).any())

    def test_all_are_drawn(self):
        point = {"panel": "giant", "parameter": 8, "pieces_per_skill": 0.04, "value": 0.2}
        for figure in (
            skills_theory.performance_curves(),
            skills_theory.error_bounds(),
            skills_theory.tuples_seen(),
            skills_theory.transitions([point]),
        ):
            drawn = figures.render(figure)
            self.assertGreater(len(drawn.svg), 2000)
        self.assertIn("drawn", drawn.csv)

    def test_simulated_failures(self):
        config = SimulationConfig(5000, 50, 4, thetas=(0.1, 0.2), alphas=(0.1, 0.5), seeds=2)
        rows = simulate(config)
        figure = skills_theory.simulated(rows, "50 skills.")
        self.assertLen(figure.data["value"], len(rows))
        self.assertIn("greedy, measured", figures.render(figure).svg)
        self.assertIsNone(skills_theory.simulated([{"name": "other"}], ""))


if __name__ == "__main__":
    absltest.main()
