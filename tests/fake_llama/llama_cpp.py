"""Stands in for llama.cpp's binding: the next token is the sum of a text's tokens, plus the draw's seed, modulo 90.

It is as strict as the real one: positions follow each other, and only asked-for logits can be drawn from.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

__version__ = "0.0"
LLAMA_FTYPE_ALL_F32 = 0
SIZE = 90


def llama_print_system_info() -> bytes:
    """Also prints what must not get between the answers."""
    print("noise")  # noqa: T201
    return b"FAKE = 1 "


def llama_model_quantize_default_params() -> SimpleNamespace:
    """Settings that refuse."""
    return SimpleNamespace(ftype=7, allow_requantize=False)


def llama_model_quantize(source: bytes, target: bytes, settings: Any) -> int:
    """Copies; 1 when it is not told to."""
    if settings.ftype != LLAMA_FTYPE_ALL_F32 or not settings.allow_requantize:
        return 1
    Path(target.decode()).write_bytes(Path(source.decode()).read_bytes())
    return 0


def llama_model_default_params() -> SimpleNamespace:
    """No settings."""
    return SimpleNamespace()


def llama_model_load_from_file(path: bytes, settings: Any) -> Any:
    """None for what is not there."""
    return SimpleNamespace() if Path(path.decode()).is_file() else None


def llama_context_default_params() -> SimpleNamespace:
    """Settings to fill."""
    return SimpleNamespace()


def llama_init_from_model(model: Any, settings: Any) -> SimpleNamespace:
    """A context: texts by sequence, and what can be drawn from."""
    assert settings.n_threads == settings.n_threads_batch
    return SimpleNamespace(settings=settings, texts={}, drawable={})


def llama_batch_init(num_tokens: int, embedding: int, num_sequences: int) -> SimpleNamespace:
    """Room for so many tokens."""
    columns = {name: [None] * num_tokens for name in ("token", "pos", "n_seq_id", "logits")}
    return SimpleNamespace(n_tokens=0, seq_id=[[None] * num_sequences for _ in range(num_tokens)], **columns)


def llama_decode(context: Any, batch: Any) -> int:
    """-1 for a position that does not follow, 1 for a context that is full."""
    context.drawable = {}
    for place in range(batch.n_tokens):
        sequence = batch.seq_id[place][0]
        text = context.texts.setdefault(sequence, [])
        if batch.pos[place] != len(text) or sequence >= context.settings.n_seq_max:
            return -1
        text.append(batch.token[place])
        if batch.logits[place]:
            context.drawable[place] = sum(text)
    return int(sum(map(len, context.texts.values())) > context.settings.n_ctx)


def llama_get_memory(context: Any) -> Any:
    """The context itself."""
    return context


def llama_memory_clear(memory: Any, data: bool) -> None:
    """Forget all texts."""
    memory.texts.clear()


def llama_sampler_chain_default_params() -> None:
    """No settings."""


def llama_sampler_chain_init(settings: Any) -> list[Any]:
    """An empty chain."""
    return []


def llama_sampler_chain_add(chain: list[Any], sampler: Any) -> None:
    """One more at its end."""
    chain.append(sampler)


def llama_sampler_init_greedy() -> int:
    """Adds nothing."""
    return 0


def llama_sampler_init_top_p(top_p: float, min_keep: int) -> int:
    """Adds nothing."""
    assert 0 < top_p < 1
    return 0


def llama_sampler_init_dist(seed: int) -> int:
    """Adds its seed."""
    return seed


def llama_sampler_sample(chain: list[int], context: Any, place: int) -> int:
    """KeyError where no logits were asked for."""
    return int(context.drawable[place] + sum(chain)) % SIZE


def llama_sampler_free(chain: list[Any]) -> None:
    """Nothing to free."""


def llama_batch_free(batch: Any) -> None:
    """Nothing to free."""


def llama_free(context: Any) -> None:
    """Nothing to free."""


def llama_model_free(model: Any) -> None:
    """Nothing to free."""
