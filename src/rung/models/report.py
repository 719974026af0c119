"""What the clean loader did and found, as it goes into manifests."""

from __future__ import annotations

from typing import Literal

from rung.base.settings import Field, Settings

__all__ = ["LOADER_VERSION", "LoaderReport", "SentinelResult", "Verdict"]

# raised by hand when the same source comes to load or to be judged differently
LOADER_VERSION = 1

Verdict = Literal["clean", "contaminated", "unchecked"]


class SentinelResult(Settings):
    """One behaviour sentinel: what was asked, what came, what was measured, and whether a base model does that."""

    name: str = Field(description="which sentinel")
    prompt: str = Field(description="the raw text given to the model")
    text: str = Field(description="its greedy continuation")
    passed: bool = Field(description="whether a base model behaves so")
    reason: str = Field(description="what decided, with the measured value")


class LoaderReport(Settings):
    """Everything a manifest says about how a model was loaded."""

    loader_version: int = Field(LOADER_VERSION, description="of the loader's rules")
    model_name: str = Field(description="the source as named")
    content_id: str = Field(description="hash of the weights")
    family: str = Field(description="file in models/families")
    path: Literal["fast", "fallback"] = Field(description="our own network, or transformers behind the fallback")
    precision: str = Field(description="number type of the weights")
    precision_reason: str = Field(description="the measurement behind it")
    template_disabled: bool = Field(description="whether the tokenizer came with a chat template, which was dropped")
    removed: tuple[str, ...] = Field((), description="what else was taken out of the tokenizer")
    add_special_tokens: Literal[False] = Field(False, description="never")
    strict: bool = Field(True, description="whether a failed check stops the load")
    start_ids: tuple[int, ...] = Field(description="declared start tokens, put in front of every document once")
    sentinel_results: tuple[SentinelResult, ...] = Field((), description="behaviour, with texts")
    verdict: Verdict = Field(description="whether this is a base model")
    reasons: tuple[str, ...] = Field((), description="what the verdict rests on")
    overrides: tuple[str, ...] = Field((), description="checks that failed and were let pass on purpose")
    degraded: tuple[str, ...] = Field((), description="what is slower or less exact than it could be")

    @property
    def sentinel_tests_passed(self) -> bool:
        """Whether behaviour was looked at and was a base model's."""
        return bool(self.sentinel_results) and self.verdict == "clean"

    def summary(self) -> str:
        """One line for people."""
        parts = [
            f"{self.model_name}: {self.verdict}",
            f"{self.family} ({self.path}), {self.precision_reason}",
            f"template {'dropped' if self.template_disabled else 'none'}",
            f"loader {self.loader_version}{'' if self.strict else ', not strict'}",
            *(f"removed {what}" for what in self.removed),
            *(f"override: {what}" for what in self.overrides),
            *self.reasons,
            *self.degraded,
        ]
        return "; ".join(parts)
