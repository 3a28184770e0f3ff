"""What the studies share, and the arithmetic of the gradient study; no study is run here."""

import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "studies"))

import _gradients
import _images
import _study
import bidirectional_gain
import gradient_vanishing
import two_dimensions

# Statistics


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 3), (5, 10), (19, 20), (20, 20)])
def test_wilson_interval_is_scipys(successes, n):
    from scipy.stats import binomtest

    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    low, high = _study.wilson_interval(successes, n)
    assert low == pytest.approx(expected.low, abs=1e-6)
    assert high == pytest.approx(expected.high, abs=1e-6)


def test_wilson_interval_ends_at_the_ends_and_knows_nothing_of_nothing():
    assert _study.wilson_interval(0, 7)[0] == 0.0
    assert _study.wilson_interval(7, 7)[1] == 1.0
    assert _study.wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="successes"):
        _study.wilson_interval(4, 3)


def test_band_holds_the_central_part():
    median, low, high = _study.band(np.arange(101.0)[:, None] * [1, 2], level=0.8)
    np.testing.assert_allclose([median, low, high], [[50, 100], [10, 20], [90, 180]])


def test_bootstrap_interval_covers_the_mean_and_is_reproducible():
    samples = np.random.default_rng(0).normal(3, 1, 400)
    low, high = _study.bootstrap_interval(samples)
    assert (low, high) == _study.bootstrap_interval(samples)
    assert low < samples.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * samples.std() / 20, rel=0.1)


# Claims


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (_study.close("c", 1.05, 1.0, 0.1, "s"), True),
        (_study.close("c", 1.2, 1.0, 0.1, "s"), False),
        (_study.close("c", math.nan, 1.0, 0.1, "s"), False),
        (_study.at_least("c", 2, 2, "s"), True),
        (_study.at_least("c", 1.9, 2, "s"), False),
        (_study.at_most("c", 2.1, 2, "s"), False),
        (_study.at_most("c", math.nan, 2, "s"), False),
        (_study.between("c", 0.5, 0, 1, "s"), True),
        (_study.between("c", -0.5, 0, 1, "s"), False),
    ],
)
def test_claims_hold_or_not_and_say_so(claim, holds):
    assert claim.holds is holds
    assert claim.line().startswith("holds: c:" if holds else "DOES NOT HOLD: c:")


def test_a_claims_line_has_value_expectation_tolerance_and_source():
    line = _study.close("slope", 1.25, 1.0, 0.5, "Someone 1999").line()
    assert line == "holds: slope: 1.25 (expected 1 ± 0.5; Someone 1999)"


# Parts


def counting():
    """A function of settings that remembers what it was called with."""
    calls = []

    def function(settings):
        calls.append(settings["n"])
        return {"square": np.array([settings["n"] ** 2.0]), "n": settings["n"]}

    return function, calls


def jobs(*numbers, **more):
    return [(f"part {n}", {"n": n} | more) for n in numbers]


def test_parts_are_computed_once(tmp_path):
    function, calls = counting()
    parts = _study.Parts(tmp_path / "parts")
    first = _study.compute_parts(parts, jobs(1, 2), function, label="squares", show=False)
    again = _study.compute_parts(parts, jobs(1, 2, 3), function, label="squares", show=False)
    assert calls == [1, 2, 3]
    assert again["part 2"]["square"] == first["part 2"]["square"] == [4.0]
    assert "settings" not in again["part 2"]


def test_other_settings_are_another_part(tmp_path):
    function, calls = counting()
    parts = _study.Parts(tmp_path)
    _study.compute_parts(parts, jobs(2), function, label="squares", show=False)
    _study.compute_parts(parts, jobs(2, length=9), function, label="squares", show=False)
    assert calls == [2, 2]


