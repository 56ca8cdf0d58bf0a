"""A search for binaries with a known error rate: null, positives and evidence from one's survey."""
