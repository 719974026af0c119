"""Whoever asks the model asks as training did: same text, same ids, for generation and for every evaluation.

A trailing space, another frame, or ids made elsewhere test a model on what it was not taught
(lm-evaluation-harness#3150, LlamaFactory#8720), and text that is tokenised again gives other ids (TRL#5224,
SkyRL#123). Few-shot prompts must end in the same frame. The chat command is tested in its own room.
"""

from __future__ import annotations

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Exchange, Subject
from rung.records.packing import Example

__all__ = ["PromptMatch"]


class PromptMatchSettings(BaseSettings):
    """How many."""

    num_examples: int = Field(200, ge=1, description="examples looked at, the first ones")


class PromptMatch(Check):
    """Compares every prompt's text and ids with training's."""

    Settings = PromptMatchSettings
    guards = "prompts of generation or evaluation that differ from training's"

    def run(self, subject: Subject) -> Outcome:
        """One example after another."""
        pairs = list(zip(subject.exchanges, subject.rendered, strict=True))[: self.settings.num_examples]
        problems = [problem for exchange, example in pairs for problem in _problems(subject, exchange, example)]
        others = [name for name in subject.text.prompts if name != "training"]
        return verdict(problems, f"{len(pairs)} prompts, same text and ids in training, {', '.join(others)}")


def _problems(subject: Subject, exchange: Exchange, example: Example) -> list[str]:
    trained = subject.text.prompts["training"](exchange.instruction)
    trained_ids = example.rendered.token_ids[: example.rendered.num_prompt_tokens]
    problems = []
    for name, prompt in subject.text.prompts.items():
        text = prompt(exchange.instruction)
        if text != trained:
            problems.append(f"{exchange.id}: {name} asks {text[-30:]!r}, training {trained[-30:]!r}")
        elif subject.text.prompt_ids(subject.tokenizer, text) != trained_ids:
            problems.append(f"{exchange.id}: the engine reads the {name} prompt as other ids than training")
    if not subject.text.few_shot_prompt(exchange.instruction).endswith(trained):
        problems.append(f"{exchange.id}: the few-shot prompt does not end in training's")
    if exchange.stored and not exchange.stored.sent_prompt.endswith(exchange.stored.training_prompt):
        problems.append(f"{exchange.id}: the prompt that was sent does not end in the stored training prompt")
    return problems
