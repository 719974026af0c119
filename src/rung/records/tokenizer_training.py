"""Training a byte-level byte-pair tokenizer on a corpus, and measuring what it costs.

Sennrich et al. 2016 (arXiv 1508.07909) on bytes, as in GPT-2; trained by the `tokenizers` library. Every text comes
back byte for byte. Special tokens are single ids that no text can produce: they are matched nowhere when text is
encoded through `rung.records.encoding`, and control tokens are added by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pydantic
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from rung.base.errors import DataError, SettingsError
from rung.base.settings import Field, Settings
from rung.records.encoding import Encoder
from rung.records.pieces import RULES, RuleName
from rung.records.tokenizer import Tokenizer

__all__ = ["SPECIAL", "TokenizerFigures", "TrainerSettings", "as_tokenizer", "measure", "train_tokenizer"]

SPECIAL = ("<pad>", "<bos>", "<eos>")
_BYTES = 256


class TrainerSettings(Settings):
    """How many entries, how a text is cut, and which tokens have a meaning of their own."""

    vocabulary: int = Field(4096, ge=_BYTES + len(SPECIAL), le=1 << 20, description="entries, special ones included")
    rule: RuleName = Field("text", description="how a text is cut into pieces: text (GPT-2's rule) or code")
    min_count: int = Field(2, ge=1, description="times that a pair must stand in the corpus to be merged")
    control: tuple[str, ...] = Field((), description="control tokens, a single id each, such as <thought>")

    @pydantic.model_validator(mode="after")
    def _room_for_all(self) -> TrainerSettings:
        """No token twice, and a vocabulary that holds the bytes and every special token."""
        tokens = [*SPECIAL, *self.control]
        if len(set(tokens)) != len(tokens) or not all(tokens):
            raise ValueError(f"a control token stands twice or is empty: {', '.join(self.control)}")
        if self.vocabulary < _BYTES + len(tokens):
            raise ValueError(f"{_BYTES} bytes and {len(tokens)} special tokens do not fit {self.vocabulary} entries")
        return self


@dataclass(frozen=True, slots=True)
class TokenizerFigures:
    """What a tokenizer costs on texts that it was not trained on. `num_broken` texts did not come back as they were."""

    num_texts: int
    num_broken: int
    bytes_per_token: float
    tokens_per_line: float
    num_unused: int


def train_tokenizer(texts: Iterable[str], settings: TrainerSettings) -> Tokenizer:
    """A tokenizer of exactly `settings.vocabulary` entries. The same texts in the same order give the same one.

    Raises:
        DataError: the texts have too few different pairs for so many entries.
    """
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(RULES[settings.rule].pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    special = [tokenizers.AddedToken(token, normalized=False, special=True) for token in (*SPECIAL, *settings.control)]
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        min_frequency=settings.min_count,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(iter(texts), trainer)
    found = inner.get_vocab_size(with_added_tokens=True)
    if found != settings.vocabulary:
        raise DataError(
            f"the corpus gives {found} entries, {settings.vocabulary} were asked for",
            place="tokenizer",
            hint="lower vocabulary or min_count, or give more text",
        )
    return as_tokenizer(inner)


def as_tokenizer(inner: tokenizers.Tokenizer) -> Tokenizer:
    """A trained one with its special ids named.

    Raises:
        SettingsError: it lacks one of them, so it was not trained here.
    """
    known = inner.get_vocab(with_added_tokens=True)
    if missing := [token for token in SPECIAL if token not in known]:
        raise SettingsError(f"a tokenizer without {missing[0]}", place="tokenizer")
    pad, start, end = (known[token] for token in SPECIAL)
    return Tokenizer(inner, start_ids=(start,), end_ids=(end,), pad_id=pad)


def measure(tokenizer: Tokenizer, texts: Sequence[str]) -> TokenizerFigures:
    """Encode every text and decode it again. Lines are those that are not blank.

    Raises:
        DataError: no texts, or nothing in them.
    """
    batch = Encoder(tokenizer).encode(texts)
    num_tokens = len(batch.ids)
    if not num_tokens:
        raise DataError("there is no text to measure a tokenizer on", place="tokenizer")
    broken = sum(tokenizer.decode(batch.of(i).tolist()) != text for i, text in enumerate(texts))
    num_lines = sum(bool(line.strip()) for text in texts for line in text.split("\n"))
    return TokenizerFigures(
        num_texts=len(texts),
        num_broken=broken,
        bytes_per_token=sum(len(text.encode()) for text in texts) / num_tokens,
        tokens_per_line=num_tokens / max(num_lines, 1),
        num_unused=tokenizer.vocabulary_size - len(set(batch.ids.tolist())),
    )
