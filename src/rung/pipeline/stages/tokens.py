"""A corpus as memory-mapped tokens, in two parts: what is trained on, and documents held out by their ids.

Each document is its start token, its text and its end token; nothing is cut. Documents that were encoded before with
the same tokenizer, in this run or another, are not encoded again. `weights` say how often an epoch shows the documents
of a source; what is held out is held out once, whatever it weighs, and no copy of it is trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic

from rung.base.errors import SettingsError
from rung.base.fingerprint import plain
from rung.base.settings import Field, Settings, nearest, unsaid
from rung.datagen.corpus_tokens import EncodedGroup, GroupEncoder, groups_of
from rung.datagen.corpus_weights import SourceCount, Weights, is_of, showings
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.pipeline.stages._model import room
from rung.pipeline.stages.corpus import Corpus
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
    weights: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(
        default_factory=dict,
        exclude_if=unsaid(),
        description="by source of the corpus (files, stage/stories, files/a.txt): how many times an epoch shows one of "
        "its documents; 0.25 shows the same quarter always, 0 none; what is not named is shown once",
    )

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

    def check_inputs(self, stages: Mapping[str, Stage]) -> None:
        """Sources are named as the corpus has them; files in them are looked for when it is read.

        Raises:
            SettingsError: there is none of that name.
        """
        corpus = stages["corpus"]
        if isinstance(corpus, Corpus):
            for name in self.settings.weights:
                if not any(is_of(name, known) for known in corpus.source_names):
                    hint = nearest(name, corpus.source_names)
                    raise SettingsError(f"the corpus has no source '{name}'", place="weights", hint=hint)

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
        folder, corpus, weights = outputs.file(_FOLDER, "tokens"), inputs["corpus"], Weights(self.settings.weights)
        if self.settings.weights:
            weights.check((one.source for one in corpus.records("document")), f"{context.name}.weights")
        new, counts = 0, dict[str, SourceCount]()
        with ExitStack() as stack:
            parts = {p: stack.enter_context(TokenWriter(folder, p, tokenizer.vocabulary_size)) for p in _PARTS}
            for time in range(weights.num_rounds):
                num = 0
                for group in groups_of(corpus.records("document")):
                    weight, num = weights.of(group[0].source), num + len(group)
                    if time == 0 or time < weight:
                        encoded = encode(group)
                        count = counts.setdefault(weights.name_of(group[0].source), SourceCount(weight))
                        self._add(encoded, tokenizer, parts, count, time)
                        new += encoded.is_new * len(group)
                        context.budget.spend(tokens=0 if time else len(encoded.ids))
                    name = f"documents, time {time + 1}" if time else "documents"
                    context.events.progress(name, num, corpus.count("document"), "documents")
        figures = {"num_new_documents": new, "vocabulary": tokenizer.vocabulary_size}
        outputs.note("figures", {**figures, "sources": plain(dict(sorted(counts.items())))})

    def _add(
        self,
        encoded: EncodedGroup,
        tokenizer: Tokenizer,
        parts: Mapping[str, TokenWriter],
        count: SourceCount,
        time: int,
    ) -> None:
        """A group of one source, shown for the time with this number, from 0."""
        for index, document in enumerate(encoded.documents):
            held_out = is_held_out(document.id, self.settings.held_out)
            shown = time == 0 if held_out else time < showings(document.id, count.weight)
            ids = np.concatenate([tokenizer.start_ids, encoded.of(index), tokenizer.end_ids])
            count.add(len(ids), is_first=time == 0, held_out=held_out, shown=shown)
            if shown:
                part = parts[_PARTS[held_out]]
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
        noted = output.manifest.figures.get("sources")  # of outputs that are older than weights there is none
        told = found["num_train_tokens"] if noted is None else sum(one["num_shown_tokens"] for one in noted.values())
        return {**found, "num_untold_tokens": found["num_train_tokens"] - told}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Something to train on, something to measure on, nothing in both."""
        reasons = [f"no document is {what}" for what in _PARTS if not figures[f"num_{what}_documents"]]
        if figures["num_in_both"]:
            reasons.append(f"{figures['num_in_both']} documents are trained and held out")
        if figures["num_untold_tokens"]:
            reasons.append(f"the sources' tokens and the trained ones differ by {figures['num_untold_tokens']}")
        return Verdict(not reasons, tuple(reasons))
