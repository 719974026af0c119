"""Asking: meanings are counted, thresholds hold, ambiguous prompts lead to one question and clear ones to none."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from experiments.clarification import SIGNS, figures, labelled_prompts, measure, page, summary
from tests.engine.engine_models import llama

from rung.base.errors import DataError
from rung.engine.engine import Engine
from rung.engine.steering.dialogue import Dialogue, DialogueSettings
from rung.engine.steering.meaning import ask_threshold, clusters, meaning_entropy, overlap
from rung.engine.steering.policy import Asker, AskSettings, Question
from rung.engine.steering.spikes import SpikeSettings
from rung.records.chat.frame import Frame
from rung.records.contracts import Completion, Request, Sampling
from rung.records.scripted import Scripted

GEORGIAS = ("The capital is Atlanta.", "Tbilisi", "It is Tbilisi, in the Caucasus.", "Atlanta, of course")
PLAIN = Sampling(max_new_tokens=30)
PROMPTS = labelled_prompts()


def number_of(request: Request) -> int:
    """Which of the samples it is."""
    return int(request.id.rpartition("/")[2])


def informed(request: Request) -> str:
    """Two meanings of the bare question, one of every other."""
    if "Answer: the state" in request.text:
        return "Atlanta"
    return (
        GEORGIAS[number_of(request) % 4] if "Georgia" in request.text else f"the answer, {'so ' * number_of(request)}"
    )


def test_texts_of_one_meaning_fall_into_one_cluster() -> None:
    assert clusters(GEORGIAS) == ((0, 3), (1, 2))
    assert meaning_entropy(clusters(GEORGIAS)) == pytest.approx(math.log(2))
    assert meaning_entropy(clusters(["Paris.", "It is Paris!", "paris"])) == 0.0
    assert meaning_entropy(clusters(["red", "green", "blue", "4"])) == pytest.approx(math.log(4))
    assert meaning_entropy([]) == 0.0
    for one, other in (("It is 7 km", "It is 9 km"), ("Bats can fly", "Bats cannot fly"), ("", "Paris")):
        assert overlap(one, other) == overlap(other, one) == 0.0
    assert overlap("What is it?", "what is it") == 1.0


def test_the_threshold_holds_its_rate_on_further_clear_prompts() -> None:
    chance, num_false = random.Random(0), 0
    for _ in range(400):
        level = ask_threshold([chance.random() for _ in range(24)], 0.05)
        num_false += sum(chance.random() > level for _ in range(10))
    assert num_false / 4000 <= 0.05
    assert ask_threshold([0.0] * 24) == 0.0
    with pytest.raises(DataError, match="18 clear prompts cannot"):
        ask_threshold([0.1] * 18)
    assert ask_threshold([0.1] * 19) == 0.1


def test_an_ambiguous_prompt_leads_to_one_question_and_its_answer_is_used() -> None:
    model, asked = Scripted(informed), list[Question]()

    def user(question: Question) -> str:
        """Means the state."""
        asked.append(question)
        return "the state"

    asker = Asker(model, AskSettings(threshold=0.5), user)
    texts = {"g": "The capital of Georgia?", "p": "The capital of France?"}
    requests = [Request(id, PLAIN, seed=seed, text=text) for seed, (id, text) in enumerate(texts.items())]
    first = asker.clarified(requests)
    assert [question.id for question in asked] == ["g"]
    assert asked[0].text == "Do you mean this: The capital is Atlanta. Or rather this: Tbilisi"
    assert first[0].text.startswith("The capital of Georgia?")
    assert "Answer: the state" in first[0].text
    assert first[1] == requests[1]
    assert len(model.requests) == 16
    assert len({request.seed for request in model.requests}) == 16
    assert model.complete(first[:1])[0].text == "Atlanta"
    assert asker.clarified(requests)[0] == requests[0], "no second question about the same request"
    assert len(asked) == 1


def test_a_question_without_an_answer_changes_nothing_and_the_wording_may_be_replaced() -> None:
    request = Request("g", PLAIN, text="Georgia?")
    silent = Asker(Scripted(informed), AskSettings(threshold=0.5), lambda question: None)
    assert silent.clarified([request]) == [request]

    def joined(given: Request, question: str, answer: str) -> Request:
        """Into the instruction of the frame."""
        return replace(given, text=f"{answer}: {given.text}")

    own = Asker(Scripted(informed), AskSettings(threshold=0.5), lambda question: "state", joined=joined)
    assert own.clarified([request])[0].text == "state: Georgia?"
    alike = Asker(Scripted(informed), AskSettings(threshold=0.5), lambda q: "state", likeness=lambda one, other: 1.0)
    assert alike.clarified([request]) == [request]


class Split:
    """Samples of two meanings, half and half."""

    def __init__(self) -> None:
        self.seen: list[Request] = []

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """The same words for all, or two kinds in turn."""
        self.seen += requests
        return Scripted(lambda r: "east" if number_of(r) % 2 else "west").complete(requests)


def test_a_spike_is_a_candidate_and_the_meanings_decide() -> None:
    engine = Engine(llama())
    request = Request("a", replace(PLAIN, temperature=0.9), seed=1, text="abc")
    settings = DialogueSettings(spikes=SpikeSettings(limit=0.2, num_high=1, window=1, warm_up=2), max_spikes=3)
    plain = engine.complete([request])
    for threshold, num_answers in ((0.5, 1), (0.7, 0)):
        samples, asked = Split(), list[Question]()

        def user(question: Question, asked: list[Question] = asked) -> str:
            """Goes east."""
            asked.append(question)
            return "east"

        asker = Asker(samples, AskSettings(threshold=threshold), user)  # type: ignore[arg-type]
        dialogue = Dialogue(engine, settings)
        done = dialogue.complete([request], asker.reply)
        exchanges = dialogue.exchanges("a")
        assert len(asked) == num_answers == sum(bool(one.token_ids) for one in exchanges)
        assert len(samples.seen) == 8 * len(exchanges)
        assert samples.seen[0].token_ids[-1] == done[0].token_ids[exchanges[0].num_drawn - 1]
        assert (done == plain) is (num_answers == 0)
        if num_answers:
            told = engine.intake.tokenizer.decode(exchanges[0].token_ids)
            assert told == f"\nQuestion: {asked[0].text}\nAnswer: east\n"


def test_the_models_own_question_reaches_the_user_and_is_no_second_one() -> None:
    engine = Engine(llama())
    request = Request("a", replace(PLAIN, temperature=60.0), seed=2, text="abc")
    asked: list[Question] = []

    def user(question: Question) -> str:
        """Keeps it."""
        asked.append(question)
        return "yes"

    asker = Asker(Scripted([]), AskSettings(threshold=0.5), user)
    requests = [replace(request, id=str(seed), seed=seed) for seed in range(40)]
    dialogue = Dialogue(engine, DialogueSettings(clarify=299, max_questions=1))
    dialogue.complete(requests, asker.reply)
    assert asked
    assert all(question.decision is None for question in asked)
    assert len({question.id for question in asked}) == len(asked)


def test_the_labelled_prompts_are_balanced_and_reasoned() -> None:
    ambiguous = [one for one in PROMPTS if one.ambiguous]
    assert len(ambiguous) >= 30
    assert len(PROMPTS) - len(ambiguous) >= 30
    assert all(one.reason and one.prompt[-1] in "?." for one in PROMPTS)


class Telling:
    """Entropies that say nothing, and samples that differ exactly for ambiguous prompts."""

    def __init__(self) -> None:
        self._label = {Frame.prompt(one.prompt): one.ambiguous for one in PROMPTS}

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Greedy answers are all alike."""
        done = Scripted(self._answer).complete(requests)
        return [replace(one, entropies=(0.3,) * 30) for one in done]

    def _answer(self, request: Request) -> str:
        return f"word{'abcdefgh'[number_of(request)]}" if "/" in request.id and self._label[request.text] else "same"


