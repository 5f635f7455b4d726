"""The trainer: a diffusion transformer (DiT) on packs of clips at their native sizes."""
