"""The two-turn judge: strict format, two real generations, both orders, forced branches, win rates, demonstrations."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import pytest

from rung.base.errors import DataError, ModelError, SettingsError
from rung.base.lookup import part
from rung.base.settings import validate
from rung.models.load import load
from rung.records.contracts import Item, Trace
from rung.records.scripted import Scripted
from rung.scoring.branch_demonstrations import demonstrations, labelled_items
from rung.scoring.branch_format import fault_in, read, written
from rung.scoring.branch_script import BranchScript
from rung.scoring.branch_wording import DIMENSIONS, LAYOUTS, last_words
from rung.scoring.flawed_families import FAMILIES
from rung.scoring.flawed_pairs import as_preference, flawed_pairs
from rung.scoring.judged_pairs import Verdict, exchanged, in_random_order, order_figures, pair_item
from rung.scoring.judges.branch_rethink import BranchRethink
from rung.scoring.pair_verdicts import branch_rethink_verdicts
from rung.scoring.reward import Lent
from rung.scoring.rewards.judge import Judge
from rung.scoring.rewards.ranking import Ranking

FIRST = (
    "<Focus>Safety Awareness, Logical Reasoning</Focus>\n<Issues1>eval</Issues1>\n<Issues2>None identified</Issues2>"
)
SECOND = (
    "<Hierarchy>correctness</Hierarchy>\n<Analysis1>unsafe</Analysis1>\n<Analysis2>safe</Analysis2>\n"
    "<Ranking>\\boxed{2}</Ranking>"
)
PAIR = pair_item("p", "Read a number.", ("eval(input())", "int(input())"), 2)
RESPONSES = re.compile(r"Response 1: (.*)\n\nResponse 2: (.*)\n\nFocus:", re.DOTALL)


def ranked(choice):
    return SECOND.replace("boxed{2}", f"boxed{{{choice}}}")


def by_rule(rule):
    """A judge that follows the format; `rule(first, second, focus)` is its choice in turn two."""

    def answer(request):
        said = [message.content for message in request.messages]
        if len(said) == 1:
            return FIRST
        first, second = RESPONSES.search(said[0]).groups()
        return ranked(rule(first, second, said[1].split("</Focus>")[0]))

    return Scripted(answer)


def judge(completer, tokenizer=None, **settings):
    return BranchRethink(validate(BranchRethink.Settings, settings, "judge"), completer, tokenizer)


MALFORMED = {
    "a missing block": (FIRST.replace("<Issues1>eval</Issues1>\n", ""), SECOND),
    "no focus": (FIRST.split("\n", 1)[1], SECOND),
    "an empty block": (FIRST.replace("eval", " "), SECOND),
    "four dimensions": (FIRST.replace("Safety Awareness", ", ".join(DIMENSIONS[:3])), SECOND),
    "no dimension": (FIRST.replace("Safety Awareness, Logical Reasoning", "None identified"), SECOND),
    "an invented dimension": (FIRST.replace("Safety Awareness", "Safety"), SECOND),
    "a dimension twice": (FIRST.replace("Safety Awareness", "Logical Reasoning"), SECOND),
    "no comma between dimensions": (FIRST.replace(", ", " "), SECOND),
    "lower case in turn one": (FIRST.lower(), SECOND),
    "talk before": (f"Sure! {FIRST}", SECOND),
    "talk between": (FIRST.replace("\n<Issues2>", "\nand <Issues2>"), SECOND),
    "talk after": (FIRST, f"{SECOND} Done."),
    "two boxes": (FIRST, SECOND.replace("\\boxed{2}", "\\boxed{2}\\boxed{1}")),
    "two rankings": (FIRST, f"{SECOND}\n<Ranking>\\boxed{{1}}</Ranking>"),
    "a box outside the ranking": (FIRST, SECOND.replace("unsafe", "\\boxed{1} is unsafe")),
    "a box in turn one": (FIRST.replace("eval", "\\boxed{2}"), SECOND),
    "the box alone": (FIRST, "\\boxed{2}"),
    "no box": (FIRST, ranked(2).replace("\\boxed{2}", "2")),
    "lower case": (FIRST, SECOND.replace("Ranking", "ranking")),
    "capitals in the box": (FIRST, SECOND.replace("boxed", "BOXED")),
    "a comma": (FIRST, ranked("1, 2")),
    "a comma at the end": (FIRST, ranked("2,")),
    "a space in the box": (FIRST, ranked(" 2 ")),
    "a tie": (FIRST, ranked("tie")),
    "a tie without a box": (FIRST, SECOND.replace("\\boxed{2}", "tie")),
    "box 3": (FIRST, ranked(3)),
    "box 0": (FIRST, ranked(0)),
    "an unclosed ranking": (FIRST, SECOND.removesuffix("</Ranking>")),
    "an invented hierarchy": (FIRST, SECOND.replace("correctness", "beauty")),
    "blocks in another order": (FIRST, "\n".join(reversed(SECOND.split("\n")))),
    "a block inside another": (FIRST, SECOND.replace("unsafe", "<Ranking>unsafe</Ranking>")),
    "turn two missing": (FIRST,),
    "turn two empty": (FIRST, ""),
    "all in turn one": (f"{FIRST}\n{SECOND}", ""),
    "a third turn": (FIRST, SECOND, SECOND),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_trace_says_what_is_wrong_and_earns_less_than_a_flipped_verdict(name):
    turns = MALFORMED[name]
    reading = read(turns, "two_turns")
    assert reading.choice is None
    assert reading.fault
    reward = Ranking(Ranking.Settings())
    traces = [Trace("p", "", turns=given) for given in (turns, (FIRST, ranked(1)), (FIRST, ranked(2)))]
    malformed, flipped, right = (score.value for score in reward.score([PAIR] * 3, traces))
    assert malformed < flipped < right


def test_a_whole_trace_is_read_and_white_space_around_it_is_none():
    for turns in ((FIRST, SECOND), (f" {FIRST}\n", f"\n {SECOND}\n")):
        reading = read(turns, "two_turns")
        assert (reading.fault, reading.choice) == ("", 2)
        assert reading.dimensions == ("Safety Awareness", "Logical Reasoning")
        assert (reading.issues, reading.analyses) == (("eval", "None identified"), ("unsafe", "safe"))
    assert read((f"{FIRST}\n{SECOND}",), "one_turn").choice == 2
    assert read((f"{FIRST}\n<Ranking>\\boxed{{1}}</Ranking>",), "one_pass").choice == 1
    assert read((f"{FIRST}\n{SECOND}",), "one_pass").fault


def test_rewards_that_would_pay_for_breaking_the_format_are_refused():
    for values in ({"malformed": 0.0}, {"flipped": 1.0}, {"malformed": 0.5, "flipped": 0.0}):
        with pytest.raises(SettingsError, match="malformed must earn less"):
            validate(Ranking.Settings, values, "ranking")


def test_item_293_two_generations_and_the_second_reads_the_firsts_choice():
    completer = by_rule(lambda first, second, focus: 2 if "int" in second else 1)
    (verdict,) = judge(completer).verdicts([PAIR])
    assert len(completer.requests) == 4  # two turns in two orders
    opening, following = completer.requests[0], completer.requests[2]
    assert [message.role for message in following.messages] == ["user", "assistant", "user"]
    assert following.messages[:1] == opening.messages
    assert following.messages[1].content == FIRST
    assert following.messages[2].content == last_words("two_turns")
    assert "input" not in following.messages[2].content  # instructions alone
    assert (verdict.as_given, verdict.exchanged) == (2, 2)
    assert verdict.consistent
    assert verdict.preference == 0.0


def test_a_preference_for_a_place_is_no_preference_and_shows():
    judged = judge(by_rule(lambda first, second, focus: 1)).verdicts([PAIR, exchanged(PAIR)])
    assert [(v.preference, v.consistent) for v in judged] == [(0.5, False)] * 2
    figures = order_figures(judged)
    assert (figures.consistency, figures.first, figures.num_malformed) == (0.0, 1.0, 0)
    sound = order_figures(judge(by_rule(lambda a, b, focus: 1 if "int" in a else 2)).verdicts([PAIR, exchanged(PAIR)]))
    assert (sound.consistency, sound.first) == (1.0, 0.5)
    assert sound.consistency_interval[0] < 1.0


def test_a_malformed_order_is_left_out_and_a_malformed_pair_abstains():
    turns = iter([FIRST, "What?", SECOND])
    (half,) = judge(Scripted(lambda request: next(turns))).verdicts([PAIR])
    assert (half.as_given, half.exchanged, half.preference, half.consistent) == (2, None, 0.0, None)
    completer = Scripted(lambda request: "It is 2.")
    (none,) = judge(completer).verdicts([PAIR])
    assert (none.preference, none.consistent) == (None, None)
    assert len(completer.requests) == 2  # a malformed turn one is not gone on from
    assert order_figures([half, none]).num_malformed == 3
    assert judge(completer).score([PAIR] * 2, [Trace("p", "a"), Trace("p", "b")])[0].abstained


def test_item_295_forcing_another_branch_changes_turn_two(tokenizer):
    asked, choices = [], []
    for forced in (("Communication Clarity",), ("Safety Awareness",)):
        rest = FIRST.split("</Focus>")[1]
        completer = Replayed(tokenizer, lambda text, rest=rest: ranked(1 if "Clarity</Focus>" in text else 2), rest)
        (verdict,) = judge(completer, tokenizer, dimensions=forced).verdicts([PAIR])
        asked.append(tokenizer.decode(completer.requests[2].token_ids))
        choices.append(verdict.as_given)
        assert verdict.readings[0].dimensions == forced
    assert "<Focus>Communication Clarity</Focus>" in asked[0]
    assert asked[0].replace("Communication Clarity</F", "Safety Awareness</F") == asked[1]
    assert choices == [1, 2]
    with pytest.raises(SettingsError, match="no dimension is called 'Beauty'"):
        judge(completer, tokenizer, dimensions=("Beauty",))
    with pytest.raises(SettingsError, match="mouth"):
        judge(by_rule(lambda *_: 1), dimensions=("Safety Awareness",)).verdicts([PAIR])


@pytest.fixture(scope="module")
def tokenizer():
    return load("tiny:llama", precision="float32").tokenizer


class Replayed(Scripted):
    """Takes ids: `rest` goes on with turn one, `second(text so far)` is turn two."""

    def __init__(self, tokenizer, second, rest):
        super().__init__(lambda request: "")
        self.tokenizer, self.second, self.rest = tokenizer, second, rest

    def _play(self, request):
        text = self.tokenizer.decode(request.token_ids)
        said = self.second(text) if last_words("two_turns") in text else self.rest
        self._answer = lambda request: said
        return super()._play(request)


def test_turn_two_can_be_left_out():
    completer = Scripted(lambda request: f"{FIRST}\n<Ranking>\\boxed{{1}}</Ranking>")
    (verdict,) = judge(completer, layout="one_pass").verdicts([PAIR])
    assert len(completer.requests) == 2  # one generation per order
    assert completer.requests[0].sampling.max_new_tokens == 256 + 512
    assert "Analysis" not in completer.requests[0].messages[0].content
    assert verdict.preference == 0.5


def test_the_models_own_stop_is_the_end_of_the_last_block():
    script = BranchScript()
    assert (script.stop(0), script.stop(1)) == (("</Issues2>",), ("</Ranking>",))
    assert script.goes_on(0, FIRST)
    assert not script.goes_on(0, FIRST.lower())


def longer(first, second, focus):
    return 1 if len(first) > len(second) else 2


def test_win_rates_rank_a_group_whatever_its_order_and_equal_texts_draw():
    item, texts = Item("i", "Say something."), ["a", "bbbb", "cc", "cc", "ddd"]
    items, traces = [item] * 5, [Trace("i", text) for text in texts]
    scores = judge(by_rule(longer)).score(items, traces)
    assert [round(score.components["win_rate"], 4) for score in scores] == [0.0, 1.0, 0.375, 0.375, 0.6667]
    backwards = judge(by_rule(longer)).score(items, traces[::-1])[::-1]
    assert [s.value for s in backwards] == [s.value for s in scores]
    completer = by_rule(longer)
    judge(completer).score(items, traces)
    assert len(completer.requests) == 4 * 6  # six pairs of four different texts, two orders, two turns
    alone = judge(by_rule(longer)).score([item, Item("j", "?")], [Trace("i", "a"), Trace("j", "b")])
    assert [score.abstained for score in alone] == [True, True]


def test_a_ring_asks_less_and_everyone_meets_as_many():
    item, texts = Item("i", "Say something."), ["a" * n for n in range(1, 8)]
    completer = by_rule(longer)
    scores = judge(completer, num_opponents=2).score([item] * 7, [Trace("i", text) for text in texts])
    assert {score.components["num_comparisons"] for score in scores} == {2.0}
    assert len(completer.requests) == 4 * 7
    assert scores[0].components["win_rate"] == 0.0
    assert scores[6].components["win_rate"] == 1.0


def test_the_judge_is_a_reward_by_name_and_gives_the_share_back(tokenizer):
    kind, settings = part("scoring.rewards", {"kind": "judge", "judge": {"kind": "branch_rethink"}})
    reward = kind(settings, Lent(by_rule(longer)))
    item = Item("i", "Say something.")
    values = [s.value for s in reward.score([item] * 3, [Trace("i", t) for t in ("a", "bb", "ccc")])]
    assert values == pytest.approx([0.5 / 3, 1.5 / 3, 2.5 / 3])
    lent = Lent(by_rule(longer), tokenizer=tokenizer)
    assert Judge(settings, lent)._judge._room.tokenizer is tokenizer


def test_only_a_clean_model_judges_unless_told_and_the_record_says_so():
    unclean = Scripted([], clean=False)
    with pytest.raises(ModelError, match="clean loader"):
        judge(unclean)
    record = judge(unclean, allow_unclean_model=True).record()
    assert (record["judge"], record["clean_model"]) == ("branch_rethink", False)
    assert record["wording"] != judge(unclean, allow_unclean_model=True, layout="one_pass").record()["wording"]


def test_labels_come_in_random_order_that_depends_on_the_pair_alone():
    pairs = [as_preference(pair) for pair in flawed_pairs(0, 160)]
    items = in_random_order(pairs, 5)
    assert items == [in_random_order([pair], 5)[0] for pair in pairs]
    counts = Counter(item.reference["better"] for item in items)
    assert min(counts.values()) > 55
    for pair, item in zip(pairs, items, strict=True):
        assert item.reference["responses"][item.reference["better"] - 1] == pair.chosen
        assert exchanged(item).reference["responses"][exchanged(item).reference["better"] - 1] == pair.chosen
    assert [i.reference["better"] for i in items] != [i.reference["better"] for i in in_random_order(pairs, 6)]


def test_a_judge_of_shuffled_labels_is_right_half_of_the_time():
    """Known from the texts alone, the verdicts say nothing about labels that were drawn."""
    pairs = [as_preference(pair) for pair in flawed_pairs(1, 200)]
    items = in_random_order(pairs, 3)
    known = {(pair.chosen, pair.rejected) for pair in pairs}
    verdicts = judge(by_rule(lambda first, second, focus: 1 if (first, second) in known else 2)).verdicts(items)
    right = [v.as_given == item.reference["better"] for v, item in zip(verdicts, items, strict=True)]
    assert all(right)
    shuffled = [
        v.as_given == other.reference["better"] for v, other in zip(verdicts, items[1:] + items[:1], strict=True)
    ]
    assert 0.35 < sum(shuffled) / len(shuffled) < 0.65


@pytest.mark.parametrize("layout", LAYOUTS)
def test_demonstrations_follow_the_format_and_end_in_the_true_label(layout):
    pairs = flawed_pairs(0, 80)
    shown = demonstrations(pairs, 4, layout)
    assert [one.item for one in shown] == labelled_items(pairs, 4)
    for pair, one in zip(pairs, shown, strict=True):
        reading = read(one.answers, layout)
        assert reading.choice == one.item.reference["better"], reading.fault
        assert one.item.reference["responses"][reading.choice - 1] == pair.good.response
        assert reading.dimensions == pair.dimensions
        assert all(not fault_in(text, turn, layout) for turn, text in enumerate(one.answers))
    assert len({one.item.id for one in shown}) == 80


def test_shown_in_both_orders_no_place_is_the_better_one():
    pairs = flawed_pairs(0, 16)
    shown = demonstrations(pairs, 4, both_orders=True)
    assert shown[::2] == demonstrations(pairs, 4)
    for given, other in zip(shown[::2], shown[1::2], strict=True):
        assert other.item == exchanged(given.item)
        assert (
            read(other.answers, "two_turns").choice == other.item.reference["better"] != given.item.reference["better"]
        )


def test_a_suspicion_does_not_give_the_flaw_away():
    """The same words, but for what stands in the response itself: no verdict before turn two."""
    for pair in flawed_pairs(2, 160):
        for side in (pair.good, pair.bad):
            own = set(re.findall(r"\w+", side.suspicion)) - set(re.findall(r"\w+", side.response))
            other = pair.bad if side is pair.good else pair.good
            shared = set(re.findall(r"\w+", other.suspicion))
            assert own <= shared, (pair.family, own)
        assert len(pair.good.suspicion.split()) == len(pair.bad.suspicion.split())


def test_pairs_are_subtle_and_the_parts_share_nothing():
    train, held_out = flawed_pairs(0, 240), flawed_pairs(0, 120, "held_out")
    assert not {(p.family, p.key) for p in train} & {(p.family, p.key) for p in held_out}
    assert set(Counter(p.family for p in train).values()) == {30}
    assert set().union(*(p.dimensions for p in train)) == set(DIMENSIONS)
    assert train == flawed_pairs(0, 240)
    assert train != flawed_pairs(1, 240)
    for pair in train:
        assert pair.good.response != pair.bad.response
        words = [len(side.response.split()) for side in (pair.good, pair.bad)]
        assert abs(words[0] - words[1]) <= 3
    assert {p.family for p in flawed_pairs(0, 6, families=("sums", "style"))} == {"sums", "style"}
    with pytest.raises(SettingsError, match="no family is called 'sum'"):
        flawed_pairs(0, 1, families=("sum",))
    with pytest.raises(DataError, match="different held_out pairs"):
        flawed_pairs(0, 400, "held_out", families=("style",))


def test_what_a_family_says_is_true():
    for name in FAMILIES:
        for pair in flawed_pairs(3, 12, families=(name,)):
            if name == "sums":
                asked = sum(int(n) for n in re.findall(r"\d+", pair.context))
                answers = [int(re.findall(r"\d+", side.response)[-1]) for side in (pair.good, pair.bad)]
                assert answers[0] == asked != answers[1]
            if name == "endings":
                wanted = pair.context.split()[-1].rstrip(".")
                assert pair.good.response.split()[-1] == wanted != pair.bad.response.split()[-1]
            if name == "loops":
                last = int(re.search(r"to (\d+)", pair.context)[1])
                printed = [
                    list(range(1, int(re.search(r"range\(1, (\d+)", s.response)[1])))[-1] for s in (pair.good, pair.bad)
                ]
                assert printed[0] == last != printed[1]
            if name == "parts":
                asked = re.search(r": (.*)\.", pair.context)[1].split(", ")
                assert all(point in pair.good.response for point in asked)
                assert not all(point in pair.bad.response for point in asked)
            if name == "style":
                assert any(a == b for a, b in pairwise(pair.bad.response.split()))
                assert not any(a == b for a, b in pairwise(pair.good.response.split()))


def test_verdicts_on_preference_pairs_are_about_the_chosen_response():
    pairs = [as_preference(pair) for pair in flawed_pairs(1, 40)]
    known = {(pair.chosen, pair.rejected) for pair in pairs}
    right = branch_rethink_verdicts(pairs, by_rule(lambda a, b, focus: 1 if (a, b) in known else 2), seed=3)
    assert [one.chosen for one in right] == [1.0] * 40
    wrong = branch_rethink_verdicts(pairs, by_rule(lambda a, b, focus: 2 if (a, b) in known else 1), seed=3)
    assert [one.won for one in wrong] == [0.0] * 40
    placed = branch_rethink_verdicts(pairs, by_rule(lambda a, b, focus: 1), seed=3)
    assert {one.chosen for one in placed} == {0.5}
    silent = branch_rethink_verdicts(pairs[:2], Scripted(lambda request: "I cannot say."))
    assert [(one.pair_id, one.chosen, one.won) for one in silent] == [(pair.id, None, 0.5) for pair in pairs[:2]]


def test_items_that_are_no_pairs_are_refused_by_name():
    with pytest.raises(DataError, match="two texts"):
        judge(Scripted([])).verdicts([Item("i", "?", reference={"responses": ["one"]})])
    with pytest.raises(DataError, match="not 1 or 2"):
        pair_item("p", "?", ("a", "b"), 3)
    assert Verdict("i", None, None).preference is None
    assert written({"Focus": "x"}, ["Focus"]) == "<Focus>x</Focus>"
