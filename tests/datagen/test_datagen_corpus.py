"""Sources to documents: every format gives the same texts, what is broken is counted with its place, repeats and
benchmark items stay out, and a piece is processed once."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasketch
import numpy as np
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from rung.base.errors import DataError, SettingsError
from rung.base.lookup import part
from rung.datagen.corpus_build import Build, Kept
from rung.datagen.corpus_checks import CheckSettings, documents_of
from rung.datagen.corpus_near import NearSettings, Signer, first_of_each, near_groups
from rung.datagen.corpus_overlap import BenchmarkItem, Overlap, OverlapSettings
from rung.datagen.corpus_reading import Layout, Row, read_rows
from rung.datagen.corpus_source import Found, Source
from rung.datagen.corpus_tokens import GroupEncoder, groups_of
from rung.models.cache import Cache
from rung.records.tokenizer_training import TrainerSettings, train_tokenizer
from rung.records.types import Document, Drop

STORIES = [
    "Once there was a fox.\nIt slept all day.",
    'She said, "Come here", and\tran, ran, ran.',
    "Ünïcödé: 日本語 🙂 and a very long tail " + "word " * 50 + "end",
    "The end comes, as ends do.\n\nAnd after it?",
]
NONE = Overlap([], OverlapSettings())


def source(kind: str, **settings: Any) -> Source:
    found, own = part("datagen.sources", {"kind": kind, **settings})
    made: Source = found(own)
    return made


def all_of(made: Source) -> list[Found | Drop]:
    return [one for piece in made.pieces() for one in piece.read()]


def texts_of(made: Source) -> list[Any]:
    return [one.text for one in all_of(made) if isinstance(one, Found)]


def write_all(folder: Path) -> list[Path]:
    """The stories in every format, plain and compressed."""
    folder.mkdir(exist_ok=True)
    lines = "".join(json.dumps({"text": text, "n": 1}) + "\n" for text in STORIES).encode()
    plain = "\n<|end|>\n".join(STORIES).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.txt").write_bytes(plain)
    for name, delimiter in (("c.csv", ","), ("d.tsv", "\t")):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, delimiter=delimiter)
            rows.writerows([["n", "text"], *([1, text] for text in STORIES)])
    parquet.write_table(pyarrow.table({"n": [1] * 4, "text": STORIES}), folder / "e.parquet")
    (folder / "f.jsonl.gz").write_bytes(gzip.compress(lines))
    frames = zstandard.ZstdCompressor()
    (folder / "g.txt.zst").write_bytes(frames.compress(plain[:100]) + frames.compress(plain[100:]))
    return sorted(folder.iterdir())


def test_every_format_gives_the_same_texts(tmp_path: Path) -> None:
    for path in write_all(tmp_path / "all"):
        assert texts_of(source("files", path=path, separator="<|end|>")) == STORIES, path.name
    assert texts_of(source("files", path=tmp_path / "all", separator="<|end|>")) == STORIES * 7


def test_a_folder_is_read_by_name_and_by_ending(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    for name in ("x/b.py", "a.py", ".hidden.py", "c.md"):
        (tmp_path / name).write_text(f"# {name}\n")
    found = source("files", path=tmp_path, endings=[".py"], licence="MIT")
    assert [piece.name for piece in found.pieces()] == ["a.py", "x/b.py"]
    first = all_of(found)[0]
    assert isinstance(first, Found)
    assert (first.language, first.licence, first.place) == ("python", "MIT", "a.py:1")
    with pytest.raises(DataError, match="no file of this kind"):
        source("files", path=tmp_path, endings=[".rs"]).pieces()
    with pytest.raises(DataError, match="no such file"):
        source("files", path=tmp_path / "none").pieces()


def test_what_is_broken_is_named_by_its_line_and_reading_goes_on(tmp_path: Path) -> None:
    lines = [
        b'{"text": "one"}', b'{"text": "tw\xff"}', b'{"text": "three"', b'["four"]', b"",
        b'{"text": "' + b"x" * 3000 + b'"}',
        b'{"other": 1}', b'{"text": 7}', b'{"text": "  "}', b'{"text": "\\ud800"}', b'{"text": "last"}',
    ]  # fmt: skip
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(lines))
    made = source("files", path=tmp_path / "s.jsonl", longest=1024)
    out = [
        d
        for one in all_of(made)
        for d in ([one] if isinstance(one, Drop) else documents_of(one, "s", CheckSettings(), NONE))
    ]
    assert [d.text for d in out if isinstance(d, Document)] == ["one", "last"]
    assert {d.id: d.reason for d in out if isinstance(d, Drop)} == {
        "s.jsonl:2": "broken_utf8", "s.jsonl:3": "broken_json", "s.jsonl:4": "broken_json", "s.jsonl:6": "over_long",
        "s.jsonl:7": "missing_field", "s.jsonl:8": "not_text", "s.jsonl:9": "empty", "s.jsonl:10": "broken_utf8",
    }  # fmt: skip
    long = next(d for d in out if isinstance(d, Drop) and d.reason == "over_long")
    assert long.detail["num_bytes"] == len(lines[5]) + 1


def test_broken_rows_of_csv_and_texts_are_found_too(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,n\nfine,1\nbr\xffken,2\n" + b"y" * 5000 + b",3\nlast,4\n")
    got = list(read_rows(tmp_path / "a.csv", "a.csv", Layout(longest=1000)))
    assert [one.reason if isinstance(one, Drop) else one.values["text"] for one in got] == [
        "fine", "broken_utf8", "broken_csv", "last",
    ]  # fmt: skip
    (tmp_path / "b.txt").write_bytes(b"good\n--\nb\xfed\n--\n\n--\nalso good\n--\n")
    got = list(read_rows(tmp_path / "b.txt", "b.txt", Layout(separator="--")))
    assert [(one.place, one.values["text"]) for one in got if isinstance(one, Row)] == [
        ("b.txt:1", "good"), ("b.txt:5", ""), ("b.txt:7", "also good"),
    ]  # fmt: skip
    assert [(one.id, one.reason) for one in got if isinstance(one, Drop)] == [("b.txt:3", "broken_utf8")]
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 1000)[:-20])
    with pytest.raises(DataError, match=r"c\.jsonl\.gz: cannot read"):
        list(read_rows(tmp_path / "c.jsonl.gz", "c.jsonl.gz", Layout()))
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=r"d\.parquet"):
        list(read_rows(tmp_path / "d.parquet", "d.parquet", Layout()))


@pytest.mark.parametrize("over_long", ["split", "cut", "drop"])
def test_what_is_too_long_is_handled_as_configured(over_long: Any) -> None:
    text = "".join(f"line number {i}\n" for i in range(40)) + "z" * 70
    settings = CheckSettings(max_chars=64, over_long=over_long)
    out = list(documents_of(Found("p", text), "s", settings, NONE))
    documents = [d.text for d in out if isinstance(d, Document)]
    reasons = Counter(d.reason for d in out if isinstance(d, Drop))
    if over_long == "split":
        assert "".join(documents) == text
        assert max(map(len, documents)) <= 64
        assert documents[0].endswith("\n")
        assert not reasons
    else:
        assert documents == ([text[:64]] if over_long == "cut" else [])
        assert reasons == ({"end_cut": 1} if over_long == "cut" else {"over_long": 1})


def test_licences_and_languages_are_chosen() -> None:
    settings = CheckSettings(licences=("mit",), languages=("python",))
    rows = [Found("a", "x", "MIT", "Python"), Found("b", "x", "GPL-3.0", "python"), Found("c", "x", "", "python"),
            Found("d", "x", "MIT", "rust")]  # fmt: skip
    out = [one for row in rows for one in documents_of(row, "s", settings, NONE)]
    assert [one.reason if isinstance(one, Drop) else one.licence for one in out] == [
        "MIT",
        "licence",
        "licence",
        "language",
    ]


def test_the_standard_library_is_a_corpus_with_licences() -> None:
    made = source("standard_library", modules=["json", "textwrap"])
    names = [piece.name for piece in made.pieces()]
    assert names == [
        "json/__init__.py",
        "json/decoder.py",
        "json/encoder.py",
        "json/scanner.py",
        "json/tool.py",
        "textwrap.py",
    ]
    found = all_of(made)
    assert all(isinstance(one, Found) and (one.licence, one.language) == ("PSF-2.0", "python") for one in found)
    everything = [piece.name for piece in source("standard_library").pieces()]
    assert len(everything) > 200
    assert not [name for name in everything if "site-packages" in name or "/test" in name]
    with pytest.raises(DataError, match="none of"):
        source("standard_library", modules=["no_such_module"]).pieces()


def test_a_planted_benchmark_item_is_found_and_ordinary_code_is_not() -> None:
    items = [
        BenchmarkItem(
            "bench", "7", "def add_all(values): return the sum of all of the values that are even numbers only"
        ),
        BenchmarkItem("bench", "8", "seven words are enough for this one"),
        BenchmarkItem("bench", "9", "too short"),
    ]
    overlap = Overlap(items, OverlapSettings())
    assert (overlap.num_items, overlap.num_too_short) == (3, 1)
    hit = overlap.find("x = 1\n" * 200 + "# Return THE sum, of all of the values -- that are even\n" + "y = 2\n" * 200)
    assert hit is not None
    assert (hit.benchmark, hit.item, hit.words) == ("bench", "7", "return the sum of all of the values that are")
    assert overlap.find("Seven words are enough, for this one!") is not None
    assert overlap.find("return the sum of all of the values; that were even numbers only") is None
    assert overlap.find("too short") is None
    assert Overlap([], OverlapSettings()).find("anything") is None
    dropped = list(documents_of(Found("p", "seven words are enough for this one"), "s", CheckSettings(), overlap))
    assert isinstance(dropped[0], Drop)
    assert (dropped[0].reason, dropped[0].detail["item"]) == ("contaminated", "8")


def varied(seed: int, changes: int) -> str:
    """200 words, of which the first so many differ from those of the same seed."""
    draw = np.random.default_rng(seed)
    words = [f"w{n}" for n in draw.integers(0, 5000, 200)]
    return " ".join([f"new{seed}x{i}" for i in range(changes)] + words[changes:])


def test_signatures_estimate_the_true_overlap() -> None:
    sign = Signer(NearSettings())
    for changes in (0, 5, 15, 60, 200):
        one, other = varied(1, 0), varied(1, changes)
        sets = [set(sign.shingles(text).tolist()) for text in (one, other)]
        true = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        assert (sign(one) == sign(other)).mean() == pytest.approx(true, abs=0.13)


def test_near_repeats_are_those_that_datasketch_finds(tmp_path: Path) -> None:
    texts = [varied(seed, changes) for seed in range(30) for changes in (0, 4, 90)]
    sign = Signer(NearSettings())
    np.concatenate([sign(text) for text in texts]).tofile(tmp_path / "s")
    first = near_groups(tmp_path / "s", np.ones(len(texts), bool), 0.8)
    index = datasketch.MinHashLSH(threshold=0.8, num_perm=128)
    wanted = []
    for number, text in enumerate(texts):
        sketch = datasketch.MinHash(num_perm=128)
        sketch.update_batch([np.uint64(n).tobytes() for n in sign.shingles(text)])
        wanted.append(min(index.query(sketch), default=number))
        index.insert(number, sketch)
    assert first.tolist() == wanted
    assert sum(first != np.arange(len(texts))) == 30
    apart = near_groups(tmp_path / "s", np.arange(len(texts)) % 3 != 1, 0.8)
    assert (apart == np.arange(len(texts))).all()
    assert first_of_each(np.asarray([3, 1, 3, 1], np.uint64)).tolist() == [True, True, False, False]


def build(near: float = 0.8, **settings: Any) -> Build:
    return Build(CheckSettings(**settings), NearSettings(similarity=near), exact=True, overlap=NONE, overlap_key="")


def processed(folder: Path, cache: Path, made: Build) -> list[Kept]:
    return [made.process("files", {}, piece, Cache(cache)) for piece in source("files", path=folder).pieces()]


def test_one_file_added_is_one_file_processed(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    for number in range(4):
        (data / f"f{number}.txt").write_text(varied(number, 0))
    assert [one.is_new for one in processed(data, cache, build())] == [True] * 4
    assert [one.is_new for one in processed(data, cache, build())] == [False] * 4
    (data / "f15.txt").write_text(varied(15, 0))
    assert [one.piece.name for one in processed(data, cache, build()) if one.is_new] == ["f15.txt"]
    (data / "f2.txt").write_text(varied(16, 0))
    assert [one.piece.name for one in processed(data, cache, build()) if one.is_new] == ["f2.txt"]
    assert all(one.is_new for one in processed(data, cache, build(min_chars=5))), "other settings are another corpus"


def test_repeats_over_all_pieces_keep_the_first_and_name_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name, text in (("a", varied(1, 0)), ("b", varied(2, 0)), ("c", varied(1, 0)), ("d", varied(2, 3))):
        (data / f"{name}.txt").write_text(text)
    made = build()
    out = list(made.documents(processed(data, tmp_path / "cache", made), tmp_path))
    kept = [one for one in out if isinstance(one, Document)]
    assert [one.source for one in kept] == ["files/a.txt", "files/b.txt"]
    assert [(one.id, one.reason, one.detail["repeats"]) for one in out if isinstance(one, Drop)] == [
        ("c.txt:1", "exact_repeat", kept[0].id), ("d.txt:1", "near_repeat", kept[1].id),
    ]  # fmt: skip
    off = build(near=1.0)
    out = list(off.documents(processed(data, tmp_path / "cache", off), tmp_path))
    assert [one.reason for one in out if isinstance(one, Drop)] == ["exact_repeat"]


def documents(*texts: str, source: str = "s") -> list[Document]:
    return [Document(f"{number:016x}", text, source) for number, text in enumerate(texts)]


def test_what_was_encoded_is_kept_for_its_own_tokenizer_alone(tmp_path: Path) -> None:
    texts = [varied(seed, 0) for seed in range(6)]
    small, large = (train_tokenizer(texts, TrainerSettings(vocabulary=size)) for size in (270, 320))
    group = documents(*texts)
    for tokenizer, fresh in ((small, True), (large, True), (small, False), (large, False)):
        encoded = GroupEncoder(tokenizer, Cache(tmp_path))(group)
        assert encoded.is_new is fresh
        assert [encoded.of(i).tolist() for i in range(6)] == tokenizer.encode_batch(texts)
    assert GroupEncoder(small, Cache(tmp_path))(group[:5]).is_new


def test_groups_are_of_one_source_and_lose_no_document() -> None:
    mixed = [*documents("a", "b", source="x"), *documents("c", source="y"), *documents("d", source="x")]
    assert [[d.text for d in group] for group in groups_of(mixed)] == [["a", "b"], ["c"], ["d"]]
    long = documents(*["z" * (3 << 20)] * 5)
    assert [len(group) for group in groups_of(long)] == [2, 2, 1]


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown key 'pth'"):
        source("files", pth="x")
