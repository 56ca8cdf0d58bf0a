"""What the trained model looks like in its file."""
