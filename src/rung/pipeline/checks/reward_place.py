"""A reward model reads an answer at its last real token: not at padding, and not at an end token in the question.

Where padding and end are one token, looking for the first of them finds the question's (transformers#35352); reading
the last place of a padded row finds padding (TRL#3750, gpt-neox#1285). Both give a plausible number. Answers of unequal
lengths in one row, one with an end token in its question, against each by itself; the head is random.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.models.head import attach_head, build_head, head_outputs, take_off
from rung.models.layers.attend import CausalAttend
from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject
from rung.pipeline.stages._model import room
from rung.records.packing import Example

__all__ = ["RewardPlace"]


class RewardPlaceSettings(BaseSettings):
    """How close is the same."""

    tolerance: float = Field(1e-3, gt=0, description="largest difference of an answer's outputs, relative to theirs")
    num_answers: int = Field(3, ge=2, description="answers in one row")


class RewardPlace(Check):
    """Together against alone."""

    Settings = RewardPlaceSettings
    guards = "a reward that is read from the wrong token"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Puts a head on the network and takes it off again."""
        network, rows_of = subject.loaded.network, room("train.reward_rows")
        answers = _answers(subject, self.settings.num_answers)
        examples = [rows_of.RewardExample(answer.id, "", (answer,)) for answer in answers]
        total = sum(len(answer.rendered.token_ids) for answer in answers)
        attach_head(network, build_head("linear", int(network.output_weight.shape[1]), 2))
        try:
            _randomise(network)
            rows = subject.policy.pack_rewards(rows_of.RewardData(tuple(examples)), range(len(examples)), total)
            found: dict[str, torch.Tensor] = {}
            for row, outputs_CK in zip(rows, subject.policy.reward_outputs(network, rows), strict=True):
                found |= dict(zip(row.ids, outputs_CK, strict=True))
            alone = {answer.id: _alone(network, answer) for answer in answers}
        finally:
            take_off(network)
        scale = max(float(value.abs().max()) for value in alone.values())
        gaps = {name: float((found[name] - value).abs().max()) / scale for name, value in alone.items()}
        problems = [
            f"answer {name}: its outputs are {gap:.1e} of their size from those at its last token"
            for name, gap in gaps.items()
            if not gap <= self.settings.tolerance
        ]
        return verdict(problems, f"{len(gaps)} answers in one row: within {max(gaps.values()):.1e} of each alone")


def _answers(subject: Subject, count: int) -> list[Example]:
    """Of unequal lengths; the first has the padding or end token in the middle of its question."""
    answers = [example for _, example in subject.few(count)]
    odd = (subject.tokenizer.end_ids or (subject.tokenizer.pad_id,))[0]
    first, place = answers[0].rendered, answers[0].rendered.num_prompt_tokens // 2
    ids = (*first.token_ids[:place], odd, *first.token_ids[place:])
    mask = (*first.loss_mask[:place], False, *first.loss_mask[place:])
    rendered = replace(first, token_ids=ids, loss_mask=mask, num_prompt_tokens=first.num_prompt_tokens + 1)
    return [Example(answers[0].id, rendered), *answers[1:]]


@torch.no_grad()
def _randomise(network: torch.nn.Module) -> None:
    """A fresh head may be all zeros, under which every place reads alike."""
    draws = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if "reward_head" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=draws).to(parameter))


@torch.inference_mode()
def _alone(network: object, answer: Example) -> torch.Tensor:
    """The head's outputs at the last token of the answer by itself."""
    device = network.output_weight.device  # type: ignore[attr-defined]
    ids_1T = torch.tensor([list(answer.rendered.token_ids)], device=device)
    positions_1T = torch.arange(ids_1T.shape[1], device=device)[None]
    hidden_1TD = network.hidden(ids_1T, positions_1T, CausalAttend())  # type: ignore[attr-defined]
    outputs_1K: torch.Tensor = head_outputs(network, hidden_1TD[0, -1:])  # type: ignore[arg-type]
    return outputs_1K[0]
