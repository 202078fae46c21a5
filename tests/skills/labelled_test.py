"""Labelled questions: files and their faults, outcomes from scores, what holds for every model."""

import json

import numpy as np
import pytest
from absl.testing import parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.probe import records
from llm_dynamics.probe.log import ProbeLog, open_log
from llm_dynamics.probe.probes import Probe
from llm_dynamics.probe.scoring import MEASURES
from llm_dynamics.skills import labelled as lib
from llm_dynamics.skills.labelled import Labelled, Question
from llm_dynamics.skills.outcomes import NO_SKILL, Outcomes

GOOD = {"context": "two and two is", "target": "four", "skills": ["add"]}
CHOICE = {
    "context": "the square of the sum of one and one is",
    "choices": ["four", "two"],
    "answer": "four",
    "skills": ["square", "add"],
    "name": "q2",
    "group": "sums",
}


def write(path, *records):
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in records) + "\n")
    return path


def scores(logprob_sum, greedy):
    values = np.zeros((len(greedy), len(MEASURES)), np.float32)
    values[:, MEASURES.index("logprob_sum")] = logprob_sum
    values[:, MEASURES.index("greedy_match")] = greedy
    return values


def test_a_file_is_read_alike_as_lines_and_as_rows(tmp_path):
    lines = write(tmp_path / "q.jsonl", GOOD | {"name": "q1"}, "", CHOICE | {"answer": 0})
    table = tmp_path / "q.csv"
    table.write_text(
        "name,context,target,choices,answer,skills,group\n"
        "q1,two and two is,four,,,add,\n"
        "q2,the square of the sum of one and one is,,four|two,four,square+add,sums\n"
    )
    one, other = lib.read(lines), lib.read(table)
    assert one.questions == other.questions
    first, second = one.questions
    assert first == Question("q1", "two and two is", ("four",), 0, ("add",), "q1")
    assert (second.targets, second.answer, second.group) == (("four", "two"), 0, "sums")
    assert one.skills == ("add", "square") and one.sizes_T.tolist() == [1, 2]
    assert one.skills_TxK.tolist() == [[0, NO_SKILL], [1, 0]]
    assert [p.name for p in one.probes()] == ["q1", "q2#0", "q2#1"]
    assert [p.target for p in one.probes()] == ["four", "four", "two"]
    assert one.rare(2) == [
        "skill 'square' has 1 question, fewer than 2: its competence is hardly known"
    ]


def test_a_mark_of_the_order_of_bytes_is_no_part_of_a_name(tmp_path):
    """Spreadsheets write one, and blank columns at the end."""
    (tmp_path / "q.csv").write_text("\ufeffcontext,target,skills,,\na,b,c,,\n")
    (tmp_path / "q.jsonl").write_text("\ufeff" + json.dumps(GOOD))
    for name, context in (("q.csv", "a"), ("q.jsonl", GOOD["context"])):
        assert lib.read(tmp_path / name).questions[0].context == context


def test_names_of_choices_are_not_those_of_others(tmp_path):
    choices, plain = CHOICE | {"name": "a"}, GOOD | {"name": "a#0"}
    with pytest.raises(UserError, match=r"q.jsonl:2: the name 'a#0', of a probe or choice, is al"):
        lib.read(write(tmp_path / "q.jsonl", choices, plain))
    with pytest.raises(UserError, match=r"q.jsonl:2: the name 'a/1', of a probe or choice, is al"):
        records.read_probes(write(tmp_path / "q.jsonl", plain | {"name": "a/1"}, choices))


def test_an_answer_in_a_table_is_a_choice_or_its_number(tmp_path):
    table = tmp_path / "q.csv"
    rows = ["a,x|y,1,s", "b,0|1|2,1,s", "c,1|0,0,s", "d,5|6,1,s"]
    table.write_text("\n".join(["context,choices,answer,skills", *rows]) + "\n")
    assert [q.answer for q in lib.read(table).questions] == [1, 1, 1, 1]
    table.write_text("context,choices,answer,skills\na,x|y,2,s\n")
    with pytest.raises(UserError, match=r"q.csv:2: .* from 0 to 1, got 2"):
        lib.read(table)


