"""Which steps are scored."""

import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics import spec
from llm_dynamics.errors import UserError
from llm_dynamics.probe.cadence import ProbeConfig, probe_steps


class ProbeStepsTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("default_is_every_step", ProbeConfig(), 4, [0, 1, 2, 3, 4]),
        ("grid", ProbeConfig(every=3), 7, [0, 3, 6, 7]),
        ("grid_that_meets_the_end", ProbeConfig(every=3), 6, [0, 3, 6]),
        ("grid_longer_than_the_run", ProbeConfig(every=30), 6, [0, 6]),
        ("list", ProbeConfig(steps=(5, 2, 2)), 9, [0, 2, 5, 9]),
        ("list_with_the_end", ProbeConfig(steps=(9,)), 9, [0, 9]),
        ("one_update", ProbeConfig(), 1, [0, 1]),
    )
    def test_steps(self, config, total, expected):
        steps = probe_steps(config, total)
        self.assertEqual(steps.dtype, np.int64)
        self.assertEqual(steps.tolist(), expected)

    def test_around_events(self):
        config = ProbeConfig(around_events=5, per_decade=4)
        steps = probe_steps(config, 1000, [100, 40])
        self.assertTrue(np.all(np.diff(steps) > 0))
        for event in (40, 100):  # the baseline row and the whole window
            self.assertTrue(set(range(event, event + 6)) <= set(steps.tolist()))
        self.assertEqual(steps[steps < 40].tolist(), [0, 1, 2, 3, 6, 10, 18, 32])
        after = steps[(steps > 105) & (steps < 1000)] - 100
        self.assertEqual(after.tolist(), [6, 10, 18, 32, 56, 100, 178, 316, 562])
        self.assertEqual(steps[-1], 1000)

    def test_window_that_leaves_the_run_is_cut(self):
        steps = probe_steps(ProbeConfig(around_events=50), 20, [10])
        self.assertEqual(steps[steps >= 10].tolist(), list(range(10, 21)))

    def test_events_at_the_ends(self):
        steps = probe_steps(ProbeConfig(around_events=1), 30, [0, 29])
        self.assertTrue({0, 1, 29, 30} <= set(steps.tolist()))

    @parameterized.named_parameters(
        ("list_beyond_the_run", ProbeConfig(steps=(3, 11)), 10, [], "up to 10.*got 11"),
        ("event_beyond_the_run", ProbeConfig(), 10, [10], "0 to 9, got 10"),
        ("negative_event", ProbeConfig(), 10, [-1], "0 to 9, got -1"),
        ("no_events", ProbeConfig(around_events=5), 10, [], "without any"),
        ("no_steps", ProbeConfig(), 0, [], "at least 1 step"),
    )
    def test_refused(self, config, total, events, message):
        with self.assertRaisesRegex(UserError, message):
            probe_steps(config, total, events)

    @parameterized.named_parameters(
        ("every", {"every": 0}, "probe.every"),
        ("negative_step", {"steps": (3, -2)}, "probe.steps.*got -2"),
        ("negative_window", {"around_events": -1}, "probe.around_events"),
        ("per_decade", {"per_decade": 0}, "probe.per_decade"),
        ("two_cadences", {"every": 2, "steps": (1,)}, "probe.every and probe.steps"),
        ("two_others", {"around_events": 2, "steps": (1,)}, "keep one"),
    )
    def test_config_refused(self, changes, message):
        with self.assertRaisesRegex(UserError, message):
            ProbeConfig(**changes)

    def test_config_survives_json(self):
        config = ProbeConfig(steps=(1, 5))
        self.assertEqual(spec.from_json(ProbeConfig, spec.to_json(config)), config)


if __name__ == "__main__":
    absltest.main()
