"""`rung` on several ranks of this machine: started by itself and by torchrun, stopped, resumed on one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from test_app_sft import sft, written

from rung.base.errors import Interrupted
from rung.records.manifest import Opened, open_manifest

ROOT = Path(__file__).parents[2]
SHARED = ("--set", "sft.training.devices.shard=2")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "rung")


def started(data: Path, *more: str, by: tuple[str, ...] = ("-m", "rung")) -> subprocess.Popen[str]:
    options = ["--model", "tiny:llama", "--allow-dirty", "--runs", str(data.parent / "runs"), "--quiet"]
    command = [sys.executable, *by, "sft", "--data", str(data), *options, "--set", "sft.training.learning_rate=5e-3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen([*command, *SHARED, *more], env=environment, stderr=subprocess.PIPE, text=True)


def trained(folder: Path) -> Opened:
    return open_manifest(folder / "runs" / "sft-data" / "sft")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs on one rank."""
    folder = tmp_path_factory.mktemp("alone")
    assert sft(written(folder / "data.jsonl"), "--epochs", "4") == 0
    return folder


def identity(stage: Opened) -> dict[str, Any]:
    """What it is known by, but for its inputs: these are other files."""
    return {key: value for key, value in json.loads(stage.manifest.identity).items() if key != "parents"}


def adapter(stage: Opened) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(stage.file("adapter").parent / "adapter_model.safetensors")


def test_ranks_that_torchrun_started_make_the_same_output(alone: Path, tmp_path: Path) -> None:
    job = started(written(tmp_path / "data.jsonl"), "--epochs", "4", by=TORCHRUN)
    said = job.communicate(timeout=240)[1]
    assert job.returncode == 0, said[-3000:]
    one, two = trained(alone), trained(tmp_path)
    assert identity(one) == identity(two)
    assert all(torch.allclose(tensor, adapter(two)[name], atol=1e-5) for name, tensor in adapter(one).items())
    assert two.manifest.settings["training"]["devices"]["shard"] == 2


def test_started_by_itself_stopped_and_resumed_on_one_rank(alone: Path, tmp_path: Path, capsys: Any) -> None:
    data = written(tmp_path / "data.jsonl")
    job = started(data, "--epochs", "60")
    events, ends = tmp_path / "runs" / "sft-data" / "events.jsonl", time.monotonic() + 200
    while not (events.is_file() and "sft/loss" in events.read_text()) and time.monotonic() < ends:
        assert job.poll() is None, job.communicate()[1][-3000:]
        time.sleep(0.1)
    job.send_signal(signal.SIGINT)
    said = job.communicate(timeout=120)[1]
    assert job.returncode == Interrupted.exit_code, said[-3000:]
    checkpoints = list((tmp_path / "runs" / "sft-data" / "sft").rglob("checkpoint-*"))
    assert len(checkpoints) == 1
    step = int(checkpoints[0].name.split("-")[1])
    assert 0 < step < 120
    assert sft(data, "--epochs", "60") == 0, capsys.readouterr().err
    assert trained(tmp_path).manifest.figures["num_steps"] == 120


def test_more_ranks_than_there_are_is_an_error_before_any_work(tmp_path: Path) -> None:
    job = started(written(tmp_path / "data.jsonl"), "--set", "sft.training.devices.context=2", by=TORCHRUN)
    said = job.communicate(timeout=240)[1]
    assert job.returncode != 0
    assert "it needs 4 ranks, the job has 2" in said
    assert not (tmp_path / "runs" / "sft-data" / "data" / "manifest.json").exists()
