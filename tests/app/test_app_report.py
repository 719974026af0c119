"""The page about a run: what it says is what the records say, nothing acts, nothing is fetched, a browser shows it."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from app_finished_run import HOSTILE, an_answer, an_item, an_sft_record, answers, write_output, write_run

from rung.app.cli import execute
from rung.app.reports import svg
from rung.app.reports.html import headline, p_value, percent, render
from rung.app.reports.quality import quality_rows
from rung.app.reports.results import measure, samples
from rung.app.reports.shapes import held, series
from rung.app.reports.story import Story, tell
from rung.app.runs import outputs_of
from rung.base.errors import DataError
from rung.base.fingerprint import plain
from rung.datagen.qc import figures
from rung.evaluate.compare import compare
from rung.evaluate.statistics import mcnemar_of, wilson
from rung.records.types import Candidate

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside of style sheets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._style = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data


def story_of(runs: Path, run: str = "demo") -> Story:
    return tell(run, outputs_of(runs / run))


@pytest.fixture
def page(demo_runs: Path) -> str:
    return render(story_of(demo_runs))


def test_the_numbers_are_those_of_the_records(demo_runs: Path, page: str) -> None:
    tuned, framed = answers("tuned", 0.7), answers("framed", 0.2)
    passed = wilson(sum(a.passed for a in tuned), 90)
    p = mcnemar_of([a.passed for a in framed], [a.passed for a in tuned]).p
    text = " ".join(Page(page).text.split())
    assert f"{percent(passed.rate)} 90 {percent(passed.interval.low)} – {percent(passed.interval.high)}" in text  # noqa: RUF001
    assert f"McNemar p = {p_value(p)}" in text
    assert headline(story_of(demo_runs)) in text
    assert f"{passed.rate:.0%}".replace("%", " %") in headline(story_of(demo_runs))


def test_every_part_of_the_story_is_there(page: str) -> None:
    text = Page(page).text
    for said in (
        "gates nothing", "may gate",  # critics
        "runaway rate", "new prompt pattern",  # quality control and drops
        "held-out", "training",  # curves
        "+11 %",  # bootstrap took 200 s where 180 s were expected
        "clean base model", "Translate 'dog':",  # guard with sentinel text
        "Gate bypassed on purpose: provenance", "bitsandbytes",  # what to read with care
    ):  # fmt: skip
        assert said in text, said
    assert re.search(r"<del>[^<]*Instruction", page), "what cleaning removed is shown"
    targets = {attributes["id"] for _, attributes in Page(page).tags if attributes.get("id")}
    links = {a["href"] for tag, a in Page(page).tags if tag == "a"}
    assert links <= {f"#{target}" for target in targets}
    assert sum(str(link).startswith("#stage-") for link in links) == 3, "the chain links by fingerprint"


def test_model_output_cannot_act(page: str) -> None:
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    tags = Page(page).tags
    assert not [tag for tag, _ in tags if tag in ("script", "img", "iframe", "object", "link", "base", "form")]
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    policy = next(a["content"] for tag, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_nothing_is_fetched(page: str) -> None:
    assert not re.search(r"https?://|@import|url\(", page)
    fetching = ("src", "srcset", "data", "poster", "action", "background")
    assert not [name for _, attributes in Page(page).tags for name in attributes if name in fetching]


@pytest.mark.parametrize("kept", [["probe"], ["bootstrap"], ["sft"], ["probe", "evaluate"], ["evaluate"]])
def test_absent_stages_leave_words_not_holes(demo_runs: Path, kept: list[str]) -> None:
    for folder in list((demo_runs / "demo").iterdir()):
        if folder.name not in kept:
            shutil.rmtree(folder)
    text = Page(render(story_of(demo_runs))).text
    expected = {"sft": "No stage of this run trained", "bootstrap": "No stage of this run made training data"}
    for name, words in expected.items():
        assert (words in text) == (name not in kept)


def test_a_run_without_anything_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished stage"):
        tell("x", [])


def test_failures_are_among_the_samples() -> None:
    items = {f"item{i:03d}": an_item(i) for i in range(90)}
    given = [*answers("framed", 0.2), *answers("tuned", 0.97)]
    shown = samples(given, items, 20)
    assert len(shown) == 20
    failing = {a.item_id for a in given if a.condition == "tuned" and not a.passed}
    assert failing
    assert failing <= {s.item_id for s in shown} or len(failing) > 5
    assert shown[0].outcome in ("lost", "neither")


def test_types_are_corrected_together_and_small_ones_left_out() -> None:
    given = [an_answer(an_item(i), c, c == "tuned", "x") for c in ("raw", "tuned") for i in range(40)]
    few = [an_answer(an_item(i), c, True, "x") for c in ("raw", "tuned") for i in range(27)]
    results = measure(given)
    assert results is not None
    assert len(results.types) == 3
    assert all(row.adjusted_p is not None and row.adjusted_p < 0.01 for row in results.types)
    small = measure(few)
    assert small is not None
    assert small.types == ()


def test_two_tuned_models_are_two_conditions(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_output(tmp_path, "demo", "evaluate_b", {"answers": ("answer", answers("tuned", 0.1))},
                 started="2026-01-02T00:00:00Z", stage="evaluate")  # fmt: skip
    results = story_of(tmp_path).results
    assert results is not None
    assert [c.name for c in results.conditions] == ["raw", "framed", "tuned", "tuned:evaluate_b"]
    assert results.conditions[2].passed.rate > results.conditions[3].passed.rate


def test_copied_baselines_are_not_a_second_model(tmp_path: Path) -> None:
    """The evaluate stage keeps copies of the probe's answers beside its own."""
    write_run(tmp_path)
    baseline = [*answers("raw", 0.02), *answers("framed", 0.2)]
    write_output(tmp_path, "demo", "evaluate", {"answer": ("answer", answers("tuned", 0.7)),
                 "baseline": ("answer", baseline)}, started="2026-01-02T00:00:00Z")  # fmt: skip
    results = story_of(tmp_path).results
    assert results is not None
    assert [(c.name, c.passed.n) for c in results.conditions] == [("raw", 90), ("framed", 90), ("tuned", 90)]


