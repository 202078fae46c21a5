"""A ledger of replies: what was answered once is never asked, or paid for, again.

Every reply is a line of JSON, on the disk as soon as it is there, under a digest of model,
dialogue, settings and draw. As many requests are under way as the model takes at once; one by one,
a reply is on the disk before the next is asked for. A run that was killed goes on where it
stopped; only what was being answered at that moment is asked twice. A last line that was cut is
dropped.
"""

import fcntl
import json
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from llm_dynamics.errors import UserError
from llm_dynamics.files import expanded
from llm_dynamics.skillmix.chat import Model, Reply, Request
from llm_dynamics.spec import fingerprint, to_json

_log = logging.getLogger(__name__)


def key_of(model: str, request: Request) -> str:
    """The digest under which a reply is kept.

    What decides a reply goes in: dialogue, settings and draw, and what else the model is set to by
    its name. How settings are sent (as `EndpointConfig.length_key`) does not.
    """
    asked = [list(message) for message in request.messages]
    return fingerprint([model, asked, to_json(request.settings), request.draw])


class Ledger:
    """Replies in a file. One process writes at a time; threads may share it."""

    def __init__(self, path: str | Path):
        self.path = expanded(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as error:
            raise UserError(
                f"the ledger {self.path} cannot be written ({error.strerror}); choose another place"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"another process writes the ledger {self.path}; wait for it or stop it"
            ) from None
        except OSError as error:
            _log.warning("no lock on %s (%s): keep it to one process", self.path, error.strerror)
        self._replies = self._read()

    def __len__(self) -> int:
        return len(self._replies)

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def get(self, key: str) -> Reply | None:
        """The reply kept under a digest."""
        return self._replies.get(key)

    def put(self, key: str, model: str, reply: Reply) -> None:
        """Keeps a reply; it is on the disk when this returns."""
        line = json.dumps({"key": key, "model": model, **reply._asdict()}, ensure_ascii=False)
        with self._lock:
            self._file.write(line.encode("utf-8", "surrogatepass") + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._replies[key] = reply

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _read(self) -> dict[str, Reply]:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            _log.warning("%s: its last line was cut and is dropped", self.path)
            self._file.truncate(whole)
        replies = {}
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                record = json.loads(line)
                reply = Reply(*(record[field] for field in Reply._fields))
                replies[record["key"]] = reply
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{self.path}, line {number} is no reply ({type(error).__name__}: {error}); "
                    "delete that line to ask for it again"
                ) from None
        return replies


def ask(model: Model, requests: Sequence[Request], ledger: Ledger) -> list[Reply]:
    """A reply to every request: out of the ledger, or from the model and then into the ledger.

    Requests that are not answered yet go to the model in batches, several at once where the model
    allows it. The first failure, or Ctrl-C, ends it once what is under way is answered and kept.

    Raises:
      UserError: from the model.
    """
    keys = [key_of(model.name, request) for request in requests]
    todo = {k: r for k, r in zip(keys, requests, strict=True) if k not in ledger}
    pending = list(todo.items())
    parts = [pending[i : i + model.batch] for i in range(0, len(pending), model.batch)]
    if todo:
        _log.info("%s: %d replies kept, asking for %d", model.name, len(set(keys)) - len(todo),
                  len(todo))  # fmt: skip

    def answer(part: list[tuple[str, Request]]) -> None:
        replies = model.complete([request for _, request in part])
        for (key, _), reply in zip(part, replies, strict=True):
            ledger.put(key, model.name, reply)

    if model.concurrency <= 1:
        for part in parts:
            answer(part)
    else:
        _at_once(answer, parts, model.concurrency)
    return [ledger.get(key) for key in keys]


def _at_once(answer, parts: Iterable, concurrency: int) -> None:
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            futures = [pool.submit(answer, part) for part in parts]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:  # Ctrl-C too: what has not begun must not be paid for
            pool.shutdown(wait=True, cancel_futures=True)
            raise
