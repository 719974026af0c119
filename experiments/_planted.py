"""Bugs that other projects shipped, planted one at a time into the subject of an audit; the audit has to find each.

A plant replaces one callable (or one stored thing) of the pipeline and leaves the rest real. Shared by the tests and by
the experiment that writes the audit's table.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import pydantic
import safetensors.torch
import torch

from experiments._planted_policy import POLICY_PLANTS
from rung.base.errors import DataError
from rung.base.settings import Field, Settings
from rung.datagen.assemble import sft_record
from rung.datagen.pool import load_pool
from rung.engine.decode import DecodeAttend
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.evaluate.suites.instruction_following import InstructionFollowing
from rung.models.layers.attend import CausalAttend, PackedAttend
from rung.models.layers.router import Router
from rung.models.load import load
from rung.pipeline.checks._subject import Exchange, Subject, from_pool, from_records
from rung.pipeline.stages.bootstrap import Bootstrap
from rung.pipeline.stages.sft import Sft
from rung.records.chat.frame import Frame, Rendered
from rung.records.contracts import Completion, Request
from rung.records.packing import DataReport, Example, check_examples, step_indices
from rung.records.types import Candidate, SftRecord, record_id
from rung.train.adapters import merge, save_adapter
from rung.train.step import accumulate, evaluate

__all__ = ["CASES", "Case", "clean_subject", "stored_records"]

_NUM_EXAMPLES = 16


class ReadSettings(Settings):
    """A user's settings, every one of them read."""

    shown: int = Field(3, description="how many are shown")

    def tell(self) -> str:
        """The one reader."""
        return f"{self.shown} shown"


class UnreadSettings(Settings):
    """A user's settings with one that only its own validator looks at, which decides nothing."""

    warmup_that_nobody_asks_for: int = Field(10, ge=0, description="believed to be the warm-up")

    @pydantic.model_validator(mode="after")
    def _whole(self) -> UnreadSettings:
        assert self.warmup_that_nobody_asks_for >= 0
        return self


@dataclass(frozen=True)
class Case:
    """A planted bug: the check that must find it, what it is, and how it comes in."""

    check: str
    bug: str
    plant: Callable[[Subject], Subject]
    source: str = "tiny:gemma3"


def clean_subject(source: str = "tiny:gemma3", num_examples: int = _NUM_EXAMPLES) -> Subject:
    """A sound subject on stored records, as after a finished data stage; 0 examples: all of the pool."""
    loaded = load(source, precision="float32", strict=False, clean=False)
    return from_records(
        loaded,
        stored_records(loaded, num_examples),
        held_out=tuple(InstructionFollowing(InstructionFollowing.Settings()).items()),
        settings_classes=(Bootstrap.Settings, Sft.Settings, ReadSettings),
    )


def stored_records(loaded: Any, num_examples: int = 0) -> list[SftRecord]:
    """What a data stage would have stored of the first examples of the pool (0: of all)."""
    ask, tokenizer = from_pool(loaded).text.few_shot_prompt, loaded.tokenizer
    return [
        _record(e.type, e.instruction, e.response, ask(e.instruction), len(tokenizer.encode(e.response)))
        for e in load_pool("few_shot_pool").examples[: num_examples or None]
    ]


def _record(kind: str, instruction: str, response: str, prompt: str, num_tokens: int) -> SftRecord:
    candidate = Candidate(
        id=record_id("planted", instruction),
        instruction_id=record_id(instruction),
        instruction=instruction,
        type=kind,
        prompt=prompt,
        seed=0,
        raw_text=f" {response}",
        generated=f" {response}",
        response=response,
        finish_reason="stop",
        num_raw_tokens=num_tokens,
        num_response_tokens=num_tokens,
        outcome="kept",
    )
    return sft_record(candidate)


# --- text to ids


def _text(subject: Subject, **fields: Any) -> Subject:
    return replace(subject, text=replace(subject.text, **fields))


def _rendering(change: Callable[[Any, Rendered], Rendered]) -> Callable[[Subject], Subject]:
    """A plant that renders as rung does and then spoils the result; `change` gets the tokenizer too."""

    def plant(subject: Subject) -> Subject:
        return _text(subject, render=lambda t, i, r: change(t, Frame.render(t, i, r)))

    return plant


def _doubled_start(tokenizer: Any, rendered: Rendered) -> Rendered:
    extra = tokenizer.start_ids
    return Rendered(
        (*extra, *rendered.token_ids),
        (*(False,) * len(extra), *rendered.loss_mask),
        rendered.num_prompt_tokens + len(extra),
    )


