"""A log that grows keeps its answers, and only under the probes that they are answers to."""

import dataclasses

import numpy as np
import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.probe.growing import LogRow, open_growing
from llm_dynamics.probe.log import open_log
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES

PROBES = [Probe(name, f"{name} is", "red", {"kind": "fox"}) for name in ("a", "b")]
ROWS = [LogRow(1, 10, "one"), LogRow(2, 20, "two")]


def test_other_probes_of_the_same_number_do_not_take_over_answers(tmp_path):
    path = tmp_path / "probes"
    values = np.ones((2, len(MEASURES)))
    with open_growing(path, PROBES, [1, 1], ROWS[:1], {}) as log:
        log.write(1, values)
    first, second = PROBES
    for change, lengths, message in (
        ({"name": "c"}, [1, 1], "probe: .*entry 1: b -> c"),
        ({"context": "else"}, [1, 1], "context: .*b is -> else"),
        ({"target": "blue"}, [1, 1], "target: .*red -> blue"),
        ({"labels": {"kind": "hen"}}, [1, 1], "kind: .*fox -> hen"),
        ({}, [1, 2], "num_target_tokens: .*1 -> 2"),
    ):
        other = [first, dataclasses.replace(second, **change)]
        with pytest.raises(UserError, match=rf"(?s)belongs to another run.*{message}"):
            open_growing(path, other, lengths, ROWS, {})
    with open_growing(path, PROBES, [1, 1], ROWS, {}) as log:
        assert log.missing(3) == [2]
    assert open_log(path)["score"].values[0].tolist() == values.tolist()
