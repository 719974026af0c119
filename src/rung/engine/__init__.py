"""L3: tokens in, tokens out. Knows no chat, no tools, no tasks."""
