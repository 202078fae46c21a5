import dataclasses
import json

from absl.testing import absltest, parameterized

from llm_dynamics import spec
from llm_dynamics.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    length: int = 128
    sources: tuple[str, ...] = ("a",)
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Outer:
    data: Inner = dataclasses.field(default_factory=Inner)
    name: str = "x"
    flag: bool = False
    maybe: int | None = None

    def __post_init__(self):
        if self.flag and self.data.length < 10:
            raise UserError("too short")


class SpecTest(parameterized.TestCase):
    @parameterized.parameters(
        ("data.length", "64", 64),
        ("data.length", "1e3", 1000),
        ("data.rate", "3", 3.0),
        ("data.sources", "a@0.5, b@0.5", ("a@0.5", "b@0.5")),
        ("flag", "true", True),
        ("flag", "0", False),
        ("maybe", "7", 7),
        ("maybe", "none", None),
        ("name", "12", "12"),
    )
    def test_override_converts_to_the_fields_type(self, key, text, expected):
        changed = dict(spec.flatten(spec.override(Outer(), {key: text})))[key]
        self.assertEqual(changed, spec.to_json(expected))
        self.assertEqual(type(changed), type(spec.to_json(expected)))

    @parameterized.parameters(
        ("data.lenght", "64", "did you mean 'length'"),
        ("dta.length", "64", "did you mean 'data'"),
        ("data.length", "12.5", "a whole number"),
        ("data.length", "x", "a whole number"),
        ("data.rate", "fast", "'data.rate' expects a finite number"),
        ("data.rate", "nan", "'data.rate' expects a finite number"),
        ("data.rate", "-inf", "'data.rate' expects a finite number"),
        ("data.rate", "1e999", "'data.rate' expects a finite number"),
        ("data.length", "inf", "a whole number"),
        ("flag", "perhaps", "true or false"),
        ("name.first", "a", "single value"),
        ("data", "a", "parts of Inner"),
    )
    def test_a_wrong_override_says_what_was_expected(self, key, text, message):
        with self.assertRaisesRegex(UserError, message):
            spec.override(Outer(), {key: text})

    def test_changes_are_checked_together(self):
        changed = spec.override(Outer(), {"data.length": "5", "name": "y"})
        self.assertEqual((changed.data.length, changed.name), (5, "y"))
        with self.assertRaisesRegex(UserError, "too short"):
            spec.override(Outer(), {"data.length": "5", "flag": "true"})

    def test_json_round_trip(self):
        original = Outer(Inner(70, ("a", "b"), 0.25), "né", True, 3)
        text = json.dumps(spec.to_json(original))
        self.assertEqual(spec.from_json(Outer, json.loads(text)), original)
        with self.assertRaisesRegex(UserError, "data.speed"):
            spec.from_json(Outer, {"data": {"speed": 1}})

    def test_difference_and_fingerprint(self):
        changed = spec.override(Outer(), {"data.length": "64"})
        self.assertEqual(spec.difference(Outer(), changed), ["data.length: 128 -> 64"])
        self.assertEqual(spec.difference({"a": 1}, {"a": 1, "b": 2}), ["b: (absent) -> 2"])
        self.assertNotEqual(spec.fingerprint(Outer()), spec.fingerprint(changed))
        self.assertEqual(spec.fingerprint(Outer()), spec.fingerprint(Outer()))


if __name__ == "__main__":
    absltest.main()
