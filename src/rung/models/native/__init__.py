"""Kernels of our own for processors: compiled on this machine where it has a compiler, used where they are faster."""
