"""What is kept of the draws of a star: diagnostics, moments, a Student t."""
