"""A pretraining step against transformers' Trainer: tokens per second, peak memory, share of the matrix rate.

Both sides start from the same weights and read the same stream of documents, cut into windows of 256 tokens, 32 of them
an update, bfloat16 autocast from float32 weights, AdamW. The Trainer's windows run over the ends of documents, as its
own examples do it; ours keep documents apart. Each side runs in its own process, turn by turn; the first updates of a
process warm it up and are not timed. The share is of the rate that this machine's matrix product of large squares
reaches; attention's own operations are left out of it.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["run"]

NETWORKS = {"llama 28m": ("llama", "28m"), "coder tiny": ("coder", "tiny")}
WANTED = 1.3
WINDOW, RATE, WARM = 256, 1e-3, 2


@dataclass(frozen=True)
class Size:
    """How much is measured; the first updates are the warm-up."""

    windows: int
    steps: int
    rounds: int


SIZES = {"llama 28m": Size(32, 4, 3), "coder tiny": Size(32, 22, 3)}


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure every network; writes `bench_pretraining.json`, returns one line."""
    from bench._ceilings import ceilings
    from bench._paired import machine
    from rung.base.files import write_json

    sizes = {"coder tiny": Size(4, 4, 1)} if quick else SIZES
    found: dict[str, Any] = {}
    for name, size in sizes.items():
        top = ceilings().squares["bfloat16"]
        found[name] = {"size": asdict(size), **_network(name, size, top)}
        results_folder.mkdir(parents=True, exist_ok=True)
        report = {"machine": machine(), "quick": quick, "wanted_ratio": WANTED, "networks": found}
        write_json(results_folder / "bench_pretraining.json", report)
    return "; ".join(
        f"{name}: {m['speed']['ratio_median']}x the Trainer's tokens/s ({m['speed']['ratio_lowest']}-"
        f"{m['speed']['ratio_highest']}), {m['memory_ratio']:.2f}x its peak memory, {m['share']:.0%} of the matrix rate"
        for name, m in found.items()
    )


def _network(name: str, size: Size, top: float) -> dict[str, Any]:
    from bench._paired import paired

    peaks: dict[str, list[float]] = {"rung": [], "transformers": []}
    rates: list[float] = []

    def turn(side: str) -> float:
        answer = _worker(side, name, folder, size)
        peaks[side].append(answer["peak_mb"])
        if side == "rung":
            rates.append(answer["rate"])
        return answer["rate"]

    with tempfile.TemporaryDirectory() as folder:
        flops = _worker("data", name, folder, size)["flops"]
        speed = paired(lambda: turn("rung"), lambda: turn("transformers"), size.rounds)
    ratios = [ours / theirs for ours, theirs in zip(peaks["rung"], peaks["transformers"], strict=True)]
    return {
        "speed": speed,
        "unit": "tokens per second",
        "memory_ratio": statistics.median(ratios),
        "peak_mb": peaks,
        "share": 3 * flops * statistics.median(rates) / top,
        "gflops_squares": round(top / 1e9, 1),
    }


def _worker(side: str, name: str, folder: str, size: Size) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), side, name, folder, str(size.windows), str(size.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{side} on {name} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _make(name: str, folder: Path, size: Size) -> dict[str, float]:
    """Documents of uneven length as a token shard, the weights in the published layout; operations of a token."""
    import numpy as np

    from rung.base.lookup import lookup
    from rung.models.load import load
    from rung.models.publish import publish
    from rung.models.size import size_of
    from rung.records.token_shards import TokenWriter

    family, preset = NETWORKS[name]
    kind = lookup("models.families", family)
    network = kind.build(kind.SIZES[preset], 0)
    published = folder / "model"
    published.mkdir()
    publish(network, load("tiny:llama", clean=False, strict=False).tokenizer, published)
    draw, left = np.random.default_rng(0), (size.windows * size.steps + 1) * WINDOW
    with TokenWriter(folder / "tokens", "train", network.shape.vocabulary) as writer:
        for number in range(1_000_000):
            ids = draw.integers(3, network.shape.vocabulary, int(draw.integers(50, 600))).astype(np.uint32)
            writer.add(number, ids, len(ids))
            left -= len(ids)
            if left < 0:
                break
    return {"flops": size_of(network).flops}


def _rung(name: str, folder: Path, size: Size) -> list[float]:
    import torch

    from rung.base.events import Events
    from rung.models.published import open_network
    from rung.records.token_shards import TokenShard
    from rung.records.windows import Windows
    from rung.train.pretrain_settings import PretrainSettings
    from rung.train.pretraining import WindowMaterial, pretrain

    network = open_network(folder / "model", torch.float32).network.requires_grad_(True)
    windows = Windows(TokenShard(folder / "tokens", "train", network.shape.vocabulary), WINDOW)
    num = size.windows * size.steps
    settings = PretrainSettings(
        learning_rate=RATE, schedule="linear", warmup_fraction=0, sequences_per_step=size.windows, precision="bfloat16",
        max_tokens=WINDOW, max_windows=num, eval_interval=10**6, checkpoint_interval=0,
        optimizer={"kind": "adamw", "weight_decay": 0.0},
    )  # fmt: skip
    times: list[float] = []

    class Unmeasured(WindowMaterial):
        """Nothing is held out: the Trainer measures nothing either."""

        def measure(self) -> dict[str, float]:
            """Nothing."""
            return {}

    material = Unmeasured(network, windows, windows, settings, "bench")
    pretrain(
        material, events=Events(), scratch=folder / f"scratch-{os.getpid()}",
        on_step=lambda num_tokens: times.append(time.perf_counter()),
    )  # fmt: skip
    return times


def _transformers(name: str, folder: Path, size: Size) -> list[float]:
    import datasets
    import numpy as np
    import torch
    import transformers

    from rung.records.token_shards import TokenShard

    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    shard = TokenShard(folder / "tokens", "train", model.config.vocab_size)
    ids = np.asarray(shard.ids[: size.windows * size.steps * WINDOW], np.int64).reshape(-1, WINDOW)
    rows = datasets.Dataset.from_dict({"input_ids": ids.tolist(), "labels": ids.tolist()})
    times: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        """Notes when updates end."""

        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            """One more."""
            times.append(time.perf_counter())

    settings = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"), per_device_train_batch_size=size.windows, num_train_epochs=1,
        learning_rate=RATE, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0, bf16=True, use_cpu=True,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    transformers.Trainer(model=model, args=settings, train_dataset=rows, callbacks=[Clock()]).train()
    return times


def _peak_mb() -> float:
    """Peak of this program alone: getrusage would begin at the size of the process that started it."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def main(side: str, name: str, folder: Path, size: Size) -> None:
    """One side in this process; prints one line of JSON."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if side == "data":
        answer = _make(name, folder, size)
    else:
        times = {"rung": _rung, "transformers": _transformers}[side](name, folder, size)
        steps = [later - sooner for sooner, later in zip(times[WARM - 1 :], times[WARM:], strict=False)]
        answer = {"rate": size.windows * WINDOW / statistics.median(steps), "peak_mb": _peak_mb()}
    print(json.dumps(answer))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Size(int(sys.argv[4]), int(sys.argv[5]), 1))
