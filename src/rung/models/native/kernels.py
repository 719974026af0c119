"""The compiled kernels as functions of tensors.

Legend: N rows, D width, O outputs, V vocabulary, C vocabulary chunk, R rows of a step, H query heads, K key and value
heads, d head width.

Every one of them computes a row as if it were alone: its bits do not depend on its neighbours.
"""

from __future__ import annotations

import ctypes
import os
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rung.base.errors import RungError
from rung.base.fingerprint import content_hash
from rung.models.cache import Cache
from rung.models.native.build import built, processor

__all__ = ["Best", "DrawnRows", "Kernels", "Looks", "Rules", "kernels", "layer_kernels", "product_kernels", "reason"]

OFF = "RUNG_NATIVE"  # 0 in the environment: torch's own kernels alone
_LANES = 16
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_GRAIN = 1 << 15  # numbers worth a thread of their own, as torch has it
_PRODUCTS = 16  # multiplications as dear as one number
_COMMON = 64  # places that a row looks at
_TRIED = (64, 576, 1536)  # rows, width and outputs of the product that decides

# a: address, w: whole number, f: float, i: small number, switch or threads; ctypes then converts without being told
_KINDS = {"a": ctypes.c_void_p, "w": ctypes.c_int64, "f": ctypes.c_float, "i": ctypes.c_int}
_ARGUMENTS = {
    "rung_attend_float32": "aaawwwwwaaafaai",
    "rung_attend_bfloat16": "aaawwwwwaaafaai",
    "rung_put": "aawwwwaaaa",
    "rung_products": "awwaii",
    "rung_product_wide": "aawwwawi",
    "rung_rms_norm": "aawwfiai",
    "rung_gated": "aawiai",
    "rung_gated_back": "aaawiaai",
    "rung_rotate": "aaawwwai",
    "rung_rotate_wide": "aaawwwai",
    "rung_add_chunk": "awwwaaiwaai",
    "rung_finish": "awaa",
    "rung_mask_rows": "awwwaaaaai",
    "rung_draw_rows": "awwwaaaaaaaaai",
}


@dataclass(frozen=True, slots=True)
class Looks:
    """Which places of which slot each row looks at, from `firsts` to `lasts` with both; int64 [R]. A row whose last
    place lies before its first sees nothing: zeros, and minus infinity for its total."""

    slots: Tensor
    firsts: Tensor
    lasts: Tensor


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """Per row: the token, its log-probability in what was drawn from, how many tokens top-p left (-1: it is off), and,
    where they were asked for, which, [N, V] of which the first so many count."""

    token: Tensor
    logprob: Tensor
    num_kept: Tensor
    kept: Tensor | None


@dataclass(frozen=True, slots=True)
class Best:
    """The largest value so far [N] and where it was, int64 [N]; the chunk begins at `start`."""

    value: Tensor
    place: Tensor
    start: int


@dataclass(frozen=True, slots=True)
class Rules:
    """Per drawn row: inverse temperature, top-p (1 is off), log-sum-exp of the tempered logits, all float32, and the
    number in [0, 1) that decides, float64."""

    times: Tensor
    top_p: Tensor
    total: Tensor
    uniform: Tensor


