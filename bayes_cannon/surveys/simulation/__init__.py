"""A simulated survey from the shipped library of synthesised giants, marked as simulated."""