def _chat_template(subject: Subject) -> Subject:
    def render(tokenizer: Any, instruction: str, response: str) -> Rendered:
        prompt = tokenizer.document(f"<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n")
        target = [*tokenizer.encode(f"{response}<|im_end|>"), *tokenizer.end_ids[:1]]
        mask = (*(False,) * len(prompt), *(True,) * len(target))
        return Rendered((*prompt, *target), mask, len(prompt))

    return _text(subject, render=render)


def _boundary_from_text(subject: Subject) -> Subject:
    """The prompt is tokenised once more, with the space that begins the response, to find where the loss begins."""

    def render(tokenizer: Any, instruction: str, response: str) -> Rendered:
        rendered = Frame.render(tokenizer, instruction, response)
        first = len(tokenizer.document(Frame.prompt(instruction) + " "))
        return replace(rendered, loss_mask=tuple(n >= first for n in range(len(rendered.token_ids))))

    return _text(subject, render=render)


def _no_delimiter(subject: Subject) -> Subject:
    def render(tokenizer: Any, instruction: str, response: str) -> Rendered:
        prompt = tokenizer.document(Frame.prompt(instruction))
        target = [*tokenizer.encode(f" {response}"), *tokenizer.end_ids[:1]]
        return Rendered((*prompt, *target), (*(False,) * len(prompt), *(True,) * len(target)), len(prompt))

    return _text(subject, render=render)


def _prompts(**prompts: Callable[[str], str]) -> Callable[[Subject], Subject]:
    names = {"generation": "generation", "evaluation": "evaluation (tuned)"}

    def plant(subject: Subject) -> Subject:
        changed = {names[key]: prompt for key, prompt in prompts.items()}
        return _text(subject, prompts={**subject.text.prompts, **changed})

    return plant


def _kept_end(
    examples: Sequence[Example], max_tokens: int, end_ids: Sequence[int]
) -> tuple[tuple[Example, ...], DataReport]:
    """Truncation from the left: the answer's end stays, the question goes."""
    cut = []
    for example in examples:
        whole = example.rendered
        ids, mask = whole.token_ids[-max_tokens:], whole.loss_mask[-max_tokens:]
        cut.append(Example(example.id, Rendered(ids, mask, whole.num_prompt_tokens, truncated=True)))
    return check_examples(cut, max_tokens, end_ids)


def _silent_cut(
    examples: Sequence[Example], max_tokens: int, end_ids: Sequence[int]
) -> tuple[tuple[Example, ...], DataReport]:
    """Truncation that lets examples without an answer through."""
    try:
        return check_examples(examples, max_tokens, end_ids)
    except DataError:
        return tuple(examples), DataReport(len(examples), 0, 0, (), None)


# --- stored things


def _other_frame(subject: Subject) -> Subject:
    """Records stored before the frame was changed."""
    older = [
        replace(e, stored=replace(e.stored, training_prompt=f"Q: {e.instruction}\nA:"))
        for e in subject.exchanges
        if e.stored is not None
    ]
    kept = [
        replace(cached, rendered=Frame.render(_Older(subject.tokenizer), e.instruction, e.response))
        for e, cached in zip(older, subject.cached, strict=True)
    ]
    return replace(subject, exchanges=tuple(older), cached=tuple(kept))


