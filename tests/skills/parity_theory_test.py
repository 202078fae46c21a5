"""The closed forms against the differential equation, sums without end, and each other."""

import numpy as np
from absl.testing import parameterized
from scipy import integrate, special

from llm_dynamics.errors import UserError
from llm_dynamics.skills import parity_theory as theory
from llm_dynamics.skills.parity import zipf
from llm_dynamics.skills.parity_theory import Flow


def endless(a, tasks):
    """P(k) of the first tasks of infinitely many, and of all others together."""
    total = special.zeta(a + 1)
    return np.arange(1, tasks + 1) ** -(a + 1.0) / total, special.zeta(a + 1, tasks + 1) / total


class FlowTest(parameterized.TestCase):
    @parameterized.parameters((1.0, 1.0), (5.0, 0.3))
    def test_closed_form_solves_the_gradient_flow_of_both_factors(self, target, slowed):
        share_K = zipf(4, 0.6)
        flow = Flow(rate=0.05, start=0.01, target=target, slowed=slowed)
        t_T = np.linspace(0, 3 * flow.emergence_time(share_K)[-1], 40)

        def field(_, y):
            a_K, b_K = y.reshape(2, -1)
            pull_K = slowed * flow.rate * share_K * (target - a_K * b_K)
            return np.concatenate([pull_K * b_K, pull_K * a_K])

        start = np.full(8, np.sqrt(flow.start))
        solved = integrate.solve_ivp(field, (0, t_T[-1]), start, t_eval=t_T, rtol=1e-9, atol=1e-12)
        expected_TxK = (solved.y[:4] * solved.y[4:]).T / target
        np.testing.assert_allclose(flow.strength(t_T, share_K), expected_TxK, atol=1e-6)
        half = target**2 / 2
        expected_T = half * ((1 - expected_TxK) ** 2 @ share_K)
        np.testing.assert_allclose(flow.loss(t_T, share_K), expected_T, atol=1e-6 * half)

    def test_emergence_is_where_the_strength_passes_the_level(self):
        share_K, flow = zipf(30, 0.9), Flow(0.1, 0.02)
        for level in (0.2, 0.5, 0.9):
            times_K = flow.emergence_time(share_K, level)
            np.testing.assert_allclose(np.diag(flow.strength(times_K, share_K)), level, rtol=1e-9)
        slope = theory.fitted_exponent(np.arange(1, 31), flow.emergence_time(share_K))
        self.assertAlmostEqual(slope, 1.9, places=9)
        np.testing.assert_array_equal(flow.emergence_time(share_K, 0.01), 0)

    def test_unknown_skills_stay_and_known_ones_are_learned_in_the_end(self):
        share_K, flow = zipf(10, 0.6), Flow(1.0, 0.1, target=2.0)
        late = flow.loss(np.array([1e9]), share_K, known=4, beyond=0.25)
        np.testing.assert_allclose(late, 2 * (share_K[4:].sum() + 0.25))
        before = flow.loss(np.zeros(1), share_K)
        np.testing.assert_allclose(before, 2 * 0.95**2)

    def test_every_curve_is_the_first_one_stretched(self):
        share_K, flow, t_T = zipf(5, 0.6), Flow(0.1, 0.05), np.arange(0, 4000, 0.25)
        closed_TxK = flow.strength(t_T, share_K)
        found = theory.rescaled(t_T, closed_TxK[:, 0], share_K)
        np.testing.assert_allclose(found, closed_TxK, atol=2e-5)

    @parameterized.parameters(
        ({"start": 0.0}, "start between"),
        ({"start": 2.0}, "start between"),
        ({"rate": 0.0}, "rate and a factor"),
    )
    def test_bad_flows_are_refused(self, changed, words):
        with self.assertRaisesRegex(UserError, words):
            Flow(**{"rate": 0.1, "start": 0.1, **changed})


class ExponentsTest(parameterized.TestCase):
    @parameterized.parameters(0.3, 0.6, 0.9)
    def test_exact_sums_follow_the_powers(self, a):
        limits = theory.exponents(a)
        share_K, beyond = endless(a, 20_000)
        flow = Flow(0.05, 0.05)
        # A decade in which the last skills learned are about the 300th to the 1,000th.
        first, last = flow.emergence_time(share_K)[[300, 1000]]
        t_T = np.geomspace(max(first, last / 10), last, 8)
        time = theory.fitted_exponent(t_T, flow.loss(t_T, share_K, beyond=beyond))
        self.assertAlmostEqual(time, limits.time, delta=0.01)

        examples_D = np.geomspace(1 / share_K[300], 1 / share_K[1000], 8)
        losses_D = theory.data_loss(examples_D, share_K) + beyond / 2
        data = theory.fitted_exponent(examples_D, losses_D)
        self.assertAlmostEqual(data, limits.data, delta=0.01)

        skills_N = np.unique(np.geomspace(100, 1000, 8).astype(int))
        ends_N = [flow.loss(np.array([1e12]), share_K, n, beyond)[0] for n in skills_N]
        parameters = theory.fitted_exponent(skills_N, ends_N)
        self.assertAlmostEqual(parameters, limits.parameters, delta=0.01)

        compute_C = np.geomspace(last * 100, last * 1000, 6)
        best_C = theory.compute_loss(flow, compute_C, share_K, beyond)
        compute = theory.fitted_exponent(compute_C, best_C)
        self.assertAlmostEqual(compute, limits.compute, delta=0.01)
        self.assertLess(limits.time, limits.compute)

    def test_the_best_model_is_no_worse_than_any(self):
        share_K, flow = zipf(500, 0.6), Flow(0.05, 0.05)
        best = theory.compute_loss(flow, np.array([1e5]), share_K)[0]
        any_N = [flow.loss(np.array([1e5 / n]), share_K, n)[0] for n in range(1, 501)]
        self.assertGreaterEqual(best, min(any_N) * (1 - 1e-12))
        self.assertLess(best, min(any_N) * 1.001)

    def test_unseen_skills_by_enumeration(self):
        # Two tasks, three examples: never seen with probability (1 - P)^3.
        share_K = np.array([0.7, 0.3])
        found = theory.data_loss(np.array([3]), share_K, target=2.0)
        np.testing.assert_allclose(found, 2 * (0.7 * 0.3**3 + 0.3 * 0.7**3))

    def test_calibrated_networks(self):
        np.testing.assert_allclose(theory.data_strength([0, 600, 800, 9000]), [0, 0.5, 1, 1])
        np.testing.assert_allclose(theory.node_strength(10, 4), [1, 1, 0.5, 0])

    def test_bad_input_is_refused(self):
        with self.assertRaisesRegex(UserError, "a > 0"):
            theory.exponents(0.0)
        with self.assertRaisesRegex(UserError, "two different"):
            theory.fitted_exponent([1, 1], [2, 3])
        with self.assertRaisesRegex(UserError, "positive losses"):
            theory.fitted_exponent([1, 2], [2, 0])
        with self.assertRaisesRegex(UserError, "level"):
            Flow(0.1, 0.1).emergence_time(zipf(2, 1), 1.0)
