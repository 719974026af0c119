"""Behaviour sentinels: what a base model does with raw prompts, and what gives an instruction-tuned one away.

Two kinds of evidence. Texts: greedy continuations of raw instructions, which a base model runs on from and a tuned one
carries out, opens like an assistant, or ends with a chat marker. Numbers: the log-probability of the vocabulary's chat
markers after plain text, which pre-training leaves at nothing and chat tuning raises, even in a small model that is
too weak to carry out any instruction.

Measured (raw text after a finished sentence, best marker, nats): Gemma 3 270M base -36.5 to -39.3 (among the least
likely of 262,144 tokens); SmolLM2-135M-Instruct -0.8 to -2.9 (among the four likeliest of 49,152).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

import torch

from rung.models.greedy import continue_greedily, next_log_probabilities
from rung.models.network import Network
from rung.models.report import SentinelResult
from rung.records.tokenizer import Tokenizer

__all__ = ["FINISHED", "NUM_NEW_TOKENS", "PROMPTS", "Greedy", "from_network", "marker_result", "text_results"]

Greedy = Callable[[Sequence[str]], Sequence[str]]

NUM_NEW_TOKENS = 30
PROMPTS = {
    "pig_latin": "Translate to Pig Latin: hello world",
    "three_primes": "List three prime numbers",
    "json_keys": "Write a JSON with keys a, b",
    "seasons": "Describe the seasons",
    "completion": "Water freezes at",
}
# finished plain sentences: nothing in them asks for a chat to go on
FINISHED = ("The capital of France is Paris.", "Hello! How can I help you today?", "The meeting starts at nine.")
# one in a hundred; the packaged models lie at one in two and at one in 10^16
MARKER_LIMIT = -4.6
OPENER = re.compile(
    r"^\W*(sure|certainly|of course|absolutely|great question|as an ai|i'?m happy to|i'?d be happy to"
    r"|here(?: is| are|'s))\b",
    re.IGNORECASE,
)
FREEZING = re.compile(
    r"\d|°|degree|celsius|fahrenheit|zero|temperature|point|freez|cold|ice|when|about|around|exactly", re.IGNORECASE
)


def text_results(greedy: Greedy, markers: Sequence[str] = ()) -> list[SentinelResult]:
    """Ask for the continuation of every prompt and judge it.

    Args:
        greedy: raw prompts to their greedy continuations of about 30 tokens, special tokens shown as text.
        markers: texts of the vocabulary's chat markers.
    """
    texts = greedy(list(PROMPTS.values()))
    return [_judged(name, prompt, text, markers) for (name, prompt), text in zip(PROMPTS.items(), texts, strict=True)]


def marker_result(network: Network, tokenizer: Tokenizer) -> SentinelResult | None:
    """How likely the network holds a chat marker after finished plain text; None when the vocabulary has none."""
    ids = sorted(tokenizer.template_ids)
    if not ids:
        return None
    best, where, marker = float("-inf"), "", 0
    for text in FINISHED:
        likely_V = next_log_probabilities(network, tokenizer.document(text))
        value, index = torch.max(likely_V[ids], dim=0)
        if float(value) > best:
            best, where, marker = float(value), text, ids[int(index)]
    return SentinelResult(
        name="chat_markers",
        prompt=where,
        text=tokenizer.decode([marker]),
        passed=best < MARKER_LIMIT,
        reason=f"log-probability {best:.1f} of the likeliest chat marker (limit {MARKER_LIMIT})",
    )


def from_network(network: Network, tokenizer: Tokenizer) -> Greedy:
    """The greedy function of a network."""

    def greedy(prompts: Sequence[str]) -> list[str]:
        """Greedy continuations of the prompts."""
        rows = [tokenizer.document(prompt) for prompt in prompts]
        # the end token is kept in the text: a base model that ends a document is no chat
        return [tokenizer.decode(ids) for ids in continue_greedily(network, rows, NUM_NEW_TOKENS)]

    return greedy


def _judged(name: str, prompt: str, text: str, markers: Sequence[str]) -> SentinelResult:
    said = [marker for marker in markers if marker in text]
    opener = OPENER.match(text)
    if said:
        passed, reason = False, f"chat marker {said[0]} in the continuation of raw text"
    elif opener:
        passed, reason = False, f"opens like an assistant: '{opener.group(1)}'"
    elif name == "completion":
        passed = bool(FREEZING.search(text))
        reason = "completed" if passed else "not completed: nothing about a temperature follows"
    else:
        followed = FOLLOWED[name](text)
        passed, reason = not followed, "carried out" if followed else "not carried out"
    return SentinelResult(name=name, prompt=prompt, text=text, passed=passed, reason=reason)


def _pig_latin(text: str) -> bool:
    """Either word, in any of the usual spellings."""
    return bool(re.search(r"ello-?h?w?ay|orld-?w?ay", text, re.IGNORECASE))


def _three_primes(text: str) -> bool:
    """A list that starts at once, of three different primes, and then ends."""
    lines = re.sub(r"(?m)^\s*(?:\d[.)]|[-*])\s+", "", text.lstrip(" .:\n"))
    match = re.match(r"\D{0,40}?(\d+)\D{1,8}(\d+)\D{1,8}(\d+)(?!\s*,?\s*(?:and\s+)?\d)", lines)
    if match is None:
        return False
    numbers = {int(number) for number in match.groups()}
    return len(numbers) == 3 and all(_is_prime(number) for number in numbers)


def _is_prime(number: int) -> bool:
    return 1 < number < 10**6 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _json_keys(text: str) -> bool:
    """An object with just the keys a and b."""
    start = text.find("{")
    if start < 0:
        return False
    try:
        value, _ = json.JSONDecoder().raw_decode(text[start:])
    except json.JSONDecodeError:
        return bool(re.match(r'\{\s*"a"\s*:\s*[^,}]+,\s*"b"\s*:', text[start:]))
    return isinstance(value, dict) and set(value) == {"a", "b"}


def _seasons(text: str) -> bool:
    """Statements of its own that name at least two seasons: not the prompt's sentence gone on, and not questions."""
    begun = re.match(r"[\s.:!*#\-\d)]*([A-Z])", text)
    names = [r"spring", r"summer", r"autumn|\bfall\b", r"winter"]
    num_named = sum(bool(re.search(name, text, re.IGNORECASE)) for name in names)
    return begun is not None and "?" not in text and num_named >= 2


FOLLOWED: dict[str, Callable[[str], bool]] = {
    "pig_latin": _pig_latin,
    "three_primes": _three_primes,
    "json_keys": _json_keys,
    "seasons": _seasons,
}
