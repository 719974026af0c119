"""A byte-level tokenizer trained on a corpus, and measured on documents that it was not trained on.

Documents are held out by their ids, as the stages after it hold them out. The gate wants every held-out text back byte
for byte; what a token may cost is asked for in the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rung.base.errors import DataError
from rung.base.fingerprint import plain
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.pipeline.stage import Context, Outputs, Stage, Verdict
from rung.records.manifest import Opened
from rung.records.token_shards import is_held_out
from rung.records.tokenizer import Tokenizer
from rung.records.tokenizer_training import SPECIAL, TrainerSettings, as_tokenizer, measure, train_tokenizer
from rung.records.types import Document

__all__ = ["TokenizerStage"]

_FILE = "tokenizer.json"


class TokenizerStageSettings(Settings):
    """What is trained on, how, and what it may cost."""

    corpus: str = Field(description="the stage with the documents")
    trainer: TrainerSettings = Field(TrainerSettings(), description="size, rule and control tokens")
    held_out: float = Field(0.01, gt=0, lt=0.5, description="share of the documents kept for measuring; same in tokens")
    sample_chars: int = Field(50_000_000, ge=1000, description="characters trained on, spread over the corpus")
    measured: int = Field(500, ge=1, description="held-out documents measured, at most")
    min_bytes_per_token: float = Field(0.0, ge=0, description="the gate refuses a tokenizer with fewer; 0: any")
    max_tokens_per_line: float = Field(0.0, ge=0, description="tokens for a line that is not blank, at most; 0: any")


class TokenizerStage(Stage):
    """A file `tokenizer.json` and what it costs."""

    Settings = TokenizerStageSettings
    version = 1
    uses_model = False
    outputs: Mapping[str, str] = {"measured": "document"}

    def inputs(self) -> dict[str, str]:
        """The corpus."""
        return {"corpus": self.settings.corpus}

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Characters trained on; unknown before there is a corpus."""
        return min(_num_chars(inputs["corpus"]), self.settings.sample_chars) if "corpus" in inputs else None

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Train on a sample, keep the held-out documents that it is measured on."""
        corpus = inputs["corpus"]
        share = min(self.settings.sample_chars / max(_num_chars(corpus), 1), 1.0)
        held_out = list[Document]()
        tokenizer = train_tokenizer(self._sample(corpus, share, context, held_out), self.settings.trainer)
        tokenizer.inner.save(str(outputs.file(_FILE, "tokenizer")))
        if not held_out:
            raise DataError(
                "no document is held out to measure the tokenizer on", place=context.name, hint="raise held_out"
            )
        outputs.shard("measured", 0, held_out)
        outputs.note("figures", {"special": {token: tokenizer.inner.token_to_id(token) for token in SPECIAL}})

    def _sample(self, corpus: Opened, share: float, context: Context, held_out: list[Document]) -> Iterator[str]:
        """The texts trained on; documents met on the way that are held out go into `held_out`, the first ones."""
        for record in corpus.records("document"):
            if is_held_out(record.id, self.settings.held_out):
                held_out += [record] if len(held_out) < self.settings.measured else []
            elif _drawn(record, share):
                context.budget.poll()
                yield record.text

    def figures(self, output: Opened) -> dict[str, Any]:
        """Measured again, with the file that was published on the documents that were kept."""
        tokenizer = as_tokenizer(Tokenizer.load(output.file("tokenizer")).inner)
        texts = [record.text for record in output.records("measured")]
        return dict(plain(measure(tokenizer, texts))) | {"vocabulary": tokenizer.vocabulary_size}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Every text comes back, and tokens cost what they may."""
        s, reasons = self.settings, []
        if figures["num_broken"]:
            reasons.append(f"{figures['num_broken']} of {figures['num_texts']} texts do not come back as they were")
        if figures["bytes_per_token"] < s.min_bytes_per_token:
            reasons.append(f"{figures['bytes_per_token']:.2f} bytes a token, {s.min_bytes_per_token} are wanted")
        if 0 < s.max_tokens_per_line < figures["tokens_per_line"]:
            reasons.append(f"{figures['tokens_per_line']:.1f} tokens a line, {s.max_tokens_per_line} may be")
        return Verdict(not reasons, tuple(reasons))


def _num_chars(corpus: Opened) -> int:
    return int(corpus.manifest.figures.get("num_chars", 0))


def _drawn(record: Document, share: float) -> bool:
    return derive(0, "tokenizer sample", record.id) < share * 2**63
