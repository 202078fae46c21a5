"""Three places for a passage: what stays of the row, what is trained on, what sees what."""

import functools

import flax.linen as nn
import jax
import numpy as np
from absl.testing import absltest, parameterized

from llm_dynamics.data.config import DataConfig
from llm_dynamics.data.explain import format_explanation
from llm_dynamics.data.injection import Injection, place
from llm_dynamics.data.plan import Plan, PlanSource
from llm_dynamics.data.row_policies import POLICIES, random_offset
from llm_dynamics.data.rows import TokenStream
from llm_dynamics.errors import UserError
from llm_dynamics.model import presets
from llm_dynamics.model.decoder import Decoder
from llm_dynamics.model.loss import token_losses
from tests.data.fakes import FakeTokenizer

TOKENIZER = FakeTokenizer()
EOS = TOKENIZER.eos_id
L, B = 16, 4


def _plan(policy="prefix", texts=(), step=2, isolate=False, seed=0):
    """One source of documents of 11 lower-case letters; passages are upper-case."""
    letters = np.random.default_rng(0).integers(97, 123, (60, 11))
    documents = np.concatenate([letters, np.full((60, 1), EOS)], axis=1)
    ids = b"".join(b"d%02d" % d for d in range(60))
    stream = TokenStream(
        documents.ravel().astype(np.uint16),
        np.arange(61) * 12,
        np.frombuffer(ids, np.uint8),
        np.arange(61) * 3,
    )
    empty = TokenStream(np.zeros(0, np.uint16), np.zeros(1, int), np.zeros(0, np.uint8), [0])
    placed = place(
        [Injection(step, text, f"fact {k}", {"arm": "a"}) for k, text in enumerate(texts)],
        TOKENIZER,
        B,
        L + 1,
        policy=POLICIES[policy],
        seed=seed,
    )
    source = PlanSource("letters", 1.0, "f", stream, empty)
    return Plan([source], L, B, isolate, placed=placed, steps=10)


def _whole(plan, step):
    """Tokens of the rows with the last label, as text; padding is a dot."""
    batch = plan.batch(step)
    rows = np.concatenate([batch.tokens_BxL, batch.targets_BxL[:, -1:]], axis=1)
    return [TOKENIZER.decode(row).replace("\0", ".") for row in rows]


class PolicyTest(parameterized.TestCase):
    @parameterized.parameters(range(25))
    def test_properties_of_any_draw(self, seed):
        rng = np.random.default_rng(seed)
        num_rows, row_length = int(rng.integers(1, 6)), int(rng.integers(40, 90))
        lengths = rng.integers(1, 9, rng.integers(1, 4 * num_rows + 1)).tolist()
        for name, policy in POLICIES.items():
            slots = policy(seed, 7, lengths, num_rows, row_length)
            self.assertEqual(slots, policy(seed, 7, lengths, num_rows, row_length), name)
            self.assertEqual([s.row for s in slots], [i % num_rows for i in range(len(lengths))])
            self.assertEqual({s.alone for s in slots}, {name == "own_row"})
            for row in range(num_rows):
                inside = [k for k, s in enumerate(slots) if s.row == row]
                pushed = 0
                for k in sorted(inside, key=lambda k: slots[k].offset):
                    start = slots[k].offset + pushed
                    self.assertBetween(start, 0, row_length - lengths[k], name)
                    pushed += lengths[k]
            if name != "random_offset":
                self.assertEqual({s.offset for s in slots}, {0})

    def test_draws_depend_on_seed_step_and_index_alone(self):
        draw = lambda seed, step, count=30: [  # noqa: E731
            slot.offset for slot in random_offset(seed, step, [5] * count, 64, 2000)
        ]
        self.assertEqual(draw(0, 0)[:10], draw(0, 0, 10))
        self.assertLen({tuple(draw(*key)) for key in [(0, 0), (1, 0), (0, 1)]}, 3)
        self.assertGreater(len(set(draw(0, 0))), 25)

    def test_draws_are_uniform_over_the_places_that_hold_the_passage(self):
        slots = [random_offset(3, step, [4], 1, 13)[0].offset for step in range(5000)]
        counts = np.bincount(slots)
        self.assertLen(counts, 10)  # 0 .. 13 - 4
        self.assertLess(((counts - 500) ** 2 / 500).sum(), 27.9)  # chi-square, 9 df, p = 0.001

    def test_draws_never_change(self):
        slots = random_offset(0, 100, [494] * 4, 2048, 2049)
        self.assertEqual([slot.offset for slot in slots], [1439, 288, 146, 620])

    def test_unknown_policy(self):
        with self.assertRaisesRegex(UserError, "injection_rows 'own_rows'; did you mean 'own_row'"):
            DataConfig(injection_rows="own_rows")

    @parameterized.parameters(*POLICIES)
    def test_passage_that_does_not_fit(self, policy):
        _plan(policy, ["A" * L])
        with self.assertRaisesRegex(UserError, "'fact 0' has 18 tokens .* room for 17"):
            _plan(policy, ["A" * (L + 1)])
        with self.assertRaisesRegex(UserError, "'fact 4' has 9 tokens .* row 0 has room for"):
            _plan(policy, ["A" * 8] * 5)