class FaultTest(parameterized.TestCase):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    @parameterized.parameters(
        ({"skills": []}, "at least one skill"),
        ({"skills": None}, "'skills' as a list"),
        ({"skills": "add"}, "'skills' as a list"),
        ({"skills": ["add", "add"]}, "every skill of a question once"),
        ({"skills": ["a+b"]}, r"without '\+'"),
        ({"context": " "}, "'context' as a text"),
        ({"target": 4}, "'target' as a text, got 4"),
        ({"answer": 0}, "no 'answer' beside 'target'"),
        ({"choices": ["a", "b"]}, "either 'target', or 'choices' and 'answer'"),
        ({"skill": "add"}, "unknown field 'skill'; did you mean 'skills'"),
        ({"target": None, "choices": ["a"], "answer": 0}, "either 'target'"),
    )
    def test_a_fault_names_file_and_line(self, change, message):
        path = write(self.folder / "q.jsonl", GOOD, GOOD | {"context": "else"} | change)
        with pytest.raises(UserError, match=rf"^{path}:2: .*{message}"):
            lib.read(path)

    @parameterized.parameters(
        ({"choices": ["four"]}, "at least two texts"),
        ({"choices": ["four", "four"]}, "different choices"),
        ({"answer": 2}, "from 0 to 1, got 2"),
        ({"answer": True}, "got True"),
        ({"answer": "five"}, "got 'five'"),
    )
    def test_faults_of_choices(self, change, message):
        path = write(self.folder / "q.jsonl", CHOICE | change)
        with pytest.raises(UserError, match=rf"^{path}:1: .*{message}"):
            lib.read(path)

    def test_several_faults_at_once_and_twins(self):
        bad = [GOOD | {"context": f"c{i}", "skills": []} for i in range(6)]
        with pytest.raises(UserError, match=r"(?s)q.jsonl:1: .*q.jsonl:5: .*and 2 more$"):
            lib.read(write(self.folder / "q.jsonl", *bad, {"target": "x", "skills": ["a"]}))
        with pytest.raises(UserError, match=r"q.jsonl:2: the same question is also at .*:1;"):
            lib.read(write(self.folder / "q.jsonl", GOOD, GOOD | {"skills": ["other"]}))
        with pytest.raises(UserError, match=r"q.jsonl:2: the name 'a' is also at"):
            named = [GOOD | {"name": "a"}, GOOD | {"name": "a", "context": "b"}]
            lib.read(write(self.folder / "q.jsonl", *named))

    def test_what_is_no_file_of_questions(self):
        for name, text, message in (
            ("q.txt", "", "expected a labelled probe file, .jsonl or .csv"),
            ("q.jsonl", "", "expected questions in"),
            ("q.jsonl", "[1]", "q.jsonl:1: expected one JSON object"),
            ("q.jsonl", "{", "q.jsonl:1: expected one JSON object"),
            ("q.csv", "context,target,skills\na,b\n", "q.csv:2: expected 3 cells"),
            ("q.csv", "context,target,skills,target\na,b,c,d\n", "q.csv:1: .* 'target' twice"),
            (
                "q.csv",
                f"context,choices,answer,skills\na,x|y,{'1' * 5000},s\n",
                "q.csv:2: expected 'answer' .* a number of 5000 digits",
            ),
            (
                "q.jsonl",
                '\n{"context": "\\ud800x", "target": "b", "skills": ["s"]}',
                r"q.jsonl:2: expected text that UTF-8 can write, got '\\ud800'",
            ),
        ):
            (self.folder / name).write_text(text)
            with pytest.raises(UserError, match=message):
                lib.read(self.folder / name)
        with pytest.raises(UserError, match=r"absent.csv, got: No such file"):
            lib.read(self.folder / "absent.csv")


def questions(*choices):
    return Labelled(
        tuple(
            Question(f"q{i}", "c", tuple(map(str, range(n))), n - 1, ("a",), f"q{i}")
            for i, n in enumerate(choices)
        ),
        "test",
    )


def test_outcomes_of_targets_and_choices():
    asked = questions(1, 1, 2, 3, 2)
    values = scores(np.log([0.6, 0.2, 0.1, 0.3, 0.1, 0.1, 0.05, 0.2, 0.2]), [1, 0] + [1] * 7)
    found = asked.outcomes(values)
    # The last choices tie: neither is more probable than the other.
    assert found.right_TxA[:, 0].tolist() == [True, False, True, False, False]
    expected = -np.log([0.6, 0.2, 0.3 / 0.4, 0.05 / 0.25, 0.5])
    np.testing.assert_allclose(found.excess_T, expected, rtol=1e-6)
    assert found.theta == 3 / 5
    lib.check_links(found, "here")