class Kernels:
    """The library's entry points. All tensors on the processor, without gaps unless said otherwise."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        for name, kinds in _ARGUMENTS.items():
            if hasattr(library, name):  # not every processor has a product
                getattr(library, name).argtypes = [_KINDS[kind] for kind in kinds]
        self._attend = {dtype: getattr(library, f"rung_attend_{name}") for dtype, name in _TYPES.items()}
        self.has_product = bool(library.rung_has_product())

    @staticmethod
    def can_attend(keys: Tensor) -> bool:
        """Whether `attend` reads keys of this type and width."""
        return keys.device.type == "cpu" and keys.dtype in _TYPES and keys.shape[-1] % _LANES == 0

    def attend(
        self, query_RHd: Tensor, keys: Tensor, values: Tensor, looks: Looks, scale: float
    ) -> tuple[Tensor, Tensor]:
        """What every head of every row sees [R, H, d], and the log-sum-exp of its scores, float32 [R, H].

        Args:
            query_RHd: R rows.
            keys, values: [slots, K, capacity, d].
            looks: places within the slots.
            scale: of the scores.
        """
        num_rows, num_heads, width = query_RHd.shape
        num_kv_heads, capacity = keys.shape[1:3]
        query_RHd = query_RHd.contiguous()
        seen, total = torch.empty_like(query_RHd), query_RHd.new_empty((num_rows, num_heads), dtype=torch.float32)
        self._attend[query_RHd.dtype](
            _at(query_RHd), _at(keys), _at(values), capacity, width, num_kv_heads,
            num_heads // num_kv_heads, num_rows, _at(looks.slots), _at(looks.firsts), _at(looks.lasts),
            scale, _at(seen), _at(total),
            _threads(_COMMON * query_RHd.numel()),
        )  # fmt: skip
        return seen, total

    def product(self, x: Tensor, weight_OD: Tensor) -> Tensor:
        """x W' in bfloat16 [..., O], summed in float32; x [..., D], D is even."""
        return self.products(x, (weight_OD,))[0]

    def products(self, x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """`product` with each of several matrices, which costs less than one after another."""
        x = x.contiguous()
        *lead, width = x.shape
        num_rows, num_all, outs = x.numel() // width, 0, []
        matrices = array("q")
        for weight in weights:
            num_out = weight.shape[0]
            out = x.new_empty((*lead, num_out))
            matrices.extend((weight.data_ptr(), num_out, out.data_ptr(), num_out))
            outs.append(out)
            num_all += num_out
        self._library.rung_products(
            x.data_ptr(), num_rows, width, matrices.buffer_info()[0], len(outs),
            _threads(num_rows * num_all * width // _PRODUCTS),
        )  # fmt: skip
        return outs

    def product_wide(self, x_ND: Tensor, weight_OD: Tensor, out_NO: Tensor) -> None:
        """`product`, rounded as there, into float32 rows that may lie apart."""
        x_ND = x_ND.contiguous()
        num_rows, width = x_ND.shape
        self._library.rung_product_wide(
            _at(x_ND), _at(weight_OD), num_rows, width, weight_OD.shape[0], _at(out_NO),
            out_NO.stride(0), _threads(num_rows * weight_OD.numel() // _PRODUCTS),
        )  # fmt: skip

    def rms_norm(self, x: Tensor, gain: Tensor, epsilon: float, centred: bool) -> Tensor:
        """Rows of the last dimension, bfloat16, a multiple of 16; see `rung.models.layers.normalisation`."""
        x = x.contiguous()
        out, width = torch.empty_like(x), x.shape[-1]
        self._library.rung_rms_norm(
            _at(x), _at(gain), x.numel() // width, width,
            epsilon, int(centred), _at(out),
            _threads(x.numel()),
        )  # fmt: skip
        return out

    def gated(self, gate: Tensor, up: Tensor, gelu: bool) -> Tensor:
        """activation(gate) * up in bfloat16, of equal shapes, a multiple of 16 numbers: SiLU, or GELU in its tanh
        approximation."""
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        self._library.rung_gated(_at(gate), _at(up), gate.numel(), int(gelu), _at(out), _threads(4 * gate.numel()))
        return out

    def gated_back(self, gate: Tensor, up: Tensor, outer: Tensor, gelu: bool) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up, from that of `gated`'s answer; all in bfloat16, without gaps."""
        of_gate, of_up = torch.empty_like(gate), torch.empty_like(up)
        self._library.rung_gated_back(
            _at(gate), _at(up), _at(outer), gate.numel(), int(gelu), _at(of_gate), _at(of_up),
            _threads(6 * gate.numel()),
        )  # fmt: skip
        return of_gate, of_up

    def rotate(self, x_BTHd: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """As `rung.models.layers.rotary.rotate`, in bfloat16; angles in bfloat16 or both in float32; d is a multiple
        of 32."""
        x_BTHd, cosine, sine = x_BTHd.contiguous(), cosine.contiguous(), sine.contiguous()
        num_heads, width = x_BTHd.shape[2:]
        out = torch.empty_like(x_BTHd)
        turn = self._library.rung_rotate if cosine.dtype == torch.bfloat16 else self._library.rung_rotate_wide
        turn(
            _at(x_BTHd), _at(cosine), _at(sine), x_BTHd.numel() // (num_heads * width), num_heads,
            width, _at(out), _threads(x_BTHd.numel()),
        )  # fmt: skip
        return out

    def put(
        self, keys_RKd: Tensor, values_RKd: Tensor, held: tuple[Tensor, Tensor], slots: Tensor, positions: Tensor
    ) -> None:
        """Write new keys and values into what is `held` of them, each [slots, K, capacity, d], each row at its position
        of its slot."""
        keys_RKd, values_RKd = keys_RKd.contiguous(), values_RKd.contiguous()
        num_rows, num_kv_heads, width = keys_RKd.shape
        self._library.rung_put(
            keys_RKd.data_ptr(), values_RKd.data_ptr(), width * keys_RKd.itemsize, held[0].shape[2], num_kv_heads,
            num_rows, slots.data_ptr(), positions.data_ptr(), held[0].data_ptr(), held[1].data_ptr(),
        )  # fmt: skip

    def add_chunk(
        self, chunk_NC: Tensor, running_N3: Tensor, *, times: Tensor | None, weighted: bool, best: Best | None = None
    ) -> None:
        """Take the next chunk of logits (rows may lie apart) times `times` [N] into a running log-sum-exp: largest, sum
        of exponentials less that, and the same weighted with the logits. `best` follows the first largest."""
        num_rows, width = chunk_NC.shape
        self._library.rung_add_chunk(
            _at(chunk_NC), chunk_NC.stride(0), width, num_rows, _at(times), _at(running_N3),
            int(weighted), best.start if best else 0, _at(best.value if best else None),
            _at(best.place if best else None), _threads(chunk_NC.numel()),
        )  # fmt: skip

    def finish(self, running_N3: Tensor) -> tuple[Tensor, Tensor]:
        """Log-sum-exp and, where it was weighted, entropy in nats of a running log-sum-exp, each [N]."""
        total, entropy = running_N3.new_empty(len(running_N3)), running_N3.new_empty(len(running_N3))
        self._library.rung_finish(_at(running_N3), len(running_N3), _at(total), _at(entropy))
        return total, entropy

    def mask_rows(
        self, logits_NV: Tensor, rows: Sequence[int], masks: Sequence[Tensor], times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Minus infinity, in the rows named, where a mask (bool [V]) is false; of what is left the first largest and
        the log-sum-exp times `times`, each for the rows named."""
        # everything the kernel reads stays alive here until it is back
        held, places, times = [mask.contiguous() for mask in masks], torch.tensor(rows), times.contiguous()
        best, total = torch.empty(len(rows), dtype=torch.int64), torch.empty(len(rows))
        addresses = (ctypes.c_void_p * len(held))(*(mask.data_ptr() for mask in held))
        self._library.rung_mask_rows(
            _at(logits_NV), logits_NV.stride(0), logits_NV.shape[1], len(rows),
            _at(places), addresses, _at(times), _at(best), _at(total),
            _threads(len(rows) * logits_NV.shape[1]),
        )  # fmt: skip
        return best, total

    def draw_rows(self, logits_NV: Tensor, rows: Tensor, rules: Rules, keep: bool) -> DrawnRows:
        """Draw from the rows named (int64); see `rung.engine.sampling.draw` for what is drawn."""
        num, size = len(rows), logits_NV.shape[1]
        rows, times, top_p, total, uniform = (
            t.contiguous() for t in (rows, rules.times, rules.top_p, rules.total, rules.uniform)
        )
        drawn = DrawnRows(
            torch.empty(num, dtype=torch.int64),
            torch.empty(num),
            torch.empty(num, dtype=torch.int64),
            torch.empty((num, size), dtype=torch.int32) if keep else None,
        )
        self._library.rung_draw_rows(
            _at(logits_NV), logits_NV.stride(0), size, num, _at(rows),
            _at(times), _at(top_p), _at(total),
            _at(uniform), _at(drawn.token), _at(drawn.logprob), _at(drawn.kept), _at(drawn.num_kept),
            _threads(num * size),
        )  # fmt: skip
        return drawn


@lru_cache(maxsize=1)
def kernels() -> Kernels | None:
    """The compiled kernels, or None where there are none; `reason` says why. Asked for at every layer, decided once."""
    return None if os.environ.get(OFF) == "0" else _loaded()[0]


def reason() -> str:
    """Why there are no compiled kernels; empty where there are."""
    return f"{OFF}=0" if os.environ.get(OFF) == "0" else _loaded()[1]


def layer_kernels(*tensors: Tensor) -> Kernels | None:
    """The compiled kernels where they serve what stands between the products of a layer: nothing is trained, and all
    the tensors are bfloat16 on the processor, their last dimension a multiple of 32."""
    if torch.is_grad_enabled():
        return None
    for tensor in tensors:
        if tensor.dtype != torch.bfloat16 or not tensor.is_cpu or tensor.shape[-1] % (2 * _LANES):
            return None
    return kernels()


def trained_kernels(*tensors: Tensor) -> Kernels | None:
    """The same where something is trained: what is between the products, whose gradients `gradients` knows."""
    if not torch.is_grad_enabled():
        return None
    with torch.no_grad():
        return layer_kernels(*tensors)


@lru_cache(maxsize=1)
def product_kernels() -> Kernels | None:
    """The compiled kernels where their product is the faster one on this machine (measured once)."""
    found = kernels()
    return found if found is not None and found.has_product and _product_pays() else None


@lru_cache(maxsize=1)
def _loaded() -> tuple[Kernels | None, str]:
    try:
        return Kernels(built(Cache())), ""
    except RungError as error:
        return None, str(error)


@lru_cache(maxsize=1)
def _product_pays() -> bool:
    ours = _loaded()[0]
    assert ours is not None
    key = content_hash([torch.__version__, torch.get_num_threads(), processor()])
    return bool(Cache().value("product", key, lambda: _is_faster(ours)))


def _is_faster(ours: Kernels) -> bool:
    num_rows, width, num_out = _TRIED
    x, weight = torch.ones((num_rows, width), dtype=torch.bfloat16), torch.ones((num_out, width), dtype=torch.bfloat16)

    def least(run: Callable[[], Any]) -> float:
        """Shortest of many times, in seconds."""
        seconds = []
        for _ in range(30):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return least(lambda: ours.product(x, weight)) < least(lambda: x @ weight.t())


def _threads(num_numbers: int) -> int:
    """How many threads are worth it; no bit depends on it."""
    return max(1, min(torch.get_num_threads(), num_numbers // _GRAIN))


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
