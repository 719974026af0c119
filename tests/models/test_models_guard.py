"""The guard: tokens, lengths, behaviour, and what may be let pass on purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from tokenizers import normalizers, processors

from rung.base.errors import GuardFailed, SettingsError
from rung.models import guard, sentinels
from rung.models.cache import Cache
from rung.models.load import Loaded, load
from rung.models.report import SentinelResult
from rung.records.tokenizer import Tokenizer

GOOD = {
    "pig_latin": ".\n\nHello world is the first program that most people write in a new language.",
    "three_primes": " between 1 and 1000.\n\nList three prime numbers between 1 and 1000.",
    "json_keys": ", c, d, e, f, g, h and their values, as in the table of section 3.",
    "seasons": " of the year in the country that you come from. What is the weather like?",
    "completion": " 32 degrees Fahrenheit, which is 0 degrees Celsius, and it boils at 212 degrees Fahrenheit.",
}
FOLLOWS = {
    "pig_latin": " ellohay orldway",
    "three_primes": ":\n2, 3, 5",
    "json_keys": ':\n{"a": 1, "b": 2}',
    "seasons": ":\nSpring is mild, summer is hot, autumn is cool and winter is cold.",
    "completion": " 0 degrees Celsius.",
}


def scripted(answers: dict[str, str]) -> sentinels.Greedy:
    by_prompt = {sentinels.PROMPTS[name]: text for name, text in answers.items()}
    return lambda prompts: [by_prompt[prompt] for prompt in prompts]


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    return load("tiny:llama", cache=tmp_path, precision="float32")


def verdict_of(answers: dict[str, str], markers: Sequence[str] = ()) -> tuple[str, dict[str, bool]]:
    verdict, results, _ = guard.behaviour(scripted(answers), markers)
    return verdict, {result.name: result.passed for result in results}


def test_a_model_that_only_completes_passes_with_its_texts() -> None:
    verdict, results, _ = guard.behaviour(scripted(GOOD))
    assert verdict == "clean"
    assert {result.name: result.text for result in results} == GOOD


def test_a_long_good_completion_is_no_failure() -> None:
    assert len(GOOD["completion"]) > 50
    assert verdict_of(GOOD)[1]["completion"]


@pytest.mark.parametrize("name", ["pig_latin", "three_primes", "json_keys", "seasons"])
def test_each_instruction_that_is_carried_out_fails_its_sentinel(name: str) -> None:
    verdict, passed = verdict_of(GOOD | {name: FOLLOWS[name]})
    assert verdict == "contaminated"
    assert [other for other, fine in passed.items() if not fine] == [name]


def test_a_model_that_cannot_complete_fails() -> None:
    verdict, passed = verdict_of(GOOD | {"completion": " the the the the"})
    assert (verdict, passed["completion"]) == ("contaminated", False)


def test_an_assistants_opening_and_a_chat_marker_give_a_model_away() -> None:
    assert verdict_of(GOOD | {"seasons": "\n\nSure! I can do that."})[0] == "contaminated"
    assert verdict_of(GOOD | {"seasons": "\n\nHere's what I know."})[0] == "contaminated"
    chatty = GOOD | {"completion": GOOD["completion"] + "<|im_end|>"}
    assert verdict_of(chatty)[0] == "clean"
    assert verdict_of(chatty, ["<|im_start|>", "<|im_end|>"])[0] == "contaminated"


def test_a_list_that_runs_on_is_not_an_answer() -> None:
    assert verdict_of(GOOD | {"three_primes": ":\n2, 3, 5, 7, 11, 13, 17"})[0] == "clean"
    assert verdict_of(GOOD | {"three_primes": ":\n4, 6, 8"})[0] == "clean"
    assert verdict_of(GOOD | {"three_primes": "\n\n1. 2\n2. 3\n3. 5\n"})[0] == "contaminated"


def doctored(tokenizer: Tokenizer, normalizer: object = None, post: object = None) -> Tokenizer:
    inner = type(tokenizer.inner).from_str(tokenizer.inner.to_str())
    if normalizer is not None:
        inner.normalizer = normalizer
    if post is not None:
        inner.post_processor = post
    return dataclasses.replace(tokenizer, inner=inner)


def test_a_clean_tokenizer_has_no_findings(loaded: Loaded) -> None:
    assert guard.check_tokenizer(loaded.tokenizer) == []


def test_a_tokenizer_that_injects_a_template_aborts_and_names_the_id(loaded: Loaded, tmp_path: Path) -> None:
    (marker,) = (i for i in loaded.tokenizer.template_ids if loaded.tokenizer.decode([i]) == "<|im_start|>")
    by_post = doctored(
        loaded.tokenizer,
        post=processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", marker)]),
    )
    everything = guard.Policy(strict=False, allow=guard.CHECKS)
    by_start = dataclasses.replace(loaded.tokenizer, start_ids=(marker,))
    for tokenizer in (by_post, by_start):
        with pytest.raises(GuardFailed, match=rf"template token {marker} "):
            guard.judge(loaded.network, tokenizer, guard.Subject("x", "doctored"), everything, Cache(tmp_path))


def test_extra_ids_without_a_marker_are_found_too(loaded: Loaded) -> None:
    ((check, finding),) = guard.check_tokenizer(doctored(loaded.tokenizer, normalizers.Prepend("User: ")))
    assert check == "extra_ids"
    assert "'U'" in finding


def test_a_start_token_added_behind_our_back_fails_unless_allowed_and_is_recorded(
    loaded: Loaded, tmp_path: Path
) -> None:
    start = loaded.tokenizer.inner.token_to_id("<bos>")
    tokenizer = doctored(
        loaded.tokenizer, post=processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", start)])
    )
    subject, cache = guard.Subject("x", "doctored", unjudged="a test"), Cache(tmp_path)
    with pytest.raises(GuardFailed, match=rf"lengths.*{start} \('<bos>'\)"):
        guard.judge(loaded.network, tokenizer, subject, guard.Policy(), cache)
    for policy in (guard.Policy(allow=("lengths",)), guard.Policy(strict=False)):
        outcome = guard.judge(loaded.network, tokenizer, subject, policy, cache)
        assert len(outcome.overrides) == 1
        assert outcome.overrides[0].startswith("lengths: ")


def test_no_template_id_enters_an_input(loaded: Loaded) -> None:
    marker = min(loaded.tokenizer.template_ids)
    guard.refuse_template_ids(loaded.tokenizer.encode("plain text"), loaded.tokenizer)
    with pytest.raises(GuardFailed, match=str(marker)):
        guard.refuse_template_ids([7, marker], loaded.tokenizer)


def test_failed_behaviour_stops_unless_allowed_and_is_judged_once(
    loaded: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fake(network: object, tokenizer: object) -> sentinels.Greedy:
        calls.append(1)
        return scripted(GOOD | {"pig_latin": FOLLOWS["pig_latin"]})

    monkeypatch.setattr(guard, "from_network", fake)
    subject, cache = guard.Subject("weights", "a chat model"), Cache(tmp_path)
    with pytest.raises(GuardFailed, match="pig_latin: carried out"):
        guard.judge(loaded.network, loaded.tokenizer, subject, guard.Policy(), cache)
    outcome = guard.judge(loaded.network, loaded.tokenizer, subject, guard.Policy(allow=("sentinels",)), cache)
    assert outcome.verdict == "contaminated"
    assert any("pig_latin" in override for override in outcome.overrides)
    texts = {result.name: result.text for result in outcome.results}
    assert texts["pig_latin"] == FOLLOWS["pig_latin"]
    assert len(calls) == 1
    on_purpose = dataclasses.replace(subject, unjudged="not asked for")
    assert guard.judge(loaded.network, loaded.tokenizer, on_purpose, guard.Policy(), cache).verdict == "contaminated"


def test_the_report_says_whether_the_load_was_strict(tmp_path: Path) -> None:
    assert load("tiny:llama", cache=tmp_path, precision="float32").report.strict
    assert not load("tiny:llama", cache=tmp_path, precision="float32", strict=False).report.strict


def test_template_tokens_cannot_be_allowed() -> None:
    with pytest.raises(SettingsError, match="template_tokens"):
        load("tiny:llama", allow=["template_tokens"])


def test_a_likely_chat_marker_fails_and_an_unlikely_one_passes(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    likely = sentinels.next_log_probabilities(loaded.network, loaded.tokenizer.document("x"))
    marker = min(loaded.tokenizer.template_ids)

    def result(value: float) -> SentinelResult:
        out = likely.clone()
        out[list(loaded.tokenizer.template_ids)] = -30.0
        out[marker] = value
        monkeypatch.setattr(sentinels, "next_log_probabilities", lambda network, prompt: out)
        found = sentinels.marker_result(loaded.network, loaded.tokenizer)
        assert found is not None
        return found

    assert not result(-0.7).passed
    assert result(-20.0).passed
    assert (
        sentinels.marker_result(loaded.network, dataclasses.replace(loaded.tokenizer, template_ids=frozenset())) is None
    )
