"""Ways to run programs apart; one file each, the registry is this folder."""
