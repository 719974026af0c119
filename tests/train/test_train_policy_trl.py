"""The update against TRL: its own loss function over transformers' logits of the same tokens, value and gradient."""

from __future__ import annotations

import importlib
import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from policy_models import NETWORKS, rollouts
from test_train_policy_step import close, objective, samples_of, stepped
from tests.engine.engine_models import reference
from tests.train.test_train_policy import MAX_TOKENS, trl_trainer
from torch.nn.utils.rnn import pad_sequence

from rung.models.network import Network
from rung.train.policy_step import Sample

TEMPERATURE = 0.7
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("grpo", {}, {"loss_type": "grpo"}),
    ("grpo", {"kl_coefficient": 0.1, "kl_weighted": False}, {"loss_type": "grpo", "beta": 0.1}),
    ("grpo", {"kl_coefficient": 0.1}, {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": True}),
    ("dapo", {}, {"loss_type": "dapo", "epsilon_high": 0.28}),
    ("dr_grpo", {"max_tokens": MAX_TOKENS}, {"loss_type": "dr_grpo"}),
    ("gspo", {"clip_low": 0.03, "clip_high": 0.04},
     {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.03, "epsilon_high": 0.04}),
]  # fmt: skip


def whole(network: Network) -> list[Sample]:
    """One advantage per answer, every token of it trained: what TRL can do."""
    samples = samples_of(rollouts(network, groups=(4, 3), temperature=TEMPERATURE, inserted=False))
    return [
        Sample(
            s.rollout, (s.advantages[0],) * len(s.counts), (True,) * len(s.counts), (True,) * len(s.counts),
            s.old_logprobs, s.reference_logprobs,
        )
        for s in samples
    ]  # fmt: skip


def trls(model: Any, samples: list[Sample], **settings: Any) -> torch.Tensor:
    """TRL's loss: prompts padded on the left, answers on the right, in one batch."""

    def right(rows: list[Any], dtype: torch.dtype) -> torch.Tensor:
        return pad_sequence([torch.tensor(row, dtype=dtype) for row in rows], batch_first=True)

    prompts = [s.rollout.prompt_ids for s in samples]
    answers = [s.rollout.token_ids for s in samples]
    inputs = {
        "prompt_ids": right([p[::-1] for p in prompts], torch.int64).flip(1),
        "prompt_mask": right([[1] * len(p) for p in prompts], torch.int64).flip(1),
        "completion_ids": right(answers, torch.int64),
        "completion_mask": right([[1] * len(a) for a in answers], torch.int64),
        "advantages": torch.tensor([s.advantages[0] for s in samples]),
        "old_per_token_logps": right([s.old_logprobs for s in samples], torch.float32),
        "ref_per_token_logps": right([s.reference_logprobs for s in samples], torch.float32),
        "num_items_in_batch": torch.tensor(sum(map(len, answers))),
    }

    def logprobs(model: Any, ids: torch.Tensor, mask: torch.Tensor, kept: int, **others: Any) -> tuple[Any, ...]:
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -kept - 1 : -1] / TEMPERATURE
        found = logits.log_softmax(-1).gather(2, ids[:, -kept:, None])[..., 0]
        return found, torch.zeros_like(found), None

    trainer = trl_trainer(SimpleNamespace(old=inputs["old_per_token_logps"], logprobs=None), **settings)
    trainer._get_per_token_logps_and_entropies = logprobs
    compute = importlib.import_module("trl.trainer.grpo_trainer").GRPOTrainer._compute_loss
    return compute(trainer, model, inputs)


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("kind", "ours", "theirs"), CASES)
def test_the_update_is_trls(name: str, kind: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    network = NETWORKS[name]()
    model, samples = reference(network), whole(network)
    model.get_input_embeddings().padding_idx = None  # transformers keeps Gemma's token 0 from learning as an input
    expected = trls(model, samples, **theirs)
    expected.backward()
    own = {"kl_coefficient": 0.0, **ours}
    report, grads = stepped(network, samples, objective(kind, **own), tokens_per_micro_batch=40)
    assert report.loss == pytest.approx(float(expected.detach()), abs=1e-5)
    gradients = dict(model.named_parameters())
    names = [parameter for parameter, _ in network.named_parameters()]
    close(grads, [gradients[parameter].grad for parameter in names], 2e-5)
    assert max(float(grad.abs().max()) for grad in grads) > 1e-3
