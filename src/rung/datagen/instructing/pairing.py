"""From documents to training records: what is asked, in which style, one turn or three, checked and told by reason.

What a shard holds follows from its documents, the settings and the seed alone. A conversation of three turns (begin,
go on, sum up) becomes three records, each with the turns before it, so that every answer is trained on once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from rung.base.seeds import derive, stream
from rung.base.settings import Field, Settings
from rung.datagen.instructing.asking import Ask, Kind, Wording
from rung.datagen.instructing.quality import instruction_fault, misaligned, pair_fault
from rung.datagen.instructing.styles import Styles, form_of
from rung.datagen.stories.features import Features
from rung.datagen.stories.prompts import joined
from rung.datagen.templates import Template
from rung.datagen.wording import fold
from rung.records.chat.frame import Frame
from rung.records.types import Document, Drop, Message, SftRecord, record_id

__all__ = ["Bench", "Pair", "PairSettings", "Paired", "pair_up", "sft_of"]

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"\u201d]?\s+(?=[\"\u201cA-Z])")
_TOKEN = re.compile(r"\w+|[^\w\s]")


class PairSettings(Settings):
    """How many instructions, and of what."""

    per_document: int = Field(1, ge=1, le=20, description="instructions of one turn for each text")
    min_asks: int = Field(1, ge=1, le=4, description="fewest parts of an instruction")
    max_asks: int = Field(2, ge=1, le=4, description="most parts of an instruction")
    multi_turn: float = Field(
        0.2, ge=0, le=1, description="share of texts that become a conversation of three turns too"
    )
    min_words: int = Field(5, ge=1, description="fewest words of a response")
    max_words: int = Field(400, ge=1, description="most words of a response")


@dataclass(frozen=True, slots=True)
class Pair:
    """An instruction with the text that it is answered by. `turn` counts from 0; `earlier` are the turns before."""

    document: Document
    asks: tuple[Ask, ...]
    style: str
    template: Template
    instruction: str
    response: str
    seed: int
    turn: int = 0
    conversation: str = ""
    earlier: tuple[Message, ...] = ()

    @property
    def type(self) -> str:
        """The kinds that are asked, as one name; a turn without any is named by what it is."""
        return "+".join(sorted(ask.kind for ask in self.asks)) or "sum_up"


@dataclass(frozen=True)
class Bench:
    """What pairs are made with. Where `must` names kinds, every pair asks for one of them."""

    settings: PairSettings
    kinds: Mapping[str, Kind]
    wordings: Mapping[str, Wording]
    styles: Styles
    features: Features
    must: frozenset[str] = frozenset()


@dataclass
class Paired:
    """Good pairs, and drops of the others with their reasons."""

    pairs: list[Pair] = field(default_factory=list)
    dropped: list[Drop] = field(default_factory=list)


def pair_up(documents: Sequence[Document], bench: Bench, seed: int) -> Paired:
    """Every pair of these documents; the first of instructions that are the same stays."""
    found, seen = Paired(), set[str]()
    for made in (*_single(documents, bench, seed), *_conversations(documents, bench, seed)):
        faults = [(pair, _fault(pair, bench, seen)) for pair in made]
        reason = next((fault for _, fault in faults if fault), "")
        if not reason:
            found.pairs += made
            seen |= {_key(pair) for pair in made}
        else:
            found.dropped += [_drop(pair, fault or f"turn_of: {reason}") for pair, fault in faults]
    return found


def _key(pair: Pair) -> str:
    return fold("\n".join([*(turn.content for turn in pair.earlier), pair.instruction]))


def _fault(pair: Pair, bench: Bench, seen: set[str]) -> str:
    own = bench.settings
    if fault := instruction_fault(pair.instruction, pair.asks, bench.features):
        return fault
    if missing := misaligned(pair.asks, pair.response, bench.kinds):
        return f"not_aligned: {missing[0]}"
    if fault := pair_fault(pair.instruction, pair.response, (own.min_words, own.max_words)):
        return fault
    return "repeat" if _key(pair) in seen else ""


def _drop(pair: Pair, reason: str) -> Drop:
    name = record_id("pair", pair.document.id, pair.instruction, pair.turn, pair.seed)
    return Drop(name, pair.instruction, "make_instructions", reason, None, {"document": pair.document.id})


def _single(documents: Sequence[Document], bench: Bench, seed: int) -> Iterator[list[Pair]]:
    """One-turn pairs, each in a list of its own; a text that nothing can be asked of has none."""
    for number in range(bench.settings.per_document):
        own_seed = derive(seed, "pair", number)
        found = _asked(documents, bench, own_seed)
        for document, asks in zip(documents, found, strict=True):
            random = stream(own_seed, "style", document.id)
            if chosen := _chosen(asks, bench, random):
                style = random.choice(list(bench.styles.styles))
                used = random.choice(bench.styles.styles[style])
                text = _worded(used, chosen, bench, derive(own_seed, document.id))
                yield [Pair(document, chosen, style, used, text, document.text.strip(), own_seed)]


def _asked(documents: Sequence[Document], bench: Bench, seed: int) -> list[list[Ask]]:
    """What each document can be asked, over all kinds."""
    columns = [kind.asks(documents, derive(seed, name)) for name, kind in bench.kinds.items()]
    return [[ask for ask in row if ask is not None] for row in zip(*columns, strict=True)]


def _chosen(asks: Sequence[Ask], bench: Bench, random: Random) -> tuple[Ask, ...]:
    """Some of the asks; at least one tells the text from others. Empty where that cannot be."""
    telling = [ask for ask in asks if bench.kinds[ask.kind].identifies]
    wanted = [ask for ask in asks if ask.kind in bench.must]
    if not telling or len(asks) < bench.settings.min_asks or (bench.must and not wanted):
        return ()
    first = random.choice([ask for ask in telling if ask in wanted] or telling)
    also = [random.choice(wanted)] if wanted and first not in wanted else []
    rest = [ask for ask in asks if ask is not first and ask not in also]
    count = random.randint(bench.settings.min_asks, bench.settings.max_asks) - 1 - len(also)
    return (first, *also, *random.sample(rest, max(0, min(count, len(rest)))))


def _worded(used: Template, asks: Sequence[Ask], bench: Bench, seed: int) -> str:
    form = form_of(used)
    parts = [bench.wordings[ask.kind].of(ask, form, seed) for ask in asks]
    return used.fill(**{form: joined(parts) if form == "asks" else "\n".join(parts)})


def _conversations(documents: Sequence[Document], bench: Bench, seed: int) -> Iterator[list[Pair]]:
    """Three turns over a text in two halves and a gist; only texts with at least six sentences have them."""
    own_seed = derive(seed, "conversation")
    chosen = [one for one in documents if stream(own_seed, one.id).random() < bench.settings.multi_turn]
    halves = [(one, *parts) for one in chosen if (parts := _halves(one.text)) is not None]
    first = _asked([_part(one, begun) for one, begun, _ in halves], bench, derive(own_seed, 0))
    second = _asked([_part(one, rest) for one, _, rest in halves], bench, derive(own_seed, 1))
    for (document, begun, rest), *asks in zip(halves, first, second, strict=True):
        if made := _conversation(document, (begun, rest), asks, (bench, own_seed)):
            yield made


def _conversation(
    document: Document, halves: tuple[str, str], asks: Sequence[Sequence[Ask]], given: tuple[Bench, int]
) -> list[Pair]:
    bench, seed = given
    random = stream(seed, "turns", document.id)
    chosen = [_chosen(one, bench, random) for one in asks]
    summed = _summed(document)
    if not all(chosen) or not summed:
        return []
    name = record_id("conversation", document.id, seed)
    pairs: list[Pair] = []
    earlier: tuple[Message, ...] = ()
    turns = zip(("begin", "go_on", "sum_up"), (*chosen, ()), (*halves, summed), strict=True)
    for turn, (kind, wanted, said) in enumerate(turns):
        used = random.choice(bench.styles.turns[kind])
        text = _worded(used, wanted, bench, derive(seed, document.id, turn)) if wanted else used.fill()
        pairs.append(Pair(document, wanted, "conversation", used, text, said, seed, turn, name, earlier))
        earlier = (*earlier, Message("user", text), Message("assistant", said))
    return pairs


def _halves(text: str) -> tuple[str, str] | None:
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    if len(ends) < 5:
        return None
    middle = min(ends, key=lambda end: abs(end - len(text) / 2))
    return text[:middle].strip(), text[middle:].strip()


def _part(document: Document, text: str) -> Document:
    return Document(f"{document.id}:{len(text)}", text, document.source, document.licence, document.language)


def _summed(document: Document) -> str:
    """The first and the last sentence: what a child would say happened."""
    sentences = [one.strip() for one in _SENTENCE_END.split(document.text.strip())]
    return f"{sentences[0]} {sentences[-1]}" if len(sentences) > 2 else ""


def sft_of(pair: Pair, metadata: Mapping[str, Any]) -> SftRecord:
    """The pair as a training record; where it comes from and how it was made is in its metadata.

    `num_response_tokens` counts words and marks: no model is at hand whose tokens could be counted.
    """
    turns = [turn.content for turn in pair.earlier]
    prompt = Frame.prompt(pair.instruction, list(zip(turns[::2], turns[1::2], strict=True)))
    made = {
        "kinds": [ask.kind for ask in pair.asks],
        "asks": [{"kind": ask.kind, "wanted": list(ask.wanted)} for ask in pair.asks],
        "style": pair.style,
        "template": pair.template.name,
        "template_version": pair.template.version,
        "document": pair.document.id,
        "document_source": pair.document.source,
        "licence": pair.document.licence,
        "conversation": pair.conversation,
        "turn": pair.turn,
    }
    return SftRecord(
        id=record_id("sft", turns, pair.instruction, pair.response),
        instruction=pair.instruction,
        response=pair.response,
        type=pair.type,
        prompt=prompt,
        training_prompt=prompt,
        completion=Frame.completion(pair.response),
        raw_response=pair.response,
        finish_reason="eos",
        num_response_tokens=len(_TOKEN.findall(pair.response)),
        instruction_critique=None,
        pair_critique=None,
        source="corpus",
        earlier=pair.earlier,
        metadata={**metadata, "seed": pair.seed, "instruction": made},
    )
