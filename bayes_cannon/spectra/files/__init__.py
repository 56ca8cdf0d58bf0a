"""Files of training sets: their groups and arrays."""
