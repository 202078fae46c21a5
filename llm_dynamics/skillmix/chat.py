"""The one thing that generators and graders do: answer a dialogue."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix.prompts import Message


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a reply is drawn; published: temperature .7 and 512 tokens."""

    temperature: float = 0.7  # 0 = greedy
    top_p: float = 1.0  # nucleus
    max_tokens: int = 512  # of the reply

    def __post_init__(self):
        if not 0 <= self.temperature <= 2:
            raise UserError(f"expected a temperature of 0 to 2, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"expected 0 < top_p <= 1, got {self.top_p}")
        if self.max_tokens < 1:
            raise UserError(f"expected max_tokens of at least 1, got {self.max_tokens}")


class Reply(NamedTuple):
    """What a model wrote.

    `finish` is "stop", or "length" where it was cut; tokens are counted by the model, 0 = unknown.
    """

    text: str
    finish: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Request(NamedTuple):
    """One reply that is wanted; `draw` tells several replies to the same dialogue apart."""

    messages: tuple[Message, ...]
    settings: Settings
    draw: int = 0


class Model(Protocol):
    """Something that replies.

    Attributes:
      name: of the model and where it runs, for the record; replies of one name are exchangeable, so
        what decides them beside a request is part of it.
      concurrency: requests that `complete` may get at once, from several threads.
      batch: requests that `complete` is best given together.
    """

    name: str
    concurrency: int
    batch: int

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """A reply to each request.

        Raises:
          UserError: what the user can mend.
        """
        ...
