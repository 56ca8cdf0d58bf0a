"""Draw the PyMC models as graphs into ``docs/models/``; needs Graphviz (``dot``).

    python docs/draw_models.py

A few stars and pixels are enough: a graph shows dims and distributions, not data.
"""

from pathlib import Path

import numpy as np
import pymc as pm

import bayes_cannon as bc
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.hyperparameters import TrainingPriors

OUT = Path(__file__).parent / "models"
N_STARS, N_PIXELS, N_FACTORS = 30, 40, 3


def example_labels() -> bc.Labels:
    rng = np.random.default_rng(1)
    values = rng.normal([4700, 2.4, -0.3, 0.1, 0.1], [300, 0.6, 0.3, 0.1, 0.1], (N_STARS, 5))
    errors = np.broadcast_to([30, 0.06, 0.02, 0.03, 0.03], values.shape)
    return bc.Labels(
        bc.DEFAULT_LABELS, values, errors, np.array([f"star {i}" for i in range(N_STARS)])
    )


def models() -> dict[str, pm.Model]:
    """Every public builder once."""
    rng = np.random.default_rng(2)
    labels = example_labels()
    basis = PolynomialBasis.from_labels(labels, 2)
    features = basis.features(basis.standardize(labels.values))
    flux = 1 + 0.01 * rng.standard_normal((N_STARS, N_PIXELS))
    ivar = np.full(flux.shape, 1e4)
    priors = bc.models.LabelPriors.for_labels(basis.names)
    A, b = np.eye(basis.n_terms), np.zeros(basis.n_terms)
    return {
        "training-model": bc.models.build_training_model(
            flux, ivar, features, priors=TrainingPriors()
        ),
        "factor-model": bc.models.build_factor_model(flux, ivar, features, N_FACTORS),
        "label-error-model": bc.models.build_label_error_model(flux, ivar, labels, basis),
        "label-model": bc.models.build_label_model(basis, priors, A=A, b=b),
        "plain-model": bc.models.build_plain_model(basis, priors, A, b),
    }


def main() -> None:
    OUT.mkdir(exist_ok=True)
    for name, model in models().items():
        graph = pm.model_to_graphviz(model)
        graph.attr(rankdir="TB", bgcolor="white")
        graph.attr("node", fontname="Helvetica", fontsize="12")
        (OUT / f"{name}.svg").write_text(graph.pipe(format="svg", encoding="utf-8"))


if __name__ == "__main__":
    main()
