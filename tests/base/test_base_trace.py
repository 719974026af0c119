"""Places in a trace, and how they reach other threads and processes."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from kept_events import Kept
from rung.base import trace
from rung.base.events import Events

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def outside_of_any_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may be traced."""
    monkeypatch.delenv(trace.VARIABLE, raising=False)


def test_the_standards_text_is_read_and_written() -> None:
    place = trace.parse(GOOD)
    assert place is not None
    assert (place.trace_id, place.span_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert place.traceparent == GOOD


@pytest.mark.parametrize(
    "text", ["", "x", GOOD.upper(), GOOD[:-3], f"{GOOD}-x", "00-" + "0" * 32 + GOOD[35:], GOOD[:36] + "0" * 16 + "-01"]
)
def test_anything_else_begins_a_new_trace(text: str) -> None:
    assert trace.parse(text) is None
    assert trace.here({trace.VARIABLE: text}) is None


def test_spans_inside_spans_are_below_them_and_failures_are_told() -> None:
    sink = Kept()
    events = Events([sink], run="r")

    def work() -> None:
        """An inner piece that goes well in an outer one that does not."""
        with events.span("outer"):
            with events.bind(stage="s").span("inner", shard=3):
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    inner, outer = sink.events
    assert inner["trace_id"] == outer["trace_id"]
    assert (inner["parent_id"], outer["parent_id"]) == (outer["span_id"], "")
    assert (inner["failed"], outer["failed"], inner["shard"]) == (False, True, 3)
    assert trace.here() is None
    with events.span("next"):
        pass
    assert sink.events[-1]["trace_id"] != outer["trace_id"]


def test_threads_and_processes_started_in_an_exported_span_are_below_it() -> None:
    sink, found = Kept(), []
    with Events([sink]).span("run", export=True):
        thread = threading.Thread(target=lambda: found.append(trace.carrier()))
        thread.start()
        thread.join()
        code = "from rung.base import trace; print(trace.here().traceparent)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    own = sink.events[0]
    text = f"00-{own['trace_id']}-{own['span_id']}-01"
    assert found == [{trace.VARIABLE: text}]
    assert done.stdout.strip() == text
    assert trace.carrier() == {}


def test_a_process_goes_on_in_the_trace_that_it_was_started_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(trace.VARIABLE, GOOD)
    sink = Kept()
    with Events([sink]).span("run", export=True):
        pass
    assert (sink.events[0]["trace_id"], sink.events[0]["parent_id"]) == (GOOD[3:35], GOOD[36:52])
    assert trace.carrier() == {trace.VARIABLE: GOOD}
