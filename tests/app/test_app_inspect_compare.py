"""What is shown of outputs: records, masks, flags, drops; and what differs between them."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from app_finished_run import an_answer, an_item, answers, write_output, write_run
from rich.console import Console
from rich.text import Text
from tokenizers import decoders, models, pre_tokenizers

from rung.app import inspect as views
from rung.app.cli import execute
from rung.app.compare import changes, compare, conditions_of, find_side
from rung.app.runs import find_output, find_run, known_runs, outputs_of
from rung.base.errors import DataError
from rung.datagen.qc import figures
from rung.records.chat.frame import Frame
from rung.records.tokenizer import Tokenizer
from rung.records.types import Candidate, Critique, Instruction


def text_of(shown: Any, width: int = 160) -> str:
    file = io.StringIO()
    Console(file=file, width=width).print(shown)
    return file.getvalue()


@pytest.fixture(scope="module")
def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate([*alphabet, "<eos>"])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return Tokenizer(inner, end_ids=(256,))


def test_drops_are_grouped_by_reason_and_mark_the_span(demo_runs: Path) -> None:
    shown = views.drops(find_output(demo_runs, "demo/bootstrap"), views.Part())
    plain = text_of(shown)
    assert "runaway: new prompt pattern" in plain
    assert "critic: low confidence" in plain
    assert "short answer" not in plain
    line = next(line for line in _texts(shown) if "Fine so far" in line.plain)
    marked = [line.plain[s.start : s.end] for s in line.spans if "yellow" in str(s.style)]
    assert marked == ["\nQ:"]


def test_flags_are_those_of_the_summary(demo_runs: Path, tmp_path: Path) -> None:
    said = ["Fine.", "Fine.\nQ: another", "1) one\n2) two -"]
    made = [
        Candidate(f"c{i}", "i", f"Do {i}.", "x", "p", 0, text, text, text, "stop", 4, 4, outcome="kept")
        for i, text in enumerate(said)
    ]
    write_output(tmp_path / "runs", "r", "bootstrap", {"candidates": ("candidate", made)})
    counts = figures([], made).flags
    assert counts
    shown = text_of(views.flags(find_output(tmp_path / "runs", "r/bootstrap"), views.Part()))
    for name, count in counts.items():
        heuristic, _, rule = name.partition(".")
        assert f"{heuristic}: {rule} ({count})" in shown
    assert "brevity: short answer" in text_of(views.flags(find_output(demo_runs, "demo/bootstrap"), views.Part()))


def test_masks_follow_the_ids(byte_tokenizer: Tokenizer) -> None:
    rendered = Frame.render(byte_tokenizer, "Say hi.", "Hi\nthere")
    shown = views.mask(rendered, byte_tokenizer)
    green = "".join(shown.plain[s.start : s.end] for s in shown.spans if "green" in str(s.style))
    grey = "".join(shown.plain[s.start : s.end] for s in shown.spans if "dim" in str(s.style))
    assert green.replace("⏎\n", "\n") == Frame.completion("Hi\nthere") + "<eos>"
    assert grey.replace("⏎\n", "\n") == Frame.prompt("Say hi.")
    assert len(shown.spans) == len(rendered.token_ids)
    styles = [str(s.style) for s in shown.spans]
    assert all(a != b for a, b in itertools.pairwise(styles)), "borders between tokens must be visible"


def test_masks_of_an_output_by_the_real_command(
    demo_runs: Path, byte_tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    byte_tokenizer.inner.save(str(tmp_path / "tokenizer.json"))
    arguments = ["inspect", "demo/bootstrap", "--masks", "--runs", str(demo_runs), "--limit", "1"]
    assert execute([*arguments, "--tokenizer", str(tmp_path / "tokenizer.json")]) == 0
    assert "trained ids" in capsys.readouterr().out
    # Without the option it is the tokenizer of the model that the run's manifests name.
    assert execute(arguments) == 0
    assert "trained ids" in capsys.readouterr().out
    assert execute(["inspect", "demo/probe", "--masks", "--runs", str(demo_runs)]) == 3


def test_one_record_is_found_by_its_id(demo_runs: Path) -> None:
    output = find_output(demo_runs, "demo/bootstrap")
    shown = text_of(views.records(output, views.Part("record003", 5)))
    assert "Paris is the capital." in shown
    assert "record004" not in shown
    with pytest.raises(DataError, match="no record has the id"):
        views.records(output, views.Part("nothing", 5))


def test_the_overview_shows_the_chain_and_what_was_bypassed(demo_runs: Path) -> None:
    shown = text_of(views.overview(find_output(demo_runs, "demo/sft"), outputs_of(demo_runs / "demo")))
    assert "data ← bootstrap" in shown
    assert "bypassed: provenance" in shown
    shown = text_of(views.overview(find_output(demo_runs, "demo/bootstrap"), ()))
    assert "degraded: what bitsandbytes" in shown
    assert "low confidence" in shown


def test_markup_in_model_output_is_text(demo_runs: Path, tmp_path: Path) -> None:
    item = an_item(0)
    write_output(tmp_path / "r", "x", "evaluate", {"a": ("answer", [an_answer(item, "raw", True, "[red]odd[/nope]")])})
    assert "[red]odd[/nope]" in text_of(views.records(find_output(tmp_path / "r", "x/evaluate"), views.Part()))


def test_outputs_come_parents_first(demo_runs: Path) -> None:
    assert [o.manifest.name for o in outputs_of(demo_runs / "demo")] == ["probe", "bootstrap", "sft", "evaluate"]


def test_wrong_names_are_told_with_the_nearest(demo_runs: Path) -> None:
    assert known_runs(demo_runs) == ["demo"]
    with pytest.raises(DataError) as caught:
        find_run(demo_runs, "demi")
    assert "demo" in caught.value.hint
    with pytest.raises(DataError) as caught:
        find_output(demo_runs, "demo/bootstarp")
    assert "did you mean 'bootstrap'" in caught.value.hint
    with pytest.raises(DataError, match="name one of its stages"):
        find_output(demo_runs, "demo")


def two_runs(tmp_path: Path, gained: int) -> Path:
    """Runs a and b over the same 200 items; b answers `gained` more of them right."""
    runs = tmp_path / "runs"
    items = [an_item(i) for i in range(200)]
    for run, right in (("a", 80), ("b", 80 + gained)):
        given = [an_answer(item, "tuned", i < right, "x") for i, item in enumerate(items)]
        write_output(runs, run, "evaluate", {"answers": ("answer", given)})
    return runs


def test_noise_is_not_marked_and_a_real_difference_is(tmp_path: Path) -> None:
    """Spec item 172: 1 point is noise, 20 points are not."""
    runs = two_runs(tmp_path / "one", gained=2)
    shown = text_of(compare([find_side(runs, "a"), find_side(runs, "b")]))
    assert "+1.0 points" in shown
    assert "within noise" in shown
    runs = two_runs(tmp_path / "two", gained=40)
    shown = text_of(compare([find_side(runs, "a"), find_side(runs, "b")]))
    assert "+20.0 points" in shown
    assert "different" in shown
    assert "within noise" not in shown


def test_conditions_of_one_run_are_compared(demo_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", "demo/probe:raw", "demo/probe:framed", "demo/evaluate", "--runs", str(demo_runs)]
    assert execute(arguments) == 0
    out = capsys.readouterr().out
    assert "demo/probe:raw → demo/evaluate" in out.replace("\n", "") or "demo/evaluate" in out
    assert execute(["compare", "demo/probe:tuned", "demo/evaluate", "--runs", str(demo_runs)]) == 3
    assert "raw" in capsys.readouterr().err
    assert execute(["compare", "demo/probe:raw", "--runs", str(demo_runs)]) == 2
    assert "one thing cannot be compared" in capsys.readouterr().err


def test_one_output_with_several_conditions_is_compared_with_itself(
    demo_runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["compare", "demo", "--runs", str(demo_runs)]) == 0
    assert "raw" in capsys.readouterr().out
    shown = text_of(compare(conditions_of(find_side(demo_runs, "demo"))))
    assert "raw → tuned" in shown
    assert "nothing differs" not in shown, "its manifests are the same ones"


def test_what_the_readme_says_to_look_at_can_be_looked_at(demo_runs: Path) -> None:
    """The README's own lines, on a finished run with the quickstart's name."""
    write_run(demo_runs, "quickstart")
    told = {"baseline": ("answer", answers("raw", 0.02)), "answer": ("answer", answers("tuned", 0.7))}
    write_output(demo_runs, "quickstart", "evaluate", told)
    lines = [line.split(" #")[0].split() for line in Path("README.md").read_text().splitlines()]
    looking = ("compare", "report", "status")
    said = [words[1:] for words in lines if words[:1] == ["rung"] and words[1] in looking]
    done = []
    for words in said:
        stage = words[1].partition("/")[2]
        if not stage or (demo_runs / "quickstart" / stage).is_dir():
            assert execute([*words, "--runs", str(demo_runs)]) == 0, words
            done.append(words[0])
    assert {*done} == {*looking}


def test_items_that_do_not_match_are_not_paired(tmp_path: Path) -> None:
    for run, start in (("a", 0), ("b", 50)):
        given = [an_answer(an_item(i), "tuned", True, "x") for i in range(start, start + 20)]
        write_output(tmp_path, run, "evaluate", {"answers": ("answer", given)})
    assert "share no item" in text_of(compare([find_side(tmp_path, "a"), find_side(tmp_path, "b")]))


def test_three_pilots_stand_side_by_side(tmp_path: Path) -> None:
    """Spec item 79: what changed, and which threshold moved."""
    for run, temperature, rate, passed in (("p1", 0.7, 0.12, False), ("p2", 0.4, 0.06, True), ("p3", 0.4, 0.04, True)):
        write_output(
            tmp_path, run, "bootstrap", settings={"temperature": temperature, "count": 30},
            figures={"qc": {"limit_rate": rate}}, spend={"seconds": 100.0 * rate},
            gate={"passed": passed, "reasons": [] if passed else ["limit_rate 0.12 is not below 0.1"]},
        )  # fmt: skip
    sides = [find_side(tmp_path, run) for run in ("p1", "p2", "p3")]
    rows = dict(changes([side.outputs["bootstrap"] for side in sides]))
    assert rows["settings.temperature"] == ("0.7", "0.4", "0.4")
    assert rows["figures.qc.limit_rate"] == ("0.12", "0.06", "0.04")
    assert rows["gate.passed"] == ("False", "True", "True")
    assert rows["spend.seconds"] == ("12 s", "6 s", "4 s")
    assert "settings.count" not in rows
    shown = text_of(compare(sides))
    assert "settings.temperature" in shown
    assert "limit_rate 0.12 is not below 0.1" in shown


def test_things_without_anything_in_common_are_refused(tmp_path: Path) -> None:
    write_output(tmp_path, "a", "probe")
    write_output(tmp_path, "a", "other")
    write_run(tmp_path, "b")
    write_output(tmp_path, "c", "merge")
    write_output(tmp_path, "c", "mix")
    with pytest.raises(DataError, match="nothing in common"):
        compare([find_side(tmp_path, "b"), find_side(tmp_path, "c")])


def test_the_latest_condition_is_what_a_run_stands_for(tmp_path: Path) -> None:
    write_output(tmp_path, "a", "all", {c: ("answer", answers(c, 0.5)) for c in ("raw", "framed", "tuned")})
    side = find_side(tmp_path, "a")
    assert set(side.answers) == {"raw", "framed", "tuned"}
    other = find_side(tmp_path, "a:raw")
    assert "90" in text_of(compare([side, other]))


def _texts(shown: Any) -> list[Text]:
    if isinstance(shown, Text):
        return [shown]
    inner = getattr(shown, "renderables", None) or ([shown.renderable] if hasattr(shown, "renderable") else [])
    return [text for part in inner for text in _texts(part)]


def test_the_cleaning_audit_shows_the_largest_cuts_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def one(number: int, generated: str, response: str) -> Candidate:
        name = f"c{number}"
        return Candidate(name, "i", f"Do {number}.", "x", "p", 0, generated, generated, response, "stop", 4, 4)

    over = "It rains because warm air rises and cools."
    made = [one(0, "Fine.", "Fine."), one(1, "Good day. Q", "Good day."), one(2, over, "It rains")]
    write_output(tmp_path / "runs", "r", "bootstrap", {"candidates": ("candidate", made)})
    assert execute(["inspect", "r/bootstrap", "--cleaning", "100", "--runs", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "3 of 3 generations: 2 changed, 1 by more than a third" in shown
    assert shown.index("It rains") < shown.index("Good day.") < shown.index("Fine.")
    view = views.cleaning(find_output(tmp_path / "runs", "r/bootstrap"), 2)
    assert "2 of 3 generations" in text_of(view)
    struck = [
        cell.plain[span.start : span.end]
        for cell in views.cleaning(find_output(tmp_path / "runs", "r/bootstrap"), 3).renderables[1].columns[2].cells  # type: ignore[attr-defined]
        for span in cell.spans
        if "strike" in str(span.style)
    ]
    assert " because warm air rises and cools." in struck
    write_output(tmp_path / "runs", "r", "empty", {})
    with pytest.raises(DataError, match="no generations"):
        views.cleaning(find_output(tmp_path / "runs", "r/empty"), 5)


def test_two_pools_are_compared_by_what_their_instructions_came_to(tmp_path: Path) -> None:
    def written(kinds: str, distinct: int, accepted: int) -> dict[str, Any]:
        instructions = [
            Instruction(
                f"i{n}", f"Tell me about thing {n % distinct}.", {"f": "factual", "c": "creative"}[kind], "p", n
            )
            for n, kind in enumerate(kinds)
        ]
        judged = [
            Critique("g", n < accepted, True, "A", 0.0, -1.0, 1.0, 1.0, 0.2, reason="") for n in range(len(kinds))
        ]
        candidates = [
            Candidate(f"c{n}", f"i{n}", i.text, i.type, "p", 0, "x", "x", "x", "stop", 4, 4, pair_critique=critique)
            for n, (i, critique) in enumerate(zip(instructions, judged, strict=True))
        ]
        return {"instructions": ("instruction", instructions), "candidates": ("candidate", candidates)}

    write_output(tmp_path, "small", "pilot", written("ffffffff", distinct=2, accepted=4))
    write_output(tmp_path, "rich", "pilot", written("ffffcccc", distinct=8, accepted=6))
    shown = text_of(compare([find_side(tmp_path, "small/pilot"), find_side(tmp_path, "rich/pilot")]))
    rows = {line.split("  ")[1].strip(): line for line in shown.splitlines() if line.startswith("  ")}
    assert "25.0% (2/8)" in rows["distinct"]
    assert "100.0% (8/8)" in rows["distinct"]
    assert "50.0% (4/8)" in rows["accepted of judged"]
    assert "75.0% (6/8)" in rows["accepted of judged"]
    assert "0.0% (0/8)" in rows["type creative"]
    assert "50.0% (4/8)" in rows["type creative"]
