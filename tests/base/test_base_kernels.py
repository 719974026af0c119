"""Importing rung chooses MKL's reproducible kernels, unless the user chose otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("chosen", "expected"), [(None, "AUTO"), ("COMPATIBLE", "COMPATIBLE")])
def test_reproducible_kernels_are_chosen_before_anything_computes(chosen: str | None, expected: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "MKL_CBWR"}
    if chosen:
        environment["MKL_CBWR"] = chosen
    program = "import os, sys, rung; print(os.environ['MKL_CBWR'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"]
