"""Weights of a corpus's sources: how often an epoch shows their documents (item 413)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_pipeline_pretrain import go, output, stages, story, write_corpus

from rung.base.errors import SettingsError
from rung.datagen.corpus_weights import Weights, showings
from rung.pipeline.stages.tokens import Tokens
from rung.records.token_shards import TokenShard
from rung.records.types import record_id


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of one test is no other's."""
    monkeypatch.setenv("RUNG_CACHE", str(tmp_path_factory.mktemp("cache")))


def recipe(folder: Path, weights: dict[str, float] | None = None, **corpus: Any) -> list[dict[str, Any]]:
    """Two named sources of files and one that has its kind's name; some texts of the first are in the second too."""
    (folder / "web").mkdir(parents=True, exist_ok=True)
    (folder / "books").mkdir(exist_ok=True)
    for number in range(200):
        (folder / "web" / f"{number}.txt").write_text(story(number))
    for number in range(150, 300):
        (folder / "books" / f"{number}.txt").write_text(story(number))
    write_corpus(folder / "rest", count=40, files=2)
    for path in (folder / "rest").iterdir():
        path.write_text(path.read_text().replace(" saw ", " found "))
    sources = [
        {"kind": "files", "name": "web", "path": str(folder / "web")},
        {"kind": "files", "name": "books", "path": str(folder / "books")},
        {"kind": "files", "path": str(folder / "rest")},
    ]
    made = stages(folder)[:3]
    made[0]["corpus"] |= {"sources": sources, **corpus}
    if weights is not None:
        made[2]["tokens"]["weights"] = weights
    return made


def keys(folder: Path, part: str) -> Counter[int]:
    return Counter(TokenShard(folder / "runs/r/tokens/tokens", part, 320).keys().tolist())


WEIGHTS = {"web": 0.25, "books": 2.5, "files/part0.jsonl": 0}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNG_CACHE", str(folder / "cache"))
        result = go(folder, recipe(folder / "data", WEIGHTS))
    assert result.exit_code == 0, [(s.name, s.outcome, s.message) for s in result.stages]
    return folder


def test_the_tokens_follow_the_weights_and_the_manifest_says_so(done: Path) -> None:
    figures = output(done, "tokens").manifest.figures
    rows = figures["sources"]
    assert set(rows) == {"web", "books", "files", "files/part0.jsonl"}
    sizes, sources = Counter[str](), Counter[str]()
    train = TokenShard(done / "runs/r/tokens/tokens", "train", 320)
    source_of = {int(d.id, 16): d.source for d in output(done, "corpus").records("document")}
    weights = Weights(WEIGHTS)
    for index, key in enumerate(train.keys().tolist()):
        name = weights.name_of(source_of[key])
        sizes[name] += len(train.document(index))
        sources[name] += 1
    for name, row in rows.items():
        assert row["num_shown_tokens"] == sizes[name]
        assert row["num_shown_documents"] == sources[name]
        chance = row["weight"] % 1
        deviation = (row["num_documents"] * chance * (1 - chance)) ** 0.5
        assert abs(row["num_shown_documents"] - row["weight"] * row["num_documents"]) <= 3 * deviation
        shares = [row[f"num_shown_{what}"] / row[f"num_{what}"] for what in ("tokens", "documents")]
        assert shares[0] == pytest.approx(shares[1], rel=0.05)
    assert rows["files"]["num_shown_tokens"] == rows["files"]["num_tokens"], "what is not named is shown once"
    assert rows["files/part0.jsonl"]["num_shown_tokens"] == 0
    assert sum(row["num_shown_tokens"] for row in rows.values()) == figures["num_train_tokens"]


def test_what_is_held_out_is_held_out_once_and_never_shown(done: Path) -> None:
    train, held_out = keys(done, "train"), keys(done, "held_out")
    assert not set(train) & set(held_out)
    assert set(held_out.values()) == {1}
    assert max(train.values()) == 3
    rows = output(done, "tokens").manifest.figures["sources"]
    assert all(row["num_held_out_documents"] for row in rows.values()), "also of one that is not trained on"
    assert sum(row["num_held_out_documents"] for row in rows.values()) == len(held_out)


def test_copies_do_not_lie_side_by_side(done: Path) -> None:
    order = TokenShard(done / "runs/r/tokens/tokens", "train", 320).keys().tolist()
    first = {key: place for place, key in reversed(list(enumerate(order)))}
    gaps = [place - first[key] for place, key in enumerate(order) if first[key] != place]
    assert min(gaps) > 50


