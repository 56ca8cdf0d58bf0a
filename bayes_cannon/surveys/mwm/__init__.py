"""SDSS-V's APOGEE spectra: mwmStar, mwmVisit and apStar files, and the catalogues of DR19 and DR20.

DR20 has no APOGEE spectra of its own: its files are those of DR19, by version 0.6.0 of astra.
https://www.sdss.org/dr19/data_access/ describes the products, https://data.sdss.org/datamodel/ the
files; what is said here of their columns was checked there and in the source of astra and
apogee_drp.
"""