def test_the_experiment_measures_every_sign_on_subjects_held_out() -> None:
    asked = measure(Telling(), PROMPTS)  # type: ignore[arg-type]
    found = figures(asked, num_resamples=50)
    assert list(found) == list(SIGNS)
    spread, mean = found["spread of meanings"], found["mean entropy"]
    assert spread["auc"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 64}
    assert spread["recall"]["value"] == spread["precision"]["value"] == 1.0
    assert spread["false_asks"]["value"] == 0.0
    assert mean["auc"]["value"] == 0.5
    assert mean["num_asked"] == 0
    assert mean["precision"]["value"] is None
    text = page(summary(asked, "scripted", 50))
    assert "| spread of meanings | 1.00 [1.00, 1.00] |" in text
    assert "none asked" in text
    # a quarter of the clear prompts now looks ambiguous: the area falls, and the threshold lets nothing through
    worse = [
        replace(one, signs={**one.signs, "spread of meanings": 3.0})
        if not one.labelled.ambiguous and place % 8 == 1
        else one
        for place, one in enumerate(asked)
    ]
    fallen = figures(worse, num_resamples=50)["spread of meanings"]
    assert 0.5 < fallen["auc"]["value"] < 1.0
    assert fallen["auc"]["low"] < fallen["auc"]["value"] < fallen["auc"]["high"]
    assert fallen["recall"]["value"] < 0.5
