"""From texts to windows: a tokenizer trained on the spot, fast encoding, token shards in memory maps, whole windows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from rung.base.errors import DataError, SettingsError
from rung.base.settings import validate
from rung.records.encoding import Encoder
from rung.records.pieces import RULES
from rung.records.token_shards import TokenShard, TokenWriter
from rung.records.tokenizer import Tokenizer
from rung.records.tokenizer_training import TrainerSettings, measure, train_tokenizer
from rung.records.windows import Windows

LIBRARY = sorted(Path(random.__file__).parent.glob("[a-d]*.py"))
CODE = [path.read_text() for path in LIBRARY[::3]]
HELD_OUT = [path.read_text() for path in LIBRARY[1::6]]
ODD = "naïve café 日本語 🙂\r\n\tif x:\n\n        y = 'it's' <bos> <eos>\x1c\x0b\n"


@pytest.fixture(scope="module", params=sorted(RULES))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(CODE, TrainerSettings(vocabulary=600, rule=request.param, control=("<thought>",)))


def reference(tokenizer: Tokenizer, text: str) -> list[int]:
    """The library's own ids, with special tokens in the text read as text."""
    plain = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    plain.encode_special_tokens = True
    return list(plain.encode(text, add_special_tokens=False).ids)


def test_the_vocabulary_is_as_configured_and_every_text_comes_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary_size == 600
    for text in (*CODE, ODD):
        assert tokenizer.decode(Encoder(tokenizer).encode([text]).of(0).tolist()) == text
    assert measure(tokenizer, [ODD, *CODE]).num_broken == 0


def test_fast_encoding_is_the_librarys(tokenizer: Tokenizer) -> None:
    encoder, draw = Encoder(tokenizer), random.Random(7)
    signs = [*map(chr, range(128)), *("  \n\n\t'ssaabb019__..(" * 8), "é", "日"]
    texts = ["".join(draw.choices(signs, k=draw.randrange(40))) for _ in range(1500)]
    encoded = encoder.encode([*texts, *CODE, "", ODD])
    for index, text in enumerate([*texts, *CODE, "", ODD]):
        assert encoded.of(index).tolist() == reference(tokenizer, text), repr(text)


def test_the_table_of_pieces_is_bounded_and_changes_no_id(tokenizer: Tokenizer) -> None:
    small, large = Encoder(tokenizer, most_pieces=20), Encoder(tokenizer)
    for text in CODE:
        assert small.encode([text]).ids.tolist() == large.encode([text]).ids.tolist()
    assert len(small._place) < len(large._place)


def test_a_foreign_tokenizer_is_encoded_by_itself() -> None:
    words = Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, "?")))
    assert Encoder(words).encode(["a", "b", ""]).ids.tolist() == [0, 1]


def test_control_tokens_are_single_ids_that_no_text_can_write(tokenizer: Tokenizer) -> None:
    thought = tokenizer.inner.token_to_id("<thought>")
    assert thought == 3
    assert tokenizer.encode("<thought>") == [thought]
    assert thought not in Encoder(tokenizer).encode(["<thought> <bos>"]).ids


def test_code_takes_fewer_tokens_a_line_with_a_larger_vocabulary_and_with_its_own_rule() -> None:
    def line(**settings: object) -> float:
        """Tokens per line of code not seen in training."""
        return measure(train_tokenizer(CODE, TrainerSettings(**settings)), HELD_OUT).tokens_per_line

    small, large = line(vocabulary=500, rule="code"), line(vocabulary=3000, rule="code")
    assert large < 0.8 * small
    assert large < 0.96 * line(vocabulary=3000, rule="text")


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(DataError, match="the corpus gives"):
        train_tokenizer(["ab ab"], TrainerSettings(vocabulary=600))
    for values, words in (
        ({"vocabulary": 100}, "259"),
        ({"control": ["<bos>"]}, "twice"),
        ({"vocabulary": 259, "control": ["<a>"]}, "do not fit"),
        ({"rule": "wrods"}, "code"),
    ):
        with pytest.raises(SettingsError, match=words):
            validate(TrainerSettings, values, "tokenizer")


def written(folder: Path, lengths: list[int], vocabulary: int = 500) -> TokenShard:
    with TokenWriter(folder, "train", vocabulary) as writer:
        for key, length in enumerate(lengths):
            writer.add(key, np.arange(length) + 10 * key % 300, 4 * length)
    return TokenShard(folder, "train", vocabulary)


def test_shards_are_mapped_and_hold_every_document(tmp_path: Path) -> None:
    shard = written(tmp_path, [5, 1, 9])
    assert isinstance(shard.ids, np.memmap)
    assert shard.ids.dtype == np.dtype("<u2")
    assert [shard.document(i).tolist() for i in range(3)] == [
        list(range(5)), [10], list(range(20, 29)),
    ]  # fmt: skip
    assert (shard.num_tokens, shard.num_documents, shard.num_bytes(), shard.num_bytes(2)) == (15, 3, 60, 24)
    assert written(tmp_path / "wide", [3], vocabulary=70_000).ids.dtype == np.dtype("<u4")
    assert written(tmp_path / "none", []).num_tokens == 0


def test_a_writer_that_fails_leaves_nothing_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="beyond 500"), TokenWriter(tmp_path, "train", 500) as writer:
        writer.add(0, [1, 500], 2)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="cannot read"):
        TokenShard(tmp_path, "train", 500)
    written(tmp_path, [5, 6])
    (tmp_path / "train.tokens").write_bytes(b"\0" * 20)
    with pytest.raises(DataError, match="10 tokens where 11"):
        TokenShard(tmp_path, "train", 500)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7, 8, 100])
@pytest.mark.parametrize("tokens_per_row", [1, 20, 1000])
def test_windows_predict_every_token_once_and_no_document_sees_another(
    tmp_path: Path, window: int, tokens_per_row: int
) -> None:
    lengths = [5, 1, 9, 8, 2, 16, 3]
    shard = written(tmp_path, lengths)
    windows = Windows(shard, window)
    rows = windows.rows(range(len(windows)), tokens_per_row)
    predicted = [pair for row in rows for pair in zip(row.token_ids[row.sources], row.targets, strict=True)]
    wanted = [pair for i in range(7) for pair in zip(shard.document(i), shard.document(i)[1:], strict=False)]
    assert predicted == wanted
    assert len(predicted) == windows.num_targets == sum(lengths) - 7
    for row in rows:
        assert sum(row.lengths) == len(row.token_ids) == len(row.positions)
        assert row.positions.tolist() == [p for length in row.lengths for p in range(length)]
        assert (row.targets == row.token_ids[row.sources + 1]).all()
        assert row.target_counts.tolist() == [n - 1 for n in row.lengths for _ in range(n - 1)]
        assert max(row.lengths) <= window + 1


def test_windows_of_the_first_documents_end_where_they_end(tmp_path: Path) -> None:
    windows = Windows(written(tmp_path, [5, 1, 9, 8]), 4, num_documents=3)
    assert (windows.num_targets, windows.num_bytes) == (12, 60)
    assert sum(len(row.targets) for row in windows.rows(range(len(windows)), 100)) == 12
