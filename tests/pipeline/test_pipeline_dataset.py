"""Data sets as stages: typed records, what is left out, and the order of a coding model's data with its sizes
(items 412, 413, 414)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline_toys import CLEAN, FakeModels

from rung.base.errors import SettingsError
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, RunResult, run
from rung.records.manifest import Opened, open_manifest
from rung.records.types import Dialogue

ROOT = Path(__file__).parents[2]
ORDER = [
    "bigcode/the-stack-v2-dedup", "ise-uiuc/Magicoder-OSS-Instruct-75K", "m-a-p/Code-Feedback",
    "coseal/CodeUltraFeedback", "PRIME-RL/Eurus-2-RL-Data", "princeton-nlp/SWE-bench",
]  # fmt: skip


def write(path: Path, *problems: str) -> Path:
    path.write_text("".join(json.dumps({"problem": text, "solution": "see above"}) + "\n" for text in problems))
    return path


def go(folder: Path, **settings: Any) -> RunResult:
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "stages": [{"dataset": settings}]}))
    return run(recipes.load(path), folder / "runs", FakeModels(), Options(code=CLEAN))


def output(folder: Path) -> Opened:
    return open_manifest(folder / "runs/r/dataset")


def test_records_are_typed_and_what_is_left_out_says_why(tmp_path: Path) -> None:
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"text": "count the words of a line that are longer than all others in it"}) + "\n")
    data = write(
        tmp_path / "d.jsonl", "Add two numbers.", "Sort a list.", "Add two numbers.", " ",
        "Please count the words of a line that are longer than all others in it!",
    )  # fmt: skip
    source = {"kind": "magicoder", "path": str(data)}
    assert go(tmp_path, source=source, clear_of=[{"file": str(bench)}], max_broken=0.3).exit_code == 0
    opened = output(tmp_path)
    records = list(opened.records("dialogue"))
    assert all(isinstance(record, Dialogue) for record in records)
    assert [record.messages[0].content for record in records] == ["Add two numbers.", "Sort a list."]
    assert opened.manifest.drops == {"contaminated": 1, "exact_repeat": 1, "other_layout": 1}
    hit = next(drop for drop in opened.records("drop") if drop.reason == "contaminated")
    assert hit.detail["item"] == "bench.jsonl:1"


def test_too_few_records_or_too_many_broken_rows_are_refused(tmp_path: Path) -> None:
    source = {"kind": "magicoder", "path": str(write(tmp_path / "d.jsonl", "One.", " "))}
    (tmp_path / "few").mkdir()
    result = go(tmp_path / "few", source=source, clear_of=[], wanted=2, max_broken=1.0)
    assert (result.outcome, "1 records, 2 are wanted" in str(result.error)) == ("gate", True)
    (tmp_path / "broken").mkdir()
    result = go(tmp_path / "broken", source=source, clear_of=[])
    assert (result.outcome, "50.0% of the rows" in str(result.error)) == ("gate", True)


def test_another_file_is_another_data_set_wherever_it_lies(tmp_path: Path) -> None:
    source = {"kind": "magicoder", "path": str(write(tmp_path / "d.jsonl", "One."))}
    assert go(tmp_path, source=source, clear_of=[]).exit_code == 0
    (tmp_path / "moved").mkdir()
    (tmp_path / "d.jsonl").rename(tmp_path / "moved" / "d.jsonl")
    source["path"] = str(tmp_path / "moved" / "d.jsonl")
    assert go(tmp_path, source=source, clear_of=[]).stages[0].outcome == "skipped"
    write(tmp_path / "moved" / "d.jsonl", "Two.")
    assert go(tmp_path, source=source, clear_of=[]).outcome == "drift"


def test_what_is_no_published_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no published data set"):
        run(recipe_of(tmp_path, {"source": "standard_library"}), tmp_path / "runs", FakeModels(), Options(code=CLEAN))
    with pytest.raises(SettingsError, match="unknown key 'wantd'"):
        recipe_of(tmp_path, {"source": "magicoder", "wantd": 3})


def recipe_of(folder: Path, settings: dict[str, Any]) -> recipes.Recipe:
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "stages": [{"dataset": settings}]}))
    return recipes.load(path)


def test_the_order_of_a_coding_models_data_with_wanted_and_present_sizes(tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", "One.", "Two.", "Three.")
    found = recipes.load(
        ROOT / "recipes/code_datasets.yaml", sets=[f"magicoder.source={{kind: magicoder, path: {data}}}"]
    )
    told = [spec.stage.estimate({}).basis for spec in found.stages]
    assert [text.partition(":")[0] for text in told] == ORDER
    assert told[0] == f"{ORDER[0]}: 1000000 wanted, present: on the hub"
    assert told[1] == f"{ORDER[1]}: 75000 wanted, present: 3 rows"
