import itertools
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from matplotlib import image as mpl_image
from matplotlib.colors import to_hex

from thc_dask import plot
from thc_dask.errors import MissingError, RequestError, WriteError
from thc_dask.kernels import statistics
from thc_dask.schemes import Label, Scheme, find_scheme

ROI = find_scheme("prasad2020-roi")


def pixels(figure, tmp_path):
    plot.save(figure, tmp_path / "figure.png")
    return mpl_image.imread(tmp_path / "figure.png")[..., :3]


def texts(figure):
    """All words that are drawn somewhere."""
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def has_color(picture, color, n=20):
    wanted = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return (np.abs(picture - wanted).max(axis=-1) < 0.02).sum() >= n


@pytest.fixture
def slice_and_labels():
    rng = np.random.default_rng(0)
    image = rng.normal(120, 30, (60, 200)).clip(0, 255).astype(np.uint8)
    labels = np.zeros(image.shape, np.uint16)
    labels[10:50, 20:90] = 1
    labels[10:50, 110:180] = 2
    labels[20:24, 92:93] = 8
    return image, labels


@pytest.fixture
def histogram():
    rng = np.random.default_rng(1)
    counts = np.zeros((len(ROI.labels), 256), np.int64)
    for row, mean in {0: 60, 1: 120, 2: 125, 3: 150, 4: 160, 5: 140, 6: 180}.items():
        values = rng.normal(mean, 20, 5000).clip(0, 255).round().astype(int)
        counts[row] = np.bincount(values, minlength=256)
    counts[2, 0] += 4000
    return table_of(counts)


def table_of(counts, scheme=ROI):
    return xr.DataArray(
        counts,
        dims=("region", "intensity"),
        coords={
            "region": scheme.names,
            "intensity": np.arange(counts.shape[1]),
            "code": ("region", scheme.codes),
            "color": ("region", [label.color for label in scheme.labels]),
        },
    )


@pytest.fixture
def fractions():
    rng = np.random.default_rng(2)
    counts = rng.integers(100, 1000, (6, len(ROI.labels), 4))
    counts[:, 7] = 0
    counts[1:, 8] = 0
    low, high = statistics.bootstrap_fractions(counts, n_resamples=100)
    values = {"fraction": statistics.fractions(counts), "low": low, "high": high}
    return xr.Dataset(
        {name: (("region", "structure"), value) for name, value in values.items()},
        coords={
            "region": ROI.names,
            "structure": ["background", "vessel", "cell", "axon"],
            "structure_color": ("structure", ["#000000", "#d55e00", "#56b4e9", "#f0e442"]),
        },
    )


def matrix_of(values, names):
    coords = {"region": names, "other": names}
    return xr.DataArray(values, dims=("region", "other"), coords=coords)


# ---------------------------------------------------------------------------------------- slice


def test_slice_shows_labels_legend_and_scale(slice_and_labels, tmp_path):
    image, labels = slice_and_labels
    figure = plot.annotated_slice(image, labels, ROI, 1.17, title="z = 3")
    assert {"CTX  cortex", "STR  striatum", "CTX", "STR", "z = 3", "20 µm"} <= set(texts(figure))
    assert not any("ZI" in text for text in texts(figure))
    picture = pixels(figure, tmp_path)
    assert has_color(picture, "#e69f00")
    assert has_color(picture, "#56b4e9")
    assert picture.std() > 0.1


@pytest.mark.parametrize(("shape", "spacing_um"), [((40, 200), 1.17), ((100, 60), (2.0, 0.5))])
def test_scale_bar_is_as_long_as_it_says(shape, spacing_um):
    figure = plot.annotated_slice(np.eye(*shape), None, ROI, spacing_um)
    axes, strip = figure.axes
    bar = strip.lines[0]
    ends = strip.transData.transform(np.column_stack(bar.get_data()))
    drawn = axes.transData.inverted().transform(ends)
    (said,) = [text for text in texts(figure) if text.endswith("µm")]
    assert drawn[1, 0] - drawn[0, 0] == pytest.approx(float(said.split()[0]))


