"""The tokenizer inside a GGUF file, as a `tokenizer.json`: byte-level BPE ("gpt2") and SentencePiece BPE ("llama").

A SentencePiece file stores pieces and scores but no merges; they are every split of a piece into two pieces, best
score first. Checked against transformers' own conversion on the packaged models.
"""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from rung.base.errors import ModelError
from rung.models.gguf_format.reading import GgufFile

__all__ = ["chat_template", "tokenizer"]

CONTROL, USER_DEFINED = 3, 4
SPACE = "\u2581"
DIGIT_SPLITTING = ("smollm", "starcoder", "refact", "command-r")
WORD_SPLITTING = {"llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}  # fmt: skip # noqa: E501


def tokenizer(file: GgufFile) -> tokenizers.Tokenizer:
    """Build it; its post-processor puts the start token in front when the file asks for one.

    Raises:
        ModelError: a tokenizer of another kind.
    """
    kind = file.need("tokenizer.ggml.model")
    makers = {"gpt2": _byte_level, "llama": _sentence_piece}
    if kind not in makers:
        raise ModelError(
            f"GGUF tokenizers of kind '{kind}' are not converted",
            place=str(file.path),
            hint=f"known: {', '.join(makers)}; other models load from hf:org/name",
        )
    made = makers[kind](file)
    tokens = file.need("tokenizer.ggml.tokens")
    kinds = file.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    made.add_special_tokens([_added(t, True) for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL])
    plain = [t for t, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED and t.strip(" ")]
    made.add_tokens([_added(t, False) for t in plain])
    start = file.get("tokenizer.ggml.bos_token_id")
    # a file that does not say leaves it to the kind: SentencePiece models start with one, byte-level ones do not
    if start is not None and file.get("tokenizer.ggml.add_bos_token", kind == "llama"):
        name = tokens[start]
        made.post_processor = processors.TemplateProcessing(single=f"{name} $A", special_tokens=[(name, start)])
    return made


def chat_template(file: GgufFile) -> str:
    """The chat template that the file carries, empty when none."""
    return str(file.get("tokenizer.chat_template") or "")


def _byte_level(file: GgufFile) -> tokenizers.Tokenizer:
    tokens = file.need("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in file.need("tokenizer.ggml.merges")]
    made = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    made.pre_tokenizer = _splitting(file)
    made.decoder = decoders.ByteLevel()
    return made


def _splitting(file: GgufFile) -> Any:
    """How text is cut before merging: a file names it, and a wrong cut gives other tokens than in training."""
    name = file.get("tokenizer.ggml.pre", "default")
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if name in ("default", "gpt-2"):
        return whole
    if name in DIGIT_SPLITTING:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole])
    if name in WORD_SPLITTING:
        words = pre_tokenizers.Split(tokenizers.Regex(WORD_SPLITTING[name]), "isolated")
        return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise ModelError(
        f"tokenizer cutting rule '{name}' is not known",
        place=str(file.path),
        hint="load the model from hf:org/name instead",
    )


def _sentence_piece(file: GgufFile) -> tokenizers.Tokenizer:
    tokens, scores = file.need("tokenizer.ggml.tokens"), file.need("tokenizer.ggml.scores")
    kinds = file.need("tokenizer.ggml.token_type")
    # runs of spaces are kept as written for llama.cpp, which matches them before it replaces spaces
    tokens = [t.replace(" ", SPACE) if kind == USER_DEFINED else t for t, kind in zip(tokens, kinds, strict=True)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    own = {token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED}
    skipped = {token for token, kind in zip(tokens, kinds, strict=True) if kind not in (1, USER_DEFINED)}
    unknown = tokens[file.get("tokenizer.ggml.unknown_token_id", 0)]
    made = tokenizers.Tokenizer(
        models.BPE(
            vocabulary, _merges(vocabulary, scores, own, skipped), unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    made.normalizer = normalizers.Replace(" ", SPACE)
    if file.get("tokenizer.ggml.add_space_prefix", True):
        made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    else:
        made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return made


def _merges(vocabulary: dict[str, int], scores: list[float], own: set[str], skipped: set[str]) -> list[tuple[str, str]]:
    """Runs that the model's makers defined come first, short before long; then by score, longer left part first."""
    ranked = []
    for token, index in vocabulary.items():
        if token in skipped:
            continue
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary and left not in skipped and right not in skipped:
                rank = (0, float(index)) if token in own else (1, -scores[index])
                ranked.append((rank, -len(left), -len(right), left, right))
    ranked.sort(key=lambda row: row[:3])
    return [(left, right) for *_, left, right in ranked]


def _added(content: str, special: bool) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(content, normalized=False, special=special)
