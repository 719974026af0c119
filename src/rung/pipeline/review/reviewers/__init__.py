"""Who may be asked: one file per kind of reviewer, the registry is this folder."""
