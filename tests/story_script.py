"""A scripted writer of stories: uses the words and features it is asked for, and fails in known ways now and then."""

from __future__ import annotations

import re

from rung.base.seeds import stream
from rung.datagen.stories.features import FEATURES, load_features
from rung.datagen.stories.judging import Known
from rung.datagen.stories.prompts import Planner, PlanSettings, load_prompts
from rung.datagen.stories.vocabulary import load_vocabulary
from rung.records.contracts import Request
from rung.records.scripted import Scripted
from rung.records.types import Story, record_id

__all__ = ["KNOWN", "planner", "script", "story", "told"]

KNOWN = Known(load_vocabulary(), load_features())
NAMES = "Tom Ann Ben Lily Sam Mia Max Rosa Leo Nora Tim Eva".split()
SHOWS = {
    "dialogue": '"Come here," said {name}.',
    "moral": "{name} learned to wait.",
    "twist": "Suddenly there was a loud noise.",
    "happy_ending": "They went home and all were happy.",
    "bad_ending": "It was sad.",
    "conflict": "There was a problem.",
    "kindness": "{name} helped a friend.",
    "animal_hero": "A little cat came too.",
}


def told(words: list[str], features: list[str], seed: int) -> str:
    """A story of about fifty words that has everything."""
    random = stream(seed, "told")
    name, other = random.sample(NAMES, 2)
    things = KNOWN.vocabulary.of("noun", 1)
    picked = [word.text for word in random.sample(things, 6)]
    body = (
        f"{name} had a {picked[0]} and {other} had a {picked[1]}. One day they saw a {picked[2]} in the {picked[3]}. "
        f"They put {' and '.join(words)} on a list, and {other} went to the {picked[4]}. "
        f"Then {name} took the {picked[5]} to the big house. "
    )
    last = [name for name in ("bad_ending", "happy_ending") if name in features]
    order = [*(one for one in features if one not in last), *last]
    return body + " ".join(SHOWS[feature].format(name=name) for feature in order) + "\n\nThen they had a cake."


def asked_of(request: Request) -> tuple[list[str], list[str]]:
    """The words and features that the last turn asks for."""
    text = request.messages[-1].content if request.messages else request.text.rsplit("Instruction: ", 1)[1]
    text = text.split("\nResponse:")[0]
    return re.findall(r'"(\w+)"', text), [f.name for f in KNOWN.features.values() if f.asked in text]


def answer(request: Request) -> str:
    """A fifth of the stories misses a word, a fifth has no end, a tenth is said by everybody."""
    words, features = asked_of(request)
    chance = stream(request.seed, "script").random()
    if request.text and not request.text.endswith("Response:"):
        return " and then they all sat down.\n\n" + told(words[chance < 0.2 :], features, request.seed)
    if chance < 0.2:
        words = words[1:]
    text = told(words, features, request.seed).replace("\n\nThen they had a cake.", "")
    if 0.2 <= chance < 0.4:
        return text + " Then they"
    return told(["dog"], ["dialogue"], 1) if chance > 0.9 else text


def script() -> Scripted:
    """A fresh one."""
    return Scripted(answer)


def planner(**settings: object) -> Planner:
    """Over the shipped lists."""
    return Planner(PlanSettings(**settings), KNOWN.vocabulary, KNOWN.features, load_prompts(load_features(FEATURES)))


def story(text: str, **changes: object) -> Story:
    """An undecided story that was asked for a dog that runs, silly, with a dialogue."""
    asked = {"words": ("dog", "run", "silly"), "features": ("dialogue",)}
    made = {
        "id": record_id(text), "prompt_id": "p", "number": 0, "text": text, "level": 1,
        "template": "plain", "template_version": "0", "strategy": "batch", "messages": (), "seed": 1,
        "temperature": 0.7, "raw_text": text,
        "finish_reason": "eos", "num_tokens": 10,
    }  # fmt: skip
    return Story(**{**made, **asked, **changes})
