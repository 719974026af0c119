"""A corpus as memory-mapped tokens, in two parts: what is trained on, and documents held out by their ids.

Each document is its start token, its text and its end token; nothing is cut. Documents that were encoded before with
the same tokenizer, in this run or another, are not encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from rung.base.settings import Field, Settings
from rung.datagen.corpus_tokens import EncodedGroup, GroupEncoder, groups_of
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._model import room
from rung.records.manifest import Opened
from rung.records.token_shards import TokenShard, TokenWriter, document_key, is_held_out
from rung.records.tokenizer import Tokenizer
from rung.records.tokenizer_training import as_tokenizer

__all__ = ["Tokens"]

_FOLDER = "tokens"
_PARTS = ("train", "held_out")


class TokensSettings(Settings):
    """Which documents, in whose tokens."""

    corpus: str = Field(description="the stage with the documents")
    tokenizer: str = Field("", description="the stage with the tokenizer")
    tokenizer_file: Path | None = Field(None, description="a tokenizer.json that such a stage made, instead of a stage")
    held_out: float = Field(0.01, gt=0, lt=0.5, description="share of the documents kept for measuring")

    @pydantic.model_validator(mode="after")
    def _one_tokenizer(self) -> TokensSettings:
        """A stage or a file."""
        if bool(self.tokenizer) == (self.tokenizer_file is not None):
            raise ValueError("name a tokenizer: either a stage (tokenizer) or a file (tokenizer_file)")
        return self


class Tokens(Stage):
    """Files of tokens (`rung.records.token_shards`), and the tokenizer that made them."""

    Settings = TokensSettings
    version = 1
    uses_model = False
    outputs: Mapping[str, str] = {}

    def inputs(self) -> dict[str, str]:
        """Corpus and tokenizer."""
        named = {"tokenizer": self.settings.tokenizer} if self.settings.tokenizer else {}
        return {"corpus": self.settings.corpus, **named}

    def files(self) -> dict[str, Path]:
        """The tokenizer, where it is a file."""
        return {"tokenizer_file": self.settings.tokenizer_file} if self.settings.tokenizer_file else {}

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Characters encoded; unknown before there is a corpus."""
        return float(inputs["corpus"].manifest.figures["num_chars"]) if "corpus" in inputs else None

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Encode group after group."""
        path = self.settings.tokenizer_file or inputs["tokenizer"].file("tokenizer")
        tokenizer = as_tokenizer(Tokenizer.load(path).inner)
        tokenizer.inner.save(str(outputs.file("tokenizer.json", "tokenizer")))
        encode = GroupEncoder(tokenizer, room("models.cache").Cache())
        folder = outputs.file(_FOLDER, "tokens")
        new = num = 0
        with ExitStack() as stack:
            parts = {p: stack.enter_context(TokenWriter(folder, p, tokenizer.vocabulary_size)) for p in _PARTS}
            for group in groups_of(inputs["corpus"].records("document")):
                encoded = encode(group)
                self._add(encoded, tokenizer, parts)
                num, new = num + len(group), new + encoded.is_new * len(group)
                context.events.progress("documents", num, inputs["corpus"].count("document"), "documents")
                context.budget.spend(tokens=len(encoded.ids))
        outputs.note("figures", {"num_new_documents": new, "vocabulary": tokenizer.vocabulary_size})

    def _add(self, encoded: EncodedGroup, tokenizer: Tokenizer, parts: Mapping[str, TokenWriter]) -> None:
        for index, document in enumerate(encoded.documents):
            part = parts[_PARTS[is_held_out(document.id, self.settings.held_out)]]
            ids = np.concatenate([tokenizer.start_ids, encoded.of(index), tokenizer.end_ids])
            part.add(document_key(document.id), ids.astype(np.uint32), len(document.text.encode()))

    def figures(self, output: Opened) -> dict[str, Any]:
        """Counted from the files, and how many held-out documents stand among the trained ones."""
        vocabulary = int(output.manifest.figures["vocabulary"])
        shards = {part: TokenShard(output.file(_FOLDER).parent, part, vocabulary) for part in _PARTS}
        both = np.intersect1d(shards["train"].keys(), shards["held_out"].keys())
        found: dict[str, Any] = {"num_in_both": len(both)}
        for part, shard in shards.items():
            found |= {f"num_{part}_documents": shard.num_documents, f"num_{part}_tokens": shard.num_tokens}
            found[f"{part}_bytes_per_token"] = shard.num_bytes() / max(shard.num_tokens, 1)
        return found

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Something to train on, something to measure on, nothing in both."""
        reasons = [f"no document is {what}" for what in _PARTS if not figures[f"num_{what}_documents"]]
        if figures["num_in_both"]:
            reasons.append(f"{figures['num_in_both']} documents are trained and held out")
        return Verdict(not reasons, tuple(reasons))
