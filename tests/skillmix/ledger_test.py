"""The ledger: nothing is asked twice, whatever kills the run, and damage is said."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix.chat import Reply, Request, Settings
from llm_dynamics.skillmix.ledger import Ledger, ask, key_of
from llm_dynamics.skillmix.prompts import Message


def request(text, draw=0, **settings):
    return Request((Message("user", text),), Settings(**settings), draw)


class Echo:
    """Answers with what it was asked, and notes it."""

    def __init__(self, name="echo", concurrency=1, batch=1):
        self.name, self.concurrency, self.batch = name, concurrency, batch
        self.asked, self._lock = [], threading.Lock()

    def complete(self, requests):
        with self._lock:
            self.asked += [r.messages[-1].content for r in requests]
        return [Reply(f"{r.messages[-1].content} {r.draw} ü") for r in requests]


@pytest.mark.parametrize(("concurrency", "batch"), [(1, 1), (1, 3), (4, 1)])
def test_every_reply_is_asked_for_once(tmp_path, concurrency, batch):
    model = Echo(concurrency=concurrency, batch=batch)
    first = [request(f"q{i}") for i in range(7)]
    with Ledger(tmp_path / "deep" / "ledger.jsonl") as ledger:
        found = ask(model, [*first, first[0]], ledger)
    assert [r.text for r in found] == [f"q{i} 0 ü" for i in (*range(7), 0)]
    assert sorted(model.asked) == [f"q{i}" for i in range(7)]
    with Ledger(tmp_path / "deep" / "ledger.jsonl") as ledger:
        assert ask(model, [*first, request("new")], ledger)[-1].text == "new 0 ü"
    assert len(model.asked) == 8 and model.asked[-1] == "new"


def test_whatever_decides_a_reply_is_in_its_key():
    asked = request("q")
    others = [
        key_of("other", asked),
        key_of("m", request("q", draw=1)),
        key_of("m", request("q", temperature=0.1)),
        key_of("m", request("q", top_p=0.9)),
        key_of("m", request("q", max_tokens=5)),
        key_of("m", request("r")),
        key_of("m", asked._replace(messages=(Message("assistant", "q"),))),
    ]
    assert len({key_of("m", asked), *others}) == 8


def test_a_cut_last_line_is_asked_again_and_damage_is_said(tmp_path):
    path, model = tmp_path / "ledger.jsonl", Echo()
    with Ledger(path) as ledger:
        ask(model, [request("a"), request("b")], ledger)
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with Ledger(path) as ledger:
        assert len(ledger) == 1
        ask(model, [request("a"), request("b")], ledger)
    assert model.asked == ["a", "b", "b"] and path.read_bytes() == data
    path.write_bytes(b"{}\n" + data)
    with pytest.raises(UserError, match="line 1 is no reply"):
        Ledger(path)


def test_two_processes_do_not_share_a_ledger(tmp_path):
    with Ledger(tmp_path / "a"), pytest.raises(UserError, match="another process"):
        Ledger(tmp_path / "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Ledger(tmp_path / "file" / "ledger")


def test_a_failure_keeps_what_was_answered(tmp_path):
    class Failing(Echo):
        def complete(self, requests):
            if requests[0].messages[0].content == "q3":
                raise UserError("no more")
            return super().complete(requests)

    for concurrency in (1, 3):
        path = tmp_path / f"{concurrency}.jsonl"
        with Ledger(path) as ledger, pytest.raises(UserError, match="no more"):
            ask(Failing(concurrency=concurrency), [request(f"q{i}") for i in range(9)], ledger)
        assert 3 <= len(path.read_text().splitlines()) <= 8


def test_ctrl_c_pays_for_nothing_that_has_not_begun(tmp_path):
    begun = threading.Event()

    class Slow(Echo):
        def complete(self, requests):
            found = super().complete(requests)
            begun.set()
            time.sleep(0.3)
            return found

    def press():
        begun.wait()
        time.sleep(0.1)  # by when all are handed over, and the main thread waits
        os.kill(os.getpid(), signal.SIGINT)

    model, presser = Slow(concurrency=2), threading.Thread(target=press)
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        # Processes that share out tests ignore the signal.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            presser.start()
            with pytest.raises(KeyboardInterrupt):
                ask(model, [request(f"q{i}") for i in range(8)], ledger)
            presser.join()
        finally:
            signal.signal(signal.SIGINT, before)
        assert len(ledger) == len(model.asked) <= 2


KILLED = """
import os, signal, sys
from llm_dynamics.skillmix.chat import Reply, Request, Settings
from llm_dynamics.skillmix.ledger import Ledger, ask
from llm_dynamics.skillmix.prompts import Message

path, note, last = sys.argv[1], sys.argv[2], int(sys.argv[3])

class Paid:
    name, concurrency, batch = "paid", 1, 1
    count = 0
    def complete(self, requests):
        if self.count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
        with open(note, "a") as file:
            file.write(requests[0].messages[0].content + "\\n")
        return [Reply("paid for")]

requests = [Request((Message("user", f"q{i}"),), Settings()) for i in range(6)]
with Ledger(path) as ledger:
    print(len(ask(Paid(), requests, ledger)))
"""


def test_a_run_that_was_killed_pays_for_nothing_twice(tmp_path):
    paths = [str(tmp_path / "ledger.jsonl"), str(tmp_path / "asked")]

    def run(last):
        command = [sys.executable, "-c", KILLED, *paths, str(last)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert run(3).returncode == -signal.SIGKILL
    assert (tmp_path / "asked").read_text().split() == ["q0", "q1", "q2"]
    done = run(100)
    assert done.returncode == 0 and done.stdout == "6\n", done.stderr
    assert (tmp_path / "asked").read_text().split() == [f"q{i}" for i in range(6)]
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 6
