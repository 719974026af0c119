"""From rewards to advantages, as pure functions; one file each, the registry is this folder."""
