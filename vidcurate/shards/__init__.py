"""Selected clips to bucketed tar shards and their index."""
