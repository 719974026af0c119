"""Best-of-N: yields and costs from stored candidates, against brute force, and the written rule."""

from __future__ import annotations

import itertools
import random
from statistics import fmean

import pytest
from tests.datagen.datagen_builders import candidate, critique, rejected

from rung.base.errors import DataError
from rung.datagen.assemble import choose, sft_record
from rung.datagen.best_of_n import BestOfNRule, Tries, decide, options, tries_of
from rung.datagen.generators.responses import Responses
from rung.datagen.pool import load_pool
from rung.records.contracts import Request
from rung.records.scripted import Scripted
from rung.records.types import Drop, Instruction


def tries(*rows: tuple[int, list[float]]) -> list[Tries]:
    """(drawn, accepted ranks) of each instruction, ten tokens a response."""
    return [Tries(f"i{n}", drawn, tuple(ranks), 0, 10 * drawn) for n, (drawn, ranks) in enumerate(rows)]


def test_options_equal_brute_force_over_all_choices() -> None:
    chance = random.Random(3)
    rows = []
    for _ in range(12):
        ranks = sorted((chance.uniform(0, 3) for _ in range(chance.randint(0, 5))), reverse=True)
        rows.append((5, ranks))
    found = options(tries(*rows), instruction_tokens=120)
    for option in found:
        kept, ranks_kept = [], []
        for _, ranks in rows:
            all_ranks = [*ranks, *[None] * (5 - len(ranks))]
            best = [
                max((rank for rank in some if rank is not None), default=None)
                for some in itertools.combinations(all_ranks, option.num_candidates)
            ]
            kept.append(fmean(one is not None for one in best))
            ranks_kept.append(sum(one or 0.0 for one in best) / len(best))
        assert option.kept_share == pytest.approx(fmean(kept))
        assert option.mean_rank == pytest.approx(sum(ranks_kept) / sum(kept))
        tokens = 120 / 12 + 10 * option.num_candidates
        assert option.tokens_per_kept == pytest.approx(tokens / fmean(kept))


def test_yield_of_a_critic_that_passes_77_percent_at_random() -> None:
    chance = random.Random(5)
    rows = [(3, [1.0] * sum(chance.random() < 0.77 for _ in range(3))) for _ in range(600)]
    found = options(tries(*rows))
    assert found[0].low < 0.77 < found[0].high
    assert found[2].kept_share >= 0.95
    assert found[2].response_calls == 3 * found[0].response_calls


def test_repeats_count_as_their_first_was_judged() -> None:
    kept, other = candidate(1, id="a"), rejected(1, id="b")
    drops = [Drop("c", "x", "responses", "same_as_sibling", (0, 1), {"repeats": "a", "num_raw_tokens": 7})]
    (found,) = tries_of([kept, other], [*drops, Drop("d", "x", "garbage", "words", None, {})])
    assert (found.num_drawn, found.num_repeats, found.ranks) == (3, 1, (2.0, 2.0))
    assert found.num_tokens == kept.num_raw_tokens + other.num_raw_tokens + 7


def test_accepted_but_passed_over_is_accepted() -> None:
    rows = [candidate(1, id="a"), candidate(1, id="b", outcome="passed_over", reason="sibling_is_better")]
    assert tries_of(rows, [])[0].ranks == (2.0, 2.0)


@pytest.mark.parametrize(
    ("rows", "rule", "number", "words"),
    [
        ([(3, [1.0])] * 30, {}, 3, "yes"),
        ([(3, [1.0, 1.0, 1.0])] * 30, {}, 1, "no"),
        ([(3, [1.0])] * 19, {}, 1, "19 answered instructions, 20 are needed"),
        ([(1, [1.0])] * 30, {}, 1, "nothing was measured"),
        ([(3, [1.0])] * 30, {"max_cost_ratio": 0.5}, 1, "at most 0.50x"),
        ([(3, [])] * 30, {}, 1, "one response keeps none"),
    ],
)
def test_the_written_rule(rows: list[tuple[int, list[float]]], rule: dict[str, float], number: int, words: str) -> None:
    decision = decide(tries(*rows), 600, BestOfNRule.model_validate(rule))
    assert decision.num_candidates == number
    assert decision.go == (number > 1)
    assert any(words in reason for reason in decision.reasons), decision.reasons


def test_repeats_beyond_the_share_decide_against_it() -> None:
    rows = [Tries(f"i{n}", 3, (1.0,), 2, 30) for n in range(30)]
    decision = decide(rows, 0, BestOfNRule())
    assert decision.num_candidates == 1
    assert "repeat a sibling" in decision.reasons[0]


def test_nothing_answered_is_an_error() -> None:
    with pytest.raises(DataError, match="no instruction was answered"):
        decide([], 0, BestOfNRule())


def generated(number: int) -> tuple[list[Request], int, tuple[Drop, ...]]:
    """Requests, distinct candidates and drops of eight instructions with `number` responses each."""
    texts = iter(f"Answer {n // 2}" for n in range(1000))  # every second repeats the one before
    completer = Scripted(lambda request: next(texts))
    settings = Responses.Settings(num_candidates=number)
    part = Responses(settings, completer=completer, pool=load_pool("few_shot_pool"))
    asked = [Instruction(f"i{n}", f"What is {n}?", "factual", "h", n, outcome="accepted") for n in range(8)]
    made = part.generate(asked, 1)
    return completer.requests, len(made.candidates), made.dropped


def test_exactly_n_response_calls_with_their_own_seeds_and_repeats_counted() -> None:
    requests, num_candidates, dropped = generated(4)
    assert len(requests) == 32
    assert len({request.seed for request in requests}) == 32
    assert num_candidates == 16
    assert [drop.reason for drop in dropped] == ["same_as_sibling"] * 16
    assert all(drop.detail["num_raw_tokens"] == 2 for drop in dropped)


def test_one_response_is_the_first_of_several() -> None:
    assert generated(1)[0] == [r for r in generated(3)[0] if r.id.endswith("-0")]


def test_the_winner_is_the_accepted_of_highest_rank_and_the_rest_travel_with_their_critiques() -> None:
    verdicts = [(True, True, 1.0), (True, True, 3.0), (False, True, 9.0), (True, False, 5.0), (True, True, 3.0)]
    rows = [
        candidate(1, "Same text.", id=f"c{n}", outcome="generated", pair_critique=critique(good, sure, margin))
        for n, (good, sure, margin) in enumerate(verdicts)
    ]
    decided = choose(rows)
    assert [one.outcome for one in decided] == ["passed_over", "kept", "rejected", "rejected", "passed_over"]
    record = sft_record(decided[1], [one for one in decided if one.outcome != "kept"])
    assert [reject["id"] for reject in record.rejects] == ["c0", "c2", "c3", "c4"]
    assert [reject["critique"]["predicted_label"] for reject in record.rejects] == ["A", "B", "A", "A"]
    assert [reject["signed_margin"] for reject in record.rejects] == [1.0, -9.0, 5.0, 3.0]


def test_with_none_acceptable_nothing_is_chosen() -> None:
    rows = [candidate(1, id=f"c{n}", outcome="generated", pair_critique=critique(good=False)) for n in range(3)]
    assert [one.outcome for one in choose(rows)] == ["rejected"] * 3
