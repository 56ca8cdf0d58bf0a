"""What a paper says of a run: a paragraph on methods, and whom to cite, from what was recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.rounding import two_digits
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.inference.posterior import model_is_simulated, which_simulated
from bayes_cannon.runs.results import Run, open_run
from bayes_cannon.spectra.label_kinds import label_kind

__all__ = [
    "Paragraph",
    "Reference",
    "methods_paragraph",
]


@dataclass(frozen=True)
class Reference:
    """A work to cite.

    Attributes
    ----------
    key : str
        Of the BibTeX entry.
    text : str
        As it stands in a sentence, such as ``'Ness et al. 2015'``.
    kind : str
        Kind of the BibTeX entry.
    fields : tuple of (str, str)
        Of the entry.
    """

    key: str
    text: str
    kind: str
    fields: tuple[tuple[str, str], ...]

    @property
    def bibtex(self) -> str:
        """The entry of a BibTeX file."""
        lines = [f"  {name} = {{{value}}}," for name, value in self.fields]
        return "\n".join([f"@{self.kind}{{{self.key},", *lines, "}"])


def _article(key: str, text: str, author: str, title: str, *where: str) -> Reference:
    journal, volume, pages, year, doi = where
    fields = (
        ("author", author), ("title", f"{{{title}}}"), ("journal", journal), ("volume", volume),
        ("pages", pages), ("year", year), ("doi", doi),
    )  # fmt: skip
    return Reference(key, text, "article", tuple(field for field in fields if field[1]))


_KNOWN: Mapping[str, Reference] = MappingProxyType({r.key: r for r in (
    _article(
        "Ness2015", "Ness et al. 2015",
        "Ness, M. and Hogg, D. W. and Rix, H.-W. and Ho, A. Y. Q. and Zasowski, G.",
        "The Cannon: A data-driven approach to Stellar Label Determination",
        "ApJ", "808", "16", "2015", "10.1088/0004-637X/808/1/16",
    ),
    _article(
        "AbrilPla2023", "Abril-Pla et al. 2023", "Abril-Pla, O. and others",
        "PyMC: a modern, and comprehensive probabilistic programming framework in Python",
        "PeerJ Computer Science", "9", "e1516", "2023", "10.7717/peerj-cs.1516",
    ),
    _article(
        "Hoffman2014", "Hoffman & Gelman 2014", "Hoffman, M. D. and Gelman, A.",
        "The No-U-Turn Sampler: Adaptively Setting Path Lengths in Hamiltonian Monte Carlo",
        "Journal of Machine Learning Research", "15", "1593", "2014", "",
    ),
    _article(
        "Kumar2019", "Kumar et al. 2019",
        "Kumar, R. and Carroll, C. and Hartikainen, A. and Martin, O.",
        "ArviZ a unified library for exploratory analysis of Bayesian models in Python",
        "JOSS", "4", "1143", "2019", "10.21105/joss.01143",
    ),
    _article(
        "Astropy2022", "Astropy Collaboration 2022", "{Astropy Collaboration}",
        "The Astropy Project: Sustaining and Growing a Community-oriented Open-source Project "
        "and the Latest Major Release (v5.0) of the Core Package",
        "ApJ", "935", "167", "2022", "10.3847/1538-4357/ac7c74",
    ),
    _article(
        "Blanton2017", "Blanton et al. 2017", "Blanton, M. R. and others",
        "Sloan Digital Sky Survey IV: Mapping the Milky Way, Nearby Galaxies, and the Distant "
        "Universe", "AJ", "154", "28", "2017", "10.3847/1538-3881/aa7567",
    ),
    _article(
        "Majewski2017", "Majewski et al. 2017", "Majewski, S. R. and others",
        "The Apache Point Observatory Galactic Evolution Experiment (APOGEE)",
        "AJ", "154", "94", "2017", "10.3847/1538-3881/aa784d",
    ),
    _article(
        "Wilson2019", "Wilson et al. 2019", "Wilson, J. C. and others",
        "The Apache Point Observatory Galactic Evolution Experiment (APOGEE) Spectrographs",
        "PASP", "131", "055001", "2019", "10.1088/1538-3873/ab0075",
    ),
    _article(
        "Nidever2015", "Nidever et al. 2015", "Nidever, D. L. and others",
        "The Data Reduction Pipeline for the Apache Point Observatory Galactic Evolution "
        "Experiment", "AJ", "150", "173", "2015", "10.1088/0004-6256/150/6/173",
    ),
    _article(
        "GarciaPerez2016", "García Pérez et al. 2016", "Garc{\\'\\i}a P{\\'e}rez, A. E. and others",
        "ASPCAP: The APOGEE Stellar Parameter and Chemical Abundances Pipeline",
        "AJ", "151", "144", "2016", "10.3847/0004-6256/151/6/144",
    ),
    _article(
        "Ahumada2020", "Ahumada et al. 2020", "Ahumada, R. and others",
        "The 16th Data Release of the Sloan Digital Sky Surveys: First Release from the APOGEE-2 "
        "Southern Survey and Full Release of eBOSS Spectra",
        "ApJS", "249", "3", "2020", "10.3847/1538-4365/ab929e",
    ),
    _article(
        "Abdurrouf2022", "Abdurro'uf et al. 2022", "{Abdurro'uf} and others",
        "The Seventeenth Data Release of the Sloan Digital Sky Surveys: Complete Release of "
        "MaNGA, MaStar, and APOGEE-2 Data",
        "ApJS", "259", "35", "2022", "10.3847/1538-4365/ac4414",
    ),
    _article(
        "Kollmeier2025", "Kollmeier et al. 2025", "Kollmeier, J. A. and others",
        "Sloan Digital Sky Survey-V: Pioneering Panoptic Spectroscopy",
        "arXiv e-prints", "", "arXiv:2507.06989", "2025", "",
    ),
    _article(
        "SDSS2025", "SDSS Collaboration 2025", "{SDSS Collaboration}",
        "The Nineteenth Data Release of the Sloan Digital Sky Survey",
        "arXiv e-prints", "", "arXiv:2507.07093", "2025", "",
    ),
    _article(
        "Gaia2023", "Gaia Collaboration 2023", "{Gaia Collaboration}",
        "Gaia Data Release 3. Summary of the content and survey properties",
        "A&A", "674", "A1", "2023", "10.1051/0004-6361/202243940",
    ),
)})  # fmt: skip
_APOGEE = ("Majewski2017", "Wilson2019", "Nidever2015", "GarciaPerez2016")
_RELEASES = {"dr16": "Ahumada2020", "dr17": "Abdurrouf2022", "dr19": "SDSS2025"}
_READERS = {"apogee": "Blanton2017", "mwm": "Kollmeier2025", "sdss5-apstar": "Kollmeier2025"}
"""Whom to cite for the survey that a reader reads."""


@dataclass(frozen=True)
class Paragraph:
    """A paragraph on how a run was made.

    Attributes
    ----------
    text : str
        The paragraph, in plain text.
    references : tuple of Reference
        Whom it cites, the package first.
    missing : tuple of str
        What the run does not record, and so the paragraph does not say.
    """

    text: str
    references: tuple[Reference, ...]
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def bibtex(self) -> str:
        """All references as a BibTeX file."""
        return "\n\n".join(reference.bibtex for reference in self.references) + "\n"


def methods_paragraph(run: Run | str | os.PathLike[str]) -> Paragraph:
    """Describe how the labels of a run were made, for the section on methods of a paper.

    Everything is taken from what the run recorded, in ``summary.json`` and in its model's settings;
    nothing that is not there is said.

    Parameters
    ----------
    run
        A run, or its folder.

    Returns
    -------
    Paragraph
        Its text and references, and what is not known of the run.

    Raises
    ------
    FileFormatError
        If there is no run, or it is damaged.
    InvalidDataError
        If its labels were not inferred by this package: it has no summary.
    """
    run = run if isinstance(run, Run) else open_run(run)
    if not run.summary:
        raise InvalidDataError(
            f"the run {run.folder} has no summary.json, which says how it was made; repeat the "
            "command that made it, which writes it."
        )
    model = run.summary.get("model") or {}
    facts = _Facts(run, model.get("dataset") or {}, model.get("training") or {}, [], {})
    parts = (_model, _training, _inference, _errors, _outcome, _software)
    text = " ".join(sentence for part in parts for sentence in part(facts))
    if run.simulated:
        which = which_simulated(run.result)
        of_which = "The" if which.all() else f"{which.sum()} of {which.size}"
        text = f"[{of_which} spectra of this run are simulated.] {text}"
    own = _package(facts.version)
    cited = [_KNOWN[key] for key in facts.cited]
    return Paragraph(text, (own, *cited), tuple(facts.missing))


@dataclass(frozen=True, eq=False)
class _Facts:
    """What is known of a run, and what was cited and missed so far."""

    run: Run
    dataset: Mapping[str, Any]
    training: Mapping[str, Any]
    missing: list[str]
    cited: dict[str, None]

    def cite(self, *keys: str) -> str:
        """References in brackets."""
        self.cited.update(dict.fromkeys(keys))
        return f"({'; '.join(_KNOWN[key].text for key in keys)})"

    @property
    def version(self) -> str:
        """Of the package that trained the model."""
        versions = (self.run.summary.get("model") or {}).get("versions") or {}
        return str(versions.get("bayes_cannon") or self.dataset.get("bayes_cannon") or "")


def _package(version: str) -> Reference:
    fields = (
        ("author", "{bayes\\_cannon developers}"),
        ("title", "{bayes\\_cannon: posteriors of stellar labels from APOGEE spectra}"),
        ("version", version),
        ("year", "2026"),
    )
    return Reference(
        "bayes_cannon", "bayes_cannon", "software", tuple(field for field in fields if field[1])
    )


def _model(facts: _Facts) -> Iterator[str]:
    names = [label_kind(name).plain for name in facts.run.names]
    version = f" version {facts.version}" if facts.version else ""
    if not version:
        facts.missing.append("version of the package")
    yield (
        f"We inferred {_listed(names)} of {count_text(len(facts.run), 'star')} with "
        f"bayes_cannon{version}, The Cannon {facts.cite('Ness2015')} written as models in PyMC "
        f"{facts.cite('AbrilPla2023')}."
    )


def _training(facts: _Facts) -> Iterator[str]:
    made = facts.training
    degree = made.get("degree")
    try:
        pixels = f"each of {int(np.sum(facts.run.cannon.used))} pixels"
    except FileFormatError:
        pixels = "each pixel"
        facts.missing.append("number of pixels (the file of the model is gone)")
    polynomial = f"a polynomial of degree {degree}" if degree else "a polynomial"
    text = (
        f"The flux of {pixels} is {polynomial} in the labels with an intrinsic scatter; the "
        "coefficients of all pixels share a normal prior whose covariance is learnt"
    )
    factors = made.get("chosen_factors")
    if factors:
        chosen = made.get("n_factors") == "auto"
        why = ", their number chosen by predictive density" if chosen else ""
        plural = "s" if factors != 1 else ""
        text += f", with {factors} nuisance factor{plural}{why}"
    elif factors is None:
        facts.missing.append("number of nuisance factors")
    if terms := made.get("chosen_terms"):
        text += f", and terms of known form ({_listed(list(terms))})"
    yield f"{text}."
    if made.get("n_stars") is None:
        facts.missing.append("number of training stars")
        return
    errors = made.get("latent_labels")
    how = {True: "whose errors were modelled", False: "taken as exact"}
    yield (
        f"The model was trained on {count_text(int(made['n_stars']), 'star')}{_source(facts)}"
        f"{_cuts(facts)}, with catalogue labels {how[bool(errors)]}."
    )
    windows = made.get("windows") or {}
    if windows:
        kept = _listed([label_kind(name).plain for name in windows])
        yield f"{kept} {'was' if len(windows) == 1 else 'were'} confined to windows in wavelength."


def _source(facts: _Facts) -> str:
    """Survey of the training stars, with whom to cite for it."""
    release = str(facts.dataset.get("release", "")).lower()
    if model_is_simulated(facts.run.result):
        return " (simulated)"
    if "Gaia" in str(facts.dataset.get("spectra", "")):
        return f" with Gaia XP spectra {facts.cite('Gaia2023')} and labels of APOGEE DR17 " + (
            facts.cite("Abdurrouf2022", *_APOGEE)
        )
    if survey := _READERS.get(str(facts.dataset.get("reader"))):
        keys = (survey, *_APOGEE, *filter(None, [_RELEASES.get(release)]))
        return f" of APOGEE {release.upper()} {facts.cite(*keys)}".replace("  ", " ")
    facts.missing.append("survey of the training stars")
    return ""


def _cuts(facts: _Facts) -> str:
    """Limits of the sample in words."""
    try:
        cuts = json.loads(facts.dataset.get("cuts") or "{}")
    except ValueError:
        return ""
    texts = {
        "snr_min": "S/N ≥ {:g}", "logg_max": "log g ≤ {:g}", "teff_max": "Teff ≤ {:g} K",
        "feh_min": "[Fe/H] ≥ {:g}",
    }  # fmt: skip
    limits = [text.format(cuts[key]) for key, text in texts.items() if cuts.get(key) is not None]
    return f" with {_listed(limits)}".replace("-", "−") if limits else ""


def _inference(facts: _Facts) -> Iterator[str]:
    settings = facts.run.settings
    if settings.get("method") == "nuts":
        how = (
            f"were sampled with the No-U-Turn Sampler {facts.cite('Hoffman2014')}, "
            f"{settings.get('chains', '?')} chains of {settings.get('draws', '?')} draws after "
            f"{settings.get('tune', '?')} steps of warm-up"
        )
    elif settings.get("method") == "laplace":
        how = "were drawn from the normal approximation at the mode of the posterior"
    else:
        facts.missing.append("method of inference")
        how = "were inferred"
    yield from _effective_pixels(facts)
    priors = facts.run.summary.get("priors") or {}
    given = [_prior(name, prior) for name, prior in priors.items()]
    if not given:
        facts.missing.append("priors")
    under = f", under the priors {_listed(given)}" if given else ""
    seed = f" (seed {settings['seed']})" if "seed" in settings else ""
    yield f"The labels of each star {how}{seed}{under}."


def _effective_pixels(facts: _Facts) -> Iterator[str]:
    """By what log likelihoods are divided, where that is not 1."""
    try:
        cannon = facts.run.cannon
        kappa = np.unique(np.concatenate([cannon.kappa, cannon.kappa_noise]))
    except FileFormatError:
        return  # said to be missing where the model's pixels are
    if kappa.size and kappa.max() > 1:
        ends = [f"{value:.1f}" for value in (kappa.min(), kappa.max())]
        yield (
            "The log likelihood of each chip is divided by the number of pixels per independent "
            f"one, {' to '.join(dict.fromkeys(ends))}, learnt by cross-validation."
        )


def _prior(name: str, prior: Mapping[str, Any]) -> str:
    """Prior of a label in words."""
    kind = label_kind(name)
    unit = "" if kind.unit in ("dex", "") else f" {kind.unit}"
    ends = f"from {_plain(prior.get('lower'))} to {_plain(prior.get('upper'))}{unit}"
    if prior.get("distribution") == "uniform":
        return f"{kind.plain} uniform {ends}"
    cut = f", cut {ends}" if prior.get("distribution") == "truncated" else ""
    numbers = f"{_plain(prior.get('mean'))} ± {_plain(prior.get('sd'))}{unit}"
    return f"{kind.plain} normal ({numbers}{cut})"


def _plain(number: float | None) -> str:
    return "∞" if number is None else f"{number:g}".replace("-", "−")


def _errors(facts: _Facts) -> Iterator[str]:
    folds = facts.training.get("folds")
    calibrated = "calibrated_posterior" in facts.run.result.children
    if calibrated:
        by = f"{folds}-fold cross-validation" if folds else "cross-validation"
        yield (
            "Uncertainties include, besides noise, scatter, factors and the errors of the "
            f"coefficients, a model error learnt by {by} within the training stars."
        )
    else:
        yield (
            "Uncertainties are formal: they hold noise, scatter, factors and the errors of the "
            "coefficients, and no model error."
        )
    suffix = "_ERR" if calibrated else "_FORMAL_ERR"
    shown = []
    for name in facts.run.names:
        values = np.asarray(facts.run.table[f"{name}{suffix}"], dtype=np.float64)
        if np.isfinite(values).any():
            kind = label_kind(name)
            unit = "" if kind.unit in ("dex", "") else f" {kind.unit}"
            shown.append(f"{two_digits(float(np.nanmedian(values)))}{unit} in {kind.plain}")
    if shown:
        yield f"Their medians are {_listed(shown)}."


def _outcome(facts: _Facts) -> Iterator[str]:
    found = facts.run.summary
    if found.get("n_failed"):
        yield f"{count_text(int(found['n_failed']), 'star')} have no posterior.".replace(
            "1 star have", "1 star has"
        )
    if "n_flagged" in found:
        n, of = int(found["n_flagged"]), int(found.get("n_stars", len(facts.run)))
        yield f"{n} of {of} carry a flag of the package (LABEL_FLAG)."
    converged = found.get("rhat_below_1.01")
    if converged is not None:
        yield f"R-hat is below 1.01 for {100 * float(converged):.0f} per cent of the stars."


def _software(facts: _Facts) -> Iterator[str]:
    versions = (facts.run.summary.get("model") or {}).get("versions") or {}
    sampled = facts.run.settings.get("method") == "nuts"
    told = [
        f"{name} {versions.get(key, '')}".strip()
        for name, key in (("PyMC", "pymc"), ("nutpie", "nutpie"))
        if key != "nutpie" or (sampled and versions.get(key))
    ]
    arviz = f"ArviZ {versions.get('arviz', '')}".strip()
    told += [f"{arviz} {facts.cite('Kumar2019')}", f"astropy {facts.cite('Astropy2022')}"]
    yield f"This work used {_listed(told)}."


def _listed(words: list[str]) -> str:
    """Words with commas and "and"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1] if words else ""]))
