"""What makes an example difficult; the pace is in `rung.train.curriculum`."""
