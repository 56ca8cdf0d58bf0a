import dataclasses

import numpy as np
import pytest
import xarray as xr

from bayes_cannon.base.packing import pack, unpack
from bayes_cannon.errors import FileFormatError, InvalidDataError, OutputExistsError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.hyperparameters import Hyperparameters
from bayes_cannon.spectra.labels import Labels


def make_cannon(n_pixels=40, n_factors=2, seed=0) -> Cannon:
    rng = np.random.default_rng(seed)
    names = ("TEFF", "LOGG")
    values = rng.normal(size=(30, 2)) * [300, 0.5] + [4700, 2.4]
    training = Labels(names, values, np.array([10.0, 0.03]), np.arange(30).astype(str))
    basis = PolynomialBasis.from_labels(training)
    n = basis.n_terms + n_factors
    root = rng.normal(size=(n_pixels, n, n)) * 1e-3
    cov = root @ root.transpose(0, 2, 1)
    return Cannon(
        basis=basis,
        wavelength=np.linspace(15000, 15100, n_pixels),
        chips=((0, 20), (20, n_pixels)),
        theta=rng.normal(size=(n_pixels, basis.n_terms)) * 0.05 + np.eye(basis.n_terms)[0],
        loadings=rng.normal(size=(n_pixels, n_factors)) * 0.01,
        coef_cov=pack(cov).astype(np.float32),
        scatter=rng.uniform(0.001, 0.01, n_pixels),
        log_scatter_sd=np.full(n_pixels, 0.1),
        used=rng.random(n_pixels) < 0.9,
        hyper=Hyperparameters(0.02**2 * np.eye(n), -5.0, 0.5),
        training=training,
        held_out=np.array(["a", "2M0+é"]),
        factors=rng.normal(size=(30, n_factors)),
        history={"bound": np.array([1.0, 2.0]), "elbo": np.ones((2, 3))},
        settings={"training": {"method": "map", "seed": 1}},
        simulated=True,
    )


def assert_same(a: Cannon, b: Cannon) -> None:
    for name in (
        "wavelength", "theta", "loadings", "coef_cov", "scatter", "log_scatter_sd", "used",
        "held_out", "factors",
    ):  # fmt: skip
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype.kind == getattr(b, name).dtype.kind
    for name in ("values", "errors", "star_id"):
        np.testing.assert_array_equal(getattr(a.training, name), getattr(b.training, name))
    np.testing.assert_array_equal(a.basis.center, b.basis.center)
    np.testing.assert_array_equal(a.hyper.covariance, b.hyper.covariance)
    assert (a.chips, a.names, a.basis.units, a.basis.degree) == (
        b.chips, b.names, b.basis.units, b.basis.degree,
    )  # fmt: skip
    assert (a.hyper.mu_s, a.hyper.omega_s, a.simulated) == (
        b.hyper.mu_s,
        b.hyper.omega_s,
        b.simulated,
    )
    assert dict(a.settings) == dict(b.settings)
    assert a.history.keys() == b.history.keys()
    for key in a.history:
        np.testing.assert_array_equal(a.history[key], b.history[key])


@pytest.mark.parametrize("n_factors", [0, 2])
def test_loaded_equals_saved_exactly(tmp_path, n_factors):
    cannon = make_cannon(n_factors=n_factors)
    cannon.save(tmp_path / "cannon.nc")
    assert_same(Cannon.load(tmp_path / "cannon.nc"), cannon)


def test_outliers_among_the_training_stars_are_named():
    known = xr.Dataset(
        {"outlier": ("star", [0.2, np.nan, 0.7, 0.9])}, coords={"star": ["a", "b", "c", "d"]}
    )
    cannon = make_cannon().with_model_error(xr.DataTree.from_dict({"differences": known}))
    assert cannon.outliers() == {"d": 0.9, "c": 0.7}
    assert list(cannon.outliers(least=0.1)) == ["d", "c", "a"]
    for other in (make_cannon(), cannon.with_model_error(xr.DataTree())):
        with pytest.raises(InvalidDataError, match="train it again, with cross-validation"):
            other.outliers()


def test_model_error_travels_with_the_model(tmp_path):
    posterior = xr.Dataset({"nu": (("chain", "draw"), np.ones((2, 3)))})
    tree = xr.DataTree.from_dict({"posterior": posterior})
    cannon = make_cannon().with_model_error(tree)
    cannon.save(tmp_path / "cannon.nc")
    loaded = Cannon.load(tmp_path / "cannon.nc")
    assert loaded.model_error is not None
    xr.testing.assert_equal(loaded.model_error["posterior"].to_dataset(), posterior)


def test_existing_file_is_kept_unless_overwrite(tmp_path):
    path = tmp_path / "cannon.nc"
    make_cannon(seed=1).save(path)
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        make_cannon(seed=2).save(path)
    assert path.read_bytes() == before
    make_cannon(seed=2).save(path, overwrite=True)
    assert_same(Cannon.load(path), make_cannon(seed=2))
    assert [p.name for p in tmp_path.iterdir()] == ["cannon.nc"]


