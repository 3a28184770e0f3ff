"""Models over images: gradients through every readout, batches of many sizes, digits."""

import numpy as np
import pytest
import reference
from test_model import central
from tolerances import TOLERANCES

import fastrnn as fr

SIZES = np.array([[3, 4], [1, 2], [2, 1]])


def image_models():
    d = {"dtype": "float64"}
    for readout in ("last", "mean", "every"):
        net = fr.Recurrent2D("lstm", 2, 3, corner="all", merge="sum" if readout == "mean" else "concat", **d)
        yield readout, fr.Model(net, fr.Linear(net.output_size, 3, **d), loss=fr.CrossEntropy(), readout=readout)
    yield "stack", fr.Model(
        fr.Linear(2, 2, activation="tanh", **d), fr.Recurrent2D("rnn", 2, 3, **d), fr.Dropout(0.1),
        fr.Recurrent2D("rnn", 3, 2, corner="bottom_right", **d), fr.Linear(2, 3, **d), loss=fr.CrossEntropy(), readout="mean",
    )  # fmt: skip


IMAGES = dict(image_models())


def images(model, seed=0):
    """x with NaN, and target with nonsense, in the padding."""
    rng = np.random.default_rng(seed)
    x, target = rng.normal(size=(3, 4, 3, 2)), rng.integers(0, 3, size=(3, 4, 3))
    rows, columns = np.indices((3, 4))
    beyond = (rows[..., None] >= SIZES[:, 0]) | (columns[..., None] >= SIZES[:, 1])
    x[beyond], target[beyond] = np.nan, 99
    return x, target if model.readout == "every" else target[0, 0]


@pytest.mark.parametrize("name", IMAGES)
def test_gradient_over_images_is_the_derivative_of_the_loss(name, tmp_path):
    model = IMAGES[name]
    x, target = images(model)
    found = model.gradient(x, target, SIZES)
    exact = central(lambda: model.evaluate(x, target, SIZES)["loss"], model.params.flat)
    assert reference.normwise(found.grads.flat, exact) <= TOLERANCES["finite_differences"]
    assert abs(found.grads.flat - exact).max() < 1e-9
    np.testing.assert_array_equal(found.prediction, model.predict(x, SIZES))
    for b, (rows, columns) in enumerate(SIZES):
        alone = model.predict(x[:rows, :columns, b : b + 1])
        together = found.prediction[:rows, :columns, b : b + 1] if name == "every" else found.prediction[b : b + 1]
        np.testing.assert_array_equal(alone, together)
    model.save(tmp_path / "model.rnn")
    again = fr.load(tmp_path / "model.rnn")
    np.testing.assert_array_equal(again.predict(x, SIZES), model.predict(x, SIZES))
    assert again.config() == model.config()


def test_readouts_of_images_are_what_they_say():
    net = fr.Recurrent2D("gru", 2, 3, corner="all", dtype="float64")
    x = images(IMAGES["last"])[0]
    y, state = net(x, sizes=SIZES)
    last, mean = (fr.Model(net, loss=fr.MeanSquaredError(), readout=readout).predict(x, SIZES) for readout in ("last", "mean"))
    for b, (rows, columns) in enumerate(SIZES):
        ends = [(rows - 1, columns - 1), (rows - 1, 0), (0, columns - 1), (0, 0)]  # opposite to each corner
        np.testing.assert_array_equal(last[b], np.concatenate([y[i, j, b, 3 * k : 3 * k + 3] for k, (i, j) in enumerate(ends)]))
        np.testing.assert_allclose(mean[b], y[:rows, :columns, b].mean(axis=(0, 1)), rtol=1e-14)


@pytest.mark.parametrize("readout", ["mean", "every"])
def test_fit_of_images_of_many_sizes(readout, tmp_path):
    """Which of two halves is brighter: of the image, or for every pixel whether it is brighter than its left neighbour."""
    rng = np.random.default_rng(0)
    pictures = [rng.normal(size=(*rng.integers(2, 6, size=2), 1)) for _ in range(64)]
    x, sizes = fr.data.pad_images(pictures)
    every = [(np.diff(p[..., 0], axis=1, prepend=0) > 0).astype(int) for p in pictures]
    target = fr.data.pad_images(every)[0] if readout == "every" else np.array([p.mean() > 0 for p in pictures], int)
    d = {"dtype": "float64"}
    model = fr.Model(fr.Recurrent2D("lstm", 1, 8, **d), fr.Linear(8, 2, **d), loss=fr.CrossEntropy(), readout=readout)
    options = {"epochs": 30, "optimizer": fr.Adam(0.03), "batch_size": 16, "bucket": True, "validation": (x, target, sizes)}
    history = fr.fit(model, (x, target, sizes), checkpoint=tmp_path / "run", **options)
    assert history.epochs["validation_accuracy"][-1] > 0.95
    assert history.epochs["validation_loss"][-1] == pytest.approx(model.evaluate(x, target, sizes)["loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: fr.Model(m.layers[0], fr.RNN(12, 2, dtype="float64"), loss=fr.MeanSquaredError()), "got a Recurrent or an Embedding"),
        (lambda m, x: m.predict(x[0]), r"x: shape \(R, C, B, 2\) .* is required; got \(4, 3, 2\)"),
        (lambda m, x: m.predict(x, [[0, 1]] * 3), "sizes: from 1 to 3 rows"),
        (lambda m, x: m.predict(x, [1, 2, 3]), r"sizes: shape \(3, 2\)"),
        (lambda m, x: m.predict(x, state=(x,)), "state: None is required for a network over a grid"),
        (lambda m, x: m.gradient(x, [0, 1, 2], bptt=fr.Full(clip=1.0)), "bptt: Full.. without memory= or clip= is required"),
        (lambda m, x: m.gradient(x, [0, 1, 2], bptt=fr.Full(memory=10**9)), "bptt: Full.. without memory= or clip= is required"),
        (lambda m, x: next(m.passes(x, [0, 1, 2], bptt=fr.Truncated(3))), "bptt: Full.. without memory= or clip= is required"),
        (lambda m, x: IMAGES["every"].gradient(x, np.zeros((3, 4), int)), r"target: shape \(3, 4, 3, ...\) is required"),
        (lambda m, x: m.gradient(x, [0, 1]), "target"),
    ],
)
def test_bad_images_are_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(IMAGES["last"], np.zeros((3, 4, 3, 2)))


def test_digits():
    """Who wrote the test digits wrote none of the training ones; of those, copies shifted by a pixel in every direction."""
    pytest.importorskip("sklearn")
    data = fr.data.digits()
    pictures, target = list(data.train.x), np.tile(data.train.target, 5)
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        edge = [(0, 0)] * 2
        edge[axis] = (1, 0) if shift > 0 else (0, 1)
        inside = (slice(None),) * axis + (slice(0, 8) if shift > 0 else slice(1, 9),)
        pictures += [np.pad(picture, edge)[inside] for picture in data.train.x]
    x, tested = (fr.data.pad_images([(p[..., None] - 0.3) / 0.38 for p in part])[0] for part in (pictures, data.test.x))
    model = fr.Model(fr.Recurrent2D("lstm", 1, 16, corner="all"), fr.Linear(64, 10), loss=fr.CrossEntropy(), readout="mean")
    optimizer = fr.Adam(fr.schedules.CosineDecay(2e-2, 10 * 141), clip_norm=1.0)
    fr.fit(model, (x, target), optimizer=optimizer, epochs=10, batch_size=32, seed=0)
    assert model.evaluate(tested, data.test.target)["accuracy"] >= 0.97
