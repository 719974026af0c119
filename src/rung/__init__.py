"""rung raises a language model from raw text to an aligned, reasoning coder, and proves every stage."""

import os

__version__ = "0.1.0"

# Read by Intel's MKL at its first product, so it must be set before anything computes. Its reproducible kernels give
# equal bits from run to run, and on an AMD processor they were also 1.2 to 1.6 times as fast (docs/LOG.md).
os.environ.setdefault("MKL_CBWR", "AUTO")

# Read by torch at its first large tensor: Linux then backs large tensors with pages of 2 MiB. A decode step reads all
# weights, and of small pages the processor remembers the places of too few (docs/LOG.md, 2026-11-30).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
