"""The command that writes a trained model for other programs."""
