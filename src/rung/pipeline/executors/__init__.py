"""Ways to make the shards of one stage: in this process, in several on this machine, or on a Ray cluster."""
