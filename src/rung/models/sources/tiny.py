"""`tiny:llama`, `tiny:gemma3?vocabulary=400&seed=3`: random weights and a byte-level tokenizer, made on the spot.

For tests and dry runs: the same on every machine, offline, in milliseconds. It knows nothing, so behaviour sentinels
do not apply to it. Each entry of its vocabulary is used: 256 bytes, five special tokens, then pairs of letters.
"""

from __future__ import annotations

import itertools
import string
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from rung.base.errors import ModelError
from rung.base.fingerprint import content_hash
from rung.base.lookup import lookup
from rung.base.settings import Field, Settings, validate
from rung.models.cache import Cache
from rung.models.found import Found, Made
from rung.records.tokenizer import Tokenizer

__all__ = ["Tiny"]

SPECIAL = ("<pad>", "<bos>", "<eos>", "<|im_start|>", "<|im_end|>")
SMALLEST = 256 + len(SPECIAL)
LETTERS = "\u0120" + string.ascii_lowercase  # the first is the byte-level letter for a space
STARTED = ("gemma3",)


class TinySettings(Settings):
    """Which family, how large a vocabulary, which weights."""

    family: str = Field("llama", description="a file in models/families that has a size 'tiny'")
    vocabulary: int = Field(320, ge=SMALLEST, le=SMALLEST + 27 * 26, description="entries of the tokenizer")
    seed: int = Field(0, ge=0, description="decides the weights")


class Tiny:
    """A network that fits in a test."""

    Settings: ClassVar[type[TinySettings]] = TinySettings

    def __init__(self, settings: TinySettings, cache: Cache) -> None:
        self._settings = settings

    @staticmethod
    def parse(rest: str) -> TinySettings:
        """Settings from what follows the colon: family, then `?name=value&...`."""
        family, _, query = rest.partition("?")
        return validate(TinySettings, {**dict(parse_qsl(query)), "family": family or "llama"}, f"tiny:{rest}")

    def find(self) -> Found:
        """The network and its tokenizer, as something the loader can make.

        Raises:
            ModelError: a family without a tiny size.
        """
        family = lookup("models.families", self._settings.family, "tiny")
        if "tiny" not in family.SIZES:
            raise ModelError(f"family '{self._settings.family}' has no size 'tiny'", place="tiny")
        return Found(
            content_hash({"tiny": self._settings}),
            make=lambda: self._made(family),
            unjudged="random weights know no behaviour",
        )

    def _made(self, family: Any) -> Made:
        settings = family.SIZES["tiny"].model_copy(update={"vocabulary": self._settings.vocabulary})
        network = family.build(settings, self._settings.seed)
        return Made(network, self._settings.family, _tokenizer(self._settings))


def _tokenizer(settings: TinySettings) -> Tokenizer:
    pairs = [(a, b) for a, b in itertools.product(LETTERS, string.ascii_lowercase)]
    merges = pairs[: settings.vocabulary - SMALLEST]
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in merges)]
    inner = tokenizers.Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([tokenizers.AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    ids = {token: index for index, token in enumerate(SPECIAL)}
    return Tokenizer(
        inner,
        start_ids=(ids["<bos>"],) if settings.family in STARTED else (),
        end_ids=(ids["<eos>"],),
        pad_id=ids["<pad>"],
        template_ids=frozenset({ids["<|im_start|>"], ids["<|im_end|>"]}),
    )
