"""Constraints: which tokens may come next so that the whole text obeys a rule. One kind, one file."""