class _Older:
    """A tokenizer under which the frame had another word."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.end_ids = inner, inner.end_ids

    def document(self, text: str) -> list[int]:
        """As the real one, of the older frame."""
        return self.inner.document(text.replace("Instruction:", "Q:").replace("Response:", "A:"))

    def encode(self, text: str) -> list[int]:
        """As the real one."""
        return self.inner.encode(text)


def _other_tokenizer(subject: Subject) -> Subject:
    """Token ids cached under a tokenizer of another size."""
    family = subject.loaded.family
    other = load(f"tiny:{family}?vocabulary=700", precision="float32").tokenizer
    kept = [Example(e.id, Frame.render(other, e.instruction, e.response)) for e in subject.exchanges]
    return replace(subject, cached=tuple(kept))


def _held_out_item(subject: Subject) -> Subject:
    """A test item among the training data, in other case and without its punctuation."""
    item = subject.held_out[0]
    shouted = item.instruction.upper().rstrip("?.!")
    return replace(subject, exchanges=(*subject.exchanges, Exchange("leaked", shouted, item.reference)))


# --- training


def _training(subject: Subject, **fields: Any) -> Subject:
    return replace(subject, training=replace(subject.training, **fields))


class _WholeRow(PackedAttend):
    """Attends over the whole row, whatever documents it holds."""

    def __call__(self, layer: int, query: Any, key: Any, value: Any, *, scale: float, window: int) -> Any:
        return CausalAttend()(layer, query, key, value, scale=scale, window=window)


class _WindowsLeak(PackedAttend):
    """Separates documents in full-attention layers and forgets to in those with a window."""

    def __call__(self, layer: int, query: Any, key: Any, value: Any, *, scale: float, window: int) -> Any:
        attend = CausalAttend() if window else super().__call__
        return attend(layer, query, key, value, scale=scale, window=window)


def _with_attend(kind: type[PackedAttend]) -> Callable[[Subject], Subject]:
    """The trainer's own step with another way of attending."""

    def loss(network: Any, rows: Any, objective: Any) -> float:
        with mock.patch("rung.train.shares.PackedAttend", kind):
            return evaluate(network, rows, objective)

    return lambda subject: _training(subject, loss=loss, attend=kind)


def _padding_as_target(network: Any, rows: Any, objective: Any) -> float:
    """Labels of padding that nobody set to "ignore"."""
    spoiled = []
    for row in rows:
        extra = len(row.token_ids) - sum(row.lengths)
        places = np.arange(len(row.token_ids) - extra, len(row.token_ids))
        spoiled.append(
            dataclasses.replace(
                row,
                sources=np.concatenate([row.sources, places - 1]),
                targets=np.concatenate([row.targets, row.token_ids[places]]),
                target_counts=np.concatenate([row.target_counts, np.full(extra, max(extra, 1))]),
            )
        )
    return evaluate(network, spoiled, objective)


def _accumulating(function: Callable[[Any, Any, Any], float]) -> Callable[[Subject], Subject]:
    return lambda subject: _training(subject, accumulate=function)


def _mean_of_means(network: Any, rows: Any, objective: Any) -> float:
    """Each micro-batch is divided by its own number of targets, then by how many micro-batches there are."""
    losses = [accumulate(network, [row], objective) for row in rows]
    for parameter in network.parameters():
        if parameter.grad is not None:
            parameter.grad /= len(rows)
    return sum(losses) / len(rows)


def _last_one_wins(network: Any, rows: Any, objective: Any) -> float:
    """Gradients are zeroed between micro-batches, so only the last one's survives; the loss is right."""
    accumulate(network, rows[-1:], objective)
    kept = [(p, p.grad.clone()) for p in network.parameters() if p.grad is not None]
    for parameter, _ in kept:
        parameter.grad = None
    loss = accumulate(network, rows, objective)
    for parameter, gradient in kept:
        parameter.grad = gradient
    return loss


def _shifted(by: int) -> Callable[[Subject], Subject]:
    """Targets that lie `by` places after the next token."""

    def loss(network: Any, rows: Any, objective: Any) -> float:
        spoiled = [dataclasses.replace(row, targets=np.roll(row.token_ids, -by)[row.sources + 1]) for row in rows]
        return evaluate(network, spoiled, objective)

    return lambda subject: _training(subject, loss=loss)


class _Generator:
    """An order that lives in a generator, which a resumed process makes anew."""

    def __init__(self) -> None:
        self._random, self._left = np.random.default_rng(0), list[int]()

    def __call__(self, num_examples: int, per_step: int, seed: int, step: int) -> list[int]:
        """The next ones, whatever step it is."""
        if not self._left:
            self._left = self._random.permutation(num_examples).tolist()
        taken, self._left = self._left[:per_step], self._left[per_step:]
        return taken


def _with_replacement(num_examples: int, per_step: int, seed: int, step: int) -> list[int]:
    return np.random.default_rng((seed, step)).integers(num_examples, size=per_step).tolist()