def test_folder_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExistsError, match="not a writable directory"):
        make_cannon().save(tmp_path / "file" / "cannon.nc")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (99, r"format version 99.*upgrade bayes_cannon"),
        (1, r"format version 1, older than \d; make it again"),
    ],
)
def test_other_formats_are_refused(tmp_path, version, message):
    path = make_cannon().save(tmp_path / "cannon.nc")
    import h5py

    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = version
    with pytest.raises(FileFormatError, match=message):
        Cannon.load(path)


def test_damaged_file_is_said(tmp_path):
    path = make_cannon().save(tmp_path / "cannon.nc")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FileFormatError, match=r"cannon\.nc"):
        Cannon.load(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        Cannon.load(tmp_path / "nothing.nc")
    xr.Dataset({"x": 1}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(FileFormatError, match=r"not bayes_cannon\.cannon"):
        Cannon.load(tmp_path / "other.nc")
    (tmp_path / "text.nc").write_text("<html>")
    with pytest.raises(FileFormatError, match="cannot be read as NetCDF"):
        Cannon.load(tmp_path / "text.nc")


def test_file_without_its_arrays_is_said(tmp_path):
    import h5py

    path = make_cannon().save(tmp_path / "cannon.nc")
    with h5py.File(path, "r+") as file:
        del file["pixels/theta"]
        del file.attrs["sealed"]  # as files without a seal were written
    with pytest.raises(FileFormatError, match="lacks parts of a trained model"):
        Cannon.load(path)


def test_prediction_is_the_polynomial_and_its_band_the_covariance():
    cannon = make_cannon()
    labels = np.array([[4500.0, 2.0], [5000.0, 3.0]])
    found = cannon.predict(labels)
    v = cannon.basis(labels)
    np.testing.assert_allclose(found.flux, v @ cannon.theta.T)
    t = cannon.basis.n_terms
    for p in (0, 39):
        cov = unpack(cannon.coef_cov[p].astype(float))[:t, :t]
        np.testing.assert_allclose(found.coef_sd[:, p] ** 2, [x @ cov @ x for x in v], rtol=1e-6)
    extra = cannon.scatter**2 + (cannon.loadings**2).sum(axis=1)
    np.testing.assert_allclose(found.sd**2, found.coef_sd**2 + extra)


def test_gradient_is_per_physical_unit():
    cannon = make_cannon()
    labels, step = np.array([4600.0, 2.2]), np.array([0.5, 1e-3])
    gradient = cannon.gradient(labels)
    for k in range(2):
        h = step * np.eye(2)[k]
        difference = cannon.predict(labels + h).flux - cannon.predict(labels - h).flux
        np.testing.assert_allclose(gradient.value[k], difference / (2 * step[k]), rtol=1e-6)
    assert gradient.sd.shape == (2, cannon.n_pixels)


def test_gradient_band_is_that_of_draws_of_the_coefficients():
    # 4000 draws: standard deviations are good to 1.1 %; 5 of these allowed.
    cannon, t = make_cannon(), 6
    labels = np.array([4600.0, 2.2])
    dv = cannon.basis.jacobian(cannon.basis.standardize(labels))[:, 0] / cannon.basis.scale[0]
    cov = cannon.term_cov(7)[:t, :t]
    draws = np.random.default_rng(2).multivariate_normal(cannon.theta[7], cov, 4000) @ dv
    assert cannon.gradient(labels).sd[0, 7] == pytest.approx(draws.std(), rel=0.055)


def test_labels_of_the_wrong_shape_are_refused():
    with pytest.raises(InvalidDataError, match="last axis must hold TEFF, LOGG"):
        make_cannon().predict([4500.0, 2.0, 0.1])


def test_arrays_of_the_wrong_shape_are_refused():
    from dataclasses import replace

    with pytest.raises(InvalidDataError, match=r"theta has shape \(3, 6\), expected \(40, 6\)"):
        replace(make_cannon(), theta=np.zeros((3, 6)))


def test_it_describes_itself_in_a_few_lines():
    cannon = make_cannon()
    error = xr.Dataset(
        {"covariance": (("chain", "draw", "i", "j"), np.diag([140.0, 0.1])[None, None] ** 2)}
    )
    with_error = dataclasses.replace(
        cannon, settings={"training": {"method": "map"}}, held_out=np.array(["a", "b"]),
        simulated=True, model_error=xr.DataTree.from_dict({"posterior": error}),
    )  # fmt: skip
    low, high = cannon.label_range
    text = repr(with_error)
    assert text.splitlines()[0] == "Cannon, trained on 30 stars (SIMULATED)"
    assert f"TEFF {low[0]:.0f} to {high[0]:.0f} K, LOGG {low[1]:.2f}" in text
    assert "held out     2 stars" in text
    assert f"of {cannon.n_pixels} used, " in text
    assert "degree 2, 6 terms, 2 factors" in text
    assert "method       map" in text
    assert "model error  TEFF 140 K, LOGG 0.10 dex" in text
    assert 6 <= len(text.splitlines()) <= 8
    assert "model error  none" in repr(cannon)
    why = dataclasses.replace(cannon, settings={"training": {"no_model_error": "too few stars"}})
    assert "model error  too few stars" in repr(why)
    html = with_error._repr_html_()
    assert "<strong>Cannon, trained on 30 stars (SIMULATED)</strong>" in html
    assert "TEFF 140 K, LOGG 0.10 dex" in html
