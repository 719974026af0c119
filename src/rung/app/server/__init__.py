"""The server: an OpenAI-compatible HTTP interface to one model that stays loaded. Needs the extra `serve`."""
