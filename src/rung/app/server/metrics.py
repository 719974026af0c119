"""What the server counts, in Prometheus' text format (version 0.0.4). The names are listed in docs/serving.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from rung.app.server.device import Readings
from rung.app.server.monitor import Sample
from rung.engine.tickets import Figures

__all__ = ["Metrics"]

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class _Histogram:
    """Seconds by endpoint, counted up to each bound."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()

    def add(self, endpoint: str, seconds: float) -> None:
        """Count one duration."""
        counts = self._counts.setdefault(endpoint, [0] * (len(_BUCKETS) + 1))
        for place, bound in enumerate((*_BUCKETS, float("inf"))):
            counts[place] += seconds <= bound
        self._sums[endpoint] += seconds  # type: ignore[assignment]

    def lines(self, name: str, about: str) -> list[str]:
        """The family in text."""
        lines = _head(name, "histogram", about)
        for endpoint, counts in sorted(self._counts.items()):
            for bound, count in zip((*map(str, _BUCKETS), "+Inf"), counts, strict=True):
                lines.append(f'{name}_bucket{{endpoint="{endpoint}",le="{bound}"}} {count}')
            lines.append(f'{name}_sum{{endpoint="{endpoint}"}} {self._sums[endpoint]:.6f}')
            lines.append(f'{name}_count{{endpoint="{endpoint}"}} {counts[-1]}')
        return lines


class Metrics:
    """Requests by endpoint and outcome, and how long they took."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str]] = Counter()
        self._seconds, self._first_text = _Histogram(), _Histogram()

    def count(self, endpoint: str, outcome: str, seconds: float) -> None:
        """A request has ended."""
        self._requests[endpoint, outcome] += 1
        self._seconds.add(endpoint, seconds)

    def first_text(self, endpoint: str, seconds: float) -> None:
        """A stream has brought its first text."""
        self._first_text.add(endpoint, seconds)

    def text(self, figures: Figures, sample: Sample, readings: Readings) -> str:
        """Everything, as Prometheus reads it."""
        lines = _head("rung_requests_total", "counter", "Requests that have ended.")
        for (endpoint, outcome), count in sorted(self._requests.items()):
            lines.append(f'rung_requests_total{{endpoint="{endpoint}",outcome="{outcome}"}} {count}')
        lines += self._seconds.lines("rung_request_seconds", "Seconds from a request's arrival to its end.")
        lines += self._first_text.lines("rung_first_text_seconds", "Seconds until a stream's first text.")
        lines += _head("rung_tokens_total", "counter", "Tokens read from prompts, and drawn.")
        lines.append(f'rung_tokens_total{{kind="prompt"}} {figures.num_prompt_tokens}')
        lines.append(f'rung_tokens_total{{kind="completion"}} {figures.num_tokens}')
        for name, (kind, about, value) in _engine(figures, sample).items():
            lines += [*_head(name, kind, about), f"{name} {value}"]
        return "\n".join([*lines, *_device(readings)]) + "\n"


def _engine(figures: Figures, sample: Sample) -> Mapping[str, tuple[str, str, float]]:
    return {
        "rung_queue_length": ("gauge", "Sequences that wait for a slot.", figures.num_waiting),
        "rung_running_sequences": ("gauge", "Sequences that are decoded now.", figures.num_running),
        "rung_slots": ("gauge", "Sequences that run at once at most.", figures.num_slots),
        "rung_steps_total": ("counter", "Decoding steps.", figures.num_steps),
        "rung_busy_seconds_total": ("counter", "Seconds spent in decoding steps.", round(figures.busy_seconds, 6)),
        "rung_tokens_per_second": ("gauge", "While busy, in the last sample.", round(sample.tokens_per_second, 3)),
        "rung_restarts_total": ("counter", "Sequences sent back by lack of memory.", figures.num_restarts),
        "rung_model_loaded": ("gauge", "1 while the weights are in memory.", int(figures.loaded)),
        "rung_model_loads_total": ("counter", "Times the weights were loaded.", figures.num_loads),
        "rung_model_load_seconds": ("gauge", "Seconds of the last load.", round(figures.load_seconds, 6)),
        "rung_weights_bytes": ("gauge", "Weights in memory.", figures.memory.weights),
        "rung_cache_bytes": ("gauge", "Keys and values in memory.", figures.memory.cache),
    }


def _device(readings: Readings) -> list[str]:
    about = "1 with an accelerator; on 0 there are no device figures."
    lines = [
        *_head("rung_device_present", "gauge", about),
        f'rung_device_present{{device="{readings.device}",note="{readings.note}"}} {int(readings.present)}',
    ]
    known = {
        "rung_resident_memory_bytes": ("Physical memory of the process.", readings.resident_bytes),
        "rung_device_memory_bytes": ("Memory of the device that is allocated.", readings.allocated_bytes),
        "rung_device_memory_total_bytes": ("Memory of the device.", readings.total_bytes),
        "rung_device_used_ratio": ("Share of time in which the device computed.", readings.used),
    }
    for name, (text, value) in known.items():
        if value is not None:
            lines += [*_head(name, "gauge", text), f"{name} {value}"]
    return lines


def _head(name: str, kind: str, about: str) -> list[str]:
    return [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
