"""Reading packed shards into training: order, state, stores, decoding, batches."""
