"""Where completions come from: one file per kind of completer, the registry is this folder."""
