"""Which schedules go on where another left off, and which ones jump."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.data.config import DataConfig
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets
from llm_dynamics.optim.optimizer import OptimConfig
from llm_dynamics.optim.schedules import ScheduleConfig, make_schedule
from llm_dynamics.probe.cadence import ProbeConfig
from llm_dynamics.spec import override, to_json
from llm_dynamics.train import joint, start
from llm_dynamics.train.config import RunSpec, StartConfig, TrainConfig

PLAN = SimpleNamespace(fingerprint="data", tokenizer_fingerprint="words", first_step=0)
INFINITE = ScheduleConfig("cosine_infinite", 5.5e-4, warmup=10, cooldown=500)


def _run(schedule, steps=1000, **begin):
    return RunSpec(
        model=presets.named("pocket-0.1m"),
        data=DataConfig(("text",)),
        optim=OptimConfig(schedule),
        train=TrainConfig(steps, start=StartConfig(**begin)),
        probe=ProbeConfig(),
    )


def _joint(saved, asked, at=800, steps=100, saved_steps=1000, **begin):
    """Compares a run's schedule with that of the run it starts from, from records alone."""
    meta = start.record(_run(saved, saved_steps), None, PLAN)
    origin = start.origin_at(Path("trunk"), at, meta)
    spec = _run(asked, steps, run="trunk", step=at, **begin)
    start.compare(origin, meta, spec)
    return joint.lines(meta, origin.schedule_step, spec)


class JointTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("peak", {"peak": 2.75e-3}),
        ("warmup", {"warmup": 20}),
        ("cooldown", {"cooldown": 700}),
        ("constant", {"constant": 0.6}),
        ("initial", {"initial": 0.5}),
        ("kind", {"kind": "inverse_sqrt_infinite"}),
        ("longer_anneal_than_the_branch", {"decay": 300, "horizon": 900}),
        ("anneal_that_began_one_step_before", {"decay": 102, "horizon": 900}),
    )
    def test_another_past_is_refused(self, changes):
        asked = dataclasses.replace(INFINITE, **changes)
        with self.assertRaisesRegex(UserError, "another schedule up to there"):
            _joint(INFINITE, asked)
        with self.assertLogs("llm_dynamics") as logs:
            _joint(INFINITE, asked, changed_schedule="accept")
        self.assertIn("  step      saved        asked", "".join(logs.output))
        if "horizon" not in changes:  # a whole schedule of its own
            own = dataclasses.replace(INFINITE, kind="cosine")
            _joint(INFINITE, own, continue_schedule=False)

    @parameterized.named_parameters(
        ("the_same", {}, 100),
        ("anneal", {"decay": 100, "horizon": 900}, 100),
        ("anneal_after_a_while", {"decay": 60, "horizon": 900}, 100),
        ("longer", {"horizon": 5000}, 3000),
        ("another_end_of_what_lies_ahead", {"decay": 50, "floor": 0.01, "horizon": 900}, 100),
    )
    def test_another_future_is_allowed(self, changes, steps):
        _joint(INFINITE, dataclasses.replace(INFINITE, **changes), steps=steps)

    def test_an_anneal_begins_at_the_rate_of_the_trunk(self):
        anneal = dataclasses.replace(INFINITE, decay=100, horizon=900)
        lines = _joint(INFINITE, anneal)
        rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
        level = f"{0.55 * 5.5e-4:.6g}"
        self.assertEqual(rows["-1"], [level, "–"])
        self.assertEqual(rows["0"], [level, level])
        self.assertEqual(rows["1"][0], level)
        self.assertLess(float(rows["1"][1]), float(level))
        self.assertAlmostEqual(float(rows["99"][1]), 5.5e-5 * 5.5**0.01, places=9)

    def test_a_jump_at_the_joint_alone_is_refused(self):
        saved = ScheduleConfig("constant", 1e-3)
        jump = ScheduleConfig("piecewise", 1e-3, phases=("constant:800:1", "constant:100:0.5"))
        jump = dataclasses.replace(jump, horizon=900)
        with self.assertRaisesRegex(UserError, "another schedule") as caught:
            _joint(saved, jump)
        rows = [line.split() for line in str(caught.exception).splitlines()]
        self.assertIn(["800", "0.001", "0.0005"], rows)
        # Where the saved schedule ended there, nothing is said of what comes.
        _joint(saved, jump, saved_steps=800)

    def test_the_same_rates_by_other_means(self):
        pieces = ("linear:10:1", "cosine:500:0.55", "constant:290", "exponential:100:0.1")
        asked = ScheduleConfig("piecewise", 5.5e-4, phases=pieces, horizon=900)
        _joint(INFINITE, asked)

    def test_wsd_s_goes_on_from_the_peak(self):
        saved = ScheduleConfig("wsd_s", 1e-3, warmup=5, decay=20)
        more = dataclasses.replace(saved, cycles=(100,))
        asked = dataclasses.replace(more, horizon=200)
        lines = _joint(saved, asked, at=100, saved_steps=100, steps=100)
        self.assertIn(["0", "–", "0.001"], [line.split() for line in lines])

    def test_a_schedule_that_was_itself_continued(self):
        first = start.record(_run(INFINITE, 700), None, PLAN)
        trunk = start.origin_at(Path("a"), 700, first)
        second = _run(dataclasses.replace(INFINITE, horizon=1000), 300, run="a")
        meta = start.record(second, trunk, PLAN)
        origin = start.origin_at(Path("b"), 100, meta)
        self.assertEqual((origin.schedule_step, origin.schedule_end), (800, 1000))
        start.compare(origin, meta, _run(INFINITE, 200, run="b"))
        for bad in ({"peak": 1e-3}, {"decay": 250}):
            with self.assertRaisesRegex(UserError, "step 800 of the schedule"):
                start.compare(origin, meta, override(
                    _run(INFINITE, 200, run="b"),
                    {f"optim.schedule.{k}": v for k, v in bad.items()},
                ))  # fmt: skip

    def test_a_run_of_an_earlier_version(self):
        meta = start.record(_run(INFINITE), None, PLAN)
        del meta["schedule"]
        del meta["spec"]["optim"]["schedule"]["timescale"]
        origin = start.origin_at(Path("trunk"), 800, meta)
        start.compare(origin, meta, _run(INFINITE, 100, run="trunk"))
        with self.assertRaisesRegex(UserError, "another schedule"):
            start.compare(
                origin, meta, _run(dataclasses.replace(INFINITE, peak=1e-3), 100, run="trunk")
            )

    def test_nothing_is_past_at_step_0(self):
        other = dataclasses.replace(INFINITE, peak=1e-3, warmup=0)
        _joint(INFINITE, other, at=0)

    def test_rates_are_those_of_the_schedule(self):
        meta = start.record(_run(INFINITE), None, PLAN)
        schedule = joint.saved(meta)
        expected = make_schedule(INFINITE, 1000)(jnp.arange(1000))
        np.testing.assert_array_equal(schedule.rates(1000), expected)
        self.assertEqual(to_json(schedule.config), meta["spec"]["optim"]["schedule"])


if __name__ == "__main__":
    absltest.main()
