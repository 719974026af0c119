"""What the tests of training on several ranks run in each process: one scenario after another, each in a job of its
own size that the first ranks form.

`python training_ranks.py SIZE FOLDER SCENARIOS` imports once, forks the ranks and prints two lines of JSON: of each
scenario the figures that rank 0 found, and the exit codes of all ranks.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from rung.base.errors import BudgetSpent, RungError
from rung.base.events import Events
from rung.base.fingerprint import plain
from rung.models.families.coder import Coder
from rung.models.families.gemma3 import Gemma3
from rung.models.families.llama import Llama
from rung.models.parallel.laid_out import laid_out, whole
from rung.models.parallel.layout import Layout
from rung.records.chat.frame import Rendered
from rung.records.packing import Example, PackedRow, pack
from rung.records.tokenizer import Tokenizer
from rung.train import loop, step
from rung.train.adapters import prepare, trainable
from rung.train.loop import TrainResult, train
from rung.train.loss_scale import LossScale
from rung.train.objectives.cross_entropy import CrossEntropy
from rung.train.settings import AdapterSettings, SftSettings
from rung.train.step import accumulate
from rung.train.update import update_weights

END, FEW_TOKENS = 2, 120
FAMILIES: dict[str, Any] = {"llama": Llama, "gemma3": Gemma3, "coder": Coder}
TOKENIZER = Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"<end>": END}, "<end>")), end_ids=(END,))


def examples(num: int = 40) -> list[Example]:
    """Texts of uneven lengths with few rules to learn, so that the loss falls."""
    draw, found = torch.Generator().manual_seed(0), []
    for i in range(num):
        start = int(torch.randint(10, 280, (1,), generator=draw))
        tokens = (*((start + k) % 270 + 10 for k in range(5 + 7 * i % 23)), END)
        found.append(Example(f"r{i}", Rendered(tokens, (False, *([True] * (len(tokens) - 1))), 1)))
    return found


def network(family: str = "llama", kind: str = "none", dropout: float = 0.0, **choices: Any) -> Any:
    """A tiny one, every weight or an adapter trained."""
    made = FAMILIES[family]
    found = made.build(made.SIZES["tiny"].model_copy(update=choices), 0)
    prepare(found, AdapterSettings(kind=kind, rank=4, dropout=dropout), seed=0)
    return found


def settings(devices: dict[str, Any], **own: Any) -> SftSettings:
    """Short rows, several a step, held-out ones too."""
    values = {
        "learning_rate": 1e-2, "sequences_per_step": 8, "tokens_per_micro_batch": 64, "epochs": 4, "eval_interval": 5,
        "eval_fraction": 0.1, "devices": devices, **own,
    }  # fmt: skip
    return SftSettings(**values)


class Heard:
    """A sink that keeps what is logged, and of metrics about experts every value."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.curves: dict[str, list[float]] = {}

    def handle(self, event: dict[str, Any]) -> None:
        """Keep it."""
        if event["kind"] == "log":
            self.said.append(event["message"])
        elif event["kind"] == "degraded":
            self.said.append(f"{event['what']}: {event['how']}")
        elif event["kind"] == "metric" and "/experts/" in event["name"]:
            self.curves.setdefault(event["name"].rpartition("/")[2], []).append(event["value"])

    def close(self) -> None:
        """Nothing is held."""


def run(
    made: Any, chosen: SftSettings, scratch: Path, stop_after: int = 0, die_after: int = 0, heard: Heard | None = None
) -> TrainResult:
    """Train; rank 0 meets a cap after so many steps (0: not), the last rank is killed after so many."""
    steps = 0

    def on_step(num_tokens: int) -> None:
        """Count, then stop or die."""
        nonlocal steps
        steps += 1
        rank, size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if steps == stop_after and rank == 0:
            raise BudgetSpent("spent")
        if steps == die_after and rank == size - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    events = Events([heard] if heard else [])
    return train(made, TOKENIZER, examples(), chosen, events=events, scratch=scratch, on_step=on_step)


