"""A model behind an OpenAI-compatible endpoint: what is sent, what it may cost, how its replies are read."""
