"""A small server that answers well or badly, and what the client makes of it."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix.chat import Request, Settings
from llm_dynamics.skillmix.endpoint import Endpoint, EndpointConfig, Pace
from llm_dynamics.skillmix.ledger import key_of
from llm_dynamics.skillmix.prompts import Message

ASKED = Request((Message("user", "Hello?"),), Settings(max_tokens=7), draw=3)


def completion(text, finish="stop"):
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": finish,
                "message": {"role": "assistant", "content": text},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
    }


@pytest.fixture
def serve():
    """Starts a server that gives its answers, (status, headers, body), one after the other."""
    servers = []

    def start(*answers):
        left, seen = list(answers), []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                seen.append((self.path, self.headers, json.loads(body)))
                status, headers, body = left.pop(0) if len(left) > 1 else left[0]
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1", seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def endpoint(url, **more):
    config = {"base_url": url, "model": "m", "key_variable": "SKILLMIX_TEST_KEY", "retries": 2}
    return Endpoint(EndpointConfig(**config | more))


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("SKILLMIX_TEST_KEY", "sesame")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_what_is_sent_and_what_comes_back(serve):
    url, seen = serve((200, {}, completion("Hi", "length")))
    reply = endpoint(url, seed=True).complete([ASKED])[0]
    assert reply == ("Hi", "length", 5, 2)
    path, headers, body = seen[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer sesame"
    assert body["messages"] == [{"role": "user", "content": "Hello?"}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.7, 7)
    assert body["seed"] == 3
    endpoint(url, length_key="max_completion_tokens").complete([ASKED])
    assert seen[1][2]["max_completion_tokens"] == 7 and "max_tokens" not in seen[1][2]
    assert "seed" not in seen[1][2]


def test_a_seed_that_is_sent_makes_other_replies():
    found = [endpoint("http://h/v1", **more).name for more in ({}, {"seed": True})]
    assert found == ["http://h/v1 m", "http://h/v1 m (seeded)"]
    assert key_of(found[0], ASKED) != key_of(found[1], ASKED)


def test_failures_that_pass_are_tried_again(serve):
    again = {"Retry-After": "0.01"}
    url, seen = serve(
        (500, again, {"error": "x"}), (429, again, {"error": "x"}), (200, {}, completion("Hi"))
    )
    assert endpoint(url).complete([ASKED])[0].text == "Hi"
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("answer", "words", "tries"),
    [
        ((500, {"Retry-After": "0.01"}, {"error": "x"}), "failed with status 500", 3),
        ((429, {"Retry-After": "0.01"}, {"error": "x"}), "still refuses after 2 retries", 3),
        ((401, {}, {"error": "x"}), "refused the key in SKILLMIX_TEST_KEY", 1),
        ((404, {}, {"error": "x"}), "check model and base_url", 1),
        ((200, {}, b'{"choices": [{"mess'), "no chat completion", 1),
        ((200, {"Content-Type": "text/html"}, b"<html>hello</html>"), "check base_url", 1),
        ((200, {}, {"choices": []}), "something else than a chat completion", 1),
        ((200, {}, {"hello": 1}), "something else than a chat completion", 1),
    ],
)
def test_failures_that_stay_say_what_to_do(serve, answer, words, tries):
    url, seen = serve(answer)
    with pytest.raises(UserError, match=words):
        endpoint(url).complete([ASKED])
    assert len(seen) == tries


def test_nobody_there_and_too_slow(serve):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(UserError, match=r"cannot be reached .*is it running"):
        endpoint(url, retries=0).complete([ASKED])
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
        with pytest.raises(UserError, match=r"did not answer within 0\.2 s"):
            endpoint(url, retries=0, timeout=0.2).complete([ASKED])


def test_what_is_missing_is_said_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("SKILLMIX_TEST_KEY")
    with pytest.raises(UserError, match="environment variable SKILLMIX_TEST_KEY, got none"):
        endpoint("http://127.0.0.1:1/v1")
    assert endpoint("http://127.0.0.1:1/v1", key_variable="").name.endswith("/v1 m")
    with pytest.raises(UserError, match="expects model"):
        endpoint("http://127.0.0.1:1/v1", model="")
    for wrong in (
        {"base_url": "ftp://x"},
        {"timeout": 0},
        {"length_key": "n"},
        {"requests_per_minute": -1},
    ):
        with pytest.raises(UserError, match="expected"):
            EndpointConfig(**wrong)


def test_the_pace_spaces_requests():
    now, slept = [100.0], []
    pace = Pace(120, clock=lambda: now[0], sleep=slept.append)
    for _ in range(3):
        pace.wait()
    now[0] += 5
    pace.wait()
    assert slept == pytest.approx([0.5, 1.0])