def test_another_version_computes_anew(tmp_path, monkeypatch):
    function, calls = counting()
    parts = _study.Parts(tmp_path)
    _study.compute_parts(parts, jobs(2), function, label="squares", show=False)
    monkeypatch.setattr(_study.fr, "__version__", "0.0.0")
    assert parts.get(*jobs(2)[0]) is None


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_part_is_computed_again(tmp_path, damage):
    function, calls = counting()
    parts = _study.Parts(tmp_path)
    _study.compute_parts(parts, jobs(2), function, label="squares", show=False)
    path = parts.path(*jobs(2)[0])
    path.write_bytes(path.read_bytes()[:-40] if damage is None else damage)
    found = _study.compute_parts(parts, jobs(2), function, label="squares", show=False)
    assert calls == [2, 2]
    assert found["part 2"]["square"] == [4.0]


def test_an_interruption_keeps_what_is_finished(tmp_path):
    function, calls = counting()

    def interrupted(settings):
        if settings["n"] == 2:
            raise KeyboardInterrupt
        return function(settings)

    parts = _study.Parts(tmp_path)
    with pytest.raises(_study.Interrupted, match="1 of 3 runs"):
        _study.compute_parts(parts, jobs(1, 2, 3), interrupted, label="squares", show=False)
    _study.compute_parts(parts, jobs(1, 2, 3), function, label="squares", show=False)
    assert calls == [1, 2, 3]


def test_several_processes_give_the_same_parts(tmp_path):
    given = [("a", {"n": 1.5}), ("b", {"n": 2.5})]
    found = _study.compute_parts(_study.Parts(tmp_path), given, dict, label="copies", workers=2, show=False)
    assert {name: float(arrays["n"]) for name, arrays in found.items()} == {"a": 1.5, "b": 2.5}


def test_progress_is_shown(tmp_path, capsys):
    function, _ = counting()
    _study.compute_parts(_study.Parts(tmp_path), jobs(1), function, label="squares", show=True)
    assert "squares" in capsys.readouterr().err


# A study from end to end


def compute(arguments, parts):
    rows = [{"panel": "a", "lag": k, "norm": 0.1**k, "note": "x"} for k in range(3)] + [{"panel": "b", "norm": math.inf}]
    claims = [_study.close("one", 1 / 3, 1 / 3, 0, "s"), _study.at_most("two", math.nan, 0, "s")]
    return _study.Result(rows, {"seeds": arguments.seeds, "size": np.int64(3)}, claims, {"sample": "text"})


def draw(rows, record):
    import matplotlib.pyplot as plt

    assert record["sample"] == "text"
    figure, ax = plt.subplots()
    ax.plot(_study.column(_study.select(rows, panel="a"), "norm"))
    return figure


def study(tmp_path, *argv, compute=compute):
    return _study.run("somewhere/question.py", "Why?", compute, draw, seeds=(2, 7), argv=["--out", str(tmp_path), *argv])


