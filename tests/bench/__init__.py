"""`make bench`: what the system does a second, next to a naive baseline, as ratios of one run."""
