"""The canonical frame: `Instruction: ...` / `Response: ...`, closed by a delimiter. No template tokens, any base model.

One place renders it; generation, critics, training and evaluation all call this file. A training example is
`Instruction: {i}\\nResponse: {r}` + delimiter; loss falls on the response and the delimiter, whose ids are made apart
from the prompt's, so the mask is right by construction and no token straddles the border.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rung.records.chat.masking import Trained
from rung.records.tokenizer import Tokenizer

__all__ = ["Frame"]

DELIMITER = "\n###END###"
_BETWEEN = "\n\n"  # pairs of a conversation
STOP_STRINGS = ("\nInstruction", "\nQ:", "\n###", "\nUser:", "\nResponse:")


@dataclass(frozen=True, slots=True)
class Rendered:
    """One training example. `token_ids` starts with the model's start token(s); `loss_mask[t]` says whether token t
    is a target (so the logits at t-1 are trained); `num_prompt_tokens` counts everything before the response."""

    token_ids: tuple[int, ...]
    loss_mask: tuple[bool, ...]
    num_prompt_tokens: int
    truncated: bool = False


class Frame:
    """The format as an object, so that a recipe can name another one in its place."""

    name = "frame"
    stop_strings = STOP_STRINGS
    delimiter = DELIMITER

    @staticmethod
    def prompt(instruction: str, examples: Sequence[tuple[str, str]] = ()) -> str:
        """The text a model continues with the response; `examples` are (instruction, response) few-shots before it."""
        shots = "".join(f"Instruction: {i}\nResponse: {r}{DELIMITER}{_BETWEEN}" for i, r in examples)
        return f"{shots}Instruction: {instruction}\nResponse:"

    @staticmethod
    def blank() -> str:
        """The frame with nothing asked: what information gain compares with."""
        return "Response:"

    @staticmethod
    def completion(response: str) -> str:
        """The text trained on after `prompt`: a space, the response, the delimiter."""
        return f" {response}{DELIMITER}"

    @classmethod
    def render(
        cls,
        tokenizer: Tokenizer,
        instruction: str,
        response: str,
        max_tokens: int = 0,
        *,
        earlier: Sequence[tuple[str, str]] = (),
        trained: Trained = "response",
    ) -> Rendered:
        """Ids and mask of one example; the tokenizer's first end token, when there is one, closes and is trained.

        With `max_tokens` the *end* of the response is cut and `truncated` says so. `earlier` are the pairs of a
        conversation before this one, which are part of the prompt. `trained` says whether their responses carry loss
        too ("turns"), or all text ("everything"); the ids are the same.
        """
        prompt = cls.prompt(instruction, earlier)
        prompt_ids = tokenizer.document(prompt)
        target_ids = [*tokenizer.encode(cls.completion(response)), *tokenizer.end_ids[:1]]
        ids = [*prompt_ids, *target_ids]
        mask = [
            *cls._prompt_mask(tokenizer, prompt, len(prompt_ids), earlier=earlier, trained=trained),
            *[True] * len(target_ids),
        ]
        cut = bool(max_tokens) and len(ids) > max_tokens
        limit = max_tokens if cut else len(ids)
        return Rendered(tuple(ids[:limit]), tuple(mask[:limit]), min(len(prompt_ids), limit), cut)

    @classmethod
    def _prompt_mask(
        cls, tokenizer: Tokenizer, prompt: str, num_ids: int, *, earlier: Sequence[tuple[str, str]], trained: Trained
    ) -> list[bool]:
        """Which tokens of the prompt carry loss. A token counts to a response when all of its characters do."""
        if trained == "response" or (trained == "turns" and not earlier):
            return [False] * num_ids
        offsets = tokenizer.inner.encode(prompt, add_special_tokens=False).offsets
        if trained == "everything":
            own = [True] * len(offsets)
        else:
            spans, at = [], 0
            for instruction, response in earlier:
                begin = at + len(cls.prompt(instruction))
                spans.append((begin, begin + len(cls.completion(response))))
                at = spans[-1][1] + len(_BETWEEN)
            own = [any(begin <= start < end <= stop for begin, stop in spans) for start, end in offsets]
        return [*[False] * (num_ids - len(own)), *own]
