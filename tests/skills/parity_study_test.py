"""Rows and figures of an invented parity study whose answers are known."""

import dataclasses

import numpy as np
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.report import figures, skills_parity
from llm_dynamics.skills import parity_rows
from llm_dynamics.skills.parity import ParityConfig, one_hot
from llm_dynamics.skills.parity_theory import Flow
from llm_dynamics.skills.parity_training import Composition, MultilinearConfig, NetworkRun

FULL = parity_rows.laptop()
CONFIG = dataclasses.replace(
    FULL,
    multilinear=MultilinearConfig(ParityConfig(one_hot(400), 8), Flow(0.2, 0.05), 4000),
    seeds=3,
)


def invented(config=CONFIG, slower=1.0):
    """Every strength is the closed form's, networks learn task k in k^(1.6 slower) updates."""
    flow, model = Flow(0.02, 0.05), config.multilinear
    closed_SxK = model.flow.strength(model.updates_S, model.share_K)

    def network(setting, seed):
        updates_S = np.arange(0, setting.steps + 1, setting.every)
        share_K = parity_rows.share(setting) ** slower * (1 + 0.1 * seed)
        strength_SxK = flow.strength(updates_S, share_K)
        return NetworkRun(updates_S, strength_SxK, (1 - strength_SxK) ** 2, strength_SxK)

    def composition(seed):
        beside = network(config.composite, seed)
        short = NetworkRun(
            beside.updates_S,
            *(0 * x[:, :1] + y for x, y in zip(beside[1:], (0.0, 1.0, 0.5), strict=True)),
        )
        return Composition(beside, short)

    seeds = range(config.seeds)
    return parity_rows.ParityStudy(
        config,
        {seed: closed_SxK for seed in seeds},
        {n: {s: network(getattr(config, n), s) for s in seeds} for n in parity_rows.NETWORKS},
        {seed: composition(seed) for seed in seeds},
    )


def by_name(study):
    return {row["name"]: row for row in parity_rows.parity_rows(study)}


class RowsTest(parameterized.TestCase):
    @parameterized.parameters(1.0, 0.7)
    def test_slopes_are_found(self, slower):
        rows = by_name(invented(slower=slower))
        for name in parity_rows.NETWORKS:
            slope = rows[f"parity/{name}/slope"]
            self.assertAlmostEqual(slope["value"], 1.6 * slower, delta=0.02)
            self.assertEqual(slope["n"], 3)
            self.assertIn("tasks 1 to 5 of 5", slope["note"])
            apart = rows[f"parity/{name}/slope_less_predicted"]["value"]
            self.assertAlmostEqual(apart, 1.6 * (slower - 1), delta=0.02)
            gap = rows[f"parity/{name}/prediction_gap"]["value"]
            if slower == 1:
                self.assertLess(gap, 0.002)
            else:
                self.assertGreater(gap, 0.005)

    def test_closed_form_agrees_with_itself(self):
        rows = by_name(invented())
        for name in ("multilinear/deviation", "multilinear/standardised"):
            self.assertAlmostEqual(rows[f"parity/{name}"]["value"], 0, delta=1e-6)
        self.assertAlmostEqual(rows["parity/exponent/time/difference"]["value"], 0, delta=1e-9)
        limits = [rows[f"parity/exponent/{x}/limit"]["value"] for x in ("time", "data")]
        np.testing.assert_allclose(limits, -0.375)
        for name, row in rows.items():
            self.assertEqual(
                row["low"] is None,
                name.endswith(("sums", "limit", "predicted_slope", "alone/emergence")),
            )

    def test_composite(self):
        rows = by_name(invented())
        self.assertEqual(rows["parity/composite/alone"]["value"], 0.5)
        alone = rows["parity/composite/alone/emergence"]
        self.assertIsNone(alone["value"])
        self.assertIn("in 3 of 3 seeds", alone["note"])
        parts = [rows[f"parity/composite/{x}"]["value"] for x in ("with_atoms", "difference")]
        self.assertAlmostEqual(parts[0] - parts[1], 0.5)
        first = rows["parity/composite/with_atoms/emergence"]["value"]
        share_K = parity_rows.share(CONFIG.composite)
        times = [Flow(0.02, 0.05).emergence_time(share_K * (1 + s / 10))[-1] for s in range(3)]
        self.assertAlmostEqual(first, np.mean(times), delta=5)

    def test_tasks_that_do_not_emerge_are_left_out(self):
        sgd = dataclasses.replace(FULL.sgd, steps=40)
        rows = by_name(invented(dataclasses.replace(CONFIG, sgd=sgd)))
        self.assertIsNone(rows["parity/sgd/slope"]["value"])
        self.assertIn("train longer", rows["parity/sgd/slope"]["note"])
        sgd = dataclasses.replace(FULL.sgd, steps=1520)
        rows = by_name(invented(dataclasses.replace(CONFIG, sgd=sgd)))
        self.assertIn("tasks 1 to 4 of 5", rows["parity/sgd/slope"]["note"])

    def test_bad_studies_are_refused(self):
        with self.assertRaisesRegex(UserError, "at least 1 seed"):
            dataclasses.replace(CONFIG, seeds=0)
        few = dataclasses.replace(FULL.adam, parity=ParityConfig(one_hot(2), 8))
        with self.assertRaisesRegex(UserError, "tasks of adam"):
            dataclasses.replace(CONFIG, adam=few)
        parity_rows.smoke()

    def test_figures_are_drawn_from_their_tables(self):
        found = {figure.name: figure for figure in skills_parity.parity_figures(invented())}
        for figure in found.values():
            figure.draw()
            figures.to_csv(figure.data)
        data = found["parity_emergence"].data
        np.testing.assert_allclose(data["updates"], data["predicted"], rtol=0.12)
        data = found["parity_losses"].data
        np.testing.assert_allclose(data["loss"], data["predicted"], atol=0.03)
        self.assertLen(data["loss"], sum(len(t) for t in _updates()))


def _updates():
    study = invented()
    yield CONFIG.multilinear.updates_S
    for runs in study.networks.values():
        yield runs[0].updates_S
