"""Scoring of given continuations: exact, packed, few forwards."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.engine.engine_models import MODELS, START, Made, byte_tokenizer, full_logits, llama

from rung.base.errors import DataError
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.engine.tree import grow
from rung.models.families.fallback import Fallback


@pytest.fixture(params=sorted(MODELS))
def made(request: pytest.FixtureRequest) -> Made:
    model: Made = MODELS[request.param]()
    return model


def pairs(count: int) -> tuple[list[str], list[str]]:
    chance = random.Random(8)
    prompts = ["".join(chance.choices("abcdef ", k=chance.randint(1, 90))) for _ in range(count)]
    return prompts, [" " + "".join(chance.choices("xyz", k=chance.randint(0, 20))) for _ in range(count)]


def test_scores_equal_a_full_forward(made: Made) -> None:
    prompts, continuations = pairs(24)
    for prompt, continuation, scored in zip(
        prompts, continuations, Engine(made).score(prompts, continuations), strict=True
    ):
        head, tail = [START, *made.tokenizer.encode(prompt)], made.tokenizer.encode(continuation)
        spread = full_logits(made.network, [*head, *tail])[len(head) - 1 : -1].log_softmax(-1)
        expected = spread.gather(1, torch.tensor(tail)[:, None])[:, 0]
        assert list(scored.token_ids) == tail
        assert torch.allclose(torch.tensor(scored.logprobs), expected, atol=1e-4)


def test_together_equals_one_at_a_time_in_at_most_sixteen_forwards(made: Made) -> None:
    prompts, continuations = pairs(64)
    engine = Engine(made, EngineSettings(score_tokens=512))
    together = engine.score(prompts, continuations)
    assert engine.num_forwards <= 16
    alone = [Engine(made).score([p], [c])[0] for p, c in zip(prompts, continuations, strict=True)]
    for one, other in zip(together, alone, strict=True):
        assert one.token_ids == other.token_ids
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert engine.score(prompts, continuations) == together


def test_labels_of_one_prompt_share_one_document() -> None:
    """A and B after 64 prompts: the forward sees each prompt once, so the token budget holds twice as many."""
    prompts, _ = pairs(64)
    engine = Engine(llama(), EngineSettings(score_tokens=512))
    engine.score(prompts, ["A"] * 64)
    once = engine.num_forwards
    both = engine.score([p for p in prompts for _ in "AB"], ["A", "B"] * 64)
    assert engine.num_forwards == 2 * once
    assert [s.token_ids for s in both[:2]] == [(32,), (33,)]
    longer = engine.score([prompts[0], prompts[0]], ["A", "Axy"])
    assert longer[0].logprobs[0] == pytest.approx(longer[1].logprobs[0], abs=1e-5)
    assert engine.num_forwards == 2 * once + 1


def test_nothing_to_score_costs_nothing() -> None:
    engine = Engine(llama())
    assert engine.score([], []) == []
    assert engine.score(["a", "b"], ["", ""])[1].logprobs == ()
    assert engine.num_forwards == 0


def test_what_cannot_be_scored_is_refused_before_any_work() -> None:
    made = llama()
    engine = Engine(made)
    with pytest.raises(DataError, match=r"pair 1.*\n?.*512"):
        engine.score(["a", "b" * 500], ["c", "d" * 50])
    with pytest.raises(DataError, match="cannot be paired"):
        engine.score(["a"], [])
    with pytest.raises(DataError, match="no context"):
        Engine(replace(made, tokenizer=byte_tokenizer(start_ids=()))).score([""], ["a"])
    assert engine.num_forwards == 0


def test_a_context_that_begins_another_is_not_computed_again() -> None:
    """A response and the line break after it: the second context is the first and one token more."""
    prompts, texts = pairs(64)
    texts = [text + "x" for text in texts]
    engine = Engine(llama(), EngineSettings(score_tokens=512))
    engine.score([p + t for p, t in zip(prompts, texts, strict=True)], ["\n"] * 64)
    once = engine.num_forwards
    wholes = [p + t for p, t in zip(prompts, texts, strict=True)]
    engine.score([*prompts, *wholes], [*texts, *["\n"] * 64])
    assert engine.num_forwards == 2 * once


def branching(count: int) -> tuple[list[str], list[str]]:
    """Prompts that begin alike at several depths, with continuations of one token and of several."""
    chance = random.Random(9)
    trunk = "the rubric that comes before every question is always the same and rather long. "
    limbs = [trunk + "".join(chance.choices("abcdef ", k=30)) for _ in range(4)]
    prompts = [limbs[n % 4] + "".join(chance.choices("ghijkl", k=chance.randint(1, 40))) for n in range(count)]
    return prompts, [" A" if n % 3 else " and more" for n in range(count)]


def test_what_prompts_begin_with_in_common_goes_through_the_network_once(made: Made) -> None:
    prompts, continuations = branching(24)
    honest, seen = made.network.hidden, []

    def counting(token_ids_BT: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(token_ids_BT.numel())
        return honest(token_ids_BT, *rest)

    made.network.hidden = counting  # type: ignore[method-assign]
    together = Engine(made).score(prompts, continuations)
    num_whole = sum(len(prompt) + len(text) for prompt, text in zip(prompts, continuations, strict=True))
    assert sum(seen) < num_whole / 2.5 or isinstance(made.network, Fallback)
    for prompt, continuation, scored in zip(prompts, continuations, together, strict=True):
        head, tail = [START, *made.tokenizer.encode(prompt)], made.tokenizer.encode(continuation)
        made.network.hidden = honest  # type: ignore[method-assign]
        spread = full_logits(made.network, [*head, *tail])[len(head) - 1 : -1].log_softmax(-1)
        expected = spread.gather(1, torch.tensor(tail)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(scored.logprobs), expected, atol=1e-4)


@pytest.mark.parametrize("least_shared", [1, 3, 8])
def test_every_path_of_a_tree_spells_its_document(least_shared: int) -> None:
    chance = random.Random(10)
    made = {tuple(chance.choices((1, 2, 3), k=chance.randint(4, 40))) for _ in range(200)}
    stems = {tuple(chance.choices((1, 2), k=20)) for _ in range(6)}
    made |= {(*stem, *chance.choices((4, 5, 6), k=9)) for stem in stems for _ in range(8)}
    documents = sorted(one for one in made if not any(o != one and o[: len(one)] == one for o in made))
    tree = grow(documents, least_shared)
    tokens = [token for segment in tree.segments for token in segment.ids]
    paths = tree.paths()
    for document, end in zip(documents, tree.ends, strict=True):
        assert tuple(tokens[row] for row in paths[end]) == document
    assert all(segment.parent < number for number, segment in enumerate(tree.segments))
    assert len(tokens) < sum(map(len, documents))
