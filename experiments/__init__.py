"""Measurements behind the numbers that rung claims: each module has `run(results_folder, quick)`."""
