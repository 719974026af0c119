"""The only place rooms meet: one file per stage, the registry is this folder."""
