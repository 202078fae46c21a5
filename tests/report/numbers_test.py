from absl.testing import absltest, parameterized

from llm_dynamics.report import numbers

NAN = float("nan")


class NumbersTest(parameterized.TestCase):
    @parameterized.parameters(
        (0.41234, "0.412"),
        (-12.345, "−12.3"),
        (1470, "1,470"),
        (4505600, "4,505,600"),
        (1234.5678, "1,235"),
        (0.00002, "2.0 × 10⁻⁵"),
        (0.0, "0"),
        (None, "–"),
        (NAN, "–"),
        (float("-inf"), "−∞"),
    )
    def test_number(self, value, text):
        self.assertEqual(numbers.number(value), text)

    @parameterized.named_parameters(
        ("two_figures_of_the_width", 0.443, 0.249, 0.709, "0.44", "[0.25, 0.71]"),
        ("three_of_the_value", 0.1486, 0.1437, 0.1537, "0.149", "[0.144, 0.154]"),
        ("small_beside_its_width", -0.0063, -0.0539, 0.0467, "−0.006", "[−0.054, 0.047]"),
        ("never_all_rounded_away", 0.3, -9.9, 11.4, "0.3", "[−9.9, 11.4]"),
        ("no_minus_zero", -0.0001, -0.5, 0.5, "0.00", "[−0.50, 0.50]"),
        ("no_interval", 0.8731, None, None, "0.873", ""),
        ("a_count", 12.0, None, None, "12", ""),
        ("missing", None, None, None, "–", ""),
        ("empty_interval", 1.0, 1.0, 1.0, "1.00", "[1.00, 1.00]"),
    )
    def test_estimate(self, value, low, high, text, interval):
        self.assertEqual(numbers.estimate(value, low, high), (text, interval))

    def test_sign(self):
        self.assertEqual(numbers.estimate(0.443, 0.249, 0.709, signed=True)[0], "+0.44")

    @parameterized.parameters(
        (0.1, 0.2, "above zero"),
        (-0.2, -0.1, "below zero"),
        (-0.1, 0.1, "not shown: the interval covers zero"),
        (0.0, 0.1, "not shown: the interval covers zero"),
        (None, None, "no interval"),
        (NAN, NAN, "no interval"),
    )
    def test_verdict(self, low, high, said):
        self.assertEqual(numbers.verdict(low, high), said)


if __name__ == "__main__":
    absltest.main()
