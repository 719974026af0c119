"""What the engine decodes with its cache is what the network says without one.

Stale or misplaced keys and windows that end elsewhere give fluent, slightly wrong text that no loss curve shows
(lm-evaluation-harness#3150: 0.914 and 0.672 on two back ends). Compared: the unmodified log-probability of every
token drawn, after short prompts side by side and one prompt that is longer than the usual sliding windows.
"""

from __future__ import annotations

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._logprobs import next_logprobs
from rung.pipeline.checks._subject import Subject
from rung.records.contracts import Request, Sampling

__all__ = ["CachedLogits"]


class CachedLogitsSettings(BaseSettings):
    """How close is the same, and how much is looked at."""

    tolerance: float = Field(1e-3, gt=0, description="largest difference of a token's log-probability, in nats")
    num_new_tokens: int = Field(8, ge=1, description="tokens decoded after each prompt")
    num_long_tokens: int = Field(576, ge=1, description="length of the long prompt; the model's context may be shorter")


class CachedLogits(Check):
    """Decodes, then reads the whole text again at once."""

    Settings = CachedLogitsSettings
    guards = "decoding with the cache that differs from without"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Token by token."""
        sampling = Sampling(max_new_tokens=self.settings.num_new_tokens)
        prompts = self._prompts(subject)
        requests = [Request(str(n), sampling, n, token_ids=ids) for n, ids in enumerate(prompts)]
        completions = subject.engine(subject.loaded).complete(requests)
        worst, num_tokens, problems = 0.0, 0, []
        for ids, completion in zip(prompts, completions, strict=True):
            whole = next_logprobs(subject.loaded.network, (*ids, *completion.token_ids), len(ids)).tolist()
            differences = [abs(a - b) for a, b in zip(whole, completion.raw_logprobs, strict=True)]
            place = max(range(len(differences)), key=differences.__getitem__)
            if not differences[place] <= self.settings.tolerance:
                problems.append(
                    f"token {place} after a prompt of {len(ids)}: log-probability {completion.raw_logprobs[place]:.4f} "
                    f"with the cache, {whole[place]:.4f} without"
                )
            worst, num_tokens = max(worst, differences[place]), num_tokens + len(differences)
        longest = max(map(len, prompts))
        return verdict(problems, f"{num_tokens} tokens, prompts up to {longest}: largest difference {worst:.1e} nats")

    def _prompts(self, subject: Subject) -> list[tuple[int, ...]]:
        """Three short prompts, and examples one after another up to the long prompt's length."""
        prompt, tokenizer = subject.text.prompts["training"], subject.tokenizer
        short = [subject.text.prompt_ids(tokenizer, prompt(exchange.instruction)) for exchange, _ in subject.few(3)]
        body = [token for e in subject.rendered for token in e.rendered.token_ids[len(tokenizer.start_ids) :]]
        context = subject.loaded.network.shape.max_context or self.settings.num_long_tokens * 2
        length = min(self.settings.num_long_tokens, context - self.settings.num_new_tokens)
        return [*short, tuple([*tokenizer.start_ids, *body][:length])]
