"""What a simulated survey is like."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.telescope import InstrumentSettings

__all__ = ["DECOY_REASONS", "SimulationSettings", "settings_as_text"]

DECOY_REASONS = (
    "SNR", "LOGG", "TEFF", "FE_H", "STAR_BAD", "STARFLAG_0", "STARFLAG_3", "STARFLAG_18",
    "STARFLAG_22", "DUPLICATE", "MISSING_LABEL",
)  # fmt: skip
"""What is wrong with a decoy: one reason for each cut of a survey."""


@dataclass(frozen=True)
class SimulationSettings:
    """What a simulated survey is like.

    Attributes
    ----------
    snr_median, snr_sigma : float
        Median of the log-normal distribution of the S/N per pixel of combined spectra, and its
        standard deviation in ln(S/N).
    snr_range : (float, float)
        Ends of that distribution.
    visit_shares : tuple of float
        Share of stars with 1, 2, 3, … visits.
    label_error_scale : float
        Multiplies the true errors of catalogue labels and the quoted ones alike. At 0 the
        labels are exact, and the quoted errors are a millionth of the usual ones.
    decoys_per_cut : int
        Number of stars that each cut must remove (see `DECOY_REASONS`).
    instrument : InstrumentSettings

    Raises
    ------
    InvalidDataError
        On values that make no sense together.
    """

    snr_median: float = 150.0
    snr_sigma: float = 0.5
    snr_range: tuple[float, float] = (56.0, 500.0)
    visit_shares: tuple[float, ...] = (0.50, 0.22, 0.18, 0.10)
    label_error_scale: float = 1.0
    decoys_per_cut: int = 5
    instrument: InstrumentSettings = field(default_factory=InstrumentSettings)

    def __post_init__(self) -> None:
        low, high = self.snr_range
        shares = np.asarray(self.visit_shares, dtype=np.float64)
        wrong = {
            "snr_range and snr_median": not 0 < low < self.snr_median < high < np.inf,
            "snr_sigma": not 0 <= self.snr_sigma < np.inf,
            "visit_shares": not (
                shares.size and np.all(shares >= 0) and abs(shares.sum() - 1) < 1e-9
            ),
            "label_error_scale": not 0 <= self.label_error_scale < np.inf,
            "decoys_per_cut": self.decoys_per_cut != int(self.decoys_per_cut)
            or self.decoys_per_cut < 0,
        }
        if any(wrong.values()):
            raise InvalidDataError(
                f"{', '.join(name for name, bad in wrong.items() if bad)} of the simulation "
                "cannot be used: S/N must be positive with low < median < high, shares of visits "
                "must add up to 1, and nothing may be negative."
            )


def settings_as_text(settings: SimulationSettings) -> str:
    """One line with every setting, for the history of files."""
    return ", ".join(
        f"{f.name}={getattr(part, f.name)}"
        for part in (settings, settings.instrument)
        for f in fields(part)
        if f.name != "instrument"
    )
