"""How good a trained model is: generated clips against those of the split val."""