def test_a_study_writes_its_four_files_and_prints_every_claim(tmp_path, capsys):
    assert study(tmp_path, "--quick") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["question.csv", "question.json", "question.pdf", "question.png"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["holds", "DOES NOT HOLD"]
    record = json.loads((tmp_path / "question.json").read_text(encoding="utf-8"))
    assert set(record["claims"][0]) == {"claim", "value", "expected", "tolerance", "source", "holds"}
    assert record["settings"] == {"seeds": 2, "size": 3, "quick": True}
    assert {"python", "numpy", "numba", "fastrnn", "platform", "threads"} <= set(record["environment"])


def test_saved_numbers_come_back_digit_for_digit(tmp_path):
    study(tmp_path)
    rows, record = _study.load(tmp_path / "question")
    assert rows == compute(_study.parse("", seeds=(2, 7), argv=[]), None).rows
    assert record["claims"][0]["value"] == 1 / 3
    assert math.isnan(record["claims"][1]["value"])


def test_replot_computes_nothing_and_draws_the_same(tmp_path, capsys):
    def refuse(arguments, parts):
        raise AssertionError("nothing is to be computed")

    study(tmp_path)
    before, said = {path.name: path.read_bytes() for path in tmp_path.iterdir()}, capsys.readouterr().out
    (tmp_path / "question.png").unlink()
    assert study(tmp_path, "--replot", compute=refuse) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert capsys.readouterr().out == said


def test_replot_without_numbers_says_what_is_missing(tmp_path):
    with pytest.raises(SystemExit, match="saved numbers are required"):
        study(tmp_path, "--replot")


def test_an_interrupted_study_writes_nothing_and_says_how_to_go_on(tmp_path, capsys):
    def interrupted(arguments, parts):
        raise _study.Interrupted("1 of 3 runs are kept.")

    assert study(tmp_path, compute=interrupted) == 130
    assert list(tmp_path.iterdir()) == []
    assert "1 of 3 runs are kept. The same command goes on" in capsys.readouterr().out


def test_arguments():
    assert _study.parse("", seeds=(2, 7), argv=["--quick"]).seeds == 2
    assert _study.parse("", seeds=(2, 7), argv=[]).seeds == 7
    assert _study.parse("", seeds=(2, 7), argv=["--quick", "--seeds", "4"]).seeds == 4
    assert _study.parse("", seeds=(2, 7), argv=[]).out == Path("results")
    with pytest.raises(SystemExit):
        _study.parse("", seeds=(2, 7), argv=["--seeds", "0"])


# The gradient study's arithmetic


@pytest.mark.parametrize("a", [0.3, 0.5, 0.9, 0.99])
def test_effective_memory_of_an_exponential_is_its_half_life(a):
    curve = 7.0 * a ** np.arange(300)
    assert _gradients.memory(curve) == pytest.approx(math.log(2) / -math.log(a), rel=1e-12)
    assert _gradients.memory(curve, 0) == pytest.approx(math.log(2) / -math.log(a), rel=1e-12)


def test_effective_memory_starts_past_the_readout_and_may_have_no_end():
    assert _gradients.memory([1.0, 0.1, 0.1, 0.1]) == math.inf
    assert _gradients.memory([1.0, 0.1, 0.1, 0.1], 0) < 1
    assert _gradients.memory([1.0, 1.0, 1.0, 0.0, 0.0]) == 2.0
    assert _gradients.memory([1.0, 0.0, 0.0]) == 0.0


@pytest.mark.parametrize("kind", [*gradient_vanishing.AT_START, *gradient_vanishing.TRAINED])
def test_networks_start_as_their_names_say(kind):
    net = _gradients.network(kind, 6, 40, seed=3, dtype="float64")
    W, name, number = net.params["weight_hh_l0"], *kind.partition(" ")[::2]
    if name == "lstm":
        total = net.params["bias_ih_l0"] + net.params["bias_hh_l0"]
        assert (total[40:80] == float(number)).all() and not (total[:40] == float(number)).all()
    elif name == "tanh":
        assert np.abs(np.linalg.eigvals(W)).max() == pytest.approx(float(number or 0.95), rel=1e-12)
    elif name in ("orthogonal", "irnn"):
        np.testing.assert_allclose(W @ W.T, np.eye(40), atol=1e-12)
    if name == "irnn":
        assert net.cell_options["activation"] == "relu"
        assert net.params["weight_ih_l0"].std() == pytest.approx(0.001, rel=0.2)


def test_the_norm_is_that_of_the_whole_state():
    h, c = np.full((1, 4, 2, 3), 3.0), np.full((1, 4, 2, 3), 4.0)
    h[0, 0] = 0.0  # the first step in time is the largest lag
    grads = _gradients.fr.Gradients(None, None, None, None, h, c)
    np.testing.assert_allclose(_gradients.norms(grads)[0], 5 * math.sqrt(3))
    np.testing.assert_allclose(_gradients.norms(grads)[3], 4 * math.sqrt(3))
    np.testing.assert_allclose(_gradients.norms(grads._replace(c=None))[0], 3 * math.sqrt(3))


def test_every_run_of_the_study_has_a_name_of_its_own():
    for argv in ([], ["--quick"]):
        settings = gradient_vanishing.sizes(_study.parse("", seeds=(3, 5), argv=argv))
        names = [name for name, _ in (*gradient_vanishing.training_jobs(settings), *gradient_vanishing.race_jobs(settings))]
        assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize(("updates", "claimed"), [(750, False), (50_000, True)])
def test_the_quick_form_does_not_claim_what_its_updates_cannot_test(updates, claimed):
    settings = {"updates": updates, "lengths": [20, 40]}
    names = ("network", "optimizer", "length")
    found = itertools.product(gradient_vanishing.RACING, gradient_vanishing.OPTIMIZERS, settings["lengths"])
    rows = [dict(zip(names, values)) | {"panel": "c", "solved": 1, "runs": 3, "error": 0.5} for values in found]
    claims = gradient_vanishing.race_claims(settings, rows)
    assert any("share solved, clipped SGD minus SGD" in claim.claim for claim in claims) == claimed and len(claims) == 3 + claimed


def test_a_run_of_training_measures_and_stops():
    settings = {"task": "temporal order", "cell": "tanh", "hidden": 8, "length": 10, "seed": 0, "batch": 4, "updates": 6}
    settings |= {"optimizer": "Adam, clipped", "learning_rate": 1e-3, "probes": [0, 5], "probe_sequences": 3}
    found = _gradients.train(settings)
    assert found["updates"] == 6 and not found["diverged"]
    assert found["curves"].shape == (2, 10)
    np.testing.assert_array_equal(found["curves"][:, 0], 1.0)
    assert 0 < found["error"] <= 1 and 0 < found["loss"] < 3
    again = _gradients.train(settings)
    np.testing.assert_array_equal(found["curves"], again["curves"])


def test_a_run_that_diverges_is_not_solved():
    settings = {"task": "adding", "cell": "tanh", "hidden": 8, "length": 10, "batch": 4, "updates": 50}
    settings |= {"optimizer": "SGD", "learning_rate": 1e30, "probes": [], "probe_sequences": 3}
    with np.errstate(all="ignore"):
        found = _gradients.train(settings | {"seed": 0})
        assert found["diverged"] and found["updates"] < 50
        found = _gradients.race(settings | {"seeds": 2, "test_every": 10})
    assert found["diverged"] == [True, True] and found["solved"] == [-1, -1]


def test_a_run_of_a_race_ends_when_it_has_solved_its_task(monkeypatch):
    """And not before: the others go on, and are trained as they would be alone."""
    asked = []

    def is_solved(model, task, seed):
        asked.append(seed)
        return seed == 1 and asked.count(1) == 2

    monkeypatch.setattr(_gradients, "is_solved", is_solved)
    settings = {"task": "temporal order", "cell": "gru", "hidden": 4, "length": 10, "batch": 4, "updates": 9}
    settings |= {"optimizer": "Adam, clipped", "learning_rate": 1e-2, "test_every": 3}
    found = _gradients.race(settings | {"seeds": 3})
    assert found["solved"] == [-1, 6, -1] and found["diverged"] == [False] * 3
    assert asked == [0, 1, 2, 0, 1, 2, 0, 2]
    assert found["error"][0] == _gradients.train(settings | {"seed": 0, "probes": []})["error"]


def test_the_copy_problem_is_read_out_at_every_step():
    (name, settings), _ = gradient_vanishing.copy_jobs({"copy": {"length": 3, "updates": 2}})
    found = _gradients.train(settings | {"hidden": 4, "batch": 2})
    assert name == "copy tanh" and found["updates"] == 2
    assert math.isnan(found["error"]) and 0 < found["loss"] < 5


def test_every_closed_form_of_a_network_is_a_factor_a_step():
    expected = {"tanh 0.5": 0.5, "orthogonal": 1.0, "irnn": 1.0, "lstm 0": 0.5, "lstm 1": 1 / (1 + math.exp(-1)), "gru": 0.5}
    assert {kind: gradient_vanishing.expected_decay(kind) for kind in expected} == pytest.approx(expected)


# The arithmetic of the study of both directions


@pytest.mark.parametrize("cell", bidirectional_gain.CELLS)
def test_networks_that_are_to_be_of_one_size_are(cell):
    shape, settings = [12, 9], {"cell": cell, "delay": 0, "seed": 0}
    H = bidirectional_gain.equal_size(cell, 12, 64, 9)
    wide = bidirectional_gain.build(settings | {"shape": shape, "units": H, "kind": "one way"})
    both = bidirectional_gain.build(settings | {"shape": shape, "units": 64, "kind": "both ways"})
    assert wide.params.flat.size == bidirectional_gain.weights(cell, 12, H, 9)
    assert both.params.flat.size == bidirectional_gain.weights(cell, 12, 64, 9, 2)
    assert abs(wide.params.flat.size / both.params.flat.size - 1) < 0.02


def gain_jobs(argv, names):
    size = bidirectional_gain.sizes(_study.parse("", seeds=(2, 5), argv=argv))
    found, shapes = {name: (None, "1") for name in names}, bidirectional_gain.SHAPES | {"chorales": (26, 13)}
    return size, bidirectional_gain.jobs(size, found, shapes)


def test_every_network_of_the_study_of_both_directions_has_a_name_of_its_own():
    for argv in ([], ["--quick"]):
        _, todo = gain_jobs(argv, ["vowels", "chorales", "letters"])
        assert len({name for name, _ in todo}) == len(todo) > 0


def test_a_network_of_the_study_learns_and_is_scored_frame_by_frame():
    settings = {"data": "lookahead", "cell": "rnn", "kind": "delayed", "delay": 1, "units": 8, "seed": 0, "shape": [1, 3]}
    found = bidirectional_gain.train({}, settings | {"length": 6, "ahead": 1, "rate": 0.02, "updates": 300})
    assert found["frames"].tolist() == [2000] * 6 and bidirectional_gain.share(found) > 0.95


def test_soprano_and_bass_of_the_chorales(tmp_path):
    pitches = np.array([[60, 55, 50, 48], [62, 55, 50, -1], [-1, 55, 50, 47], [61, 55, 50, 36], [60, 0, 0, 38]])
    np.savez(tmp_path / "c.npz", pitches=pitches, lengths=[2, 1, 1, 1])
    found = bidirectional_gain.chorales(str(tmp_path / "c.npz"))
    x, target = (found.train[k] + found.test[k] for k in (0, 1))
    assert len(found.test.x) == 1 and all(part.shape[1] == 4 and (part.sum(axis=1) == 1).all() for part in x)
    told = sorted((tuple(part.argmax(axis=1).tolist()), tuple(labels.tolist())) for part, labels in zip(x, target))
    assert told == [((0,), (2,)), ((0, 2), (0, 12)), ((1,), (0,)), ((3,), (11,))]


def test_rows_claims_and_figure_of_known_results():
    """Both ways right in 9 of 10 frames, delayed in 8, one way in 7; JapaneseVowels from 5 of 10 up, one way."""
    import matplotlib.pyplot as plt

    right = {"one way, small": 6, "one way": 7, "delayed": 8, "both ways": 9}
    size, todo = gain_jobs(["--quick"], ["vowels", "letters"])
    runs = {}
    for name, s in todo:
        ahead = s["data"] == "lookahead" and (s["kind"] == "both ways" or s["delay"] >= 3)
        steps = np.full(20, 20 if ahead else 11 if s["data"] == "lookahead" else 2 * right[s["kind"]])
        if s["data"] == "vowels" and s["kind"] == "one way":
            steps = np.linspace(10, 18, 20)
        runs[name] = {"right": steps, "frames": np.full(20, 20), "weights": 1}
    rows = [*bidirectional_gain.accuracy_rows(todo, runs), *bidirectional_gain.frame_rows(todo, runs), *bidirectional_gain.timit_rows()]
    rows += bidirectional_gain.gain_rows(rows, todo, runs, ["vowels", "letters"])
    gains = {(row["kind"], row["cell"]): row["accuracy"] for row in _study.select(rows, panel="gain", data="letters")}
    assert gains["one way", "gru"] == pytest.approx(0.2) and gains["delayed", "rnn"] == pytest.approx(0.1)
    claims = bidirectional_gain.claims(size, rows, ["vowels", "letters"])
    failing = [claim.claim for claim in claims if not claim.holds]
    assert len(claims) == 15 and len(failing) == 2 and all(claim.startswith("OCR letters, gru") for claim in failing)
    for names in (["vowels"], ["vowels", "letters"]):
        figure = bidirectional_gain.draw(rows, {"settings": size | {"data": names}})
        plt.close(figure)


# Two dimensions


def test_no_warp_is_no_change_and_a_small_one_a_small_one():
    images = np.random.default_rng(0).random((5, 8, 8)).astype("f4")
    assert _images.warp(images, 0.0, 1) is images
    nearly = _images.warp(images, 1e-6, 1)
    assert nearly.dtype == np.float32 and np.abs(nearly - images).max() < 1e-4
    moved = _images.warp(images, 0.1, 1)
    assert 0 <= moved.min() and moved.max() <= 1 and np.abs(moved - images).mean() > 0.05
    np.testing.assert_array_equal(moved, _images.warp(images, 0.1, 1))
    ramp = np.tile(np.arange(40.0), (300, 40, 1))  # the grey of a ramp is its column: its change is the displacement
    shift = (_images.warp(ramp, 0.01, 2) - ramp)[:, 10:-10, 10:-10]
    assert np.sqrt(2 * np.square(shift).mean()) == pytest.approx(0.01 * 40, rel=0.25)  # somewhat more at the border, less inside


def test_the_published_warp_has_the_strength_that_the_study_says():
    """Simard et al. 2003: uniform displacements, smoothed by a Gaussian of sigma 4, times 34, on 29 columns."""
    from scipy.ndimage import gaussian_filter

    field = 34 * gaussian_filter(np.random.default_rng(0).uniform(-1, 1, (100, 2, 29, 29)), (0, 0, 4, 4), mode="wrap")
    strength = two_dimensions.STRENGTHS[two_dimensions.PUBLISHED]
    assert np.sqrt(np.square(field).sum(axis=1).mean()) == pytest.approx(strength * 28, rel=0.05)


def test_copies_are_shifted_by_a_pixel():
    image = np.arange(1.0, 10.0).reshape(1, 3, 3)
    same, down, up, right, left = _images.shifted(image)
    np.testing.assert_array_equal(same, image[0])
    np.testing.assert_array_equal(down, [[0, 0, 0], [1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(up, [[4, 5, 6], [7, 8, 9], [0, 0, 0]])
    np.testing.assert_array_equal(right, [[0, 1, 2], [0, 4, 5], [0, 7, 8]])
    np.testing.assert_array_equal(left, [[2, 3, 0], [5, 6, 0], [8, 9, 0]])


def test_rivals_are_of_one_size():
    goal = _images.model_of("2-D lstm", 16, 8, seed=0).params.flat.size
    for kind in _images.KINDS[1:]:
        found = _images.model_of(kind, _images.size_of(kind, goal, 8), 8, seed=0).params.flat.size
        assert found == pytest.approx(goal, rel=0.03)


def test_the_norm_by_distance_counts_paths():
    assert _images.carousel(6, 0.7) < 1e-13
    np.testing.assert_allclose(_images.paths(0.5, 4) * np.sqrt(2) / 2, [1, np.sqrt(2) / 2, np.sqrt(6) / 4, np.sqrt(20) / 8])


def test_a_run_on_images_is_trained_and_tested(tmp_path):
    """On files in MNIST's format, whose classes are told apart by one pixel."""
    rng = np.random.default_rng(0)
    for name in ("train", "t10k"):
        labels = rng.integers(0, 10, size=40).astype(np.uint8)
        images = np.zeros((40, 5, 4), np.uint8)
        images[np.arange(40), labels % 5, labels // 5] = 255
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
            (tmp_path / f"{name}-{kind}-ubyte").write_bytes(head + array.tobytes())
    settings = {"mnist": str(tmp_path), "train": 30, "test": 20, "kind": "2-D lstm", "hidden": 8, "seed": 0, "shifted": False}
    settings |= {"noise": 0.1, "batch": 5, "epochs": 30, "strengths": (0.0, 0.1)}
    found = _images.train(settings)
    assert found["tested"] == 20 and found["right"].shape == (2,) and found["train"] > 0.8 and found["right"][0] > 12
    assert found["curve"].shape == (8,) and found["curve"][1] == 1.0
    np.testing.assert_array_equal(found["right"], _images.train(settings)["right"])
