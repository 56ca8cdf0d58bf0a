"""Zarr stores written block by block: what is done is noted with sums; codecs are plain ones."""
