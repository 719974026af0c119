"""After an update the sampler samples from the updated weights: a canary prompt tells.

A sampler with a copy that is never updated, or with keys and values kept from before, trains a policy on another one's
answers (TRL#5312, SkyRL#1680). The network's vectors are moved by a little; the same engine, asked the same again, must
give the log-probabilities of the network as it now is.
"""

from __future__ import annotations

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._logprobs import next_logprobs
from rung.pipeline.checks._nudged import trained_vectors, vectors_moved
from rung.pipeline.checks._subject import Subject
from rung.records.contracts import Request, Sampling

__all__ = ["WeightSync"]


class WeightSyncSettings(BaseSettings):
    """How much the weights are moved, and how close is the same."""

    amount: float = Field(0.2, gt=0, description="deviation of the random numbers added to every vector")
    tolerance: float = Field(1e-3, gt=0, description="largest difference of a token's log-probability, in nats")
    num_tokens: int = Field(8, ge=1, description="tokens of the canary's answer")


class WeightSync(Check):
    """One engine, two sets of weights."""

    Settings = WeightSyncSettings
    guards = "a sampler that does not get the updated weights"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """The canary before and after."""
        network, engine, limit = subject.loaded.network, subject.engine(subject.loaded), self.settings.tolerance
        text = subject.text.prompts["training"](subject.few(1)[0][0].instruction)
        prompt = subject.text.prompt_ids(subject.tokenizer, text)
        request = Request("canary", Sampling(max_new_tokens=self.settings.num_tokens), token_ids=prompt)
        (old,) = engine.complete([request])
        with trained_vectors(network) as chosen:
            vectors_moved(chosen, self.settings.amount)
            subject.policy.rest(engine)
            (new,) = engine.complete([request])
            known = next_logprobs(network, (*prompt, *new.token_ids), len(prompt)).tolist()
            moved = next_logprobs(network, (*prompt, *old.token_ids), len(prompt)).tolist()
        effect = max(abs(a - b) for a, b in zip(moved, old.raw_logprobs, strict=True))
        gap = max(abs(a - b) for a, b in zip(known, new.raw_logprobs, strict=True))
        problems = []
        if not effect > 2 * limit:
            problems.append(f"moving the weights moves the canary by {effect:.1e} nats, which tells nothing")
        if not gap <= limit:
            problems.append(
                f"after the update the sampler is {gap:.1e} nats from the network, the update moved {effect:.1e}"
            )
        return verdict(problems, f"an update that moves the canary by {effect:.1e} nats is followed within {gap:.1e}")