class RowsTest(parameterized.TestCase):
    TEXTS = ("AB", "CDE", "FGHI", "J", "KL")  # the fifth shares row 0

    @parameterized.product(policy=tuple(POLICIES), isolate=(True, False), seed=(0, 1, 2, 3))
    def test_what_a_row_holds(self, policy, isolate, seed):
        plain = _whole(_plan(isolate=isolate), 2)
        plan = _plan(policy, self.TEXTS, isolate=isolate, seed=seed)
        rows = _whole(plan, 2)
        for b, text in enumerate(rows):
            mine = [f"{t}$" for t in self.TEXTS[b::B]]
            self.assertLen(text, L + 1)
            for passage in mine:
                self.assertEqual(text.count(passage), 1)
            if policy == "own_row":
                self.assertEqual(text, "".join(mine).ljust(L + 1, "."))
            else:
                left = text
                for passage in mine:
                    left = left.replace(passage, "")
                self.assertEqual(left, plain[b][: len(left)])
            if policy == "prefix":
                self.assertStartsWith(text, "".join(mine))
        self.assertEqual(_whole(plan, 1), _whole(_plan(isolate=isolate), 1))

    @parameterized.product(policy=tuple(POLICIES), isolate=(True, False), seed=(0, 1, 2, 3))
    def test_labels_and_attention_at_every_boundary(self, policy, isolate, seed):
        plan = _plan(policy, self.TEXTS, isolate=isolate, seed=seed)
        batch, rows = plan.batch(2), _whole(plan, 2)
        for b, row in enumerate(plan.explain(2)):
            owner = np.full(L + 1, -1)
            pieces = sorted(row["documents"] + row["injected"], key=lambda p: p["at"])
            for number, piece in enumerate(pieces):
                owner[piece["at"] : piece["at"] + piece["tokens"]] = number
            self.assertEqual(np.sum(owner == -1), row["padding"])
            for i in range(L):
                same, real = owner[i] == owner[i + 1], owner[i + 1] >= 0
                self.assertEqual(batch.mask_BxL[b, i], real and (same or not isolate), rows[b])
            segment = batch.segment_ids_BxL[b]
            inside = owner[:-1]
            self.assertEqual((segment == 0).tolist(), (inside < 0).tolist())
            if isolate:
                for number in set(inside[inside >= 0].tolist()):
                    at = np.flatnonzero(inside == number)
                    self.assertLen(set(segment[at].tolist()), 1)
                    self.assertEqual(batch.positions_BxL[b, at].tolist(), list(range(len(at))))
                real = segment[inside >= 0]
                self.assertLen(set(real.tolist()), len(set(inside[inside >= 0].tolist())))
            else:
                self.assertEqual(set(segment[inside >= 0].tolist()), {1})
                self.assertEqual(batch.positions_BxL[b].tolist(), list(range(L)))

    @parameterized.product(policy=("random_offset", "own_row"), isolate=(True, False))
    def test_a_passage_sees_what_stands_before_it_only_without_the_mask(self, policy, isolate):
        # Row 0 holds two pieces before the last passage: own text, or the passage that shares it.
        texts = ("AB", "C", "D", "E", "FGH")
        seed = next(
            s for s in range(99) if policy == "own_row" or 5 < _at(_plan(policy, texts, seed=s)) < 9
        )
        plan = _plan(policy, texts, isolate=isolate, seed=seed)
        batch, at = plan.batch(2), _at(plan)
        self.assertEqual(TOKENIZER.decode(batch.tokens_BxL[0, at : at + 3]), "FGH")
        changed = batch.tokens_BxL.copy()
        changed[0, 0] += 1
        losses, _ = _model()
        before, after = losses(batch), losses(batch._replace(tokens_BxL=changed))
        inside = slice(at, at + 3)
        if isolate:
            np.testing.assert_array_equal(before[0, inside], after[0, inside])
        else:
            self.assertGreater(np.abs(before[0, inside] - after[0, inside]).max(), 1e-6)

    def test_gradient_of_a_padded_row_is_finite(self):
        batch = _plan("own_row", ["AB"]).batch(2)
        _, gradient = _model()
        for leaf in jax.tree.leaves(gradient(batch)):
            self.assertTrue(np.isfinite(leaf).all())