def test_a_wrong_answer_costs_ln_2_whatever_the_model():
    """Random models of random sharpness: p is at most 1/2 where another token is more probable."""
    rng = np.random.default_rng(0)
    logprob, greedy, kinds = [], [], []
    for _ in range(3000):
        n, words = rng.choice([1, 1, 2, 4]), rng.integers(1, 4)
        kinds.append(int(n))
        for _ in range(n):
            logits_WxV = rng.exponential(3) * rng.standard_normal((words, rng.integers(2, 6)))
            p_WxV = np.exp(logits_WxV) / np.exp(logits_WxV).sum(axis=1, keepdims=True)
            token_W = np.where(
                rng.random(words) < 0.7, p_WxV.argmax(axis=1), rng.integers(2, size=words)
            )
            own_W = p_WxV[np.arange(words), token_W]
            logprob.append(np.log(own_W).sum())
            greedy.append((own_W >= p_WxV.max(axis=1)).all())
    found = questions(*kinds).outcomes(scores(logprob, greedy))
    lib.check_links(found, "here")
    assert 0.2 < found.theta < 0.8
    assert found.theta <= found.delta / np.log(2)
    assert found.excess_T[found.failed_T].min() < 0.75  # the bound is nearly reached


def test_answers_that_contradict_losses_are_refused():
    wrong = Outcomes(np.zeros((2, 1), int), np.array([[True], [False]]), np.array([0.1, 0.6]), 1)
    with pytest.raises(UserError, match=r"run, step 3: a wrong answer has a loss of 0.6000"):
        lib.check_links(wrong, "run, step 3")
    with pytest.raises(UserError, match="finite"):
        questions(1).outcomes(scores([np.nan], [1]))


def test_a_log_whose_probes_say_their_skills(tmp_path):
    kinds = [("a", "seen"), ("a+b", "seen"), ("b", "unseen")]
    probes = [
        Probe(f"p{i}", "c", "t", {"skills": skills, "kind": kind, "who": "x"})
        for i, (skills, kind) in enumerate(kinds)
    ]
    with ProbeLog(tmp_path / "log", probes, [1, 1, 1], [0, 5], [0, 50]) as log:
        log.write(0, scores([-1.0, -2.0, -3.0], [0, 0, 0]))
    log = open_log(tmp_path / "log")
    found = lib.from_log(log, "skills", {"kind": "seen"}, "who")
    assert [q.skills for q in found.questions] == [("a",), ("a", "b")]
    assert found.group_T.tolist() == [0, 0]
    assert lib.in_log(log, {"kind": "seen"}).tolist() == [0, 1]
    with pytest.raises(UserError, match="no label 'skill'; did you mean 'skills'"):
        lib.from_log(log, "skill", {})
    with pytest.raises(UserError, match="expected probes with kind=other"):
        lib.from_log(log, "skills", {"kind": "other"})
    with pytest.raises(UserError, match="probe 'p0', label 'context'"):
        lib.from_log(log.assign_coords(context=("probe", ["", "a", "b"])), "context", {})


def test_choices_of_a_log_are_asked_together_or_not_at_all(tmp_path):
    choices = [CHOICE | {"name": "x"}, CHOICE | {"name": "y", "context": "the sum is"}]
    probes = [
        *records.read_probes(write(tmp_path / "q.jsonl", *choices, GOOD)),
        Probe("z/0", "c", "t", {"item": "z", "choice": "0", "right": "yes", "skills": "add"}),
    ]
    with ProbeLog(tmp_path / "log", probes, [1] * 6, [0], [0]):
        pass
    log = open_log(tmp_path / "log")
    asked = lib.from_log(log.isel(probe=slice(5)), "skills", {})
    assert [(q.name, q.targets, q.answer) for q in asked.questions] == [
        ("x", ("four", "two"), 0), ("y", ("four", "two"), 0), ("line3", ("four",), 0),
    ]  # fmt: skip
    for where, message in (
        ({"choice": "1"}, r"choices of the item 'x' together .* 1 of 2; .*\(not choice or right"),
        ({"right": "yes"}, "got 1 of 2"),
        ({"item": "z"}, "got 1 of 1"),
    ):
        with pytest.raises(UserError, match=message):
            lib.from_log(log, "skills", where)
