"""The stage `make_instructions`: from stories to records that `sft` trains on, versions, summaries, what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline_toys import CLEAN
from rich.console import Console

from rung.app.commands.inspect import inspect
from rung.base.errors import DataError, GateFailed, RungError, SettingsError
from rung.datagen.instructing.asking import Ask
from rung.datagen.instructing.kinds.words import Words
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stages._writing import Pen
from rung.pipeline.training_gate import check_provenance
from rung.records.chat.asking import Asking
from rung.records.chat.frame import Frame
from rung.records.contracts import Request
from rung.records.manifest import Opened, open_manifest
from rung.records.scripted import Scripted
from story_script import script

FACTS = {
    "source": "tiny:teller", "content_id": "c0",
    "report": {"verdict": "clean", "model_name": "teller", "loader_version": "1"},
}  # fmt: skip


class NoModels:
    """Nothing is loaded: pens are scripted."""

    def load(self, source: str, adapter: Any = None, *, clean: bool = True) -> Any:
        """Never asked."""
        raise AssertionError(source)

    def release(self) -> None:
        """Nothing is held."""


@pytest.fixture(autouse=True)
def pens(monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
    """A writer of stories, and one of summaries that begin with the first words of the text."""
    opened: list[Scripted] = []

    def summed(request: Request) -> str:
        text = request.text.split("\n\n", 1)[1]
        return "So " + " ".join(text.replace(".", "").split()[3:10]) + ". And more."

    def open_pen(made: Scripted) -> Any:
        def open_one(context: Any, outputs: Any, settings: Any) -> Pen:
            outputs.note("model", FACTS)
            opened.append(made)
            return Pen(made, Asking(settings.prompt), FACTS)

        return open_one

    monkeypatch.setattr("rung.pipeline.stages.stories.open_pen", open_pen(script()))
    monkeypatch.setattr("rung.pipeline.stages.make_instructions.open_pen", open_pen(Scripted(summed)))
    return opened


def go(folder: Path, *more: dict[str, Any], **settings: Any) -> RunResult:
    path = folder / "recipe.yaml"
    first = {"name": "tasks", "data": "stories", **settings}
    stages = [{"stories": {"count": 40, "shards": 2}}, {"make_instructions": first}, *more]
    path.write_text(yaml.safe_dump({"run": "r", "model": "tiny:llama", "seed": 3, "stages": stages}))
    return run(recipes.load(path), folder / "runs", NoModels(), Options(code=CLEAN))  # type: ignore[arg-type]


def output(folder: Path, name: str = "tasks") -> Opened:
    return open_manifest(folder / "runs" / "r" / name)


def test_stories_become_records_that_may_be_trained_on(tmp_path: Path, pens: list[Scripted]) -> None:
    result = go(tmp_path, pairs={"multi_turn": 1.0})
    assert result.exit_code == 0, result.error
    made = output(tmp_path)
    records = check_provenance(made, "sft")
    documents = {document.id: document for document in output(tmp_path, "stories").records("document")}
    assert len(records) >= len(documents)
    for record in records:
        said = record.metadata["instruction"]
        assert said["document"] in documents
        assert record.metadata["model_name"] == "tiny:teller"
        if not said["conversation"]:
            assert record.response == documents[said["document"]].text
        assert record.training_prompt == Frame.prompt(record.instruction, record.earlier_pairs)
        assert record.num_response_tokens > 5
    assert len(pens) == 1, "no model writes instructions"
    assert len(made.manifest.shards["sft"]) == 2
    figures = made.manifest.figures
    assert figures["qc"]["alignment"]["caught"]["count"] >= 0.9 * figures["qc"]["alignment"]["caught"]["total"]
    assert set(figures["distribution"]["types"])
    assert len(figures["version"]["id"]) == 12


def test_a_model_writes_summaries_only_where_they_are_asked_for(tmp_path: Path, pens: list[Scripted]) -> None:
    result = go(tmp_path, kinds=["words", "summary"], model="tiny:llama", pairs={"multi_turn": 0})
    assert result.exit_code == 0, result.error
    records = list(output(tmp_path).records("sft"))
    summed = [record for record in records if "summary" in record.type]
    assert len(summed) > 10
    assert all("And more." in record.instruction for record in summed)
    assert len(pens) == 2


def test_item_219_a_newer_set_says_what_changed_and_the_older_one_stays(tmp_path: Path) -> None:
    newer = {
        "make_instructions": {"name": "newer", "data": "stories", "since": "tasks", "kinds": ["words", "sentence"]}
    }
    result = go(tmp_path, newer)
    assert result.exit_code == 0, result.error
    old, new = output(tmp_path), output(tmp_path, "newer")
    text = new.file("changelog").read_text()
    assert old.manifest.figures["version"]["id"] in text
    assert new.manifest.figures["version"]["id"] in text
    assert "| gist |" in text
    old.verify()
    assert list(old.records("sft"))


def test_a_kind_that_fits_any_text_fails_the_gate(tmp_path: Path) -> None:
    """A sentence of one word that all stories have: the pairs are aligned, and nothing would be found out."""
    result = go(tmp_path, kinds=["test_pipeline_instructions:Vague"], pairs={"multi_turn": 0, "max_asks": 1})
    assert isinstance(result.error, GateFailed)
    assert "caught when swapped: 0.0%" in str(result.error)


class Vague:
    """Claims to tell texts apart and accepts every one."""

    identifies = True
    needs_completer = False
    said = ("number",)
    clauses = ("that is number {number}",)
    lines = ("Number {number}.",)

    Settings = Words.Settings

    def __init__(self, settings: Any, means: Any) -> None:
        self.settings = settings

    def asks(self, documents: Any, seed: int) -> list[Any]:
        """A number for each."""
        return [Ask("vague", {"number": document.id}, ()) for document in documents]

    def holds(self, ask: Any, text: str) -> bool:
        """Always."""
        return True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ["word"]}, "did you mean 'words'"),
        ({"kinds": ["features"]}, "none of the kinds tells one text from another"),
        ({"styles": ["plane"]}, "did you mean 'plain'"),
        ({"pairs": {"min_asks": 3, "max_asks": 1}}, "min_asks is above"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    tmp_path: Path, pens: list[Scripted], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((SettingsError, DataError), match=message):
        go(tmp_path, **settings)
    assert not pens


def test_the_same_seed_gives_the_same_records(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert go(one).exit_code == 0
    assert go(other).exit_code == 0
    assert output(one).manifest.shards == output(other).manifest.shards


def test_too_few_records_decide_nothing(tmp_path: Path) -> None:
    result = go(tmp_path, limits={"min_records": 1000})
    assert isinstance(result.error, RungError)
    assert "at least 1000 are needed" in str(result.error)


def test_stories_pass_through_a_corpus_stage(tmp_path: Path) -> None:
    """As in pretraining: the corpus reads the stories, instructions are made from the corpus."""
    stages = [
        {"stories": {"count": 20}},
        {"corpus": {"of": ["stories"], "sources": []}},
        {"make_instructions": {"data": "corpus"}},
    ]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"run": "r", "model": "tiny:llama", "seed": 3, "stages": stages}))
    result = run(recipes.load(path), tmp_path / "runs", NoModels(), Options(code=CLEAN))  # type: ignore[arg-type]
    assert result.exit_code == 0, result.error
    records = check_provenance(output(tmp_path, "make_instructions"), "sft")
    assert len(records) >= 18
    assert {record.metadata["instruction"]["document_source"] for record in records} == {"stage/stories"}


def test_item_220_one_command_prints_types_lengths_styles_and_gaps(tmp_path: Path) -> None:
    assert go(tmp_path).exit_code == 0
    page = Console(width=200, file=io.StringIO(), record=True)
    wanted = dict.fromkeys(("drops", "flags", "masks", "records"), False)
    inspect(tmp_path / "runs", "r/tasks", ("", 5), page, None, cleaning=0, **wanted)
    text = page.export_text()
    for word in ("types", "response_words", "styles", "gaps", "opening_words", "version"):
        assert f'"{word}"' in text
