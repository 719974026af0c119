"""A file larger than memory may be: two gigabytes of JSON lines become a corpus, a tokenizer and tokens.

`rung run` in a process of its own, whose peak resident memory the system tells. In the file are broken lines and an
item of HumanEval, whose number is known. Then a small file is added beside it and the same stages run again: what they
process is counted by them. Near repeats are not looked for: the file is made by repetition with variation, and they
would leave little of it. Writes stream_memory.json and stream_memory.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rung.base.files import write_json, write_text
from rung.base.lookup import part
from rung.records.manifest import open_manifest

__all__ = ["page", "run"]

SIZE, QUICK = 2_000_000_000, 20_000_000
LIMIT = 500_000_000
PLANTED = "large.jsonl:1"
BROKEN = {"broken_utf8": 7, "broken_json": 5, "missing_field": 3, "empty": 2}
RECIPE = """
run: stream
seed: 1
stages:
  - corpus: {{name: sample, sources: [{{kind: standard_library, modules: [asyncio, email, json, logging, unittest]}}]}}
  - tokenizer: {{corpus: sample, trainer: {{vocabulary: 4096, rule: code}}, held_out: 0.05}}
  - corpus:
      sources: [{{kind: files, path: {folder}}}]
      near: {{similarity: 1.0}}
  - tokens: {{corpus: corpus, tokenizer: tokenizer}}
"""


def run(results_folder: Path, quick: bool = False) -> None:
    """Write the file, run twice, say what it took. `quick` is a hundredth of it."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        size = write_large(data / "large.jsonl", QUICK if quick else SIZE)
        recipe = Path(folder) / "stream.yaml"
        write_text(recipe, RECIPE.format(folder=data))
        first = _run(recipe, Path(folder))
        write_text(data / "small.jsonl", "".join(_line(text) for text in list(_texts())[-20:]))
        again = _run(recipe, Path(folder), "corpus", "tokens")
        result = {
            "bytes": size,
            "limit": LIMIT,
            "planted": BROKEN,
            "first": first,
            "again": again,
        }
    sys.stdout.write(page(result))
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "stream_memory.json", result)
    write_text(results_folder / "stream_memory.md", page(result))


def write_large(path: Path, size: int) -> int:
    """Pieces of the standard library over and over, each with a number of its own; returns the bytes written."""
    pieces = list(_texts())[:-20]
    written = 0
    with path.open("wb") as file:
        for line in _planted():
            written += file.write(line)
        number = 0
        while written < size:
            text = pieces[number % len(pieces)].replace("self", f"self{number}", 3)
            written += file.write(_line(f"# {number}\n{text}").encode())
            number += 1
    return written


def _texts() -> Iterator[str]:
    kind, own = part("datagen.sources", "standard_library")
    for piece in kind(own).pieces():
        for found in piece.read():
            text = getattr(found, "text", None)
            if isinstance(text, str) and text.isascii():
                yield from (text[i : i + 6000] for i in range(0, len(text), 6000))


def _line(text: str) -> str:
    return json.dumps({"text": text}) + "\n"


def _planted() -> Iterator[bytes]:
    kind, own = part("scoring.tasks", "human_eval")
    item = kind(own).make(0, 164, "held_out")[31]
    yield _line(f"# found somewhere\n{item.reference['answer']}").encode()
    wrong = {"broken_utf8": b'{"text": "a \xff b"}', "broken_json": b'{"text": "a', "missing_field": b'{"body": "a"}',
             "empty": b'{"text": " "}'}  # fmt: skip
    for reason, count in BROKEN.items():
        yield from [wrong[reason] + b"\n"] * count


def _run(recipe: Path, folder: Path, *rebuild: str) -> dict[str, Any]:
    """One `rung run`: seconds, peak memory of its process, and what the stages counted."""
    command = [
        sys.executable,
        "-m",
        "rung",
        "run",
        str(recipe),
        "--runs",
        str(folder / "runs"),
        "--quiet",
        "--allow-dirty",
    ]
    command += [word for name in rebuild for word in ("--rebuild", name)]
    environment = {**os.environ, "RUNG_CACHE": str(folder / "cache"), "RAYON_NUM_THREADS": "1"}
    start = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status:
        raise RuntimeError(f"rung run ended with status {status}")
    opened = open_manifest(folder / "runs" / "stream" / "corpus")
    corpus, tokens = opened.manifest, open_manifest(folder / "runs" / "stream" / "tokens").manifest
    hits = [drop for drop in opened.records("drop") if drop.reason == "contaminated"]
    return {
        "seconds": round(seconds, 1),
        "peak_bytes": usage.ru_maxrss * 1024,
        "stages": {m.name: round(m.spend["seconds"], 1) for m in (corpus, tokens)},
        "pieces": [corpus.figures["num_new_pieces"], corpus.figures["num_pieces"]],
        "documents": [tokens.figures["num_new_documents"], corpus.figures["num_documents"]],
        "tokens": tokens.figures["num_train_tokens"] + tokens.figures["num_held_out_tokens"],
        "drops": dict(corpus.drops),
        "planted_item": [drop.detail["item"] for drop in hits if drop.id == PLANTED],
        "other_hits": sorted({f"{drop.detail['item']}: {drop.detail['words']}" for drop in hits if drop.id != PLANTED}),
    }


def page(result: Mapping[str, Any]) -> str:
    """The table."""
    lines = [
        f"A file of {result['bytes'] / 1e9:.2f} GB of JSON lines through `corpus` and `tokens` (4096 entries, "
        f"code), one core; the limit is {result['limit'] / 1e6:.0f} MB.",
        "",
        "| run | peak memory (MB) | seconds | files processed | documents encoded | tokens |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in (("the large file", result["first"]), ("a small file added", result["again"])):
        lines.append(
            f"| {name} | {one['peak_bytes'] / 1e6:.0f} | {one['seconds']} | {one['pieces'][0]} of {one['pieces'][1]} | "
            f"{one['documents'][0]} of {one['documents'][1]} | {one['tokens']} |"
        )
    item = result["first"]["planted_item"]
    kept = "under" if result["first"]["peak_bytes"] < result["limit"] else "OVER"
    found = {reason: result["first"]["drops"].get(reason, 0) for reason in result["planted"]}
    lines += [
        "",
        f"Peak memory is {kept} the limit. Planted {_counts(result['planted'])}; found {_counts(found)}"
        + (": all of them." if found == result["planted"] else ": NOT the same."),
        "",
        f"The planted item of HumanEval was {f'found ({item[0]})' if item else 'NOT found'}. "
        f"{result['first']['drops'].get('contaminated', 0) - len(item)} other texts share ten words with an item, copies "
        f"of: {'; '.join(result['first']['other_hits']) or 'none'}.",
    ]
    return "\n".join(lines) + "\n"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
