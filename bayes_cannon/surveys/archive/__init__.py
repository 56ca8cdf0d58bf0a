"""The SDSS archive: addresses, downloads that resume, SkyServer queries."""
