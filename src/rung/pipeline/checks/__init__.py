"""The checks of `rung audit`: one file per silent bug, the registry is this folder."""
