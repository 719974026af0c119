"""Files that settings name: what they hold is part of the identity of what is made with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rung.base.errors import DataError
from rung.datagen.pool import SOURCES
from rung.pipeline.identity import Identity, identities
from rung.pipeline.recipe import load_values


def found(stages: list[dict[str, Any]]) -> dict[str, Identity]:
    recipe = load_values({"run": "r", "model": "tiny:llama", "stages": stages}, "a test")
    return identities(recipe, lambda source: source)


def cases(own: Path) -> dict[str, list[dict[str, Any]]]:
    calibrate: dict[str, Any] = {"calibrate": {"critics": ["choice"]}}
    topics = {"kind": "diverse_instructions", "topics": str(own / "topics.yaml")}
    data = {"bootstrap": {"name": "made"}}
    examples = {"kind": "hard_negatives", "examples": str(own / "hard_negatives.yaml")}
    return {
        "few_shot_pool": [calibrate, {"bootstrap": {"name": "made", "pool": str(own / "few_shot_pool.yaml")}}],
        "topics": [calibrate, {"bootstrap": {"name": "made", "instructions": topics}}],
        "hard_negatives": [calibrate, data, {"pairs": {"name": "pairs", "data": "made", "generator": examples}}],
    }


@pytest.mark.parametrize("name", ["few_shot_pool", "topics", "hard_negatives"])
def test_an_edited_file_is_another_identity_wherever_it_is_used(name: str, tmp_path: Path) -> None:
    path, stages = tmp_path / f"{name}.yaml", cases(tmp_path)[name]
    path.write_text((SOURCES / f"{name}.yaml").read_text())
    before = found(stages)
    assert {key: one.text for key, one in found(stages).items()} == {key: one.text for key, one in before.items()}
    path.write_text(path.read_text() + "# edited\n")
    after, last = found(stages), list(before)[-1]
    assert after["calibrate"] == before["calibrate"]
    assert after[last].fingerprint != before[last].fingerprint
    path.unlink()
    with pytest.raises(DataError, match=f"no file .*{name}"):
        found(stages)


def test_a_scale_stage_takes_its_pilots_pool_and_so_its_pilots_identity(tmp_path: Path) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump({"entries": []}))
    pilot = {"bootstrap": {"name": "pilot", "pool": str(path)}}
    stages = [{"calibrate": {}}, pilot, {"bootstrap": {"name": "scale", "settings_from": "pilot"}}]
    before = found(stages)
    path.write_text("entries: [] # edited\n")
    after = found(stages)
    assert after["scale"].fingerprint != before["scale"].fingerprint
    assert [key for key in after["scale"].parents if key.startswith("file:")] == []


def test_shipped_files_are_part_of_rung_and_not_of_the_identity() -> None:
    parents = found([{"calibrate": {}}, {"bootstrap": {"name": "made"}}])["made"].parents
    assert set(parents) == {"calibration", "model"}
