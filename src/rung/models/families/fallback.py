"""Any other causal language model of transformers, behind the same promise: correct, slower.

Every document is run alone through the wrapped model, with transformers' own cache when decoding, so packing and
batching save nothing. Opening checks that logits are a plain projection of the last hidden state; models that scale
or shift them otherwise are refused. Code that comes with a model is never run.

Legend: B batch, T token, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor

from rung.base.errors import ModelError
from rung.base.settings import Field, Settings
from rung.models.layers.attend import CausalAttend, PackedAttend
from rung.models.network import Attend, Network, Shape

__all__ = ["Fallback"]

TOLERANCE = 1e-3


class FallbackSettings(Settings):
    """A published config, as it is."""

    config: dict[str, Any] = Field(description="the whole config.json")


class Fallback(Network):
    """A wrapped model. Its parameters keep their published names."""

    wrapped: Any

    Settings: ClassVar[type[FallbackSettings]] = FallbackSettings
    SIZES: ClassVar[dict[str, FallbackSettings]] = {}
    model_types: ClassVar[tuple[str, ...]] = ()
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()
    ignored: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Any, place: str = "fallback") -> None:
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        # not registered: its children are, under their own names
        object.__setattr__(self, "wrapped", model)
        self._place = place
        head = model.get_output_embeddings()
        if head is None or getattr(head, "bias", None) is not None:
            raise ModelError(
                "the model has no output projection without bias", place=place, hint="only causal language models fit"
            )
        config = model.config.get_text_config()
        self.softcap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
        self.shape = _shape(config, head.weight)
        self._check_logits()

    @classmethod
    def build(cls, settings: FallbackSettings, seed: int = 0) -> Fallback:
        """A network with transformers' own random weights, the same for the same seed."""
        values = dict(settings.config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
            return cls(transformers.AutoModelForCausalLM.from_config(config).eval())

    @classmethod
    def open(cls, folder: Path, dtype: torch.dtype) -> Fallback:
        """Read a folder in the published layout.

        Raises:
            ModelError: an architecture that transformers does not know as a causal language model, or broken weights.
        """
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
        except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
            raise ModelError(
                f"transformers cannot load it as a causal language model: {str(error).splitlines()[0]}",
                place=str(folder),
                hint="check model_type in config.json; models that bring their own code are not run",
            ) from error
        return cls(model.eval(), str(folder))

    @staticmethod
    def refuses(config: Mapping[str, Any]) -> str:
        """Nothing is refused before it is opened."""
        return ""

    @staticmethod
    def from_config(config: Mapping[str, Any]) -> FallbackSettings:
        """The config, kept whole."""
        return FallbackSettings(config=dict(config))

    def published_config(self) -> dict[str, Any]:
        """The wrapped model's config."""
        values: dict[str, Any] = self.wrapped.config.to_dict()
        return values

    def hidden(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [B, T, D]; each document of a `CausalAttend` or `PackedAttend` runs alone.

        Raises:
            ModelError: another kind of `Attend` (decode with `step`), or positions that do not start at 0.
        """
        rows = [
            self._row(token_ids_BT[row], positions_BT[row], _spans(attend, row, token_ids_BT.shape[1], self._place))
            for row in range(token_ids_BT.shape[0])
        ]
        return torch.stack(rows)

    def step(self, token_ids_1T: Tensor, cache: Any = None) -> tuple[Tensor, Any]:
        """Go on after what `cache` holds (None: nothing): hidden states [1, T, D] of the new tokens, and the cache."""
        out = self.wrapped.base_model(input_ids=token_ids_1T, past_key_values=cache, use_cache=True)
        return out.last_hidden_state, out.past_key_values

    @property
    def output_weight(self) -> Tensor:
        """The output projection's weight [V, D]."""
        weight: Tensor = self.wrapped.get_output_embeddings().weight
        return weight

    def _row(self, token_ids_T: Tensor, positions_T: Tensor, spans: list[tuple[int, int]]) -> Tensor:
        pieces, at = [], 0
        for start, stop in spans:
            if not torch.equal(positions_T[start:stop], torch.arange(stop - start, device=positions_T.device)):
                raise ModelError("positions of a document must count from 0 here", place=self._place)
            pieces += [self._zeros(start - at), self._alone(token_ids_T[start:stop])]
            at = stop
        return torch.cat([*pieces, self._zeros(token_ids_T.shape[0] - at)])

    def _alone(self, token_ids_T: Tensor) -> Tensor:
        out: Tensor = self.wrapped.base_model(input_ids=token_ids_T[None], use_cache=False).last_hidden_state[0]
        return out

    def _zeros(self, count: int) -> Tensor:
        return self.output_weight.new_zeros((count, self.shape.width))

    @torch.no_grad()
    def _check_logits(self) -> None:
        token_ids_1T = torch.arange(min(4, self.shape.vocabulary), device=self.output_weight.device)[None]
        expected = self.wrapped(input_ids=token_ids_1T).logits[0].float()
        ours = (self._alone(token_ids_1T[0]) @ self.output_weight.T).float()
        if self.softcap > 0:
            ours = self.softcap * torch.tanh(ours / self.softcap)
        if not torch.allclose(ours, expected, atol=TOLERANCE * float(expected.abs().max()) + TOLERANCE):
            raise ModelError(
                "its logits are not a plain projection of its last hidden state",
                place=self._place,
                hint="this architecture needs a file of its own in models/families",
            )


def _spans(attend: Attend, row: int, num_tokens: int, place: str) -> list[tuple[int, int]]:
    if isinstance(attend, CausalAttend):
        return [(attend.left_padding[row] if attend.left_padding else 0, num_tokens)]
    if isinstance(attend, PackedAttend):
        stops = [sum(attend.lengths[row][: index + 1]) for index in range(len(attend.lengths[row]))]
        return list(zip([0, *stops[:-1]], stops, strict=True))
    raise ModelError(
        f"a wrapped model cannot attend through {type(attend).__name__}", place=place, hint="decode with step()"
    )


def _shape(config: Any, weight: Tensor) -> Shape:
    num_heads = int(getattr(config, "num_attention_heads", 0) or 1)
    return Shape(
        vocabulary=weight.shape[0],
        width=weight.shape[1],
        num_layers=int(config.num_hidden_layers),
        num_heads=num_heads,
        num_kv_heads=int(getattr(config, "num_key_value_heads", None) or num_heads),
        head_width=int(getattr(config, "head_dim", None) or weight.shape[1] // num_heads),
        max_context=int(getattr(config, "max_position_embeddings", None) or 0),
    )