@pytest.mark.parametrize("shape", [(40, 200), (100, 60)])
def test_slice_is_drawn_in_proportion(shape):
    figure = plot.annotated_slice(np.eye(*shape), None, ROI, (2.0, 1.0))
    box = figure.axes[0].get_window_extent()
    assert box.height / box.width == pytest.approx(2 * shape[0] / shape[1])


def test_unknown_area_is_faded_and_said(slice_and_labels, tmp_path):
    image, labels = slice_and_labels
    known = np.zeros(image.shape, bool)
    known[:, :100] = True
    labels[:, 150:] = 99  # outside the known area anything may stand
    whole = plot.annotated_slice(image, None, ROI, 1.0)
    faded = plot.annotated_slice(image, labels, ROI, 1.0, known)
    assert "not annotated" in texts(faded)
    assert "not annotated" not in texts(whole)
    assert not any("striatum" in text for text in texts(faded))
    left, right = np.array_split(pixels(faded, tmp_path)[:400, 20:-20].mean(axis=2), 2, axis=1)
    assert right.std() < left.std()


def test_slice_of_one_grey_level_and_of_one_voxel(tmp_path):
    for shape in ((1, 1), (1, 4000), (300, 2)):
        figure = plot.annotated_slice(np.full(shape, 7), np.ones(shape, int), ROI, 1.0)
        assert pixels(figure, tmp_path).std() > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image2d": np.zeros((2, 2, 2))}, "2-D"),
        ({"labels2d": np.zeros((2, 3))}, r"labels2d has shape \(2, 3\)"),
        ({"known": np.zeros((3, 2))}, r"known has shape \(3, 2\)"),
        ({"labels2d": np.full((2, 2), 12)}, "code 12"),
        ({"spacing_um": 0.0}, "above 0"),
    ],
)
def test_wrong_slice_is_named(change, says):
    good = {
        "image2d": np.zeros((2, 2)),
        "labels2d": np.zeros((2, 2)),
        "scheme": ROI,
        "spacing_um": 1.0,
    }
    with pytest.raises(RequestError, match=says):
        plot.annotated_slice(**(good | change))


# --------------------------------------------------------------------------------------- curves


def test_curves_for_regions_with_counts(histogram, tmp_path):
    figure = plot.intensity_distributions(histogram, "Intensities")
    axes = figure.axes[0]
    assert [to_hex(line.get_color()) for line in axes.lines] == [x.color for x in ROI.labels[1:7]]
    said = texts(figure)
    assert {"CTX", "STR", "TRN", "VP", "ZI", "IC", "Intensities"} <= set(said)
    assert not {"none", "HYP", "CC"} & set(said)
    picture = pixels(figure, tmp_path)
    assert all(has_color(picture, label.color) for label in ROI.labels[1:7])


def test_curves_are_shares_and_the_ends_are_apart(histogram):
    figure = plot.intensity_distributions(histogram)
    axes = figure.axes[0]
    row = histogram.sel(region="STR").values
    np.testing.assert_allclose(axes.lines[1].get_ydata(), row[1:-1] / row.sum())
    dots = np.concatenate([c.get_offsets() for c in axes.collections])
    assert set(dots[:, 0]) <= {0.0, 255.0}
    assert any("off scale at 0:\nSTR" in text for text in texts(figure))
    assert any("voxels at exactly 0" in text for text in texts(figure))


def test_few_levels_are_drawn_by_their_distance():
    counts = np.zeros((9, 256), np.int64)
    counts[1, [20, 40, 80, 90]] = [10, 20, 20, 10]
    figure = plot.intensity_distributions(table_of(counts))
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [20, 40, 80, 90]
    want = np.array([10, 20, 20, 10]) / 60 / [20, 30, 25, 10]
    np.testing.assert_allclose(line.get_ydata(), want)
    assert any("only 4 levels occur" in text for text in texts(figure))


