"""Which skills and topics an evaluation draws from, as a user says it."""

import dataclasses

from llm_dynamics.data.cache import cache_folder
from llm_dynamics.errors import UserError
from llm_dynamics.skillmix import skills as skills_lib
from llm_dynamics.skillmix import topics, wordnet
from llm_dynamics.skillmix.skills import Skill


@dataclasses.dataclass(frozen=True)
class ListsConfig:
    """Skills from one place: a file, WordNet, or the short list of this package."""

    skills: str = ""  # a .jsonl, .json or .csv file; "" = WordNet's or the package's own
    wordnet: str = ""  # a noun; all meanings below it are the skills, e.g. "rhetorical device"
    wordnet_sense: int = 1  # of the noun
    wordnet_dir: str = ""  # folder of index.noun and data.noun; "" = where systems put it
    common: tuple[str, ...] = ()  # names of skills that are left out as common
    common_from: float = 0.0  # skills of this frequency or more are left out; 0 = none
    topics: str = ""  # a file; "" = rare titles of Wikipedia's leads
    num_topics: int = 100  # of those
    cache_dir: str = ""  # of the leads; "" = $LLM_DYNAMICS_CACHE, or ~/.cache/llm_dynamics
    seed: int = 0  # of the choice of titles

    def __post_init__(self):
        if self.skills and self.wordnet:
            raise UserError(
                "expected skills from a file or from WordNet, got both; leave one empty"
            )
        if self.num_topics < 1:
            raise UserError(f"expected num_topics of at least 1, got {self.num_topics}")
        if not 0 <= self.common_from <= 1:
            raise UserError(f"expected 0 <= common_from <= 1, got {self.common_from}")


def load(config: ListsConfig) -> tuple[tuple[Skill, ...], tuple[str, ...]]:
    """Skills, without the common ones, and topics.

    Raises:
      UserError: a file or WordNet is not there or wrong, or the leads cannot be fetched.
    """
    if config.skills:
        found = skills_lib.read_skills(config.skills)
    elif config.wordnet:
        found = wordnet.hyponyms(config.wordnet, config.wordnet_dir, config.wordnet_sense)
    else:
        found = skills_lib.built_in()
    found = skills_lib.uncommon(found, config.common, config.common_from or None)
    if config.topics:
        return found, skills_lib.read_topics(config.topics)
    folder = cache_folder(config.cache_dir)
    return found, topics.of_leads(config.num_topics, config.seed, folder)