class AccountTest(parameterized.TestCase):
    def test_dose_and_padding(self):
        for policy in POLICIES:
            about = _plan(policy, RowsTest.TEXTS).describe()
            dose = about["doses"]["a"]
            self.assertEqual((dose["tokens"], dose["rows"], dose["encounters"]), (17, 4, 5))
            # Rows of 16: AB$KL$ leaves 10, CDE$ 12, FGHI$ 11, J$ 14.
            self.assertEqual(about["padding_tokens"], 47 if policy == "own_row" else 0)
            silent = (_plan(policy, RowsTest.TEXTS).batch(2).segment_ids_BxL == 0).sum()
            self.assertEqual(silent, about["padding_tokens"])

    def test_explained(self):
        text = format_explanation(_plan("own_row", RowsTest.TEXTS).explain(2)).splitlines()
        self.assertRegex(text[0], "row 0  letters")
        self.assertRegex(text[1], "^ +0  INJECTED fact 0 .* 3 tokens")
        self.assertRegex(text[2], "^ +3  INJECTED fact 4 .* 3 tokens")
        self.assertRegex(text[3], "^ +6  padding  11 tokens")

    def test_policies_have_fingerprints_of_their_own(self):
        prints = [_plan(policy, RowsTest.TEXTS).fingerprint for policy in POLICIES]
        prints.append(_plan("random_offset", RowsTest.TEXTS, seed=1).fingerprint)
        self.assertLen(set(prints), 4)


class FirstStepTest(parameterized.TestCase):
    def test_a_plan_that_begins_later_reads_on_and_injects_by_its_own_count(self):
        whole, late = _plan(texts=["AB"], step=5), _plan(texts=["AB"], step=2)
        late = Plan(late._sources, L, B, False, placed=late._placed, steps=7, first_step=3)
        for step in range(4):
            for a, b in zip(whole.batch(3 + step), late.batch(step), strict=True):
                np.testing.assert_array_equal(a, b)
        self.assertNotEqual(late.fingerprint, _plan(texts=["AB"], step=2).fingerprint)
        self.assertEqual(late.describe()["sources"][0]["rows_read"], 7 * B)


@functools.cache
def _model():
    """Losses and gradient of a batch under a tiny decoder, compiled once."""
    sizes = {"vocab_size": 300, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32}
    decoder = Decoder(presets.named("pocket-0.1m", **sizes))
    params = jax.jit(lambda: nn.unbox(decoder.new_params(jax.random.key(0))))()
    mean = lambda p, b: (token_losses(decoder, p, b) * b.mask_BxL).mean()  # noqa: E731
    return (
        jax.jit(lambda batch: token_losses(decoder, params, batch)),
        jax.jit(lambda batch: jax.grad(mean)(params, batch)),
    )


def _at(plan):
    """Where the last passage of row 0 begins."""
    return plan.explain(2)[0]["injected"][-1]["at"]


if __name__ == "__main__":
    absltest.main()
