"""Tokenising and packing against `datasets.map` with the same tokenizer on two processes: bytes of text per second.

The corpus is Python's standard library with its tests as JSON lines. Ours: what the stage `tokens` does, documents to a
memory-mapped row of ids, from which windows are cut when they are read. Theirs: the usual pair of maps, batched, one
that encodes and one that joins and cuts into blocks of 256. Turn by turn, each into a folder and a cache of its own.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from bench._paired import machine, paired
from rung.base.files import write_json
from rung.datagen.corpus_source import Found
from rung.datagen.corpus_tokens import GroupEncoder, groups_of
from rung.datagen.sources.standard_library import StandardLibrary
from rung.models.cache import Cache
from rung.records.token_shards import TokenShard, TokenWriter, document_key
from rung.records.tokenizer import Tokenizer
from rung.records.tokenizer_training import TrainerSettings, train_tokenizer
from rung.records.types import Document, record_id
from rung.records.windows import Windows

__all__ = ["run"]

WANTED, WINDOW, VOCABULARY = 1.5, 256, 4096


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure and write `bench_tokens.json`; the medians in one line."""
    found = measure(rounds=1 if quick else 3, modules=("json", "email") if quick else ())
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "bench_tokens.json", {"machine": machine(), "quick": quick, **found})
    return f"{found['ratio_median']}x datasets.map on two processes (wanted {WANTED}x)"


def measure(rounds: int, modules: tuple[str, ...]) -> dict[str, Any]:
    """Both contestants on one corpus."""
    documents = _documents(modules)
    tokenizer = train_tokenizer((d.text for d in documents), TrainerSettings(vocabulary=VOCABULARY))
    num_bytes = sum(len(d.text.encode()) for d in documents)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = folder / "corpus.jsonl"
        lines.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in documents))
        tokenizer.inner.save(str(folder / "tokenizer.json"))
        turns, sizes = count(), dict[str, int]()

        def ours() -> float:
            own = folder / f"ours-{next(turns)}"
            start = time.perf_counter()
            sizes["ours"] = _encode(lines, tokenizer, own)
            seconds = time.perf_counter() - start
            shutil.rmtree(own)
            return num_bytes / seconds

        def theirs() -> float:
            own = folder / f"theirs-{next(turns)}"
            start = time.perf_counter()
            sizes["theirs"] = _map(lines, folder / "tokenizer.json", own)
            seconds = time.perf_counter() - start
            shutil.rmtree(own)
            return num_bytes / seconds

        found = paired(ours, theirs, rounds)
    return {
        **found, "wanted_ratio": WANTED, "unit": "bytes of text per second", "num_bytes": num_bytes,
        "num_documents": len(documents), "num_tokens": sizes,
    }  # fmt: skip


def _documents(modules: tuple[str, ...]) -> list[Document]:
    source = StandardLibrary(StandardLibrary.Settings(tests=not modules, modules=modules))
    rows = (row for piece in source.pieces() for row in piece.read() if isinstance(row, Found))
    return [Document(record_id("document", row.text), row.text, "standard_library") for row in rows]


def _encode(lines: Path, tokenizer: Tokenizer, folder: Path) -> int:
    """As the stage does: read, encode group by group, write; tokens written."""
    with lines.open() as file, TokenWriter(folder / "tokens", "train", tokenizer.vocabulary_size) as writer:
        encode = GroupEncoder(tokenizer, Cache(folder / "cache"))
        rows = (json.loads(line) for line in file)
        for group in groups_of(Document(row["id"], row["text"], "file") for row in rows):
            encoded = encode(group)
            for index, document in enumerate(encoded.documents):
                ids = np.concatenate([tokenizer.start_ids, encoded.of(index), tokenizer.end_ids])
                writer.add(document_key(document.id), ids.astype(np.uint32), len(document.text.encode()))
    windows = Windows(TokenShard(folder / "tokens", "train", tokenizer.vocabulary_size), WINDOW)
    assert len(windows.rows([0, len(windows) - 1], WINDOW)) == 2
    return windows.num_tokens


def _map(lines: Path, tokenizer: Path, folder: Path) -> int:
    """Encode and join by two maps on two processes; tokens written."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
    loaded = datasets.load_dataset("json", data_files=str(lines), split="train", cache_dir=str(folder))

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"input_ids": fast(batch["text"], return_attention_mask=False)["input_ids"]}

    def join(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = [token for ids in batch["input_ids"] for token in (1, *ids, 2)]
        whole = len(joined) // WINDOW * WINDOW
        return {"input_ids": [joined[at : at + WINDOW] for at in range(0, whole, WINDOW)]}

    coded = loaded.map(encode, batched=True, num_proc=2, remove_columns=loaded.column_names)
    blocks = coded.map(join, batched=True, num_proc=2)
    return WINDOW * len(blocks)
