"""Ways to run the shards of one stage: here, one after another."""
