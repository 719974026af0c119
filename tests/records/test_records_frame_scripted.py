"""The canonical frame, stop strings and the scripted completer."""

from __future__ import annotations

import pytest
import tokenizers

from rung.records.chat.frame import DELIMITER, STOP_STRINGS, Frame
from rung.records.contracts import Completer, Request, Sampling
from rung.records.scripted import Scripted
from rung.records.stop import cut_at_stop, may_become_stop
from rung.records.tokenizer import Tokenizer


def character_tokenizer() -> Tokenizer:
    """One token per character; ids 0 and 1 are start and end."""
    vocabulary = {"<s>": 0, "</s>": 1, "?": 2} | {chr(c): c for c in range(9, 127) if chr(c) != "?"}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("[\\s\\S]"), "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    return Tokenizer(inner, start_ids=(0,), end_ids=(1,))


def test_the_golden_prompt() -> None:
    assert Frame.prompt("Name a fruit.") == "Instruction: Name a fruit.\nResponse:"
    assert Frame.prompt("B", [("A", "a")]) == "Instruction: A\nResponse: a\n###END###\n\nInstruction: B\nResponse:"
    assert Frame.completion("Apple.") == " Apple.\n###END###"


def test_the_mask_covers_response_delimiter_and_end_token_only() -> None:
    tokenizer = character_tokenizer()
    made = Frame.render(tokenizer, "Hi", "Yo")
    assert made.token_ids[0] == 0
    assert made.token_ids[-1] == 1
    trained = [t for t, on in zip(made.token_ids, made.loss_mask, strict=True) if on]
    assert tokenizer.decode(trained) == " Yo" + DELIMITER + "</s>"
    assert tokenizer.decode(made.token_ids[: made.num_prompt_tokens]) == "<s>" + Frame.prompt("Hi")
    assert not made.truncated


def test_truncation_cuts_the_end_and_says_so() -> None:
    made = Frame.render(character_tokenizer(), "Hi", "A long response", max_tokens=30)
    assert made.truncated
    assert len(made.token_ids) == len(made.loss_mask) == 30


@pytest.mark.parametrize("stop", STOP_STRINGS)
def test_each_stop_string_cuts_right_before_it(stop: str) -> None:
    completer = Scripted([f"An answer.{stop} and more"])
    [got] = completer.complete([Request("a", Sampling(stop=STOP_STRINGS), text="x")])
    assert got.text == "An answer."
    assert got.finish_reason == "stop"


def test_a_colon_is_not_a_stop_string() -> None:
    text, stopped = cut_at_stop("Two steps: mix, bake.\nQ: next", STOP_STRINGS)
    assert (text, stopped) == ("Two steps: mix, bake.", True)


def test_what_may_still_become_a_stop_string() -> None:
    assert may_become_stop("An answer.\nRespo", STOP_STRINGS) == 6
    assert may_become_stop("An answer.", STOP_STRINGS) == 0


def test_the_limit_is_hit_exactly_or_not_at_all() -> None:
    completer = Scripted(lambda r: "one two three")
    hit, free = completer.complete(
        [Request("a", Sampling(max_new_tokens=3), text="x"), Request("b", Sampling(max_new_tokens=4), text="x")]
    )
    assert (hit.hit_limit, len(hit.token_ids)) == (True, 3)
    assert (free.hit_limit, free.finish_reason) == (False, "eos")


def test_scripted_keeps_the_promise() -> None:
    completer = Scripted(["x"], score_of=lambda p, c: -float(len(c)))
    assert isinstance(completer, Completer)
    [scored] = completer.score(["prompt"], [" A B"])
    assert scored.total == pytest.approx(-4.0)
    assert completer.scored == [("prompt", " A B")]
    with pytest.raises(AssertionError, match="no answer left"):
        completer.complete([Request("a", Sampling(), text="x"), Request("b", Sampling(), text="y")])


def test_earlier_turns_are_read_and_not_trained_on() -> None:
    tokenizer = character_tokenizer()
    alone = Frame.render(tokenizer, "And then?", "It ran.")
    made = Frame.render(tokenizer, "And then?", "It ran.", earlier=[("Begin.", "A dog.")])
    shown = Frame.prompt("And then?", [("Begin.", "A dog.")])
    assert made.token_ids[: made.num_prompt_tokens] == tuple(tokenizer.document(shown))
    assert sum(made.loss_mask) == sum(alone.loss_mask)
    assert not any(made.loss_mask[: made.num_prompt_tokens])