def test_reference_answers_are_the_gap_and_never_a_model(tmp_path: Path) -> None:
    write_run(tmp_path)
    write_output(tmp_path, "demo", "more", {"reference": ("answer", answers("reference", 1.0))})
    story = story_of(tmp_path)
    assert story.gap is not None
    assert story.results is not None
    assert [c.name for c in story.gap.conditions] == ["reference", "raw", "framed"]
    assert [c.name for c in story.results.conditions] == ["raw", "framed", "tuned"]
    assert all(reply.condition != "reference" for sample in story.samples for reply in sample.replies)
    shutil.rmtree(tmp_path / "demo" / "evaluate")
    assert "100.0 %" not in headline(story_of(tmp_path))


def test_quality_figures_stand_beside_their_limits() -> None:
    def made(index: int, text: str, reason: str) -> Candidate:
        return Candidate(f"c{index}", "i", f"Do {index}.", "x", "p", 0, text, text, text, reason, 9, 9, outcome="kept")

    found = figures([], [made(0, "Fine.", "stop"), made(1, "Fine.\nQ: x", "length")])
    rows = {row.name: row for row in quality_rows(plain(found), {"thresholds": {"max_limit_rate": 0.6}})}
    assert (rows["token-limit rate"].value, rows["token-limit rate"].limit) == (0.5, 0.6)
    assert rows["token-limit rate"].passed
    assert not rows["runaway rate"].passed
    assert "pair acceptance" not in rows, "nothing was judged, so there is no figure"


def test_figures_are_read_by_their_shape() -> None:
    rows = held([{"name": "x", "value": 3, "limit": 2, "passed": False}, {"name": "y", "value": True, "limit": 1}])
    assert [(row.name, row.lower_is_better) for row in rows] == [("x", True)]
    assert series([{"step": 1, "loss": 2.0, "note": "x"}, {"step": 2, "loss": 1.0}]) == {"loss": [(1, 2.0), (2, 1.0)]}
    assert series({"loss": [[1, 2.0]], "other": 3}) == {"loss": [(1.0, 2.0)]}


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3, 7), (0.001, 0.002), (5, 5), (0, 1e9), (0, float("nan"))])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = svg.ticks(low, high)
    assert 1 <= len(found) <= 6
    if high > low:
        assert all(low - 1e-9 <= t <= high + 1e-9 for t in found)


