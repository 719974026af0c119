"""Information gain: the exact mean, what shrinks it, what it discounts, and what it keeps silent about."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rung.base.errors import ModelError
from rung.base.lookup import lookup
from rung.base.settings import validate
from rung.records.chat.frame import Frame
from rung.records.contracts import Item, Score, Scored, Scorer, Trace
from rung.records.scripted import Scripted
from rung.scoring.copying import copied_share, repeated_share
from rung.scoring.critic import Critic, Swappable
from rung.scoring.judges.information_gain import InformationGain

INSTRUCTION = "Why do we put salt on icy roads in winter?"
PLAIN = {"shrinkage": 0, "echo": "keep", "repetition": "keep", "unfinished": "keep"}


def gains(prompt: str, continuation: str) -> float:
    """Every token is one nat likelier after an instruction than after the blank frame; a full stop ends a line."""
    if continuation == "\n":
        return -0.1 if prompt.endswith((".", "?", " ")) else -9.0
    count = len(continuation.split())
    return -1.0 * count if INSTRUCTION in prompt else -2.0 * count


def gain(text: str, model: Scripted | None = None, **settings: object) -> Score:
    judge = InformationGain(validate(InformationGain.Settings, settings, ""), model or Scripted([], gains))
    return judge.score([Item("1", INSTRUCTION)], [Trace("1", text)])[0]


def test_the_gain_is_the_mean_difference_in_the_canonical_frame() -> None:
    model = Scripted([], gains)
    score = gain("Salt melts ice.", model, **PLAIN)
    assert score.value == pytest.approx(1.0)
    assert model.scored == [(Frame.prompt(INSTRUCTION), " Salt melts ice."), (Frame.blank(), " Salt melts ice.")]
    assert score.components["with_instruction"] == pytest.approx(-1.0)
    assert score.components["without_instruction"] == pytest.approx(-2.0)
    assert score.components["num_tokens"] == 3


def test_a_critique_holds_both_means_and_what_decided() -> None:
    judge = InformationGain(
        InformationGain.Settings(threshold=0.7, shrinkage=1, unfinished="keep"), Scripted([], gains)
    )
    short, long = judge.critique([Item("1", INSTRUCTION)] * 2, [Trace("1", "Salt."), Trace("1", "Salt melts the ice.")])
    assert (short.logp_a, short.logp_b, short.signed_margin) == pytest.approx((-1.0, -2.0, 1.0))
    assert (short.rank, long.rank) == pytest.approx((0.5, 0.8))
    assert (short.accepted, long.accepted) == (False, True)
    assert judge.with_threshold(0.4).critique([Item("1", INSTRUCTION)], [Trace("1", "Salt.")])[0].accepted


def test_a_loss_is_bad() -> None:
    judge = InformationGain(InformationGain.Settings(), Scripted([], lambda p, c: -gains(p, c) - 20), Frame)
    found = judge.critique([Item("1", INSTRUCTION)], [Trace("1", "Salt melts ice.")])[0]
    assert (found.is_good, found.predicted_label, found.accepted) == (False, "B", False)


def test_shrinkage_favours_the_longer_of_two_equal_means() -> None:
    short, long = gain("Ice.", shrinkage=2), gain("It melts the ice at lower temperatures.", shrinkage=2)
    assert short.value is not None
    assert long.value is not None
    assert short.value == pytest.approx(1 / 3)
    assert long.value == pytest.approx(7 / 9)
    assert gain("Ice.", shrinkage=0).value == gain("It melts ice.", shrinkage=0).value


def test_an_echo_is_kept_discounted_or_rejected() -> None:
    settings = {**PLAIN, "echo": "keep"}
    assert gain(INSTRUCTION, **settings).value == pytest.approx(1.0)
    assert gain(INSTRUCTION.upper(), **{**settings, "echo": "discount"}).value == pytest.approx(0.0)
    half = "Why do we put salt on the table? Because soup needs it, and so do chips."
    share = copied_share(half, INSTRUCTION)
    assert 0.3 < share < 0.6
    assert gain(half, **{**settings, "echo": "discount"}).value == pytest.approx((1 - share) ** 2)
    rejected = gain("You asked: " + INSTRUCTION, **{**settings, "echo": "reject"})
    assert (rejected.value, rejected.abstained) == (0.0, False)
    assert "is copied" in rejected.reason
    assert gain("Salt melts ice.", **{**settings, "echo": "reject"}).value == pytest.approx(1.0)
    assert gain(half, **{**settings, "echo": "reject", "echo_limit": 0.3}).value == 0.0


def test_a_loop_is_kept_discounted_or_rejected() -> None:
    loop = "salt melts the ice " * 5
    assert gain(loop, **PLAIN).value == pytest.approx(1.0)
    discounted = gain(loop, **{**PLAIN, "repetition": "discount"}).value
    assert discounted == pytest.approx((1 - repeated_share(loop)) ** 2)
    rejected = gain(loop, **{**PLAIN, "repetition": "reject"})
    assert (rejected.value, "repeats itself" in rejected.reason) == (0.0, True)
    assert gain(loop, **{**PLAIN, "repetition": "reject", "repetition_limit": 0.9}).value == pytest.approx(1.0)


def test_a_response_that_stops_in_mid_sentence_is_rejected_with_its_reason() -> None:
    score = gain("Salt melts the ice because it", shrinkage=0)
    assert score.value == 0.0
    assert "line break has probability 0.000" in score.reason
    assert gain("Salt melts the ice because it", shrinkage=0, unfinished="keep").value == pytest.approx(1.0)
    assert gain("Salt melts the ice.", shrinkage=0).value == pytest.approx(1.0)
    assert gain("Salt melts the ice.", shrinkage=0).components["ending"] == pytest.approx(0.9048, abs=1e-4)
    assert gain("Salt melts the ice.", shrinkage=0, ending_limit=0.95).value == 0.0


def test_a_rejected_answer_is_not_accepted_at_any_threshold() -> None:
    judge = InformationGain(InformationGain.Settings(threshold=0), Scripted([], gains))
    found = judge.critique([Item("1", INSTRUCTION)], [Trace("1", "Salt melts the ice because it")])[0]
    assert not found.accepted
    assert found.reason.startswith("rejected: it stops")


def test_a_discount_never_makes_a_loss_smaller() -> None:
    model = Scripted([], lambda prompt, continuation: -gains(prompt, continuation) - 40)
    assert gain(INSTRUCTION, model, shrinkage=0).value == pytest.approx(-1.0)


@pytest.mark.parametrize("text", ["", "   ", "\n\n"])
def test_an_empty_response_is_abstained_from_without_asking_the_model(text: str) -> None:
    model = Scripted([], gains)
    score = gain(text, model)
    assert (score.value, score.abstained) == (None, True)
    assert "empty" in score.reason
    assert model.scored == []


def test_a_response_under_the_least_length_is_rejected() -> None:
    short = gain("Salt.", min_response_tokens=2)
    assert (short.value, short.reason) == (0.0, "rejected: 1 tokens are under 2")
    assert gain("Salt melts.", min_response_tokens=2).reason == ""


def test_only_the_first_tokens_are_read() -> None:
    model = Scripted([], gains)
    assert gain("a b c d e", model, **PLAIN, max_response_tokens=3).components["num_tokens"] == 3
    assert model.scored[0][1] == " a b c"


def test_all_answers_are_one_call_in_order() -> None:
    class Counting(Scripted):
        calls = 0

        def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
            self.calls += 1
            return super().score(prompts, continuations)

    model = Counting([], gains)
    judge = InformationGain(validate(InformationGain.Settings, PLAIN, ""), model)
    items = [Item("1", INSTRUCTION), Item("2", "Something else?"), Item("3", INSTRUCTION), Item("4", INSTRUCTION)]
    texts = ["One two.", "One two.", "", "Three."]
    values = [s.value for s in judge.score(items, [Trace(i.id, t) for i, t in zip(items, texts, strict=True)])]
    assert values == [pytest.approx(1.0), pytest.approx(0.0), None, pytest.approx(1.0)]
    assert model.calls == 1


def test_other_tokens_after_another_prompt_are_an_error() -> None:
    class Joined(Scripted):
        def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
            return [Scored(tuple(range(len(p))), (0.0,) * len(p)) for p in prompts]

    with pytest.raises(ModelError, match="other tokens"):
        gain("Salt.", Joined([], gains))


def test_nan_is_abstained_from() -> None:
    assert gain("Salt.", Scripted([], lambda p, c: float("nan"))).abstained


def test_only_a_clean_model_may_judge() -> None:
    unclean = Scripted([], gains, clean=False)
    with pytest.raises(ModelError, match="clean loader"):
        InformationGain(InformationGain.Settings(), unclean)
    allowed = InformationGain(InformationGain.Settings(allow_unclean_model=True), unclean)
    assert allowed.record()["clean_model"] is False


def test_it_keeps_its_promises() -> None:
    judge = InformationGain(InformationGain.Settings(), Scripted([], gains))
    assert lookup("scoring.judges", "information_gain") is InformationGain
    assert isinstance(judge, Scorer)
    assert isinstance(judge, Critic)
    assert not isinstance(judge, Swappable)
    assert judge.record()["frame"] == "frame"


@pytest.mark.parametrize(
    ("response", "instruction", "share"),
    [
        ("Name a red fruit.", "name a RED fruit", 1.0),
        ("You said: name a red fruit", "Name a red fruit", 1.0),
        ("Diamond is the hardest mineral.", "What is the hardest mineral?", 0.0),
        ("I love books", "Repeat after me: I love books", 0.0),
        ("Name a blue fish", "Name a red fruit", 0.5),
        ("Name a red fruit? There are many of those, and the cherry is one.", "Name a red fruit", 8 / 14),
        ("Apple", "Name a fruit", 0.0),
        ("", "Name a fruit", 0.0),
    ],
)
def test_copied_share(response: str, instruction: str, share: float) -> None:
    assert copied_share(response, instruction) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "share"),
    [("", 0.0), ("one two", 0.0), ("a b c d", 0.0), ("a b a b a b", 2 / 4), ("no no no no no", 2 / 3)],
)
def test_repeated_share(text: str, share: float) -> None:
    assert repeated_share(text) == pytest.approx(share)
