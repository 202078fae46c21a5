"""The study: a tiny decoder graded exactly, and an endpoint that is a few lines of Python."""

import gc
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from experiments import cli, skillmix
from llm_dynamics.errors import UserError
from llm_dynamics.skillmix import own, parsing, synth

TINY = {
    "data.length": "32",
    "data.batch_size": "8",
    "train.steps": "12",
    "train.tensorboard": "false",
    "texts.texts": "60",
    "optim.schedule.warmup": "2",
    "evaluation.ks": "1,2",
    "evaluation.items": "3",
    "evaluation.generations": "2",
    "evaluation.writer.max_tokens": "8",
    "batch": "16",
}


def tiny(cache, **more):
    return cli.resolve(skillmix.smoke(), "", TINY | {"data.cache_dir": str(cache)} | more)


def test_a_tiny_decoder_is_trained_graded_and_reported(tmp_path, monkeypatch):
    spec = tiny(tmp_path / "cache")
    report = skillmix.run(spec, tmp_path / "run", "launch/local skillmix")
    rows = {r["name"]: r for r in json.loads((tmp_path / "run" / "results.json").read_text())}
    for k in (1, 2):
        for metric in ("full_marks", "all_skills", "skill_fraction"):
            assert rows[f"k={k}/{metric}"]["n"] == 3
        kinds = [rows.get(f"k={k}/full_marks/{kind}") for kind in skillmix.result_rows.KINDS]
        assert sum(row["n"] for row in kinds if row) == 3
    page = report.read_text()
    assert "New combinations" in page and "http://" not in page.replace("http://www.w3.org", "")

    # A second run asks for nothing and ends in the same numbers.
    gc.collect()

    def never(*_):
        raise AssertionError("asked again")

    monkeypatch.setattr(own.OwnModel, "complete", never)
    skillmix.run(spec, tmp_path / "run", "launch/local skillmix")
    assert {r["name"]: r for r in json.loads((tmp_path / "run/results.json").read_text())} == rows


def test_the_plan_and_what_does_not_fit(tmp_path):
    lines = "\n".join(skillmix.describe(tiny(tmp_path)))
    assert "texts: 60, up to 2 skills" in lines and "writer: 12 requests" in lines
    for changes, words in (
        ({"evaluation.gradings": "2"}, "one grading"),
        ({"evaluation.second_turn": "strict"}, "evaluation.second_turn=none, got strict"),
        ({"evaluation.corrections.sentences": "true"}, "corrections.sentences=false, got true"),
        ({"evaluation.ks": "1,11"}, "ks up to 10"),
        ({"data.validation_fraction": "0.1"}, "validation_fraction=0"),
    ):
        with pytest.raises(UserError, match=words):
            tiny(tmp_path, **changes)
    assert len(skillmix.explain(tiny(tmp_path), 3).splitlines()) >= 8
    with pytest.raises(UserError, match="nothing is trained"):
        skillmix.explain(skillmix.endpoint(), 0)


@pytest.mark.parametrize("preset", [skillmix.synth_preset, skillmix.local, skillmix.endpoint])
def test_presets_resolve(preset):
    assert max(preset().evaluation.ks) <= len(synth.SKILLS)


@pytest.fixture
def server():
    """Writes a text, and grades it well unless the topic is tea, where it only chats."""

    class Handler(BaseHTTPRequestHandler):
        asked = 0

        def do_POST(self):
            Handler.asked += 1
            messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
            prompt = messages[-1]["content"]
            text = "Answer: No stone sings twice.\nExplanation: none"
            if "Grade the text" in prompt:
                count = prompt.count(". the text ")
                text = "Lovely!" if '"tea"' in prompt else parsing.lines((1,) * count)
            choice = {"index": 0, "finish_reason": "stop"}
            choice["message"] = {"role": "assistant", "content": text}
            kind = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            data = json.dumps({**kind, "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}/v1", Handler
    found.shutdown()
    found.server_close()


def test_an_endpoint_writes_and_grades(tmp_path, server, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    url, handler = server
    (tmp_path / "topics.txt").write_text("tea\nglass\nchess\n")
    changes = {
        "lists.topics": str(tmp_path / "topics.txt"),
        "lists.common": "metaphor",
        "evaluation.ks": "1,3",
        "evaluation.items": "6",
        "evaluation.generations": "2",
        "evaluation.gradings": "1",
        "grader.prices.completion": "2",
    }
    for side in ("writer", "grader"):
        changes |= {
            f"{side}.endpoint.base_url": url,
            f"{side}.endpoint.model": "m",
            f"{side}.endpoint.key_variable": "",
            f"{side}.endpoint.concurrency": "3",
        }
    spec = cli.resolve(skillmix.endpoint(), "", changes)
    lines = "\n".join(skillmix.describe(spec))
    assert "skills: 11" in lines and "writer: 48 requests" in lines
    assert "grader: 24 requests" in lines and "0.02 at the given prices" in lines
    assert handler.asked == 0
    report = skillmix.run(spec, tmp_path / "run", "launch/local skillmix --preset=endpoint")
    asked = handler.asked
    rows = {r["name"]: r for r in json.loads((tmp_path / "run" / "results.json").read_text())}
    tea = rows["k=3/trouble/missing_items"]["value"]
    assert 0 < tea < 6 and rows["k=3/full_marks"]["n"] == 6 - tea
    assert rows["k=3/full_marks"]["value"] == 1
    assert rows["k=3/full_marks/missing_as_0"]["value"] == pytest.approx(1 - tea / 6)
    assert rows["k=3/trouble/unreadable"]["value"] == 2 * tea
    page = report.read_text()
    for words in ("no points at all", "GPT-4", "Beyond repeating", "No stone sings twice"):
        assert words in page
    gc.collect()  # lets go of the run folder, as the end of a process does
    skillmix.run(spec, tmp_path / "run", "again")
    assert handler.asked == asked <= 48 + 24
