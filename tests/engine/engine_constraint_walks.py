"""Random walks through constraints, and small vocabularies of both kinds that models use."""

from __future__ import annotations

from typing import Any

import tokenizers
import torch

from rung.engine.constraints.compiling import Compiler
from rung.engine.constraints.protocol import Constraint
from rung.engine.constraints.vocabulary import read_vocabulary
from rung.records.tokenizer import Tokenizer

TEXT = [
    'héllo wörld 日本 {"name": "x", "tags": [true, null, -12.5e+3]}, ',
    '"answer": "yes" or "no" [[1, 2], [3]] aaa bbb \\u00e9 (1+2)*3 = 9\n int x = 4; e4 e5',
]


def byte_level() -> Tokenizer:
    """Byte-level BPE with some 120 merges, so that tokens span symbols and split characters."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=380,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>"],
        show_progress=False,
    )
    inner.train_from_iterator(TEXT * 4, trainer)
    return Tokenizer(inner, start_ids=(0,), end_ids=(1,))


def sentence_piece() -> Tokenizer:
    """Spaces as `▁`, unknown characters as bytes, and decoders like Gemma's."""
    pieces = ["<pad>", "<eos>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁h", "é", "▁▁", "ab", "日"]
    pieces += ["a", "b", "h", "<x>", '":', "}}", "tr", "true", "1", "12"]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, fuse_unk=True))
    inner.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    steps = tokenizers.decoders
    inner.decoder = steps.Sequence([steps.Replace("▁", " "), steps.ByteFallback(), steps.Fuse()])
    inner.add_special_tokens(["<pad>", "<eos>", "<bos>"])
    return Tokenizer(inner, start_ids=(2,), end_ids=(1,))


TOKENIZERS = {"byte_level": byte_level, "sentence_piece": sentence_piece}


def compiled(spec: dict[str, Any], tokenizer: Tokenizer | None = None) -> Constraint:
    made = tokenizer or byte_level()
    return Compiler(made, made.vocabulary_size + 7).compile(spec, "request 'a'")


def walk(constraint: Constraint, limit: int, seed: int, tokenizer: Tokenizer | None = None) -> bytes:
    """A text from uniformly drawn allowed tokens; it must be complete when it ends."""
    made = tokenizer or byte_level()
    tokens = read_vocabulary(made, made.vocabulary_size).tokens
    chance = torch.Generator().manual_seed(seed)
    state, text = constraint.start(), b""
    for step in range(limit):
        allowed = state.allowed(limit - step).nonzero()[:, 0]
        token = int(allowed[int(torch.randint(len(allowed), (), generator=chance))])
        data = tokens[token] if token < len(tokens) else None
        if data is None:
            break
        state.advance(token)
        text += data
        if state.over():
            break
    assert state.complete(), (limit, text)
    return text
