"""Bytes of tokens equal what the tokenizer decodes, for both kinds of tokenizer."""

from __future__ import annotations

import random

import pytest
import tokenizers
from tests.engine.engine_constraint_walks import TOKENIZERS, byte_level, sentence_piece

from rung.base.errors import ModelError
from rung.engine.constraints.vocabulary import read_vocabulary
from rung.records.tokenizer import Tokenizer


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_joined_bytes_decode_as_the_tokenizer_decodes(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    vocabulary = read_vocabulary(tokenizer, tokenizer.vocabulary_size)
    chance, known = random.Random(1), [i for i, data in enumerate(vocabulary.tokens) if data]
    compared = 0
    for _ in range(400):
        ids = chance.choices(known, k=chance.randint(1, 6))
        data = b"".join(vocabulary.tokens[i] or b"" for i in ids)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            continue
        compared += 1
        lead = tokenizer.decode(list(tokenizer.start_ids))
        assert tokenizer.decode([*tokenizer.start_ids, *ids]).removeprefix(lead) == text
    assert compared > 20


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
def test_a_split_character_and_every_byte_are_there(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    vocabulary = read_vocabulary(tokenizer, tokenizer.vocabulary_size)
    assert {bytes([byte]) for byte in range(256)} <= set(vocabulary.tokens)
    text = "héllo 日本 𝄞 a  b"
    assert b"".join(vocabulary.tokens[i] or b"?" for i in tokenizer.encode(text)) == text.encode()


def test_special_tokens_template_tokens_and_ids_beyond_the_tokenizer_have_no_bytes() -> None:
    made = byte_level()
    tokenizer = Tokenizer(made.inner, made.start_ids, made.end_ids, template_ids=frozenset({300}))
    vocabulary = read_vocabulary(tokenizer, tokenizer.vocabulary_size + 9)
    assert len(vocabulary.tokens) == tokenizer.vocabulary_size + 9
    assert set(vocabulary.tokens[-9:]) == {None}
    assert vocabulary.tokens[0] is vocabulary.tokens[1] is vocabulary.tokens[300] is None
    assert vocabulary.end_ids == (1,)


def test_a_text_that_looks_like_a_byte_is_none_in_byte_level_and_spaces_are_spaces() -> None:
    vocabulary = read_vocabulary(sentence_piece(), 400)
    assert b" h" in vocabulary.tokens
    assert b"<x>" in vocabulary.tokens
    assert "▁".encode() not in vocabulary.tokens


def test_an_unknown_decoder_is_refused() -> None:
    inner = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    inner.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(ModelError, match="WordPiece"):
        read_vocabulary(Tokenizer(inner), 2)
