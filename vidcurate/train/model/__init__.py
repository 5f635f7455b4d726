"""The diffusion transformer: packs of tokens in, predictions out."""