def rows(max_tokens: int) -> tuple[PackedRow, ...]:
    """32 sequences in rows."""
    return pack(examples()[:32], max_tokens)


def gradient(made: Any, of: tuple[PackedRow, ...], layout: Layout) -> dict[str, Any]:
    """Of the loss of these rows."""
    with laid_out(made, layout):
        held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in made.parameters())
        loss = accumulate(made, of, CrossEntropy(CrossEntropy.Settings()))
        grads = {name: whole(p.grad).double().flatten().tolist() for name, p in trainable(made).items()}
    return {"losses": [loss], "weights": grads, "plain": True, "held": held}


def update_spoilt(left: list[int], optimizer: torch.optim.Optimizer, loss: float, **own: Any) -> float:
    """An update; of the step that is `left` away the gradients that this rank holds overflow."""
    left[0] -= 1
    for parameter in (p for group in optimizer.param_groups for p in group["params"] if left[0] == 0):
        parameter.grad.to_local().fill_(float("inf"))
    return update_weights(optimizer, loss, **own)


def figures(made: Any, result: TrainResult) -> dict[str, Any]:
    """What is compared: curves and weights."""
    return {
        "losses": [loss for _, loss in result.losses],
        "validation": [loss for _, loss in result.validation],
        "targets": result.num_targets,
        "weights": {name: p.detach().double().flatten().tolist() for name, p in trainable(made).items()},
        "plain": type(made) in FAMILIES.values()
        and not any("Float8" in type(module).__name__ for module in made.modules())
        and all(type(p.data) is torch.Tensor for p in made.parameters()),
        "resumed_from": result.resumed_from,
        "balance": {} if made.balance is None else {name: x.tolist() for name, x in made.balance.state.items()},
    }


def scenario(rank: int, folder: Path, what: dict[str, Any]) -> dict[str, Any]:
    """One run in a job of its own; `like` names one whose checkpoint it goes on from."""
    made = network(
        what.get("family", "llama"), what.get("kind", "none"), what.get("dropout", 0.0), **what.get("choices", {})
    )
    chosen = settings(what["devices"], **what.get("settings", {}))
    scratch = folder / what["name"]
    if "like" in what and rank == 0:
        shutil.copytree(folder / what["like"], scratch)
    store = f"file://{folder}/store-{what['name']}"
    size = chosen.devices.size
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=timedelta(seconds=30))
    dist.barrier()
    loop.LossScale = functools.partial(LossScale, what.get("scale", LossScale().value))
    step.update_weights = functools.partial(update_spoilt, [what.get("spoilt", 0) * (rank == size - 1)])
    try:
        if "gradient" in what:
            return gradient(made, rows(FEW_TOKENS), chosen.devices)
        heard = Heard()
        result = run(made, chosen, scratch, what.get("stop_after", 0), what.get("die_after", 0), heard)
        scales: list[Any] = [None] * size
        dist.all_gather_object(scales, result.loss_scale)
        return {**figures(made, result), "said": heard.said, "curves": heard.curves, "scales": plain(scales)}
    except RungError as error:
        return {"ended": error.code}
    finally:
        dist.destroy_process_group()


def main(rank: int, folder: Path, scenarios: list[dict[str, Any]]) -> None:
    """Those that this rank is part of."""
    torch.set_num_threads(1)
    sizes = [settings(what["devices"]).devices.size for what in scenarios]
    found = {
        what["name"]: scenario(rank, folder, what) for what, size in zip(scenarios, sizes, strict=True) if rank < size
    }
    if rank == 0:
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def fork(size: int, folder: Path, scenarios: list[dict[str, Any]]) -> list[int | None]:
    """The ranks in processes of their own; their exit codes."""
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=main, args=(rank, folder, scenarios)) for rank in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    return [rank.exitcode for rank in ranks]


if __name__ == "__main__":
    codes = fork(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
    sys.stdout.write(json.dumps(codes) + "\n")
