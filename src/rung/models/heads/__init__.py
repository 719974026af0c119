"""Heads: small modules that read a hidden state; one file per kind, the folder is the registry."""
