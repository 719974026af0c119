"""Ask or go on? Several short continuations are drawn, and a question is put where they mean different things.

Two moments can lead to one: before the first token (`clarified`), and at a spike of entropy while text comes (`reply`,
for `rung.engine.steering.dialogue.Dialogue`). Either is a candidate only; the spread of meanings decides. The reserved
token is the model's own question, and goes to the user as it is. Samples run without the request's constraint: what is
compared is what the model would like to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.engine.steering.dialogue import Pause
from rung.engine.steering.meaning import Likeness, clusters, meaning_entropy, overlap
from rung.records.contracts import Completer, Request, Sampling

__all__ = ["AskSettings", "Asker", "Decision", "Question", "appended", "told"]


class AskSettings(Settings):
    """How a decision is made. `threshold` belongs to a model and these settings: calibrate it with
    `rung.engine.steering.meaning.ask_threshold`."""

    threshold: float = Field(..., ge=0, description="ask where the entropy over meanings exceeds it (nats)")
    num_samples: int = Field(8, ge=2, description="short continuations that are compared")
    max_new_tokens: int = Field(24, ge=1, description="length of each")
    temperature: float = Field(1.0, gt=0, description="at which they are drawn")
    likeness: float = Field(0.5, ge=0, le=1, description="from here on two answers say the same")
    max_questions: int = Field(1, ge=0, description="questions per request")


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to ask, the entropy over meanings in nats, and an example of each meaning, the most frequent first."""

    ask: bool
    spread: float
    meanings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What the user is asked about request `id`; `decision` is None where the model itself asked."""

    id: str
    text: str
    decision: Decision | None


User = Callable[[Question], str | None]


class Asker:
    """Decides, asks and passes answers on.

    Args:
        completer: draws the samples; the one that answers, for another would spread differently.
        settings: when to ask.
        user: answers a question; None: it stays open, and the text goes on without.
        likeness: how far two answers say the same.
        joined: puts a question and its answer into a request that has not begun.
    """

    def __init__(
        self,
        completer: Completer,
        settings: AskSettings,
        user: User,
        *,
        likeness: Likeness = overlap,
        joined: Callable[[Request, str, str], Request] | None = None,
    ) -> None:
        self._completer, self._settings, self._user = completer, settings, user
        self._likeness, self._joined = likeness, joined or appended
        self._num_asked: dict[str, int] = {}

    def decide(self, requests: Sequence[Request]) -> list[Decision]:
        """One decision per request, from continuations of exactly what it says."""
        each = self._settings.num_samples
        samples = [self._sample(request, number) for request in requests for number in range(each)]
        texts = [done.text.strip() for done in self._completer.complete(samples)]
        return [self._decision(texts[start : start + each]) for start in range(0, len(texts), each)]

    def clarified(self, requests: Sequence[Request]) -> list[Request]:
        """The requests, with questions and answers in those that needed one."""
        found = []
        for request, decision in zip(requests, self.decide(requests), strict=True):
            turn = self._turn(request.id, decision)
            found.append(request if turn is None else self._joined(request, *turn))
        return found

    def reply(self, pause: Pause) -> str | None:
        """What a paused sequence is told: question and answer after a spike, the answer alone after its own question,
        None where there is nothing to ask or no answer."""
        if pause.reason == "token":
            return self._user(Question(pause.id, pause.text.strip(), None))
        request = replace(pause.request, text="", token_ids=pause.context_ids)
        turn = self._turn(pause.id, self.decide([request])[0])
        return None if turn is None else told(*turn)

    def _sample(self, request: Request, number: int) -> Request:
        settings = self._settings
        sampling = Sampling(
            temperature=settings.temperature, max_new_tokens=settings.max_new_tokens, stop=request.sampling.stop
        )
        seed = derive(request.seed, "meaning", number)
        return replace(request, id=f"{request.id}/{number}", sampling=sampling, seed=seed, constraint=None)

    def _decision(self, texts: Sequence[str]) -> Decision:
        groups = clusters(texts, self._likeness, self._settings.likeness)
        spread = meaning_entropy(groups)
        return Decision(spread > self._settings.threshold, spread, tuple(texts[group[0]] for group in groups))

    def _turn(self, id: str, decision: Decision) -> tuple[str, str] | None:
        """Question and answer, if one is to be put and allowed, and is answered."""
        asked = self._num_asked.get(id, 0)
        if not decision.ask or asked >= self._settings.max_questions:
            return None
        self._num_asked[id] = asked + 1
        first, second = decision.meanings[:2]
        question = Question(id, f"Do you mean this: {first} Or rather this: {second}", decision)
        answer = self._user(question)
        return None if answer is None else (question.text, answer)


def appended(request: Request, question: str, answer: str) -> Request:
    """The request's text with question and answer as two lines after it."""
    return replace(request, text=request.text + told(question, answer))


def told(question: str, answer: str) -> str:
    """Question and answer as they stand in a text."""
    return f"\nQuestion: {question}\nAnswer: {answer}\n"
