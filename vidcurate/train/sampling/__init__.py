"""Generating with a trained model: what it starts from, the ODE, a checkpoint to a video."""
