"""Precache: what frozen models make of packed clips, kept as a shard set of its own."""
