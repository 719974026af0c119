"""Watching and pausing: entropies as computed in full, spikes, the reserved token, and continuous equals paused."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace

import pytest
import torch
from tests.engine.engine_models import MODELS, START, Made, byte_tokenizer, full_logits, llama, wrapped

from rung.base.errors import DataError, ModelError, SettingsError
from rung.engine.batch import Batch
from rung.engine.engine import Engine
from rung.engine.jobs import Job
from rung.engine.settings import EngineSettings
from rung.engine.steering.dialogue import Dialogue, DialogueSettings, Pause, Reading
from rung.engine.steering.entropy import sampling_entropy
from rung.engine.steering.reserve import CLARIFY, reserved
from rung.engine.steering.spikes import Spikes, SpikeSettings, find_spikes, spike_height
from rung.records.contracts import Completion, Request, Sampling

WARM = Sampling(temperature=0.9, top_p=0.9, max_new_tokens=24)
PRINTABLE = 94  # the byte tokenizer begins with the visible characters of ASCII
LONG = replace(WARM, max_new_tokens=140)
EAGER = SpikeSettings(limit=0.2, num_high=1, window=1, warm_up=2)
JSON = {"json_schema": {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}}


def requests(count: int, sampling: Sampling = WARM) -> list[Request]:
    chance = random.Random(3)
    texts = ["".join(chance.choices("abcdefgh ijkl.", k=chance.randint(1, 40))) for _ in range(count)]
    return [Request(str(i), sampling, seed=i, text=text) for i, text in enumerate(texts)]


def common_token(engine: Engine, asked: list[Request]) -> int:
    """A token that most of these draw half-way: random models know no reserved one."""
    drawn = [done.token_ids[2:-4] for done in engine.complete(asked)]
    seen = [token for ids in drawn for token in set(ids) if token < PRINTABLE]
    return max(set(seen), key=lambda token: (seen.count(token), token))


def talk(engine: Engine, asked: list[Request], settings: DialogueSettings) -> tuple[Dialogue, list[Completion]]:
    """Answers every pause at once."""
    dialogue = Dialogue(engine, settings)
    return dialogue, dialogue.complete(asked, lambda pause: f"<{pause.id}>")


def reference_entropies(made: Made, ids: tuple[int, ...], start: int, sampling: Sampling) -> list[float]:
    """-sum p log p of the distribution drawn from, step by step, with a full sort."""
    found = []
    for logits in full_logits(made.network, ids)[start - 1 : -1].double():
        best = (logits / sampling.temperature).sort(descending=True).values
        if sampling.top_k:
            best = best[: sampling.top_k]
        p = best.softmax(0)
        p = p[p.cumsum(0) - p < sampling.top_p]
        p = p / p.sum()
        found.append(float(-(p * p.log()).sum()))
    return found


@pytest.mark.parametrize("change", [{}, {"top_p": 1.0}, {"top_k": 5, "top_p": 1.0}, {"top_k": 40, "temperature": 1.7}])
def test_streamed_entropies_equal_a_full_computation(change: dict[str, float]) -> None:
    made, sampling = llama(), replace(WARM, **change)  # type: ignore[arg-type]
    readings: list[Reading] = []
    dialogue = Dialogue(Engine(made, EngineSettings(num_slots=4)), listen=readings.append)
    asked = requests(3, sampling)
    for done, request in zip(dialogue.complete(asked, lambda pause: None), asked, strict=True):
        told = [reading for reading in readings if reading.id == request.id]
        prompt = (START, *made.tokenizer.encode(request.text))
        assert [r.step for r in told] == list(range(len(done.token_ids)))
        assert [r.token for r in told] == list(done.token_ids)
        expected = reference_entropies(made, (*prompt, *done.token_ids), len(prompt), sampling)
        assert [r.sampling_entropy for r in told] == pytest.approx(expected, abs=1e-3)
        assert [r.entropy for r in told] == list(done.entropies)
    assert readings[0].id != readings[1].id, "they come while the others run"


def test_entropy_of_masked_greedy_and_wide_rows() -> None:
    logits = torch.full((5000,), -torch.inf)
    logits[:2] = 1.0
    total = float(logits.logsumexp(0))
    assert sampling_entropy(logits, total, Sampling(temperature=1.0)) == pytest.approx(0.6931, abs=1e-4)
    assert sampling_entropy(logits, total, Sampling(temperature=1.0, top_p=0.9)) == pytest.approx(0.6931, abs=1e-4)
    assert sampling_entropy(logits, total, Sampling(temperature=0.0)) == 0.0
    flat = torch.zeros(5000)
    wide = sampling_entropy(flat, float(flat.logsumexp(0)), Sampling(temperature=1.0, top_p=0.5))
    assert wide == pytest.approx(torch.tensor(2500.0).log().item(), abs=1e-3), "beyond the first candidates"


def test_planted_spikes_are_found_and_a_constant_level_is_none() -> None:
    chance = random.Random(1)
    calm = [0.5 + 0.1 * chance.random() for _ in range(60)]
    planted = [*calm]
    for place in (20, 21, 40, 42):
        planted[place] = 3.0
    assert find_spikes(planted) == (21, 42)
    assert find_spikes(calm) == ()
    assert find_spikes([value + 4.0 for value in calm]) == (), "constantly high"
    single = [*calm]
    single[30] = 3.0
    assert find_spikes(single) == (), "one high token is none"
    assert find_spikes([0.5] * 30 + [4.0] * 30) == (31,), "a new level is noticed once, then usual"
    assert spike_height(planted) > 3.0 > spike_height(calm)
    assert spike_height([1.0] * 5) == 0.0
    online = Spikes()
    assert tuple(i for i, value in enumerate(planted) if online.add(value)) == (21, 42)
    with pytest.raises(ValueError, match="never reached"):
        SpikeSettings(num_high=6, window=5)


def test_the_reserved_token_is_an_own_an_unused_or_a_spare_one() -> None:
    plain = byte_tokenizer()
    assert (reserved(plain, 300).how, reserved(plain, 300).id) == ("beyond", 299)
    with pytest.raises(SettingsError, match="none of the 258 token ids is spare"):
        reserved(plain, 258)
    assert reserved(plain, 258, name="Q").id == plain.encode("Q")[0]
    for name in ("</s>", "no such"):
        with pytest.raises(SettingsError):
            reserved(plain, 258, name=name)
    plain.inner.add_special_tokens(["<unused7>", "<unused8>", "<other>"])
    assert reserved(plain, 300).text == "<unused8>"
    plain.inner.add_special_tokens([CLARIFY])
    assert reserved(plain, 300).how == "own"


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("by", ["token", "spike"])
def test_paused_equals_continuous_bit_for_bit(name: str, by: str) -> None:
    made = MODELS[name]()
    engine, asked = Engine(made, EngineSettings(num_slots=8)), requests(6)
    clarify = common_token(engine, asked) if by == "token" else None
    settings = DialogueSettings(clarify=clarify, spikes=EAGER if by == "spike" else None, max_questions=2)
    dialogue, paused = talk(engine, asked, settings)
    told = {request.id: dialogue.exchanges(request.id) for request in asked}
    assert sum(len(one) for one in told.values()) >= 2
    # one continuous run: the answers stand ready, nothing ever pauses, and other slots and neighbours
    continuous = Dialogue(Engine(made, EngineSettings(num_slots=4)), settings)
    continuous.add(asked[::-1], told)
    assert continuous.run() == []
    assert [continuous.completions[request.id] for request in asked] == paused
    untold = Engine(made).complete(asked)
    assert [one.token_ids for one in paused] != [one.token_ids for one in untold], "answers matter"


def test_the_answer_stands_in_the_context_and_figures_belong_to_what_was_drawn() -> None:
    made = llama()
    engine, asked = Engine(made), requests(4)
    clarify = common_token(engine, asked)
    dialogue, completions = talk(engine, asked, DialogueSettings(clarify=clarify))
    for done, request in zip(completions, asked, strict=True):
        ids, drawn = [START, *made.tokenizer.encode(request.text)], list[int]()
        at = {one.num_drawn: one.token_ids for one in dialogue.exchanges(request.id)}
        for step, token in enumerate(done.token_ids):
            ids += at.get(step, ())
            drawn.append(len(ids))
            ids.append(token)
        spread = full_logits(made.network, ids).log_softmax(-1)
        raw = torch.stack([spread[place - 1, ids[place]] for place in drawn])
        assert torch.allclose(raw, torch.tensor(done.raw_logprobs), atol=1e-3)
        assert len(done.entropies) == len(done.logprobs) == len(done.token_ids) <= 24
        for step, told in at.items():
            assert done.token_ids[step - 1] == clarify
            assert told == tuple(made.tokenizer.encode(f"<{request.id}>"))
        assert done.token_ids.count(clarify) <= 1, "no second question"
        assert made.tokenizer.decode([clarify]) not in done.raw_text, "a mark is no text"


def test_no_answer_goes_on_as_if_nothing_had_paused_and_others_never_notice() -> None:
    engine, asked = Engine(llama()), requests(5)
    plain = engine.complete(asked)
    spikes = Dialogue(engine, DialogueSettings(spikes=EAGER))
    spikes.add(asked)
    pauses = spikes.run()
    assert pauses
    assert all(pause.reason == "spike" for pause in pauses)
    while spikes.paused:
        spikes.resume(spikes.paused[0].id, None)
        spikes.run()
    assert [spikes.completions[request.id] for request in asked] == plain
    assert all(len(spikes.exchanges(request.id)) <= 4 for request in asked), "looked at no more often than that"


def test_the_engine_is_free_between_runs_and_a_full_cache_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made, asked, taken_back, sent_back = llama(), requests(24, LONG), Batch.taken_back, list[Job]()

    def counted(self: Batch) -> list[Job]:
        """Remembers who had to begin again."""
        jobs = taken_back(self)
        sent_back.extend(jobs)
        return jobs

    monkeypatch.setattr(Batch, "taken_back", counted)
    clarify = common_token(Engine(made), asked)
    settings = DialogueSettings(clarify=clarify)
    expected = talk(Engine(made), asked, settings)[1]
    assert not sent_back
    tight = Engine(made, EngineSettings(num_slots=32, cache_mebibytes=1))
    dialogue = Dialogue(tight, settings)
    dialogue.add(asked)
    dialogue.run()
    waiting = dialogue.paused
    assert waiting
    assert dialogue.num_bytes > 0
    tight.complete(requests(9))
    tight.release()
    for pause in waiting:
        dialogue.resume(pause.id, f"<{pause.id}>")
    assert dialogue.run() == []
    assert dialogue.num_bytes == 0
    assert [dialogue.completions[request.id] for request in asked] == expected
    told = {job.request.id for job in sent_back if dialogue.exchanges(job.request.id)}
    assert told, "some began again after they were told something"


def test_a_run_that_is_ended_from_outside_loses_nothing() -> None:
    engine, asked = Engine(llama(), EngineSettings(num_slots=4)), requests(6)
    clarify = common_token(engine, asked)
    settings, heard = DialogueSettings(clarify=clarify), list[Reading]()
    expected = talk(engine, asked, settings)[1]

    def broken(reading: Reading) -> None:
        """Fails once, half-way."""
        heard.append(reading)
        if len(heard) in (30, 60):
            raise KeyboardInterrupt

    dialogue = Dialogue(engine, settings, listen=broken)
    dialogue.add(asked)
    for _ in range(8):
        try:
            dialogue.run()
        except KeyboardInterrupt:
            continue
        for pause in dialogue.paused:
            dialogue.resume(pause.id, f"<{pause.id}>")
    assert [dialogue.completions[request.id] for request in asked] == expected
    steps = [(reading.id, reading.step) for reading in heard]
    assert len(steps) == len(set(steps)) == sum(len(done.token_ids) for done in expected), "each told once"


def test_limits_of_number_and_time_let_sequences_go_on_and_cancelling_frees_them() -> None:
    made, now = llama(), itertools.count()
    engine, asked = Engine(made), requests(6)
    clarify = common_token(engine, asked)
    settings = DialogueSettings(clarify=clarify, max_paused=1, max_seconds=3.0)
    dialogue = Dialogue(engine, settings, clock=lambda: float(next(now)))
    dialogue.add(asked)
    [kept] = dialogue.run()
    assert len(dialogue.unanswered) >= 1
    assert set(dialogue.unanswered).isdisjoint({kept.id})
    assert len(dialogue.completions) == 5
    for _ in range(4):
        dialogue.run()
    assert kept.id in dialogue.completions
    assert kept.id in dialogue.unanswered
    assert dialogue.num_bytes == 0
    with pytest.raises(DataError, match="does not wait"):
        dialogue.resume(kept.id, "late")
    other = Dialogue(engine, DialogueSettings(clarify=clarify))
    other.add(asked)
    for pause in other.run():
        other.cancel(pause.id)
    assert other.paused == []
    assert other.num_bytes == 0
    assert other.run() == []
    with pytest.raises(DataError, match="under way"):
        other.cancel("nobody")


def test_wrong_answers_and_changed_weights_are_refused() -> None:
    made = llama()
    engine, asked = Engine(made), requests(4)
    clarify = common_token(engine, asked)
    dialogue = Dialogue(engine, DialogueSettings(clarify=clarify))
    dialogue.add(asked)
    id = dialogue.run()[0].id
    for wrong, said in (
        ("", "empty"),
        ((9999,), "cannot be told"),
        ((clarify,), "cannot be told"),
        ("x" * 500, "limit"),
    ):
        with pytest.raises(DataError, match=said):
            dialogue.resume(id, wrong)
    with pytest.raises(DataError, match="used twice"):
        dialogue.add(asked[:1])
    with torch.no_grad():
        next(iter(made.network.parameters())).add_(0.5)
    with pytest.raises(ModelError, match="weights were changed"):
        dialogue.resume(id, "x")
    with pytest.raises(SettingsError, match="cannot pause"):
        Dialogue(engine, DialogueSettings(clarify=300))
    with pytest.raises(SettingsError, match="its own cache"):
        Dialogue(Engine(wrapped())).complete(asked[:1], lambda pause: None)


def test_a_question_under_a_constraint_leaves_the_answer_valid() -> None:
    """The mark may come anywhere, costs a token of the limit, and is no part of the text."""
    engine, clarify = Engine(llama()), 299
    asked = [replace(r, constraint=JSON, sampling=Sampling(temperature=60.0, max_new_tokens=40)) for r in requests(40)]
    pauses: list[Pause] = []

    def reply(pause: Pause) -> str:
        """Keeps what was asked."""
        pauses.append(pause)
        return " the second one "

    done = Dialogue(engine, DialogueSettings(clarify=clarify, max_questions=2)).complete(asked, reply)
    assert len(pauses) >= 5
    assert any(pause.num_drawn > 1 for pause in pauses)
    for one in done:
        assert isinstance(json.loads(one.text)["ok"], bool)
        assert one.complete
        assert one.token_ids.count(clarify) <= 2
    assert all(clarify not in one.token_ids for one in engine.complete(asked)), "only where it is reserved"
