"""A finished run on disk, made with the real writers: base answers, calibrated data, training, evaluation."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rung.base.fingerprint import Code, content_hash, hash_file
from rung.records.manifest import FileInfo, Manifest, identity_text, write_manifest
from rung.records.shards import write_shard
from rung.records.types import Answer, Critique, Drop, SftRecord, TestItem, record_id

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
TYPES = ("capitals", "counting", "translation")
CODE = Code(commit="c0ffee" + "0" * 34, branch="main", dirty=False, source_hash="5" * 64)


def write_output(
    runs: Path, run: str, name: str, records: Mapping[str, tuple[str, Sequence[Any]]] | None = None, **fields: Any
) -> Manifest:
    """One finished stage below `runs/run/name`."""
    folder = runs / run / name
    folder.mkdir(parents=True, exist_ok=True)
    settings = fields.pop("settings", {})
    parents = fields.pop("parents", {})
    identity = identity_text(fields.get("stage", name), 1, settings, parents, 0)
    shards = {
        output: [write_shard(folder, f"{output}-0000.jsonl.zst", kind, list(values))]
        for output, (kind, values) in (records or {}).items()
    }
    values = {
        "run": run,
        "name": name,
        "stage": name,
        "stage_version": 1,
        "fingerprint": content_hash(identity.encode()),
        "identity": identity,
        "settings": settings,
        "parents": parents,
        "shards": shards,
        "code": CODE,
        "started": "2026-01-01T00:00:00Z",
        "ended": "2026-01-01T00:01:00Z",
        "outcome": "done",
        **fields,
    }
    manifest = Manifest.model_validate(values)
    write_manifest(folder, manifest)
    return manifest


def an_item(index: int) -> TestItem:
    kind = TYPES[index % len(TYPES)]
    return TestItem(
        f"item{index:03d}", f"Question {index}: say it.", kind, f"{kind}-{index % 9}", {"contains": {}}, "x"
    )


def an_answer(item: TestItem, condition: str, passed: bool, text: str) -> Answer:
    verdicts = {"contains": {"value": float(passed), "reason": "found" if passed else "the answer is missing"}}
    return Answer(
        id=record_id(item.id, condition), item_id=item.id, condition=condition, type=item.type,
        prompt=item.instruction, text=text, finish_reason="stop" if passed else "length", passed=passed,
        abstained=False, verdicts=verdicts,
    )  # fmt: skip


def answers(condition: str, rate: float, count: int = 90) -> list[Answer]:
    draw = random.Random(condition)
    made = []
    for index in range(count):
        passed = draw.random() < rate
        text = HOSTILE if index == 0 else f"the answer is {index}" if passed else "and then the the the the"
        made.append(an_answer(an_item(index), condition, passed, text))
    return made


def a_critique(margin: float) -> Critique:
    return Critique(
        critic="information_gain", is_good=margin > 0, confident=margin >= 0.2, predicted_label="A", logp_a=-1.0,
        logp_b=-1.0 - margin, margin=abs(margin), signed_margin=margin, confidence_threshold=0.2,
    )  # fmt: skip


def an_sft_record(index: int, raw: str = "", response: str = "") -> SftRecord:
    said = response or f"Answer {index}."
    return SftRecord(
        id=f"record{index:03d}", instruction=f"Do thing {index}.", response=said, type=TYPES[index % 3],
        prompt="p", training_prompt="p", completion=f" {said}", raw_response=raw or said, finish_reason="stop",
        num_response_tokens=4, instruction_critique=None, pair_critique=a_critique(0.25 + index / 40),
        metadata={"seed": index},
    )  # fmt: skip


def a_calibration(critic: str, area: float) -> dict[str, Any]:
    auc = {"value": area, "low": area - 0.1, "high": min(1.0, area + 0.1)}
    counts = {"num_accepted": 3, "num_judged": 34, "low": 0.03, "high": 0.23}
    rows = [
        {"threshold": t / 10, "precision": 0.5 + t / 20, "recall": 1 - t / 10, "num_good": 30, "num_bad": 5}
        for t in range(9)
    ]
    return {
        "critic": critic, "record": {"critic": critic}, "target": "pair", "settings": {}, "seed": 0, "num_pairs": 34,
        "num_bad": 204, "num_abstained_good": 0, "num_abstained_bad": 0, "overall": auc,
        "kinds": {k: {"auc": auc, "accepted": counts, "mandated": k != "truncated"} for k in ("echo", "truncated")},
        "by_margin": rows, "threshold": 0.2, "cross_fit": {"precision": None, "good": counts, "bad": counts},
        "position": None, "verdict": {"may_gate": area > 0.6, "reasons": [f"AUC {area} against 0.6"]},
    }  # fmt: skip


def write_run(runs: Path, run: str = "demo", tuned_rate: float = 0.7) -> Path:
    """Probe, bootstrap, sft and evaluate, linked by fingerprints."""
    items = [an_item(i) for i in range(90)]
    probe = write_output(
        runs, run, "probe",
        {
            "items": ("test_item", items),
            "raw": ("answer", answers("raw", 0.02)),
            "framed": ("answer", answers("framed", 0.2)),
        },
        spend={"seconds": 31.0, "tokens": 9000}, estimate={"seconds": 40.0},
        model={"source": "tiny:llama", "report": {"model_name": "tiny:llama", "verdict": "clean", "sentinel_results": [
            {"name": "translate", "prompt": "Translate 'dog':", "text": f"A {HOSTILE}", "passed": True, "reason": "r"}
        ]}},
    )  # fmt: skip
    kept = [an_sft_record(i) for i in range(20)]
    kept[3] = an_sft_record(3, raw="Paris is the capital.\nInstruction: now", response="Paris is the capital.")
    runaway = Drop("d1", "Fine so far.\nQ: next question", "runaway", "new prompt pattern", (12, 15))
    data = write_output(
        runs, run, "bootstrap",
        {
            "records": ("sft", kept),
            "drops": ("drop", [runaway, Drop("d2", HOSTILE, "critic", "low confidence")]),
            "flags": ("drop", [Drop("record003", "Paris is the capital.", "brevity", "short answer", (0, 5))]),
        },
        parents={"gap": probe.fingerprint}, started="2026-01-01T00:02:00Z",
        calibration={"0": a_calibration("choice", 0.53), "1": a_calibration("information_gain", 0.98)},
        gate={"passed": True, "reasons": [], "rules": [
            {"name": "runaway_rate", "value": 0.0, "limit": 0.05, "passed": True, "lower_is_better": True},
            {"name": "pair_acceptance", "value": 0.77, "limit": 0.5, "passed": True, "lower_is_better": False},
        ]},
        figures={"qc": {"pair_acceptance": 0.77}}, settings={"count": 20, "temperature": 0.7},
        drops={"new prompt pattern": 1, "low confidence": 1}, spend={"seconds": 200.0, "tokens": 50_000},
        estimate={"seconds": 180.0}, degraded=[{"what": "bitsandbytes", "how": "plain LoRA in float32"}],
    )  # fmt: skip
    curve = runs / run / "sft" / "curve.jsonl"
    curve.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"step": s, "train_loss": 3.0 / (1 + s / 20), "heldout_loss": 3.2 / (1 + s / 25)} for s in range(0, 100, 5)]
    curve.write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    sft = write_output(
        runs, run, "sft", parents={"data": data.fingerprint}, started="2026-01-01T00:05:00Z",
        files=[FileInfo(name="curve.jsonl", sha256=hash_file(curve), role="curve")],
        figures={"num_steps": 95, "final_heldout_loss": 0.66}, bypasses=["provenance"], spend={"seconds": 120.0},
    )  # fmt: skip
    write_output(
        runs, run, "evaluate", {"answers": ("answer", answers("tuned", tuned_rate))},
        parents={"model": sft.fingerprint, "base": probe.fingerprint}, started="2026-01-01T00:08:00Z",
        gate={"passed": True, "reasons": ["tuned beats raw and framed, p < 0.01"]}, bypasses=["provenance"],
        spend={"seconds": 30.0, "tokens": 7000}, estimate={"seconds": 30.0},
    )  # fmt: skip
    return runs / run
