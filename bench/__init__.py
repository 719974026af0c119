"""Speed and memory against other systems: paired, interleaved, as ratios. Run with `python -m bench`."""
