"""What an instruction can ask of a text, one kind per file; the registry is this folder."""
