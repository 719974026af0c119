"""Stories written through a completer: words, features, prompts, strategies that write them, validators that judge."""