def test_charts_survive_odd_numbers() -> None:
    assert svg.curves([], "x", "y") == ""
    assert svg.curves([svg.Curve("<a>", ((0, float("nan")),))], "x", "y") == ""
    lines = [svg.Curve("<a>", ((0, 1.0), (1, float("inf")))), svg.Curve("b", ((0, 1.0), (1, 2.0)))]
    drawn = svg.curves(lines, "x", "y")
    assert "&lt;a&gt;" in drawn
    assert "nan" not in drawn + svg.histogram([1.0], "x") + svg.whisker(svg.Band(0.5, 0.2, 2.0))
    assert "inf" not in drawn
    assert svg.scale(5, 0, 1, 100) == 100


def test_a_whisker_shows_its_interval() -> None:
    drawn = svg.whisker(svg.Band(0.5, 0.25, 0.75))
    assert 'x1="25.00"' in drawn
    assert 'x2="75.00"' in drawn
    assert "M50.00" in drawn
    assert "interval 0.250 to 0.750" in drawn


def test_the_command_writes_where_it_is_told(demo_runs: Path, tmp_path: Path) -> None:
    assert execute(["report", "demo", "--runs", str(demo_runs)]) == 0
    assert (demo_runs / "demo" / "report.html").read_text().startswith("<!doctype html>")
    assert execute(["report", str(demo_runs / "demo"), "--output", str(tmp_path / "deep" / "page.html")]) == 0
    assert (tmp_path / "deep" / "page.html").is_file()
    assert execute(["report", "nothing", "--runs", str(demo_runs)]) == 3


def test_a_broken_shard_is_named(demo_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [shard] = (demo_runs / "demo" / "evaluate").glob("*.zst")
    shard.write_bytes(b"rubbish")
    assert execute(["report", "demo", "--runs", str(demo_runs)]) == 3
    assert shard.name in capsys.readouterr().err


def test_cleaned_answers_are_shown_against_the_raw_ones(tmp_path: Path) -> None:
    record = an_sft_record(0, raw="Keep this. Drop that", response="Keep this.")
    write_output(tmp_path, "r", "bootstrap", {"records": ("sft", [record, an_sft_record(1)])})
    [card] = story_of(tmp_path, "r").data
    assert card.num_cleaned == 1
    assert card.diffs[0].pieces == (("same", "Keep this."), ("gone", " Drop that"))


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
def test_a_browser_shows_it(demo_runs: Path, page: str, tmp_path: Path) -> None:
    path, picture = tmp_path / "report.html", tmp_path / "picture.png"
    path.write_text(page)
    common = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1100,1400"]
    common = ["timeout", "100", *common]
    dump = subprocess.run([*common, "--dump-dom", path.as_uri()], capture_output=True, text=True, check=False)
    assert headline(story_of(demo_runs)) in dump.stdout
    assert "owned" not in re.findall(r"<title>(.*?)</title>", dump.stdout)[0]
    subprocess.run([*common, f"--screenshot={picture}", path.as_uri()], capture_output=True, check=False)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 30_000, "an empty page is far smaller"


def test_the_page_and_the_evaluation_give_the_same_interval() -> None:
    """Items whose order of ids is not their own order: the resampled families must still be the same ones."""
    items = [an_item(index) for index in range(90)][::-1]
    given = {"framed": answers("framed", 0.2)[::-1], "tuned": answers("tuned", 0.7)}
    shown = measure([*given["framed"], *given["tuned"]], {item.id: item for item in items})
    expected = compare({name: given[name] for name in given}, items).pair("framed", "tuned")
    assert shown is not None
    assert expected is not None
    (pair,) = shown.pairs
    assert (pair.lift, pair.test, pair.effect) == (expected.lift, expected.test, expected.effect)