def test_a_narrow_distribution_is_no_comb():
    counts = np.zeros((9, 256), np.int64)
    counts[1, 100:110] = 5
    counts[1, 0] = 1
    (line,) = plot.intensity_distributions(table_of(counts)).axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), counts[1, 1:-1] / 51)


def test_names_of_curves_do_not_overlap(histogram):
    figure = plot.intensity_distributions(histogram)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = [label.name for label in ROI.labels]
    boxes = sorted(
        (t.get_bbox_patch().get_window_extent() for t in axes.texts if t.get_text() in names),
        key=lambda box: box.x0,
    )
    assert len(boxes) == 6
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_many_regions_get_a_legend(tmp_path):
    labels = tuple(Label(i, f"a rather long name {i}") for i in range(30))
    counts = np.ones((30, 256), np.int64)
    figure = plot.intensity_distributions(table_of(counts, Scheme("many", "region", labels)))
    assert len(figure.legends[0].get_texts()) == 29
    assert pixels(figure, tmp_path).std() > 0.05


def test_all_voxels_at_an_end(tmp_path):
    counts = np.zeros((9, 256), np.int64)
    counts[3, 255] = 5
    figure = plot.intensity_distributions(table_of(counts))
    assert pixels(figure, tmp_path).std() > 0.02
    assert "TRN" in texts(figure)


def test_no_counts_is_said(histogram):
    with pytest.raises(RequestError, match="no region has counts"):
        plot.intensity_distributions(histogram * 0)
    with pytest.raises(RequestError, match="dims"):
        plot.intensity_distributions(histogram.T)


# ----------------------------------------------------------------------------------------- bars


def test_bars_stand_for_fractions(fractions, tmp_path):
    figure = plot.structure_fractions(fractions, "Fractions")
    axes = figure.axes[0]
    bars = [c for c in axes.containers if hasattr(c, "patches")]
    assert [bar.get_label() for bar in bars] == ["vessel", "cell", "axon"]
    heights = np.array([[patch.get_height() for patch in bar] for bar in bars]).T
    shown = fractions["fraction"].values[[1, 2, 3, 4, 5, 6, 8], 1:]
    np.testing.assert_array_equal(heights, shown)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["CTX", "STR", "TRN", "VP", "ZI", "IC",
                                                              "CC"]  # fmt: skip
    picture = pixels(figure, tmp_path)
    assert all(has_color(picture, color) for color in ("#d55e00", "#56b4e9", "#f0e442"))


def test_bars_have_an_interval_only_where_there_is_one(fractions):
    figure = plot.structure_fractions(fractions)
    lines = [c for c in figure.axes[0].containers if hasattr(c, "lines")]
    segments = [segment for c in lines for segment in c.lines[2][0].get_segments()]
    assert len(segments) == 3 * 6  # one plane of CC: bars, no intervals
    low, high = np.sort(np.array(segments)[:6, :, 1], axis=1).T
    np.testing.assert_allclose(low, fractions["low"].values[1:7, 1])
    np.testing.assert_allclose(high, fractions["high"].values[1:7, 1])
    assert "no known voxels: HYP; no interval, fewer than two planes: CC" in texts(figure)


def test_background_and_none_on_request(fractions):
    figure = plot.structure_fractions(fractions, background=True, none=True)
    assert {"background", "none"} <= set(texts(figure))


def test_code_0_may_have_any_name(fractions):
    ds = fractions.assign_coords(
        structure=["matrix", "vessel", "cell", "axon"], structure_code=("structure", [0, 1, 2, 3])
    )
    assert "matrix" not in texts(plot.structure_fractions(ds))


def test_fractions_that_cannot_be_drawn(fractions):
    with pytest.raises(RequestError, match="'low'"):
        plot.structure_fractions(fractions.drop_vars("low"))
    with pytest.raises(RequestError, match="no region has known voxels"):
        plot.structure_fractions(fractions.isel(region=[7]))


