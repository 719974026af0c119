"""Conversations of several generations, as token ids from end to end: what was drawn, and what was put between.

A later turn's prompt is the ids of all that stands before it, drawn tokens included, followed by the ids of what is
said next, which are encoded apart. Text that was sampled is never tokenised again: it could come back as other ids.
A completer that takes no ids is given messages; then nothing can be put into the model's mouth, and nothing trained.

A demonstration is rendered from the same pieces, so that what is trained on and what is sampled are the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from rung.base.errors import DataError, SettingsError
from rung.base.seeds import derive
from rung.records.chat.following import following_ids, lead
from rung.records.chat.frame import Rendered
from rung.records.chat.prompting import PromptSettings, prompt_ids
from rung.records.contracts import Completer, Completion, Item, Request, Sampling
from rung.records.rollout import Rollout
from rung.records.tokenizer import Tokenizer
from rung.records.types import Message

__all__ = ["Conversation", "Room", "Script", "Turn", "converse", "demonstrated"]

V = TypeVar("V")


class Script(Protocol):
    """What is said to the model, turn by turn (counted from 0)."""

    @property
    def num_turns(self) -> int:
        """How many generations there are."""

    def said(self, item: Item, turn: int) -> str:
        """The user's words before a generation."""

    def begun(self, turn: int) -> str:
        """What the model's answer begins with, put into its mouth; empty: nothing."""

    def stop(self, turn: int) -> tuple[str, ...]:
        """Strings after which the answer is over; they belong to it."""

    def goes_on(self, turn: int, text: str) -> bool:
        """Whether the next turn is worth playing after this answer."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where a conversation takes place: who answers, how turns become ids (without a tokenizer: messages), and how the
    tokens of each turn are drawn (its stop strings are the script's)."""

    completer: Completer
    sampling: tuple[Sampling, ...]
    tokenizer: Tokenizer | None = None
    chat: PromptSettings = field(default_factory=PromptSettings)
    keep_supports: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One generation. `inserted` are the ids between what was there before and what was drawn: the user's words (but
    for the first turn, whose words are the prompt) and `begun`, what was put into the model's mouth."""

    said: str
    begun: str
    inserted: tuple[int, ...]
    completion: Completion

    @property
    def text(self) -> str:
        """The whole answer, with its beginning and its stop string."""
        return self.begun + self.completion.raw_text


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said and drawn. `prompt_ids` are empty where messages were sent."""

    prompt_ids: tuple[int, ...]
    turns: tuple[Turn, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The model's answers in order."""
        return tuple(turn.text for turn in self.turns)

    @property
    def num_drawn(self) -> int:
        """Tokens that the model drew in all turns."""
        return sum(len(turn.completion.token_ids) for turn in self.turns)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All ids, from the start token to the last one drawn."""
        return (*self.prompt_ids, *(i for t in self.turns for i in (*t.inserted, *t.completion.token_ids)))

    def rollout(self, name: str, group: int, temperature: float) -> Rollout:
        """All turns as one sequence in which what was drawn, and nothing else, is trained.

        Raises:
            DataError: messages were sent, or the completer keeps no log-probabilities.
        """
        if not self.prompt_ids:
            raise DataError("a conversation of messages has no token ids to train on", place=f"rollout '{name}'")
        answers = [turn.completion for turn in self.turns]
        if any(len(one.logprobs) != len(one.token_ids) for one in answers):
            raise DataError(
                "the completer gave no log-probabilities of what it drew",
                place=f"rollout '{name}'",
                hint="set engine.keep_logprobs",
            )
        blanks = [len(turn.inserted) for turn in self.turns]
        return Rollout(
            id=name,
            group=group,
            prompt_ids=self.prompt_ids,
            token_ids=self.token_ids[len(self.prompt_ids) :],
            sampled=_spread(blanks, [(True,) * len(one.token_ids) for one in answers], False),
            logprobs=_spread(blanks, [one.logprobs for one in answers], 0.0),
            temperature=temperature,
            supports=_spread(blanks, [_filled(one.supports, one) for one in answers], None)
            if any(one.supports for one in answers)
            else (),
            entropies=_spread(blanks, [one.entropies for one in answers], 0.0)
            if all(len(one.entropies) == len(one.token_ids) for one in answers)
            else (),
            truncated=any(one.hit_limit for one in answers),
        )


def converse(room: Room, script: Script, items: Sequence[Item], seeds: Sequence[int]) -> list[Conversation]:
    """Play the script once per item; all items take their first turn together, then those that go on their second.

    Raises:
        SettingsError: a completer that takes neither the ids of the tokenizer nor messages, a sampling for another
            number of turns, or words put into the mouth of a model that gets messages.
    """
    _check(room, script)
    going = [Conversation(_opening(room, script, item), ()) for item in items]
    playing = list(range(len(items)))
    for turn in range(script.num_turns):
        asked = [
            _request(room, script, items[n], going[n], seed=derive(seeds[n], "turn", turn), number=n) for n in playing
        ]
        answers = room.completer.complete([request for request, _ in asked])
        for n, (_, begun), answer in zip(playing, asked, answers, strict=True):
            going[n] = replace(going[n], turns=(*going[n].turns, replace(begun, completion=answer)))
        playing = [n for n in playing if script.goes_on(turn, going[n].turns[turn].text)]
    return going


def demonstrated(
    script: Script, item: Item, answers: Sequence[str], tokenizer: Tokenizer, chat: PromptSettings | None = None
) -> Rendered:
    """A written conversation as a training example: loss on the answers (and the end token after the last), not on what
    is said between them."""
    chat = chat or PromptSettings()
    ids = list(prompt_ids(tokenizer, chat, script.said(item, 0)))
    mask, num_prompt = [False] * len(ids), len(ids)
    for turn, answer in enumerate(answers):
        between = following_ids(tokenizer, chat, script.said(item, turn), ids) if turn else ()
        end = tokenizer.end_ids[:1] if turn == len(answers) - 1 else ()
        drawn = [*tokenizer.encode(lead(chat) + answer), *end]
        ids += [*between, *drawn]
        mask += [*(False for _ in between), *(True for _ in drawn)]
    return Rendered(tuple(ids), tuple(mask), num_prompt)


def _check(room: Room, script: Script) -> None:
    able = room.completer.capabilities()
    if len(room.sampling) != script.num_turns:
        raise SettingsError(f"{script.num_turns} turns but sampling for {len(room.sampling)}", place="conversation")
    if room.tokenizer is not None:
        return
    if not able.messages:
        raise SettingsError(
            f"'{able.name}' takes no messages and its tokenizer was not lent",
            place="conversation",
            hint="lend the model's tokenizer, so that turns can be joined as ids",
        )
    if any(script.begun(turn) for turn in range(script.num_turns)):
        raise SettingsError(
            f"nothing can be put into the mouth of '{able.name}', which takes messages",
            place="conversation",
            hint="use a local model",
        )


def _opening(room: Room, script: Script, item: Item) -> tuple[int, ...]:
    return prompt_ids(room.tokenizer, room.chat, script.said(item, 0)) if room.tokenizer else ()


def _request(
    room: Room, script: Script, item: Item, so_far: Conversation, *, seed: int, number: int
) -> tuple[Request, Turn]:
    """What is asked, and the turn that its answer completes."""
    turn = len(so_far.turns)
    said, begun = script.said(item, turn), script.begun(turn)
    name, blank = f"{item.id}:{number}:{turn}", Completion("", "", "", (), "stop", 0)
    sampling = replace(room.sampling[turn], stop=script.stop(turn) if room.tokenizer else ())
    if room.tokenizer is None:
        before = [m for t in so_far.turns for m in (Message("user", t.said), Message("assistant", t.text.strip()))]
        request = Request(name, sampling, seed, messages=(*before, Message("user", said)))
        return request, Turn(said, begun, (), blank)
    words = following_ids(room.tokenizer, room.chat, said, so_far.token_ids) if turn else ()
    inserted = (*words, *(room.tokenizer.encode(lead(room.chat) + begun) if begun else ()))
    ids = (*so_far.token_ids, *inserted)
    request = Request(name, sampling, seed, token_ids=ids, keep_supports=room.keep_supports)
    return request, Turn(said, begun, inserted, blank)


def _filled(values: tuple[V, ...], completion: Completion) -> tuple[V | None, ...]:
    return values or (None,) * len(completion.token_ids)


def _spread(blanks: Sequence[int], drawn: Sequence[Sequence[V]], blank: V) -> tuple[V, ...]:
    """Values of all drawn tokens with a blank at every inserted one."""
    return tuple(v for num, values in zip(blanks, drawn, strict=True) for v in (*(blank,) * num, *values))
