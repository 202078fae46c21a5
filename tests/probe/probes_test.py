"""The target of a probe is an exact suffix of its tokens, or the probe is refused."""

from absl.testing import absltest, parameterized

from llm_dynamics.errors import UserError
from llm_dynamics.probe.probes import Probe, encode, encode_all


class Greedy:
    """Longest match from the left over a list of pieces and all single characters."""

    def __init__(self, *pieces, drop_leading_space=False):
        characters = [chr(c) for c in range(32, 127)] + ["é", "ß"]
        self.pieces = [*sorted(pieces, key=len, reverse=True), *characters]
        self.drop_leading_space = drop_leading_space

    def encode(self, text):
        ids = []
        while text:
            piece = next(p for p in self.pieces if text.startswith(p))
            ids.append(self.pieces.index(piece))
            text = text[len(piece) :]
        return ids

    def decode(self, ids):
        text = "".join(self.pieces[i] for i in ids)
        return text.removeprefix(" ") if self.drop_leading_space else text


class EncodeTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ("one_token", Probe("p", "the capital is", "Paris"), 1),
        ("many_tokens", Probe("p", "the capital is", "Rome"), 5),
        ("quote_outside", Probe("p", "he said:", '"Paris"'), 8),
        ("not_ascii", Probe("p", "le café est", "fermé"), 6),
        ("spaces_inside", Probe("p", "of  two", "big Paris"), 5),
    )
    def test_target_tokens(self, probe, expected):
        tokenizer = Greedy(" Paris", "the", " is")
        encoded = encode(probe, tokenizer)
        self.assertEqual(encoded.num_target, expected)
        self.assertEqual(list(encoded.ids), tokenizer.encode(f"{probe.context} {probe.target}"))
        self.assertEqual(tokenizer.decode(encoded.ids[-expected:]), " " + probe.target)

    def test_a_tokenizer_that_drops_the_leading_space_when_it_decodes(self):
        encoded = encode(Probe("p", "it is", "Paris"), Greedy(" Paris", drop_leading_space=True))
        self.assertEqual(encoded.num_target, 1)

    def test_target_glued_to_the_context_shows_the_tokens_and_advice(self):
        probe = Probe("fact-7/mem", 'he said "', "Paris")
        with self.assertRaises(UserError) as caught:
            encode(probe, Greedy('" Paris'))
        message = str(caught.exception)
        for part in ("fact-7/mem", "token boundary", "'\" Paris'", "'\"'", "reword"):
            self.assertIn(part, message)

    def test_space_glued_to_the_context(self):
        with self.assertRaisesRegex(UserError, "'is '"):
            encode(Probe("p", "it is", "Paris"), Greedy("is ", "is"))

    def test_lossy_tokenizer(self):
        tokenizer = Greedy()
        decode = tokenizer.decode
        tokenizer.decode = lambda ids: decode(ids).lower()
        with self.assertRaisesRegex(UserError, "token boundary"):
            encode(Probe("p", "it is", "Paris"), tokenizer)

    @parameterized.named_parameters(
        ("no_context", "", "Paris", "expected a context"),
        ("blank_context", "  ", "Paris", "expected a context"),
        ("no_target", "it is", "", "empty one"),
        ("blank_target", "it is", " ", "empty one"),
        ("space_before_target", "it is", " Paris", "white space"),
        ("space_after_context", "it is ", "Paris", "white space"),
        ("newline_after_target", "it is", "Paris\n", "white space"),
    )
    def test_refused(self, context, target, message):
        with self.assertRaisesRegex(UserError, f"'p/1'.*{message}"):
            encode(Probe("p/1", context, target), Greedy())


class EncodeAllTest(absltest.TestCase):
    def test_order_is_kept(self):
        probes = [Probe(f"p{i}", "it is", "x" * (i + 1)) for i in range(3)]
        self.assertEqual([e.name for e in encode_all(probes, Greedy())], ["p0", "p1", "p2"])
        self.assertEqual([e.num_target for e in encode_all(probes, Greedy())], [2, 3, 4])

    def test_all_faults_are_reported(self):
        probes = [Probe(f"p{i}", "it is", "" if i % 2 else "x") for i in range(16)]
        with self.assertRaisesRegex(UserError, "8 of 16 probes(.|\n)*'p1'(.|\n)*and 3 more"):
            encode_all(probes, Greedy())

    def test_names_are_unique(self):
        with self.assertRaisesRegex(UserError, "unique.*'a' twice"):
            encode_all([Probe("a", "it is", "x"), Probe("a", "it was", "y")], Greedy())


if __name__ == "__main__":
    absltest.main()
