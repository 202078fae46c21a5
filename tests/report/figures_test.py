import csv
import io

import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.report import figures, style


def simple(name="simple", color="series-1"):
    x = np.arange(5)

    def draw():
        from matplotlib.figure import Figure as Canvas

        canvas = Canvas(figsize=(4, 3), layout="constrained")
        ax = canvas.subplots()
        ax.plot(x, x**2, "o-", color=style.color(color))
        ax.set_title("a < b & c")
        return canvas

    data = {"x": x, "label": ["a", 'b,"', "c", "d", "e"], "y": x.astype(np.float32) / 3}
    return figures.Figure(name, "Title", "Caption", 'alt "text" <b>', draw, data)


class FiguresTest(parameterized.TestCase):
    def test_bytes_depend_on_the_figure_alone(self):
        first, second = figures.render(simple()), figures.render(simple())
        self.assertEqual(first, second)
        self.assertNotEqual(first.svg, figures.render(simple(color="series-2")).svg)

    def test_files_carry_no_date_and_no_program(self):
        drawn = figures.render(simple())
        self.assertNotIn("dc:date", drawn.svg)
        self.assertNotIn("Matplotlib", drawn.svg)
        self.assertNotIn(b"CreationDate", drawn.pdf)
        self.assertNotIn(b"Matplotlib", drawn.pdf)

    def test_csv_reads_back_to_the_data(self):
        figure = simple()
        rows = list(csv.DictReader(io.StringIO(figures.to_csv(figure.data))))
        self.assertEqual([row["label"] for row in rows], figure.data["label"])
        read = np.array([row["y"] for row in rows]).astype(np.float32)
        np.testing.assert_array_equal(read, figure.data["y"])
        self.assertEqual(rows[1]["x"], "1")

    def test_missing_values_are_empty_cells(self):
        text = figures.to_csv({"a": [1.5, float("nan"), None], "b": [np.float64("nan"), 2, 3]})
        self.assertEqual(text, "a,b\n1.5,\n,2\n,3\n")

    def test_inline_drawing_shares_a_page(self):
        drawn = figures.render(simple())
        one = figures.inline_svg(drawn.svg, "one", 'alt "text" <b>')
        self.assertNotIn("http", one)
        self.assertNotIn("<?xml", one)
        self.assertIn('aria-label="alt &#34;text&#34; &lt;b&gt;"', one)
        self.assertIn("var(--series-1)", one)
        self.assertNotIn(style.color("series-1"), one)
        self.assertIn('href="#one-', one)
        self.assertNotIn("DejaVu", one)
        self.assertIn("a &lt; b &amp; c", one)

    def test_colours_are_distinct_so_that_theming_is_unambiguous(self):
        light = [pair[0] for pair in style.COLORS.values()]
        self.assertLen(set(light), len(light))

    def test_rounding_moves_nothing_visibly(self):
        text = '<path d="M 1.23456 -7.00049 L 3 4.5" id="m0.123456"/>'
        self.assertEqual(figures._shorten(text), '<path d="M 1.23 -7.00 L 3 4.5" id="m0.123456"/>')

    def test_stack_repeats_scalars_and_fills_gaps(self):
        table = figures.stack([{"arm": "a", "x": np.arange(2)}, {"arm": "b", "y": [5.0]}])
        self.assertEqual(table, {"arm": ["a", "a", "b"], "x": [0, 1, ""], "y": ["", "", 5.0]})
        with self.assertRaises(ValueError):
            figures.stack([{"x": [1, 2], "y": [1, 2, 3]}])

    @parameterized.parameters(False, True)
    def test_thinning_keeps_ends_and_jumps(self, log):
        x = np.arange(5000)
        chosen = figures.thin(x, keep=(1234, 4321), limit=100, log=log)
        self.assertLessEqual(len(chosen), 106)
        self.assertContainsSubset([0, 1234, 1235, 4321, 4322, 4999], chosen.tolist())
        np.testing.assert_array_equal(figures.thin(x[:50], limit=100), np.arange(50))

    def test_log_thinning_is_dense_early(self):
        chosen = figures.thin(np.arange(5000), limit=200, log=True)
        self.assertGreater((chosen < 50).sum(), 35)

    def test_labels_move_apart_but_keep_their_order(self):
        placed = figures.spread([1.0, 1.0, 0.99], 0.2, 0, 1.1)
        self.assertLess(placed[2], placed[0])
        gaps = np.diff(sorted(placed))
        self.assertTrue((gaps > 0.199).all(), gaps)
        self.assertLessEqual(max(placed), 1.1)

    def test_bad_figures_are_refused(self):
        with self.assertRaisesRegex(ValueError, "differ in length"):
            figures.Figure("f", "", "", "", lambda: None, {"a": [1], "b": [1, 2]})
        with self.assertRaisesRegex(ValueError, "name"):
            figures.Figure("../f", "", "", "", lambda: None, {})
        with self.assertRaisesRegex(ValueError, "two figures"):
            figures.write_figures([simple(), simple()], self.create_tempdir_path())

    def create_tempdir_path(self):
        import pathlib

        return pathlib.Path(self.create_tempdir().full_path)


if __name__ == "__main__":
    absltest.main()
