"""llama.cpp's side of `bench.llama_cpp`: runs in whichever interpreter has the binding, and needs nothing of ours.

One request a line on standard input, one answer a line on standard output, both JSON objects; `act` says what to do:
hello; convert (source, target: the GGUF file as float32); load (path, prompts, num_new, threads); decode (top_p, 0 for
greedy; seed). An answer with `error` says why not.

Decoding goes through llama_decode, one token of every sequence at a time, each sequence with a cache of its own; tokens
are drawn by llama.cpp's samplers, top-p and then the draw, or the arg-max. Texts do not end early.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import llama_cpp as binding

__all__ = ["Session", "answer"]

PHYSICAL_BATCH = 512


class Session:
    """A loaded file, a context for so many prompts, and a batch that holds all their tokens."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._prompts, self._num_new = request["prompts"], request["num_new"]
        total = sum(map(len, self._prompts))
        self._model = binding.llama_model_load_from_file(request["path"].encode(), binding.llama_model_default_params())
        if not self._model:
            raise RuntimeError("llama.cpp cannot load the file")
        settings = binding.llama_context_default_params()
        settings.n_seq_max = len(self._prompts)
        settings.n_ctx = len(self._prompts) * (max(map(len, self._prompts)) + self._num_new)
        settings.n_batch, settings.n_ubatch = max(total, PHYSICAL_BATCH), PHYSICAL_BATCH
        settings.n_threads = settings.n_threads_batch = request["threads"]
        self._context = binding.llama_init_from_model(self._model, settings)
        if not self._context:
            raise RuntimeError("llama.cpp cannot make a context")
        self._batch = binding.llama_batch_init(total, 0, 1)

    def decode(self, top_p: float, seed: int) -> dict[str, Any]:
        """Seconds, prompts included, and the new tokens of every prompt."""
        start = time.perf_counter()
        binding.llama_memory_clear(binding.llama_get_memory(self._context), True)
        samplers = [_sampler(top_p, seed + number) for number in range(len(self._prompts))]
        made: list[list[int]] = [[] for _ in self._prompts]
        try:
            for _ in range(self._num_new):
                for tokens, sampler, place in zip(made, samplers, self._step(made), strict=True):
                    tokens.append(binding.llama_sampler_sample(sampler, self._context, place))
        finally:
            for sampler in samplers:
                binding.llama_sampler_free(sampler)
        return {"seconds": time.perf_counter() - start, "token_ids": made}

    def _step(self, made: list[list[int]]) -> list[int]:
        """Whole prompts, or everybody's last token; the places in the batch whose logits were made."""
        self._batch.n_tokens, places = 0, []
        for sequence, (prompt, tokens) in enumerate(zip(self._prompts, made, strict=True)):
            known = prompt + tokens
            first = len(known) - 1 if tokens else 0
            for position in range(first, len(known)):
                self._add(known[position], position, sequence, position == len(known) - 1)
            places.append(self._batch.n_tokens - 1)
        code = binding.llama_decode(self._context, self._batch)
        if code:
            raise RuntimeError(f"llama_decode gave {code}")
        return places

    def _add(self, token: int, position: int, sequence: int, wanted: bool) -> None:
        batch, place = self._batch, self._batch.n_tokens
        batch.token[place], batch.pos[place], batch.logits[place] = token, position, wanted
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
        batch.n_tokens += 1

    def close(self) -> None:
        """Give all memory back."""
        binding.llama_batch_free(self._batch)
        binding.llama_free(self._context)
        binding.llama_model_free(self._model)


def _sampler(top_p: float, seed: int) -> Any:
    chain = binding.llama_sampler_chain_init(binding.llama_sampler_chain_default_params())
    if not top_p:
        binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_greedy())
        return chain
    binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_top_p(top_p, 1))
    binding.llama_sampler_chain_add(chain, binding.llama_sampler_init_dist(seed))
    return chain


def answer(request: dict[str, Any], sessions: list[Session]) -> dict[str, Any]:
    """Do what is asked; `sessions` holds what is loaded, one at most."""
    if request["act"] == "hello":
        return {"version": binding.__version__, "system": binding.llama_print_system_info().decode().strip()}
    if request["act"] == "convert":
        settings = binding.llama_model_quantize_default_params()
        settings.ftype, settings.allow_requantize = binding.LLAMA_FTYPE_ALL_F32, True
        code = binding.llama_model_quantize(request["source"].encode(), request["target"].encode(), settings)
        return {"error": f"llama_model_quantize gave {code}"} if code else {}
    if request["act"] == "load":
        while sessions:
            sessions.pop().close()
        sessions.append(Session(request))
        return {}
    return sessions[-1].decode(request["top_p"], request["seed"])


def main() -> None:
    """Answer until the input ends. What llama.cpp itself prints goes to standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    sessions: list[Session] = []
    for line in sys.stdin:
        try:
            reply = answer(json.loads(line), sessions)
        except (RuntimeError, ValueError, OSError) as error:
            reply = {"error": str(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
