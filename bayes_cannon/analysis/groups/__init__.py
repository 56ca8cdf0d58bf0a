"""Stars that belong together: the mean and the intrinsic scatter of their labels."""
