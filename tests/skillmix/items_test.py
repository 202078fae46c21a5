"""Items: distinct skills, all combinations alike, and a function of seed, k and index alone."""

import collections

import pytest
from scipy import stats

from llm_dynamics.errors import UserError
from llm_dynamics.skillmix.items import draw, items
from llm_dynamics.skillmix.skills import Skill

SKILLS = [Skill(name, "x") for name in "abcd"]


def test_an_item_depends_on_seed_k_and_index_alone():
    many = items(SKILLS, ["t", "u"], 2, 20, seed=3)
    assert many[7] == draw(SKILLS, ["t", "u"], 2, 7, 3) == items(SKILLS, ["t", "u"], 2, 8, 3)[7]
    assert items(SKILLS, ["t", "u"], 2, 20, seed=4) != many


def test_combinations_orders_and_topics_are_uniform():
    found = items(SKILLS, ["t", "u"], 2, 2400, seed=0)
    assert all(len(set(item.names)) == 2 for item in found)
    counts = collections.Counter((item.names, item.topic) for item in found)
    assert len(counts) == 4 * 3 * 2
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize("k", [0, 5])
def test_more_skills_than_there_are_is_refused(k):
    with pytest.raises(UserError, match=f"k of 1 to 4, the number of skills, got {k}"):
        draw(SKILLS, ["t"], k, 0, 0)


def test_no_topics_are_refused_and_limits_follow_k():
    with pytest.raises(UserError, match="topic"):
        draw(SKILLS, [], 1, 0, 0)
    assert [draw(SKILLS, ["t"], k, 0, 0).limit for k in (1, 2, 3, 4)] == [1, 1, 2, 3]
