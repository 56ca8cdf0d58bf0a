"""The closed form of single pixels: coefficients, scatter, and the population they come from."""
