"""Imports inside the package point one way: each module uses only modules of lower layers."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "bayes_cannon"

# From low to high. Modules of one layer do not import each other. A new module gets a place here.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "_version",
        "apogee_names",
        "archive_flags",
        "cores",
        "digests",
        "errors",
        "figure_files",
        "label_ops",
        "model_error_op",
        "packing",
        "pixel_kernels",
        "pixel_prior",
        "scatter_search",
        "published",
    ),
    (
        "columns",
        "fill_values",
        "user_paths",
    ),
    (
        "advi_step",
        "air",
        "bits",
        "blocks",
        "cli_errors",
        "figure_files",
        "fitsfile",
        "folder_lock",
        "http_client",
        "mass_contours",
        "mist_files",
        "model_error",
        "numerical",
        "pixel_fit",
        "population",
        "posterior_moments",
        "priors",
        "resources",
        "run_inputs",
        "run_progress",
        "sdss",
        "software",
        "spectra",
        "spectrum_files",
        "storage",
        "training_priors",
    ),
    (
        "factors",
        "first_scatter",
        "redundancy",
        "fetch",
        "fits_image",
        "isochrones",
        "label_moments",
        "labels",
        "library",
        "lines",
        "observatory",
        "prior_files",
        "report_html",
        "run_read",
        "star_facts",
        "whitening",
    ),
    ("arguments",),
    ("label_units",),
    (
        "apstar_layout",
        "download_manifest",
        "catalogue",
        "features",
        "fits_table",
        "map_fit",
        "plots_common",
        "sbc",
        "scores",
        "telescope",
        "transfer",
        "whitened_model",
    ),
    (
        "advi",
        "allstar",
        "allstar_download",
        "apogee",
        "archive_copy",
        "cannon",
        "check",
        "choose_factors",
        "cli_progress",
        "error_terms",
        "label_errors",
        "plots_posterior",
        "plots_stars",
        "result_tables",
        "simulation_settings",
        "training_model",
        "training_draws",
        "truth_file",
    ),
    (
        "cli_check",
        "compression",
        "continuum",
        "cuts",
        "label_flags",
        "label_model",
        "gradient_lines",
        "plots_check",
        "closed_form_sbc",
        "plots_sbc",
        "plots_kiel",
        "plots_training",
        "residuals",
        "simulated_stars",
        "skyserver",
        "survey",
    ),
    (
        "aspcap_tables",
        "continuum_pixels",
        "dataset",
        "diagnostics",
        "download_select",
        "full_likelihood",
        "label_sampler",
        "mode_search",
        "own_arrays",
        "own_labels",
        "plots_gradients",
        "plots_spectra",
        "sequences",
        "simulated_catalogue",
        "star_story",
    ),
    (
        "aspcap_comparison",
        "calibration",
        "training_sbc",
        "download",
        "label_modes",
        "own_files",
        "plots_corner",
        "plots_diagnostics",
        "plots_sample",
        "plots_sequences",
        "reading",
        "simulated_files",
    ),
    (
        "cross_validation",
        "inference_settings",
        "label_checks",
        "missing_labels",
        "model_priors",
        "own_spectra",
        "plots_comparison",
        "plots_disagreement",
        "preparing",
        "simulate",
    ),
    (
        "cli_inputs",
        "finishing",
        "gaia_xp",
        "model_error_fit",
        "plots",
        "posterior_tree",
        "run_digest",
        "run_store",
    ),
    (
        "report_inputs",
        "star_block",
    ),
    (
        "infer",
        "report_loading",
        "run_corners",
        "train",
    ),
    (
        "report_parts",
        "label_sbc",
        "run",
    ),
    ("report_registry",),
    (
        "report_settings",
        "report_tables",
        "run_check",
    ),
    ("report_figures",),
    (
        "report_aspcap",
        "report_mystery",
        "report_physics",
    ),
    ("report_sections",),
    ("report",),
    ("demo",),
    ("cli",),
    ("__main__",),
)
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported_modules(source: str) -> set[str]:
    """Modules of the package that a source text imports, late and type-only imports included.

    The package itself is the empty name; a relative import is given with its dots.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            names.add("." * node.level + (node.module or ""))
        elif isinstance(node, ast.ImportFrom) and node.module == "bayes_cannon":
            names.update(
                f"bayes_cannon.{alias.name}" if alias.name in RANK else "bayes_cannon"
                for alias in node.names
            )
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    ours = {name for name in names if name.split(".")[0] in {"bayes_cannon", ""}}
    return {name if name.startswith(".") else name[len("bayes_cannon.") :] for name in ours}


def wrong_imports(module: str, source: str) -> list[str]:
    """What a module imports from the package and must not."""
    return sorted(
        name for name in imported_modules(source) if name not in RANK or RANK[name] >= RANK[module]
    )


def test_every_module_has_one_layer() -> None:
    listed = [module for layer in LAYERS for module in layer]
    assert len(listed) == len(set(listed))
    unlisted = SOURCES.keys() - set(listed) - {"__init__"}
    assert not unlisted, f"give these modules a place in LAYERS: {sorted(unlisted)}"


@pytest.mark.parametrize("module", [name for name in SOURCES if name in RANK])
def test_module_imports_only_lower_layers(module: str) -> None:
    source = SOURCES[module].read_text(encoding="utf-8")
    assert wrong_imports(module, source) == []


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from bayes_cannon.errors import LabelError", []),
        ("from bayes_cannon import errors\nimport bayes_cannon.spectra\nimport numpy", []),
        ("from bayes_cannon.infer import infer_labels", ["infer"]),
        ("import bayes_cannon.infer as x", ["infer"]),
        ("from bayes_cannon import infer", ["infer"]),
        ("def f():\n    from bayes_cannon.infer import infer_labels", ["infer"]),
        ("if TYPE_CHECKING:\n    from bayes_cannon.cli import main", ["cli"]),
        ("from bayes_cannon.catalogue import catalogue", ["catalogue"]),
        ("from bayes_cannon import open_survey", [""]),
        ("import bayes_cannon as bc", [""]),
        ("from .errors import LabelError", [".errors"]),
        ("from . import errors", ["."]),
        ("from bayes_cannon.unheard_of import x", ["unheard_of"]),
    ],
)
def test_wrong_imports_are_seen(source: str, wrong: list[str]) -> None:
    assert wrong_imports("features", source) == wrong