def _one_order(num_examples: int, per_step: int, seed: int, step: int) -> Sequence[int]:
    """The order of the first epoch, again and again."""
    return step_indices(num_examples, per_step, seed, step % -(-num_examples // per_step))


def _order(made: Callable[[], Any]) -> Callable[[Subject], Subject]:
    return lambda subject: _training(subject, order=made)


def _drawn_again(difficulties: Sequence[float], per_step: int, epochs: int, seed: int) -> list[list[int]]:
    """As published: each step draws from what is open, whatever was shown already."""
    ranked = np.argsort(difficulties)
    num_steps = epochs * -(-len(ranked) // per_step)
    draws = [np.random.default_rng((seed, step)) for step in range(num_steps)]
    open_at = [max(per_step, len(ranked) * step // num_steps) for step in range(num_steps)]
    return [
        draw.choice(ranked[:num], per_step, replace=False).tolist() for draw, num in zip(draws, open_at, strict=True)
    ]


def _own_tokens(network: Any, rows: Any, objective: Any) -> float:
    """A rank divides by its own tokens; the wrapper then averages over ranks."""
    with (
        mock.patch("rung.train.step.global_weight", lambda local, device: sum(local)),
        mock.patch("rung.train.step.loss_divisor", lambda total: total),
    ):
        return accumulate(network, rows, objective)


def _forgotten_mean(network: Any, rows: Any, objective: Any) -> float:
    """The global number of tokens, without undoing that the wrapper averages over ranks."""
    with mock.patch("rung.train.step.loss_divisor", lambda total: total):
        return accumulate(network, rows, objective)


def _network(**patches: Any) -> Callable[[Subject], Subject]:
    """A copy of the network whose forward runs with other callables of `rung.models`."""

    def plant(subject: Subject) -> Subject:
        network = copy.deepcopy(subject.loaded.network)
        plain = network.hidden

        def hidden(*arguments: Any, **keywords: Any) -> Any:
            with ExitStack() as stack:
                for name, function in patches.items():
                    stack.enter_context(mock.patch(f"rung.models.{name.replace('__', '.')}", function))
                return plain(*arguments, **keywords)

        network.hidden = hidden  # type: ignore[method-assign]
        return replace(subject, loaded=replace(subject.loaded, network=network))

    return plant


def _by_the_row(router: Any, x_ND: Any) -> Any:
    """A router that looks at the mean of the row as well."""
    return _ROUTE(router, x_ND + x_ND.mean(0, keepdim=True))


_ROUTE = Router.forward


# --- adapters and engine


def _adapters(**fields: Any) -> Callable[[Subject], Subject]:
    return lambda subject: replace(subject, adapters=replace(subject.adapters, **fields))


def _scaled_merge(factor: float) -> Callable[[Any], None]:
    def merged(network: Any) -> None:
        for module in network.modules():
            if hasattr(module, "lora_B"):
                module.scaling = {name: scale * factor for name, scale in module.scaling.items()}
        merge(network)

    return merged


def _save_half(network: Any, folder: Any) -> None:
    """The second matrices are written as they were at the start of training."""
    save_adapter(network, folder)
    path = folder / "adapter_model.safetensors"
    weights = safetensors.torch.load_file(path)
    emptied = {k: torch.zeros_like(v) if "lora_B" in k else v for k, v in weights.items()}
    safetensors.torch.save_file(emptied, path)


class _NoWindow(DecodeAttend):
    """Decoding that forgets the window: it looks at everything in the cache."""

    def __call__(self, layer: int, query: Any, key: Any, value: Any, *, scale: float, window: int) -> Any:
        return super().__call__(layer, query, key, value, scale=scale, window=0)


class _PatchedEngine(Engine):
    """The engine with another way of attending while it decodes."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """As the real one."""
        with mock.patch("rung.engine.batch.DecodeAttend", _NoWindow):
            return super().complete(requests)


class _SlotSeeds(Engine):
    """An engine that seeds draws by place in the batch instead of by request."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """As the real one, with other seeds."""
        return super().complete([replace(request, seed=place) for place, request in enumerate(requests)])


def _engine(kind: type[Engine]) -> Callable[[Subject], Subject]:
    return lambda subject: replace(subject, engine=lambda loaded: kind(loaded, EngineSettings(num_slots=4)))


CASES = (
    Case("start_token", "the template and the tokenizer both add the start token", _rendering(_doubled_start)),
    Case(
        "start_token",
        "prompts are sent without the start token",
        lambda s: _text(s, prompt_ids=lambda tokenizer, text: tuple(tokenizer.encode(text))),
    ),
    Case("template_ids", "examples are rendered through a chat template", _chat_template),
    Case("loss_mask", "the loss begins where a second tokenisation of the prompt ends", _boundary_from_text),
    Case(
        "loss_mask",
        "the mask is empty: the template has no marks for it",
        _rendering(lambda t, r: replace(r, loss_mask=(False,) * len(r.token_ids))),
    ),
    Case(
        "loss_mask",
        "the instruction is trained too",
        _rendering(lambda t, r: replace(r, loss_mask=(False, *(True,) * (len(r.token_ids) - 1)))),
    ),
    Case(
        "stop_trained",
        "the end token is in the input and never a target",
        _rendering(lambda t, r: replace(r, loss_mask=(*r.loss_mask[:-1], False))),
    ),
    Case("stop_trained", "the delimiter is left out of the examples", _no_delimiter),
    Case("stop_trained", "generation waits for another delimiter", lambda s: _text(s, stop_strings=("<|end|>",))),
    Case("truncation", "the limit is shorter than the instructions", lambda s: replace(s, max_tokens=12)),
    Case("truncation", "the cut keeps the end and drops the question", lambda s: _text(s, cut=_kept_end)),
    Case("pair_padding", "a cut pair keeps its ends and loses its question", lambda s: _text(s, cut=_kept_end)),
    Case("truncation", "an example without an answer passes in silence", lambda s: _text(s, cut=_silent_cut)),
    Case(
        "pad_end",
        "whatever equals the padding id carries no loss",
        _rendering(
            lambda t, r: replace(
                r,
                loss_mask=tuple(m and i != t.pad_id for i, m in zip(r.token_ids, r.loss_mask, strict=True)),
            )
        ),
    ),
    Case("pad_end", "padding carries loss", lambda s: _training(s, loss=_padding_as_target)),
    Case("packing_leak", "attention runs over the whole row", _with_attend(_WholeRow)),
    Case("packing_leak", "only layers with a window leak", _with_attend(_WindowsLeak)),
    Case("accumulation", "micro-batches are divided by their own tokens", _accumulating(_mean_of_means)),
    Case("accumulation", "only the last micro-batch's gradient survives", _accumulating(_last_one_wins)),
    Case("label_shift", "the collator shifts labels and the loss shifts them again", _shifted(1)),
    Case("label_shift", "nobody shifts the labels", _shifted(-1)),
    Case("data_order", "the order lives in a generator, and starts over on resume", _order(_Generator)),
    Case("data_order", "examples are drawn with replacement", _order(lambda: _with_replacement)),
    Case("data_order", "every epoch reads in the first one's order", _order(lambda: _one_order)),
    Case("data_order", "a curriculum shows easy examples more often", lambda s: _training(s, curriculum=_drawn_again)),
    Case("rank_share", "a rank divides by its own tokens", _accumulating(_own_tokens)),
    Case("rank_share", "nobody undoes the mean over ranks", _accumulating(_forgotten_mean)),
    Case(
        "expert_routing",
        "padding takes places of experts and counts as load",
        _network(families__coder__real_tokens=lambda attend, token_ids: None),
        "tiny:coder",
    ),
    Case(
        "expert_routing",
        "the router looks at the whole row",
        _network(layers__router__Router__forward=_by_the_row),
        "tiny:coder",
    ),
    Case("merged_adapter", "merging forgets the scale", _adapters(merge=_scaled_merge(0.5))),
    Case("merged_adapter", "merging gives the base model back", _adapters(merge=_scaled_merge(0.0))),
    Case("merged_adapter", "the saved adapter is an untrained one", _adapters(save=_save_half)),
    Case("token_cache", "records were stored under an older frame", _other_frame),
    Case("token_cache", "ids were cached under another tokenizer", _other_tokenizer),
    Case("cached_logits", "decoding forgets the sliding window", _engine(_PatchedEngine)),
    Case("batch_composition", "draws are seeded by place in the batch", _engine(_SlotSeeds)),
    Case("prompt_match", "evaluation asks with a trailing space", _prompts(evaluation=lambda i: Frame.prompt(i) + " ")),
    Case("prompt_match", "generation asks in another frame", _prompts(generation=lambda i: f"Q: {i}\nA:")),
    Case(
        "prompt_match",
        "the engine tokenises line by line and joins the ids",
        lambda s: _text(
            s,
            prompt_ids=lambda t, text: (*t.start_ids, *(i for line in text.split("\n") for i in t.encode(line))),
        ),
    ),
    Case("held_out_overlap", "a test item is among the training data, in capitals", _held_out_item),
    Case(
        "settings_read",
        "a validated setting that nothing asks for",
        lambda s: replace(s, settings_classes=(*s.settings_classes, UnreadSettings)),
    ),
    *(Case(check, bug, plant) for check, bug, plant in POLICY_PLANTS),
)
