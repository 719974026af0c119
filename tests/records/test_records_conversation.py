"""Conversations are token ids from end to end: drawn ids stay as they are, inserted ones are told apart."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from rung.base.errors import DataError, SettingsError
from rung.models.load import load
from rung.records.chat.following import following_ids
from rung.records.chat.prompting import PromptSettings, prompt_ids
from rung.records.contracts import Completion, Item, Sampling
from rung.records.conversation import Room, converse, demonstrated
from rung.records.scripted import Scripted

ITEM = Item("i", "Say ab.")


@dataclass(frozen=True)
class Plain:
    """Two turns that say what the test says."""

    mouth: str = ""
    stops_after_one: bool = False
    num_turns: int = 2

    def said(self, item: Item, turn: int) -> str:
        return item.instruction if turn == 0 else "Again."

    def begun(self, turn: int) -> str:
        return self.mouth if turn == 0 else ""

    def stop(self, turn: int) -> tuple[str, ...]:
        return (".",)

    def goes_on(self, turn: int, text: str) -> bool:
        return not self.stops_after_one


class Drawing(Scripted):
    """Plays back ids that no tokenizer would make of the text: one byte per token, where "ab" is one token."""

    def __init__(self, tokenizer, texts):
        super().__init__(lambda request: "")
        self.tokenizer, self.texts = tokenizer, list(texts)

    def complete(self, requests):
        self.requests += requests
        return [self.drawn(request, self.texts.pop(0)) for request in requests]

    def drawn(self, request, text):
        ids = tuple(i for letter in text for i in self.tokenizer.encode(letter))
        figures = tuple(-0.25 * (n + 1) for n in range(len(ids)))
        return Completion(request.id, text[:-1], text, ids, "stop", 0, logprobs=figures, entropies=figures)


@pytest.fixture(scope="module")
def tokenizer():
    return load("tiny:gemma3", precision="float32").tokenizer


def room(completer, tokenizer, **more):
    return Room(completer, (Sampling(1.0), Sampling(1.0)), tokenizer, **more)


def test_the_second_prompt_is_the_first_with_the_drawn_ids_and_the_users_words(tokenizer):
    completer = Drawing(tokenizer, ["ab.", "ba."])
    (talk,) = converse(room(completer, tokenizer), Plain(), [ITEM], [7])
    first, second = (request.token_ids for request in completer.requests)
    drawn = talk.turns[0].completion.token_ids
    assert len(drawn) == 3 != len(tokenizer.encode("ab."))  # a second tokenisation would give other ids
    assert first == prompt_ids(tokenizer, PromptSettings(), "Say ab.")
    assert second[: len(first) + 3] == (*first, *drawn)
    assert second[len(first) + 3 :] == following_ids(tokenizer, PromptSettings(), "Again.")
    assert tokenizer.decode(second[len(first) + 3 :]).endswith("Instruction: Again.\nResponse:")
    assert completer.requests[0].seed != completer.requests[1].seed
    assert talk.texts == ("ab.", "ba.")


def test_only_what_was_drawn_is_trained(tokenizer):
    (talk,) = converse(room(Drawing(tokenizer, ["ab.", "ba."]), tokenizer), Plain(), [ITEM], [7])
    rollout = talk.rollout("r", 3, 1.0)
    words = following_ids(tokenizer, PromptSettings(), "Again.")
    assert rollout.sampled == (*(True,) * 3, *(False,) * len(words), *(True,) * 3)
    assert rollout.token_ids == (*talk.turns[0].completion.token_ids, *words, *talk.turns[1].completion.token_ids)
    assert [p for p, s in zip(rollout.logprobs, rollout.sampled, strict=True) if s] == [-0.25, -0.5, -0.75] * 2
    assert all(p == 0.0 for p, s in zip(rollout.logprobs, rollout.sampled, strict=True) if not s)
    assert (rollout.group, rollout.prompt_ids) == (3, prompt_ids(tokenizer, PromptSettings(), "Say ab."))


def test_words_put_into_the_mouth_are_inserted_and_part_of_the_text(tokenizer):
    completer = Drawing(tokenizer, ["ab.", "ba."])
    (talk,) = converse(room(completer, tokenizer), Plain(mouth="Oh,"), [ITEM], [7])
    assert talk.texts[0] == "Oh,ab."
    assert tokenizer.decode(completer.requests[0].token_ids).endswith("Response: Oh,")
    assert talk.rollout("r", 0, 1.0).sampled[: len(talk.turns[0].inserted)] == (False,) * len(talk.turns[0].inserted)


def test_a_conversation_that_does_not_go_on_asks_nothing_more(tokenizer):
    completer = Drawing(tokenizer, ["ab."])
    (talk,) = converse(room(completer, tokenizer), Plain(stops_after_one=True), [ITEM], [7])
    assert (len(completer.requests), len(talk.turns)) == (1, 1)


def test_a_closing_marker_that_was_drawn_is_not_said_twice(tokenizer):
    chat = PromptSettings(format="chatml")
    end = tokenizer.inner.token_to_id("<|im_end|>")
    whole = following_ids(tokenizer, chat, "Again.", (5,))
    assert whole[0] == end
    assert following_ids(tokenizer, chat, "Again.", (5, end)) == whole[1:]
    assert tokenizer.decode(whole) == "<|im_end|>\n<|im_start|>user\nAgain.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("format", ["frame", "chatml", "raw"])
def test_a_demonstration_has_the_ids_that_playing_it_would_have(tokenizer, format):
    chat = PromptSettings(format=format)
    rendered = demonstrated(Plain(), ITEM, ["ab.", "ba."], tokenizer, chat)
    text = " ab." if format == "frame" else "ab."

    class Told(Drawing):
        def drawn(self, request, said):
            ids = tuple(tokenizer.encode(said))
            return Completion(request.id, said, said, ids, "stop", 0, logprobs=(0.0,) * len(ids))

    talks = converse(
        room(Told(tokenizer, [text, text.replace("ab", "ba")]), tokenizer, chat=chat), Plain(), [ITEM], [0]
    )
    assert rendered.token_ids == (*talks[0].token_ids, *tokenizer.end_ids[:1])
    assert rendered.loss_mask[rendered.num_prompt_tokens :] == (*talks[0].rollout("r", 0, 1.0).sampled, True)
    assert not any(rendered.loss_mask[: rendered.num_prompt_tokens])


def test_a_completer_of_messages_gets_turn_one_back_as_its_own():
    completer = Scripted(["first.", "second."])
    (talk,) = converse(room(completer, None), Plain(), [ITEM], [7])
    assert [m.role for m in completer.requests[1].messages] == ["user", "assistant", "user"]
    assert completer.requests[1].messages[1].content == "first."
    assert completer.requests[1].sampling.stop == ()
    assert talk.texts == ("first.", "second.")
    with pytest.raises(DataError, match="no token ids"):
        talk.rollout("r", 0, 1.0)


def test_what_cannot_be_played_is_refused(tokenizer):
    with pytest.raises(SettingsError, match="mouth"):
        converse(room(Scripted([]), None), Plain(mouth="Oh"), [ITEM], [7])
    with pytest.raises(SettingsError, match="2 turns but sampling for 1"):
        converse(replace(room(Scripted([]), tokenizer), sampling=(Sampling(),)), Plain(), [ITEM], [7])
    (talk,) = converse(room(Scripted(["a b", "c d"]), tokenizer), Plain(), [ITEM], [7])
    assert talk.rollout("r", 0, 1.0).num_sampled == 4

    class Idless(Scripted):
        def capabilities(self):
            return replace(super().capabilities(), messages=False)

    with pytest.raises(SettingsError, match="tokenizer was not lent"):
        converse(room(Idless([]), None), Plain(), [ITEM], [7])

    class Silent(Scripted):
        def complete(self, requests):
            return [replace(one, logprobs=()) for one in super().complete(requests)]

    (quiet,) = converse(room(Silent(["a b", "c d"]), tokenizer), Plain(), [ITEM], [7])
    with pytest.raises(DataError, match="no log-probabilities"):
        quiet.rollout("r", 0, 1.0)
