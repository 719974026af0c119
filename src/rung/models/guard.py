"""The contamination guard: does a base model get raw text and nothing else, and is it a base model at all?

Tokens are checked always: no chat marker, no id that was not asked for, the same length with and without special
tokens. Behaviour is checked for base models (`sentinels`), once per weights: the outcome is kept in the cache.
Chat markers always abort; other failures abort unless allowed by name, and what was allowed is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.errors import GuardFailed, SettingsError
from rung.base.settings import nearest
from rung.models.cache import Cache
from rung.models.network import Network
from rung.models.report import LOADER_VERSION, SentinelResult, Verdict
from rung.models.sentinels import FINISHED, PROMPTS, Greedy, from_network, marker_result, text_results
from rung.records.tokenizer import Tokenizer

__all__ = [
    "CHECKS",
    "Outcome",
    "Policy",
    "Subject",
    "behaviour",
    "check_names",
    "check_tokenizer",
    "judge",
    "refuse_template_ids",
]

CHECKS = ("lengths", "extra_ids", "sentinels")


@dataclass(frozen=True)
class Policy:
    """What a failed check does: `strict` stops the load, unless the check is named in `allow`."""

    strict: bool = True
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Subject:
    """What is judged: identity of the weights, its name for people, why behaviour is not judged (empty: it is)."""

    identity: str
    name: str
    unjudged: str = ""


@dataclass(frozen=True)
class Outcome:
    """What the guard found."""

    verdict: Verdict
    results: tuple[SentinelResult, ...] = ()
    reasons: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


def check_names(allow: Sequence[str]) -> None:
    """Refuse a check that does not exist or can never be allowed.

    Raises:
        SettingsError: naming it.
    """
    for name in allow:
        if name not in CHECKS:
            raise SettingsError(
                f"'{name}' is no check that may be let pass", place="allow", hint=nearest(name, [*CHECKS])
            )


def judge(network: Network, tokenizer: Tokenizer, subject: Subject, policy: Policy, cache: Cache) -> Outcome:
    """All checks, in order of cost.

    Raises:
        GuardFailed: naming the check, what was found, and how to go on.
    """
    overrides = [
        _let_pass(check, finding, subject, policy) for check, finding in check_tokenizer(tokenizer, subject.name)
    ]
    key = f"{LOADER_VERSION}-{subject.identity}"
    if subject.unjudged:
        kept = cache.known("guard", key)
        if kept is None:
            return Outcome("unchecked", reasons=(f"behaviour not judged: {subject.unjudged}",), overrides=(*overrides,))
        return _outcome(kept, overrides)
    outcome = _outcome(cache.value("guard", key, _measured(network, tokenizer)), overrides)
    if outcome.verdict == "contaminated":
        overrides.append(_let_pass("sentinels", "; ".join(outcome.reasons), subject, policy))
    return Outcome(outcome.verdict, outcome.results, outcome.reasons, tuple(overrides))


def behaviour(
    greedy: Greedy, markers: Sequence[str] = (), measured: Sequence[SentinelResult] = ()
) -> tuple[Verdict, list[SentinelResult], list[str]]:
    """Verdict, results and reasons from texts and measurements; one failed sentinel is enough for "contaminated".

    Args:
        greedy: raw prompts to their greedy continuations.
        markers: texts of the vocabulary's chat markers.
        measured: results that need more than texts.
    """
    results = [*measured, *text_results(greedy, markers)]
    failed = [f"{result.name}: {result.reason}" for result in results if not result.passed]
    return ("contaminated" if failed else "clean"), results, failed or ["all behaviour sentinels passed"]


def check_tokenizer(tokenizer: Tokenizer, name: str = "") -> list[tuple[str, str]]:
    """Findings (check, what was found) over the sentinel prompts.

    Raises:
        GuardFailed: a chat marker among the ids, which nothing can allow.
    """
    findings: list[tuple[str, str]] = []
    for prompt in (*PROMPTS.values(), *FINISHED):
        bare = tokenizer.encode(prompt)
        framed = list(tokenizer.inner.encode(prompt, add_special_tokens=True).ids)
        refuse_template_ids([*bare, *framed], tokenizer, name)
        findings += _findings(tokenizer, prompt, bare, framed)
    refuse_template_ids(tokenizer.start_ids, tokenizer, name)
    # one finding of each kind says it: the prompts only repeat it
    return list({check: (check, text) for check, text in reversed(findings)}.values())


def refuse_template_ids(token_ids: Sequence[int], tokenizer: Tokenizer, place: str = "") -> None:
    """Let no chat marker into a base model's input.

    Raises:
        GuardFailed: naming the first such id and its text.
    """
    for index in token_ids:
        if index in tokenizer.template_ids:
            raise GuardFailed(
                f"template token {index} ({tokenizer.decode([index])!r}) in a base model's input",
                place=place,
                hint="give raw text; a chat format belongs to a model that was trained on it",
            )


def _findings(tokenizer: Tokenizer, prompt: str, bare: list[int], framed: list[int]) -> list[tuple[str, str]]:
    found = []
    if len(framed) != len(bare):
        extra = [index for index in framed if index not in bare] or framed
        found.append(
            ("lengths", f"{len(bare)} ids without special tokens, {len(framed)} with: adds {_named(extra, tokenizer)}")
        )
    special = {index for index, token in tokenizer.inner.get_added_tokens_decoder().items() if token.special}
    extra = [index for index in bare if index in special]
    if extra:
        found.append(("extra_ids", f"special tokens in plain text: {_named(extra, tokenizer)}"))
    elif tokenizer.decode(bare).strip() != prompt.strip():
        asked = set(prompt.split())
        extra = [index for index in bare if tokenizer.decode([index]).strip() not in prompt] or bare
        found.append(
            ("extra_ids", f"{len(asked)} words come back as {tokenizer.decode(bare)!r}: {_named(extra, tokenizer)}")
        )
    return found


def _named(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return ", ".join(f"{index} ({tokenizer.decode([index])!r})" for index in dict.fromkeys(ids))


def _let_pass(check: str, finding: str, subject: Subject, policy: Policy) -> str:
    if policy.strict and check not in policy.allow:
        raise GuardFailed(
            f"not a clean base model, {check}: {finding}",
            place=subject.name,
            hint=f"use a base model; or let it pass on purpose with allow {check}, which every manifest then says",
        )
    return f"{check}: {finding}" + ("" if check in policy.allow else " (not strict)")


def _measured(network: Network, tokenizer: Tokenizer) -> Callable[[], dict[str, Any]]:
    def measure() -> dict[str, Any]:
        """Ask the network everything that the sentinels need."""
        found = marker_result(network, tokenizer)
        markers = [tokenizer.decode([index]) for index in sorted(tokenizer.template_ids)]
        greedy = from_network(network, tokenizer)
        verdict, results, reasons = behaviour(greedy, markers, [found] if found else [])
        return {"verdict": verdict, "results": [result.model_dump() for result in results], "reasons": reasons}

    return measure


def _outcome(kept: dict[str, Any], overrides: Sequence[str]) -> Outcome:
    return Outcome(
        kept["verdict"],
        tuple(SentinelResult.model_validate(result) for result in kept["results"]),
        tuple(kept["reasons"]),
        tuple(overrides),
    )
