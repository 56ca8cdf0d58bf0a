"""The true labels of a simulated survey, ``truth.ecsv``."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from astropy.table import Table

from bayes_cannon.errors import FileFormatError
from bayes_cannon.labels import DEFAULT_LABELS, Labels
from bayes_cannon.user_paths import user_path

__all__ = ["read_truth"]


def read_truth(path: str | os.PathLike[str], names: Sequence[str] = DEFAULT_LABELS) -> Labels:
    """Read true labels.

    Parameters
    ----------
    path
        ECSV table with ``STAR_ID`` and a column per label in K or dex, as `simulate_survey` writes
        it; or the folder of a simulated survey.
    names
        Labels to read; those the table lacks are left out.

    Returns
    -------
    Labels
        Without errors: true labels have none.

    Raises
    ------
    FileFormatError
        If the file is missing or is not such a table.
    """
    file = user_path(path)
    file = file / "truth.ecsv" if file.is_dir() else file
    try:
        table = Table.read(file, format="ascii.ecsv")
    except FileNotFoundError as error:
        raise FileFormatError(f"{file} does not exist; give the truth.ecsv of a survey.") from error
    except Exception as error:
        raise FileFormatError(
            f"{file} cannot be read as an ECSV table ({type(error).__name__})."
        ) from error
    found = [n for n in names if n in table.colnames]
    if "STAR_ID" not in table.colnames or not found:
        raise FileFormatError(
            f"{file} holds no true labels: STAR_ID and one of {', '.join(names)} are needed."
        )
    star_id = np.asarray(table["STAR_ID"], dtype=np.str_)
    try:
        columns = [np.ma.filled(np.ma.asarray(table[n], dtype=np.float64), np.nan) for n in found]
    except (TypeError, ValueError) as error:
        raise FileFormatError(f"{file}: a label that is not a number ({error}).") from error
    values = np.stack(columns, axis=1)
    return Labels(tuple(found), values, np.full(values.shape, np.nan), star_id)
