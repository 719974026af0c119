"""L2: ways to spend compute on one prompt: one answer, many, tools, trees. No torch."""
