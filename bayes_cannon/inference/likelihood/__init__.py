"""What the pixels of a star say of its labels: all of them, compressed, and of which kind."""
