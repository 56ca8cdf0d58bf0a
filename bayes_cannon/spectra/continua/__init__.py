"""Other ways to a continuum than polynomials through chosen pixels."""
