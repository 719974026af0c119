"""What of a conversation is trained, by pattern: decoded, it is the expected text (item 226)."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rung.models.load import load
from rung.records.chat.frame import Frame
from rung.records.chat.masking import Trained
from rung.records.tokenizer import Tokenizer

EARLIER = [("Say a colour: red or blue.", "Red."), ("And another?", "Blue, of course.")]


@pytest.fixture(scope="module", params=["tiny:llama", "tiny:gemma3"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = load(request.param, clean=False, strict=False).tokenizer
    return found


def spans(tokenizer: Tokenizer, trained: Trained, earlier: list[tuple[str, str]]) -> list[str]:
    """The texts that carry loss, one for each run of trained tokens."""
    made = Frame.render(tokenizer, "The last?", "Green.", earlier=earlier, trained=trained)
    plain = Frame.render(tokenizer, "The last?", "Green.", earlier=earlier)
    assert made.token_ids == plain.token_ids
    edges = [n for n, (a, b) in enumerate(pairwise([False, *made.loss_mask, False])) if a != b]
    found = [made.token_ids[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True)]
    return [tokenizer.inner.decode(list(ids), skip_special_tokens=True) for ids in found]


def test_what_is_trained_decodes_to_the_expected_text(tokenizer: Tokenizer) -> None:
    last, first, second = (Frame.completion(text) for text in ("Green.", "Red.", "Blue, of course."))
    assert spans(tokenizer, "response", EARLIER) == [last]
    assert spans(tokenizer, "turns", EARLIER) == [first, second, last]
    assert spans(tokenizer, "everything", EARLIER) == [Frame.prompt("The last?", EARLIER) + last]


def test_without_earlier_turns_the_only_response_is_all_turns(tokenizer: Tokenizer) -> None:
    assert spans(tokenizer, "turns", []) == spans(tokenizer, "response", []) == [Frame.completion("Green.")]
