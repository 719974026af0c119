"""Narrow types from the recipe to the manifest: what the scale of a loss came to, what ran in FP8, and what did not
(items 196, 285)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_pipeline_dpo as sft
import test_pipeline_pretrain as pretraining
import test_pipeline_reward as reward

from rung.base.errors import SettingsError
from rung.base.settings import validate
from rung.pipeline.stages import _sampling
from rung.pipeline.stages import sft as sft_stage
from rung.pipeline.stages.reward import Reward

SIMULATED = {"precision": "bfloat16", "fp8": "simulated"}


def num_in_fp8(network: Any) -> int:
    return sum(type(module).__name__ == "Float8Linear" for module in network.modules())


def test_tuning_and_preferences_say_what_they_ran_in(tmp_path: Path) -> None:
    data, _, tuned, pairs, preferred, *_ = sft.ladder(dpo={"num_answers": 0})
    tuned["sft"]["training"] |= {"precision": "bfloat16", "fp8": "if_usable"}
    preferred["dpo"]["training"] |= {"precision": "float16"}
    result = sft.go(tmp_path, [data, tuned, pairs, preferred])
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    manifest = sft.output(tmp_path, "sft").manifest
    assert manifest.figures["fp8"]["path"] == "bfloat16"
    assert "NVIDIA" in manifest.figures["fp8"]["degraded"]
    assert [(row["what"], row["how"]) for row in manifest.degraded] == [("FP8", manifest.figures["fp8"]["degraded"])]
    assert "loss_scale" not in manifest.figures
    manifest = sft.output(tmp_path, "dpo").manifest
    assert manifest.figures["loss_scale"].keys() == {"value", "num_good", "num_skipped"}
    assert manifest.figures["loss_scale"]["value"] == 2.0**16 / 2 ** manifest.figures["loss_scale"]["num_skipped"]
    assert "fp8" not in manifest.figures
    assert manifest.degraded == []


def test_required_is_refused_where_it_is_not_there(tmp_path: Path) -> None:
    data, _, tuned, *_ = sft.ladder(data={"count": 24})
    tuned["sft"]["training"] |= {"precision": "bfloat16", "fp8": "required"}
    result = sft.go(tmp_path, [data, tuned])
    assert result.exit_code == SettingsError.exit_code
    assert "no products in FP8 here" in str(result.error)


def test_answers_and_samples_during_training_are_of_the_network_that_will_be_published(
    tmp_path: Path, monkeypatch: Any
) -> None:
    seen: list[int] = []
    answer, write = sft_stage.answer_items, _sampling.Samples._write

    def answered(engine: Any, *arguments: Any) -> Any:
        seen.append(num_in_fp8(engine._loaded.network))
        return answer(engine, *arguments)

    def written(self: _sampling.Samples) -> Any:
        seen.append(num_in_fp8(self._held.network))
        return write(self)

    monkeypatch.setattr(sft_stage, "answer_items", answered)
    monkeypatch.setattr(_sampling.Samples, "_write", written)
    data, _, tuned, *_ = sft.ladder(data={"count": 24})
    tuned["sft"]["training"] |= {**SIMULATED, "eval_fraction": 0.2, "eval_interval": 20}
    tuned["sft"]["follow"] = {"suite": {"kind": "instruction_following", "count": 2}, "max_new_tokens": 2}
    result = sft.go(tmp_path / "sft", [data, tuned])
    assert result.exit_code == 0, str(result.error)
    assert sft.output(tmp_path / "sft", "sft").manifest.figures["fp8"]["num_layers"] == 14
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path / "cache"))
    chosen = pretraining.stages(pretraining.write_corpus(tmp_path / "data"), epochs=1, **SIMULATED)
    result = pretraining.go(tmp_path, chosen)
    assert result.exit_code == 0, str(result.error)
    assert pretraining.output(tmp_path, "pretrain").manifest.figures["fp8"]["path"] == "simulated"
    assert len(seen) > 4
    assert not any(seen)


def test_a_reward_model_is_trained_in_half_precision(tmp_path: Path) -> None:
    training = {"precision": "float16", "epochs": 1}
    stage = reward.stage(
        "pairs", reward.GRADED, "bradley_terry", body="adapter", adapter={"rank": 4}, training=training
    )
    reward.go(tmp_path, [stage])
    found = reward.output(tmp_path, "pairs").manifest.figures
    assert found["num_steps"] == 3
    assert found["loss_scale"]["value"] == 2.0**16 / 2 ** found["loss_scale"]["num_skipped"]


def test_a_lone_head_is_not_in_fp8() -> None:
    values = {"source": reward.GRADED, "training": SIMULATED}
    with pytest.raises(SettingsError, match="set body: adapter"):
        validate(Reward.Settings, values, "reward")
    validate(Reward.Settings, {**values, "body": "adapter"}, "reward")
