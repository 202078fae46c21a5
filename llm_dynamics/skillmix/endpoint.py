"""Models behind any OpenAI-compatible endpoint, through the `openai` library.

Retries, growing pauses and `Retry-After` are the library's; here are a limit of requests a minute,
a key out of the environment, and errors that say what to do.
"""

import dataclasses
import os
import threading
import time
from collections.abc import Sequence

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix.chat import Reply, Request


@dataclasses.dataclass(frozen=True)
class EndpointConfig:
    """Where a model answers."""

    base_url: str = ""  # e.g. http://127.0.0.1:8000/v1
    model: str = ""  # as the endpoint calls it
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the key; "" = none is needed
    requests_per_minute: float = 0.0  # 0 = no limit of ours
    concurrency: int = 1  # requests at once
    retries: int = 5  # of a request, after 408, 409, 429, 5xx and lost connections
    timeout: float = 120.0  # seconds for one request
    seed: bool = False  # send the number of the draw as `seed`
    length_key: str = "max_tokens"  # or "max_completion_tokens", which some models insist on

    def __post_init__(self):
        if self.base_url and not self.base_url.startswith(("http://", "https://")):
            raise UserError(f"expected base_url to begin with http(s)://, got {self.base_url!r}")
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0:
            raise UserError(
                "expected concurrency >= 1, retries >= 0 and timeout > 0, got "
                f"{self.concurrency}, {self.retries} and {self.timeout}"
            )
        if self.length_key not in ("max_tokens", "max_completion_tokens"):
            raise UserError(
                f"expected length_key max_tokens or max_completion_tokens, got {self.length_key!r}"
            )
        if self.requests_per_minute < 0:
            raise UserError(f"expected requests_per_minute >= 0, got {self.requests_per_minute}")


class Endpoint:
    """A `chat.Model` that asks an endpoint."""

    batch = 1

    def __init__(self, config: EndpointConfig):
        """Reads the key and checks the settings; nothing is asked yet.

        Raises:
          UserError: no address, model, key or library.
        """
        for key in ("base_url", "model"):
            if not getattr(config, key):
                raise UserError(f"an endpoint expects {key}, got none; see docs/skillmix.md")
        secret = "none"
        if config.key_variable:
            secret = os.environ.get(config.key_variable, "")
            if not secret:
                raise UserError(
                    f"expected a key in the environment variable {config.key_variable}, got none; "
                    "export it, name another key_variable, or leave key_variable empty where the "
                    "endpoint asks for none"
                )
        self._openai = _library()
        self.config = config
        self.name = f"{config.base_url} {config.model}" + " (seeded)" * config.seed
        self.concurrency = config.concurrency
        self._pace = Pace(config.requests_per_minute)
        self._client = self._openai.OpenAI(
            base_url=config.base_url,
            api_key=secret,
            max_retries=config.retries,
            timeout=config.timeout,
        )

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Asks for one reply after the other; see `chat.Model`."""
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Reply:
        self._pace.wait()
        extra = {self.config.length_key: request.settings.max_tokens}
        extra |= {"seed": request.draw} if self.config.seed else {}
        try:
            found = self._client.chat.completions.create(
                model=self.config.model,
                messages=[message._asdict() for message in request.messages],
                temperature=request.settings.temperature,
                top_p=request.settings.top_p,
                **extra,
            )
        except self._openai.OpenAIError as error:
            raise UserError(self._said(error)) from error
        except ValueError as error:  # of the JSON of a reply
            raise UserError(self._said(error)) from error
        return self._reply(found)

    def _reply(self, found) -> Reply:
        try:
            choice = found.choices[0]
            text = choice.message.content or ""
        except (AttributeError, IndexError, TypeError):
            raise UserError(
                f"{self.name} answered something else than a chat completion; check base_url, "
                "which usually ends in /v1"
            ) from None
        usage = found.usage
        counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        return Reply(text, choice.finish_reason or "stop", *(int(n or 0) for n in counts))

    def _said(self, error: Exception) -> str:
        openai, name = self._openai, self.name
        kept = "what was answered is kept, and the same command goes on"
        status = getattr(error, "status_code", None)
        if isinstance(error, openai.APITimeoutError):
            return f"{name} did not answer within {self.config.timeout:g} s; raise timeout. {kept}"
        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            return f"{name} cannot be reached ({cause}); is it running, is base_url right? {kept}"
        if status in (401, 403):
            return (
                f"{name} refused the key in {self.config.key_variable or 'no variable'} ({error})"
            )
        if status == 404:
            return f"{name}: no such model or address ({error}); check model and base_url"
        if status == 429:
            return (
                f"{name} still refuses after {self.config.retries} retries ({error}); lower "
                f"requests_per_minute or concurrency. {kept}"
            )
        if status is not None:
            return f"{name} failed with status {status} ({error}). {kept}"
        return f"{name} answered what is no chat completion ({error}); check base_url. {kept}"


class Pace:
    """At most so many starts a minute, evenly spaced, over all threads."""

    def __init__(self, per_minute: float, clock=time.monotonic, sleep=time.sleep):
        self._gap = 60 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._lock, self._next = threading.Lock(), 0.0

    def wait(self) -> None:
        """Returns when the next request may start."""
        if not self._gap:
            return
        with self._lock:
            now = self._clock()
            start = max(now, self._next)
            self._next = start + self._gap
        if start > now:
            self._sleep(start - now)


def _library():
    try:
        import openai
    except ImportError:
        raise UserError(
            "endpoints need the package openai; run with EXTRAS=skillmix, or pip install "
            "'openai>=2,<4'"
        ) from None
    return openai