def test_a_document_that_is_shown_is_the_same_one_in_another_run(done: Path, tmp_path: Path) -> None:
    other = recipe(tmp_path / "data", {"web": 0.5, "books": 0.25})
    other[0]["corpus"]["sources"].reverse()
    assert go(tmp_path, other).exit_code == 0
    quarter = {key for key in keys(done, "train") if key in ids(range(150))}
    half = {key for key in keys(tmp_path, "train") if key in ids(range(150))}
    assert 20 < len(quarter) < len(half) < 110
    assert quarter < half
    assert all(showings(f"{key:016x}", 0.25) for key in quarter)


def ids(numbers: range) -> set[int]:
    return {int(record_id(story(number)), 16) for number in numbers}


def test_without_weights_every_document_is_shown_once_and_nothing_is_otherwise(tmp_path: Path) -> None:
    assert go(tmp_path, recipe(tmp_path / "data")).exit_code == 0
    manifest = output(tmp_path, "tokens").manifest
    assert set(keys(tmp_path, "train").values()) == {1}
    assert "weights" not in manifest.identity
    assert {row["weight"] for row in manifest.figures["sources"].values()} == {1.0}
    rows = manifest.figures["sources"]
    assert set(rows) == {"web", "books", "files"}
    assert rows["books"]["num_documents"] + rows["books"]["num_held_out_documents"] == 100, "repeats of web are gone"


def test_a_name_is_no_reason_to_read_a_source_again(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNG_CACHE", str(done / "cache"))
    chosen = recipe(tmp_path / "data")
    chosen[0]["corpus"]["sources"][0]["name"] = "pages"
    assert go(tmp_path, chosen).exit_code == 0
    assert output(tmp_path, "corpus").manifest.figures["num_new_pieces"] == 0
    assert output(tmp_path, "tokens").manifest.figures["num_new_documents"] == 0
    assert output(tmp_path, "corpus").manifest.fingerprint != output(done, "corpus").manifest.fingerprint


def test_the_gate_finds_tokens_that_no_source_tells_of(done: Path) -> None:
    stage = go(done, recipe(done / "data", WEIGHTS)).stages
    assert [one.outcome for one in stage] == ["skipped"] * 3
    tokens = Tokens(Tokens.Settings(corpus="corpus", tokenizer="tokenizer", weights=WEIGHTS))
    figures = tokens.figures(output(done, "tokens"))
    assert tokens.gate(figures).passed
    assert "differ by 7" in tokens.gate({**figures, "num_untold_tokens": 7}).reasons[0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"wed": 2.0}, r"tokens.weights.*no source 'wed'.*did you mean 'web'.*known: books, files, web"),
        ({"files/part7.jsonl": 2.0}, r"no source 'files/part7.jsonl'.*files/part0.jsonl"),
        ({"web": -1}, r"weights.web.*greater than or equal to 0"),
        ({"web": 1000}, r"weights.web.*less than or equal to 100"),
    ],
)
def test_weights_of_what_is_not_there_are_refused_with_what_is(
    tmp_path: Path, weights: dict[str, float], message: str
) -> None:
    text = error_of(tmp_path, recipe(tmp_path / "data", weights))
    assert re.search(message, text, re.DOTALL), text
    assert not (tmp_path / "runs/r/tokens/manifest.json").exists()


def error_of(folder: Path, chosen: list[dict[str, Any]]) -> str:
    try:
        return str(go(folder, chosen).error)
    except SettingsError as error:
        return str(error)


@pytest.mark.parametrize("name", ["", "a/b", "stage", 3])
def test_a_sources_name_is_a_word(tmp_path: Path, name: Any) -> None:
    chosen = recipe(tmp_path / "data")
    chosen[0]["corpus"]["sources"][0]["name"] = name
    assert "sources[0].name is a word" in error_of(tmp_path, chosen)


def test_an_unknown_key_of_a_source_is_refused_beside_a_name(tmp_path: Path) -> None:
    chosen = recipe(tmp_path / "data")
    chosen[0]["corpus"]["sources"][0]["wieght"] = 2
    assert "unknown key 'wieght'" in error_of(tmp_path, chosen)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0, 1.7, 3.0])
def test_over_many_documents_the_weight_is_what_is_shown(weight: float) -> None:
    names = [record_id(number) for number in range(20_000)]
    shown = [showings(name, weight) for name in names]
    assert sum(shown) / len(shown) == pytest.approx(weight, abs=0.01)
    assert set(shown) <= {int(weight), int(weight) + 1}
    assert all(showings(name, weight + 0.2) >= count for name, count in zip(names, shown, strict=True))


def test_the_longest_name_decides() -> None:
    weights = Weights({"files": 2.0, "files/a.txt": 0.5, "stage/stories": 3.0})
    found = [
        weights.of(source) for source in ("files/a.txt", "files/a.txt2", "files/b", "stage/stories", "other/files")
    ]
    assert found == [0.5, 2.0, 2.0, 3.0, 1.0]
    assert weights.num_rounds == 3
    assert [weights.name_of(source) for source in ("stage/tales", "other/x/y")] == ["stage/tales", "other"]