def test_fractions_of_zero_are_drawn(fractions, tmp_path):
    figure = plot.structure_fractions(fractions * 0)
    assert pixels(figure, tmp_path).std() > 0.02


# --------------------------------------------------------------------------------------- matrix


def test_matrix_is_annotated(histogram, tmp_path):
    values = statistics.kl_divergence(histogram.values[1:])
    figure = plot.divergence_matrix(matrix_of(values, ROI.names[1:]), "KL", "nats")
    axes = figure.axes[0]
    said = np.reshape([t.get_text() for t in axes.texts], values.shape)
    assert said[0, 0] == "0"
    assert float(said[0, 2]) == pytest.approx(values[0, 2], abs=0.06)
    assert (said[6] == "\N{EN DASH}").all()
    assert "nats" in texts(figure)
    picture = pixels(figure, tmp_path)
    assert has_color(picture, "#d0d5da", 2000)
    assert has_color(picture, "#440154", 2000)


@pytest.mark.parametrize(
    "values",
    [np.zeros((1, 1)), np.full((3, 3), np.nan), [[0, np.inf], [1e-9, 0]], np.eye(40)],
)
def test_odd_matrices_are_drawn(values, tmp_path):
    names = [f"r{i}" for i in range(len(values))]
    assert pixels(plot.divergence_matrix(matrix_of(values, names)), tmp_path).std() > 0.01


def test_matrix_must_be_square():
    with pytest.raises(RequestError, match="square"):
        plot.divergence_matrix(xr.DataArray(np.zeros((2, 3)), dims=("region", "other")))


# --------------------------------------------------------------------------------------- output


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".SVG", b"<?xml"), (".pdf", b"%PDF")]
)
def test_save_by_suffix(fractions, tmp_path, suffix, start):
    path = tmp_path / f"figure{suffix}"
    plot.save(plot.structure_fractions(fractions), path)
    assert path.read_bytes().startswith(start)


def test_png_is_the_same_twice(fractions):
    first, second = (plot.render(plot.structure_fractions(fractions), "png") for _ in range(2))
    assert first == second


def test_save_says_what_is_wrong(fractions, tmp_path):
    figure = plot.structure_fractions(fractions)
    with pytest.raises(RequestError, match=r"figure\.jpg: .* \.png, \.svg, \.pdf"):
        plot.save(figure, tmp_path / "figure.jpg")
    with pytest.raises(MissingError, match="does not exist"):
        plot.save(figure, tmp_path / "nowhere" / "figure.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(WriteError, match="a folder has that name"):
        plot.save(figure, tmp_path / "folder.png")
    with pytest.raises(RequestError, match="give one of png"):
        plot.render(figure, "gif")


def test_hostile_names_are_drawn_as_they_are(tmp_path):
    names = ["none", "$x^", r"$\frac$ a", '<b>&"']
    labels = tuple(Label(i, name) for i, name in enumerate(names))
    scheme = Scheme("odd", "region", labels)
    counts = np.arange(4 * 256).reshape(4, 256)
    image = np.repeat([[1, 2, 3]], 30, axis=1).repeat(30, axis=0)
    matrix = matrix_of(statistics.jensen_shannon(counts), names)
    for figure in (
        plot.annotated_slice(image, image, scheme, 1.0, title="$z"),
        plot.intensity_distributions(table_of(counts, scheme)),
        plot.divergence_matrix(matrix, title=r"$\bad$"),
    ):
        assert pixels(figure, tmp_path).std() > 0.02


def test_pyplot_stays_out():
    code = (
        "import sys; from thc_dask import plot; assert 'matplotlib' not in sys.modules; "
        "import numpy as np; from thc_dask.schemes import SCHEMES; "
        "plot.annotated_slice(np.eye(9), None, SCHEMES['prasad2020-roi'], 1.0); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
