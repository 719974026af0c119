"""The A/B critic: exact log-probabilities, prompts, labels, acceptance, label order, content-free inputs, batching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import rung
from rung.base.errors import ModelError, SettingsError
from rung.base.lookup import lookup, part
from rung.base.settings import validate
from rung.records.contracts import Item, Scored, Scorer, Trace
from rung.records.scripted import Scripted
from rung.records.types import Critique
from rung.scoring.critic import Critic, Swappable
from rung.scoring.judges.choice import ChoiceCritic
from rung.scoring.rubrics import PRESETS

ITEM = Item("1", "Name a fruit.", "factual")
TRACE = Trace("1", "Apple.")
ScoreOf = Callable[[str, str], float]


def critic(score_of: ScoreOf, **settings: object) -> ChoiceCritic:
    return ChoiceCritic(validate(ChoiceCritic.Settings, settings, "critic"), never_generates(score_of))


def never_generates(score_of: ScoreOf, clean: bool = True) -> Scripted:
    return Scripted([], score_of, clean)


def letters(a: float, b: float) -> ScoreOf:
    return lambda prompt, ending: a if ending.strip() == "A" else b


def judge(score_of: ScoreOf, text: str = TRACE.text, **settings: object) -> Critique:
    return critic(score_of, **settings).critique([ITEM], [Trace("1", text)])[0]


def test_log_probabilities_come_out_exactly_and_nothing_is_generated() -> None:
    model = never_generates(letters(-0.5, -2.25))
    judge_ = ChoiceCritic(ChoiceCritic.Settings(), model)
    found = judge_.critique([ITEM], [TRACE])[0]
    assert (found.logp_a, found.logp_b, found.signed_margin, found.margin) == (-0.5, -2.25, 1.75, 1.75)
    assert found.is_good
    assert found.confident
    assert found.predicted_label == "A"
    assert found.confidence_threshold == 1.0
    assert all(judge_.critique([ITEM], [TRACE])[0] == found for _ in range(10))
    assert model.requests == []


@pytest.mark.parametrize(("margin", "accepted"), [(0.99, False), (1.0, True), (1.01, True)])
def test_the_threshold_is_reached_or_not(margin: float, accepted: bool) -> None:
    assert judge(letters(0.0, -margin)).accepted is accepted


def test_low_confidence_is_a_rejection_counted_apart_from_bad() -> None:
    low, bad = judge(letters(-1.0, -1.2)), judge(letters(-3.0, -1.0))
    assert (low.is_good, low.confident, low.accepted) == (True, False, False)
    assert (bad.is_good, bad.confident, bad.accepted, bad.predicted_label) == (False, True, False, "B")


def test_the_pair_prompt() -> None:
    model = never_generates(letters(-1, -2))
    ChoiceCritic(ChoiceCritic.Settings(), model).critique([ITEM], [TRACE])
    assert model.scored[0][0].split("\n") == [
        "Rate how the response answers the instruction.",
        "A = clear, specific, achievable, safe",
        "B = vague, impossible, unsafe, nonsense",
        "If uncertain, choose B.",
        "",
        "Instruction: Name a fruit.",
        "Response: Apple.",
        "",
        "Give one letter, A or B.",
        "Label:",
    ]
    assert [ending for prompt, ending in model.scored[:4]] == ["A", "B", " A", " B"]


def test_the_instruction_prompt_shows_no_response() -> None:
    model = never_generates(letters(-1, -2))
    ChoiceCritic(ChoiceCritic.Settings(mode="instruction"), model).critique([ITEM], [TRACE])
    prompt = model.scored[0][0]
    assert "Apple" not in prompt
    assert "Response" not in prompt
    assert prompt.startswith("Rate the instruction below.\n")
    assert prompt.endswith("\nLabel:")


def test_rubric_texts_change_those_lines_alone() -> None:
    def prompt(**settings: object) -> list[str]:
        model = never_generates(letters(-1, -2))
        ChoiceCritic(validate(ChoiceCritic.Settings, settings, ""), model).critique([ITEM], [TRACE])
        return model.scored[0][0].split("\n")

    usual, own = prompt(), prompt(rubric_good="kind words", rubric_bad="harsh words")
    assert own[1:3] == ["A = kind words", "B = harsh words"]
    assert own[0] == usual[0]
    assert own[3:] == usual[3:]


@pytest.mark.parametrize("ending", ["\n\nSecond paragraph.", "\n \nSecond paragraph."])
def test_a_response_is_shown_up_to_its_first_paragraph(ending: str) -> None:
    model = never_generates(letters(-1, -2))
    found = ChoiceCritic(ChoiceCritic.Settings(), model).critique([ITEM], [Trace("1", "First." + ending)])[0]
    assert "Response: First.\n\nGive one letter" in model.scored[0][0]
    assert "response cut from" in found.reason


def test_a_long_response_is_cut_at_500_characters_and_the_cut_is_recorded() -> None:
    model = never_generates(letters(-1, -2))
    found = ChoiceCritic(ChoiceCritic.Settings(), model).critique([ITEM], [Trace("1", "x" * 501)])[0]
    assert "Response: " + "x" * 500 + "\n" in model.scored[0][0]
    assert "response cut from 501 to 500 characters" in found.reason
    assert "cut" not in judge(letters(-1, -2), "x" * 500).reason


def test_the_better_variant_of_each_letter_counts() -> None:
    table = {"A": -3.0, " A": -1.0, "B": -2.0, " B": -5.0}
    found = judge(lambda prompt, ending: table[ending])
    assert (found.logp_a, found.logp_b) == (-1.0, -2.0)


class Splitting(Scripted):
    """A tokenizer that spends two tokens on the endings named."""

    def __init__(self, score_of: ScoreOf, split: set[str]) -> None:
        super().__init__([], score_of)
        self.split = split

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
        return [
            Scored((1, 2), (one.total, 0.0)) if text in self.split else one
            for one, text in zip(super().score(prompts, continuations), continuations, strict=True)
        ]


def test_labels_that_are_one_token_only_bare_or_only_after_a_space() -> None:
    table = {"A": -3.0, " A": -1.0, "B": -2.0, " B": -5.0}
    for split, expected in (({" A", " B"}, (-3.0, -2.0)), ({"A", "B"}, (-1.0, -5.0)), ({" A"}, (-3.0, -2.0))):
        model = Splitting(lambda prompt, ending: table[ending], split)
        found = ChoiceCritic(ChoiceCritic.Settings(), model).critique([ITEM], [TRACE])[0]
        assert (found.logp_a, found.logp_b) == expected


def test_labels_that_are_never_one_token_are_refused() -> None:
    model = Splitting(letters(-1, -2), {"A", " A", "B", " B"})
    with pytest.raises(ModelError, match="not single tokens") as caught:
        ChoiceCritic(ChoiceCritic.Settings(), model).critique([ITEM], [TRACE])
    assert "information_gain" in caught.value.hint


def test_only_a_clean_model_may_judge_unless_a_setting_says_so() -> None:
    model = never_generates(letters(-1, -2), clean=False)
    with pytest.raises(ModelError, match="clean loader") as caught:
        ChoiceCritic(ChoiceCritic.Settings(), model)
    assert "rung.models.load" in caught.value.hint
    allowed = ChoiceCritic(ChoiceCritic.Settings(allow_unclean_model=True), model)
    assert allowed.record()["clean_model"] is False
    assert allowed.record()["settings"]["allow_unclean_model"] is True


def test_a_model_that_cannot_score_is_refused() -> None:
    with pytest.raises(ModelError, match="needs log-probabilities"):
        ChoiceCritic(ChoiceCritic.Settings(), Scripted([]))


def by_meaning(bias: float, merit: float) -> ScoreOf:
    """A model that likes letter A by `bias` whatever it means, and the good meaning by `merit`."""

    def score_of(prompt: str, ending: str) -> float:
        letter = ending.strip()
        meaning = next(line for line in prompt.split("\n") if line.startswith(f"{letter} = "))
        return bias * (letter == "A") + merit * ("clear" in meaning) - 5

    return score_of


def test_exchanging_the_labels_cancels_position_bias() -> None:
    assert judge(by_meaning(3, 1.5)).signed_margin == 4.5
    assert judge(by_meaning(3, 1.5), swap_labels=True).signed_margin == 1.5
    assert judge(by_meaning(3, -1.5)).accepted
    assert not judge(by_meaning(3, -1.5), swap_labels=True).accepted


def test_both_orders_show_the_bias() -> None:
    found = critic(by_meaning(3, 1.5))
    assert isinstance(found, Swappable)
    orders = found.both_orders([ITEM], [TRACE])
    assert (orders.as_written, orders.exchanged) == ((4.5,), (-1.5,))


def blind(prompt: str, ending: str) -> float:
    """Prefers A by 2 in any prompt, and by 0.5 more where something is answered with an apple."""
    return (2.0 + 0.5 * ("Apple" in prompt)) * (ending.strip() == "A")


def test_the_margin_is_also_kept_less_that_of_content_free_inputs_and_the_setting_says_which_decides() -> None:
    raw, calibrated = judge(blind), judge(blind, decide_by="calibrated")
    assert (raw.signed_margin, raw.calibrated_margin, raw.rank) == (2.5, 0.5, 2.5)
    assert raw.accepted
    assert (calibrated.signed_margin, calibrated.calibrated_margin, calibrated.rank) == (2.5, 0.5, 0.5)
    assert not calibrated.accepted
    assert calibrated.is_good


def test_presets_by_type_act_on_text_and_threshold() -> None:
    model = never_generates(letters(-1.0, -2.2))
    judge_ = ChoiceCritic(ChoiceCritic.Settings(by_type={"creative": "loose", "safety": "strict"}), model)
    kinds = ["factual", "creative", "safety"]
    found = judge_.critique([Item(k, "Do it.", k) for k in kinds], [Trace(k, "Done.") for k in kinds])
    assert [one.confidence_threshold for one in found] == [1.0, 0.5, 1.5]
    assert [one.accepted for one in found] == [True, True, False]
    for one, preset in zip(found, ["default", "loose", "strict"], strict=True):
        assert PRESETS[preset].hash in one.reason
    assert f"A = {PRESETS['loose'].good}" in model.scored[4][0]
    assert judge_.record()["rubrics"]["creative"]["hash"] == PRESETS["loose"].hash


def test_strict_accepts_no_more_than_default_and_loose_no_fewer() -> None:
    margins = [0.2, 0.6, 1.1, 1.7, -1.0]
    items = [Item(str(m), str(m), "factual") for m in margins]
    traces = [Trace(str(m), str(m)) for m in margins]

    def score_of(prompt: str, ending: str) -> float:
        number = prompt.split("Instruction: ")[1].split("\n")[0]
        return float(number) * (ending.strip() == "A") if number.replace(".", "").strip("-").isdigit() else 0.0

    counts = [sum(c.accepted for c in critic(score_of, preset=p).critique(items, traces)) for p in PRESETS]
    assert dict(zip(PRESETS, counts, strict=True)) == {"default": 2, "strict": 1, "loose": 3}


def test_an_unknown_preset_is_refused_before_any_work() -> None:
    with pytest.raises(SettingsError, match="'lose'") as caught:
        critic(letters(-1, -2), by_type={"creative": "lose"})
    assert "did you mean 'loose'" in caught.value.hint


class Counting(Scripted):
    calls = 0

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
        self.calls += 1
        return super().score(prompts, continuations)


def test_sixty_four_pairs_are_one_call_with_the_numbers_of_one_at_a_time() -> None:
    def score_of(prompt: str, ending: str) -> float:
        return -(hash((prompt, ending)) % 1000) / 100

    items = [Item(str(n), "word " * (n % 9 + 1), "factual") for n in range(64)]
    traces = [Trace(str(n), "answer " * (n % 31 + 1)) for n in range(64)]
    model = Counting([], score_of)
    judge_ = ChoiceCritic(ChoiceCritic.Settings(), model)
    together = judge_.critique(items, traces)
    assert model.calls == 1
    apart = [judge_.critique([item], [trace])[0] for item, trace in zip(items, traces, strict=True)]
    assert together == apart


def test_scores_say_the_same_as_critiques() -> None:
    found = critic(blind)
    score = found.score([ITEM], [TRACE])[0]
    assert (score.value, score.components["calibrated_margin"], score.abstained) == (2.5, 0.5, False)
    assert isinstance(found, Scorer)
    assert isinstance(found, Critic)
    assert found.critique([], []) == []


def test_a_model_that_answers_nan_is_abstained_from() -> None:
    score = critic(letters(float("nan"), -1.0)).score([ITEM], [TRACE])[0]
    assert score.abstained
    assert score.value is None
    assert not judge(letters(float("nan"), -1.0)).accepted


def test_the_threshold_can_be_changed() -> None:
    assert not critic(letters(-1, -3)).with_threshold(2.5).critique([ITEM], [TRACE])[0].accepted


def test_it_is_found_by_name() -> None:
    assert lookup("scoring.judges", "choice") is ChoiceCritic
    found, settings = part("scoring.judges", {"kind": "choice", "threshold": 0.5})
    assert found is ChoiceCritic
    assert settings == ChoiceCritic.Settings(threshold=0.5)


def test_the_letters_are_read_in_one_place() -> None:
    root = Path(rung.__file__).parent
    reading = [str(p.relative_to(root)) for p in root.rglob("*.py") if '"A", "B"' in p.read_text()]
    assert reading == ["scoring/judges/choice.py"]
