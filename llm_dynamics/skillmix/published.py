"""Published scores of Skill-Mix, to be shown beside ours; prompts and skills differ."""

import functools
import json
from dataclasses import dataclass
from importlib import resources

from llm_dynamics.errors import UserError


@dataclass(frozen=True)
class Leaderboard:
    """The published table.

    Attributes:
      source: where it is from.
      mark: how far the transcription goes.
      items: behind each score, before common skills are left out.
      scores: model -> k -> metric -> value.
    """

    source: str
    mark: str
    items: int
    scores: dict[str, dict[int, dict[str, float]]]


@functools.cache
def leaderboard() -> Leaderboard:
    """The table that comes with the package.

    Raises:
      UserError: the file is damaged.
    """
    try:
        text = (resources.files(__package__) / "published.json").read_text(encoding="utf-8")
        record = json.loads(text)
        scores = {
            model: {int(k): dict(zip(record["metrics"], v, strict=True)) for k, v in by_k.items()}
            for model, by_k in record["scores"].items()
        }
        return Leaderboard(record["source"], record["mark"], record["items"], scores)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the package's skillmix/published.json is damaged ({error}); install it again"
        ) from None
