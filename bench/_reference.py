"""transformers' `generate` over the same weights in the same memory, and what both contestants are asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import transformers

from rung.models.load import Loaded

__all__ = ["Reference", "endless", "long_prompt", "short_prompts"]

WORDS = "river engine paper harvest window signal garden theory market winter bridge music farmer doctor cloud".split()


class Reference:
    """transformers' model, sampling with top-p 0.9 at temperature 1 from one left-padded batch."""

    def __init__(self, loaded: Loaded) -> None:
        values = dict(loaded.network.published_config())  # type: ignore[operator]
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=loaded.network.output_weight.dtype)
        model.load_state_dict(loaded.network.state_dict(), strict=False, assign=True)
        model.tie_weights()
        self.model: Any = model.eval()
        self._pad = loaded.tokenizer.pad_id

    def generate(self, rows: Sequence[Sequence[int]], num_new_tokens: int) -> int:
        """So many new tokens for every prompt; returns how many were made."""
        longest = max(map(len, rows))
        ids = torch.tensor([[self._pad] * (longest - len(row)) + [*row] for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            out = self.model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=1.0, top_p=0.9, top_k=0, pad_token_id=0,
                min_new_tokens=num_new_tokens, max_new_tokens=num_new_tokens,
            )  # fmt: skip
        return int(out.numel() - ids.numel())


def endless(loaded: Loaded) -> Loaded:
    """The model without tokens that end a text: every answer has the wanted length."""
    return replace(loaded, tokenizer=replace(loaded.tokenizer, end_ids=()))


def short_prompts(count: int, seed: int = 0) -> list[str]:
    """Prompts of about 10 to 35 tokens with a common beginning."""
    chance = random.Random(seed)
    return [
        f"Here is a short text about {' '.join(chance.choices(WORDS, k=chance.randint(3, 25)))}:" for _ in range(count)
    ]


def long_prompt(loaded: Loaded, num_tokens: int, seed: int) -> tuple[int, ...]:
    """Exactly so many tokens of words in random order, start token included."""
    chance = random.Random(seed)
    return tuple(loaded.tokenizer.document(" ".join(chance.choices(WORDS, k=num_tokens)))[:num_tokens])
