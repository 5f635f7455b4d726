"""A run's clips as media-free tables, from which others can rebuild the set."""
