"""Pools, instruction lists and responses: items 1-3, 5, 6, 9, 10, 22-24, 27, 36 with a scripted completer."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from rung.base.errors import DataError
from rung.base.fingerprint import content_hash
from rung.base.lookup import part
from rung.base.seeds import stream
from rung.datagen.findings import Subject
from rung.datagen.generators.diverse_instructions import DiverseInstructions
from rung.datagen.generators.instructions import Instructions
from rung.datagen.generators.responses import Responses
from rung.datagen.heuristics import HEURISTICS
from rung.datagen.numbered import list_prompt, parse_list
from rung.datagen.pool import load_pool, load_topics
from rung.datagen.wording import fold, predict_type
from rung.records.contracts import Request
from rung.records.scripted import Scripted
from rung.records.types import Instruction

POOL = load_pool("few_shot_pool")


def asked(num: int) -> list[Instruction]:
    return [Instruction(f"i{n}", f"What is thing number {n}?", "factual", "hash", n) for n in range(num)]


def test_items_22_23_the_pool_is_large_distinct_and_typed() -> None:
    assert len(POOL.examples) == 50
    assert len({fold(example.instruction) for example in POOL.examples}) == len(POOL.examples)
    counts = Counter(example.type for example in POOL.examples)
    assert len(counts) >= 5
    assert min(counts.values()) >= 6
    assert len(load_pool("small_pool").examples) == 15
    assert len(load_topics()) >= 40


def test_the_pools_responses_meet_our_own_rules() -> None:
    for example in POOL.examples:
        subject = Subject(example.instruction, example.response)
        assert {name: find(subject) for name, find in HEURISTICS.items() if find(subject)} == {}, example
        assert 1 <= len(example.response.split()) <= 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("entries:\n  - {instruction: a b, response: c}", "'type' is missing"),
        ("entries:\n  - {type: x, instruction: Say it, response: No}\n", "'response' is missing or not a text"),
        (
            "entries:\n  - {type: x, instruction: Say it., response: a}\n"
            "  - {type: y, instruction: 'say  IT', response: b}",
            "entry 2 repeats entry 1",
        ),
        ("entries: []", "no entries"),
        ("- 3", "list called 'entries'"),
        ("a: [", "not YAML"),
    ],
)
def test_bad_pools_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pool.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        load_pool(str(path))
    with pytest.raises(DataError, match="few_shot_pool"):
        load_pool("unknown")


def test_item_24_draws_are_balanced_over_types() -> None:
    shares: Counter[str] = Counter()
    for number in range(1000):
        drawn = POOL.draw(10, stream(7, number))
        assert len({example.instruction for example in drawn}) == 10
        shares.update(example.type for example in drawn)
    equal = 10_000 / len(POOL.types)
    assert all(abs(count - equal) / 10_000 < 0.05 for count in shares.values())
    # One draw of ten holds every type once before any comes twice.
    assert max(Counter(e.type for e in POOL.draw(8, random.Random(1))).values()) == 1
    with pytest.raises(DataError, match="cannot give"):
        POOL.draw(51, random.Random(1))
    with pytest.raises(DataError, match="no type 'nonsense'"):
        POOL.draw(1, random.Random(1), ["nonsense"])


def test_item_1_the_list_goes_on_at_a_bare_number() -> None:
    completer = Scripted(["X is what?\n12. Y is what?\nHere are some more:"])
    made = Instructions(Instructions.Settings(), completer=completer, pool=POOL).generate(1, seed=3)
    assert [item.text for item in made.instructions] == ["X is what?", "Y is what?"]
    prompt = completer.requests[0].text
    assert prompt.endswith("\n11.")
    assert prompt.count("\n") == 10
    assert all(example.instruction in {e.instruction for e in POOL.examples} for example in POOL.examples)
    assert not any(mark in prompt for mark in ("<start_of_turn>", "<|im_start|>", "[INST]", "<bos>"))
    assert parse_list(" X\n12. Y\nHere are some more:", [], cut=False)[0] == ["X", "Y"]
    assert made.instructions[0].prompt_hash == content_hash(prompt.encode())


def test_item_2_only_whole_atomic_lines_come_through() -> None:
    text = " Why is it?\n12.\n13. Name a  CAT\nHere are more:\n14. Why is IT\n15) Say no.\na stray line\n16. Half of a"
    good, bad = parse_list(text, ["Name a cat."], cut=True)
    assert good == ["Why is it?", "Say no."]
    assert [(reason, text[slice(*span)]) for reason, _, span in bad] == [
        ("empty_line", "12."),
        ("repeats_example", "13. Name a  CAT"),
        ("meta_line", "Here are more:"),
        ("repeats_itself", "14. Why is IT"),
        ("not_an_item", "a stray line"),
        ("half_finished", "16. Half of a"),
    ]


def test_item_3_an_empty_answer_makes_no_instruction_and_no_filler() -> None:
    completer = Scripted(lambda request: "")
    made = Instructions(Instructions.Settings(), completer=completer, pool=POOL).generate(4, seed=3)
    assert made.instructions == ()
    assert [drop.reason for drop in made.dropped] == ["empty_line"] * 4
    answered = Instructions(Instructions.Settings(), completer=Scripted([" Why?\n"]), pool=POOL).generate(1, seed=3)
    assert [item.source for item in answered.instructions] == ["model"]


def test_item_9_a_line_cut_by_the_limit_is_dropped() -> None:
    settings = Instructions.Settings(max_new_tokens=5)
    completer = Scripted([" Why is it?\n12. Name the biggest"])
    made = Instructions(settings, completer=completer, pool=POOL).generate(1, seed=3)
    assert [item.text for item in made.instructions] == ["Why is it?"]
    assert [drop.reason for drop in made.dropped] == ["half_finished"]


def test_a_call_stops_after_what_it_takes() -> None:
    completer = Scripted([" One is?\n12. Two is?\n13. Three is?\n14. Four is?"])
    made = Instructions(Instructions.Settings(), completer=completer, pool=POOL).generate(1, seed=3)
    assert len(made.instructions) == 3
    assert completer.requests[0].sampling.stop == ("\n14.",)


def test_per_type_lists_show_one_type_and_file_under_it() -> None:
    completer = Scripted(lambda request: " Something rather odd, please")
    settings = Instructions.Settings(per_type=True, num_shown=6)
    made = Instructions(settings, completer=completer, pool=POOL).generate(len(POOL.types), seed=1)
    assert [call.type for call in made.calls] == list(POOL.types)
    for call in made.calls:
        assert {e.type for e in POOL.examples if e.instruction in call.shown} == {call.type}
    assert [item.type for item in made.instructions] == list(POOL.types)
    assert predict_type("List three fish.", "creative") == "list_generation"


def test_item_27_diverse_prompts_name_topics_and_show_recent_ones() -> None:
    completer = Scripted(lambda request: " Which bird sings?\n9. Which fish swims?")
    maker = DiverseInstructions(DiverseInstructions.Settings(num_shown=7), completer=completer, pool=POOL)
    known = ["What is the oldest tree?", "Which river is the longest?", "Who painted it?"]
    made = maker.generate(16, seed=5, known=known)
    factual = [call for call in made.calls if call.type == "factual"]
    assert all(sum(text in known for text in call.shown) == 2 for call in factual)
    prompts = [request.text for request in completer.requests]
    topics = load_topics()
    assert all(sum(topic in prompt.split("\n")[0] for topic in topics) >= 2 for prompt in prompts)
    assert len({prompt.split("\n")[0] for prompt in prompts}) == len(prompts)
    assert factual[0].request.text.endswith("\n8.")
    assert (completer.requests[0].sampling.temperature, completer.requests[0].sampling.repetition_penalty) == (0.8, 1.3)
    assert Counter(call.type for call in made.calls) == dict.fromkeys(POOL.types, 2)


def test_item_27_a_model_with_a_prior_repeats_less_when_guided() -> None:
    def answer(request: Request) -> str:
        # A model with a prior: it says its favourite unless the prompt's own words lead it elsewhere.
        head = request.text.split("\n")[0]
        topic = next((topic for topic in load_topics() if topic in head), "")
        return f" What do you like about {topic}?" if topic else " What is the capital of France?"

    def repeats(maker: type, **settings: int) -> float:
        made = maker(maker.Settings(**settings), completer=Scripted(answer), pool=POOL).generate(40, seed=9)
        return 1 - len({item.text for item in made.instructions}) / len(made.instructions)

    plain, guided = repeats(Instructions), repeats(DiverseInstructions, num_topics=1)
    assert plain > 0.9
    assert guided < 0.6


def test_shares_of_types_are_kept() -> None:
    settings = DiverseInstructions.Settings(types={"factual": 3, "creative": 1})
    maker = DiverseInstructions(settings, completer=Scripted(lambda request: " Why?"), pool=POOL)
    counts = Counter(call.type for call in maker.generate(40, seed=1).calls)
    assert counts == {"factual": 30, "creative": 10}


def test_items_4_5_the_stored_prompt_is_the_one_that_was_sent() -> None:
    completer = Scripted(lambda request: " A thing.\n###END###")
    made = Responses(Responses.Settings(), completer=completer, pool=POOL).generate(asked(20), seed=3)
    sent = {content_hash(request.text) for request in completer.requests}
    assert {content_hash(candidate.prompt) for candidate in made.candidates} == sent
    assert len(sent) == 20
    first = made.candidates[0]
    assert first.prompt.endswith("Instruction: What is thing number 0?\nResponse:")
    assert first.prompt.count("\n###END###\n\n") == 3
    assert (first.response, first.generated, first.raw_text) == ("A thing.", " A thing.", " A thing.\n###END###")
    assert (first.finish_reason, first.hit_limit) == ("stop", False)


def test_item_6_defaults_are_the_validated_ones() -> None:
    made, drawn = Instructions.Settings(), Responses.Settings()
    assert (made.temperature, made.top_p, made.repetition_penalty) == (0.7, 0.9, 1.1)
    assert (drawn.temperature, drawn.top_p, drawn.repetition_penalty, drawn.max_new_tokens) == (0.4, 0.9, 1.1, 100)


def test_item_7_every_stop_string_ends_a_response() -> None:
    for stop in ("\nInstruction", "\nQ:", "\n###", "\nUser:", "\nResponse:"):
        completer = Scripted([f" Two steps: mix, bake.{stop} next"])
        made = Responses(Responses.Settings(), completer=completer, pool=POOL).generate(asked(1), seed=3)
        assert made.candidates[0].response == "Two steps: mix, bake."


def test_item_9_limits_by_type_and_true_hit_flags() -> None:
    settings = Responses.Settings(max_new_tokens=10, max_new_tokens_by_type={"creative": 12})
    for words, kind, hit in ((9, "factual", False), (10, "factual", True), (11, "creative", False)):
        item = Instruction("i", "Say it.", kind, "hash", 0)
        completer = Scripted([" word" * words])
        made = Responses(settings, completer=completer, pool=POOL).generate([item], seed=3)
        assert made.candidates[0].hit_limit is hit, (words, kind)


def test_candidates_have_own_seeds_and_repeats_are_collapsed() -> None:
    completer = Scripted(["same", "same ", "other", "one", "two", "three"])
    settings = Responses.Settings(num_candidates=3)
    made = Responses(settings, completer=completer, pool=POOL).generate(asked(2), seed=3)
    assert [candidate.response for candidate in made.candidates] == ["same", "other", "one", "two", "three"]
    assert [drop.reason for drop in made.dropped] == ["same_as_sibling"]
    assert len({request.seed for request in completer.requests}) == 6


def test_item_36_a_candidate_depends_on_its_instruction_and_seed_alone() -> None:
    def ask(items: list[Instruction], seed: int) -> dict[str, tuple[str, int]]:
        completer = Scripted(lambda request: " fine")
        made = Responses(Responses.Settings(num_candidates=1), completer=completer, pool=POOL).generate(items, seed)
        return {c.instruction_id: (c.prompt, c.seed) for c in made.candidates}

    together, alone = ask(asked(5), 3), ask(asked(5)[3:4], 3)
    assert together["i3"] == alone["i3"]
    assert ask(asked(5), 3) == together
    assert ask(asked(5), 4) != together


def test_item_10_response_settings_leave_instructions_alone() -> None:
    prompts = []
    for temperature in (0.4, 0.9):
        completer = Scripted(lambda request: " Why?")
        Instructions(Instructions.Settings(), completer=completer, pool=POOL).generate(3, seed=3)
        prompts.append([(r.text, r.sampling, r.seed) for r in completer.requests])
        Responses(Responses.Settings(temperature=temperature), completer=completer, pool=POOL).generate(asked(1), 3)
        assert completer.requests[-1].sampling.temperature == temperature
    assert prompts[0] == prompts[1]


def test_generators_are_found_by_name() -> None:
    for name in ("instructions", "diverse_instructions", "responses"):
        found, settings = part("datagen.generators", {"kind": name, "top_p": 0.8})
        assert settings.top_p == 0.8
        found(settings, completer=Scripted([]), pool=POOL)


def test_list_prompt_has_an_opening_when_asked() -> None:
    assert list_prompt(["a", "b"]) == "1. a\n2. b\n3."
    assert list_prompt(["a"], "Varied.") == "Varied.\n\n1. a\n2."


def test_prompts_share_their_beginnings_so_that_an_engine_computes_them_once() -> None:
    def beginnings(num_sets: int) -> int:
        completer = Scripted(lambda request: " Yes.")
        settings = Responses.Settings(num_example_sets=num_sets)
        Responses(settings, completer=completer, pool=POOL).generate(asked(60), seed=3)
        return len({request.text.rsplit("Instruction: ", 1)[0] for request in completer.requests})

    assert beginnings(4) == 4
    assert beginnings(1000) > 40
