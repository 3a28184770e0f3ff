import copy
import json
import math

import numpy as np
import pytest

from fastrnn._params import Params
from fastrnn.kernels.cpu import updates
from fastrnn.optimizers import REGISTRY, SGD, Adam, AdamW, RMSprop, State, from_config, global_norm
from fastrnn.schedules import Constant, CosineDecay, ReduceOnPlateau, Schedule, WarmUp

SHAPES = {"weight": (11, 13), "bias": (11,), "gain": ()}  # 155 numbers: two rows of lanes and some left over
UPDATES = 20
TOLERANCE = {"float64": 5e-15, "float32": 2e-6}  # against PyTorch after UPDATES updates; parameters are up to 5

CASES = [
    SGD(0.1),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    RMSprop(0.01),
    RMSprop(0.01, alpha=0.9, momentum=0.5, weight_decay=0.1),
    RMSprop(0.01, alpha=0.9, momentum=0.5, centered=True, eps=1e-3),
    Adam(0.01),
    Adam(0.01, betas=(0.5, 0.7), eps=1e-2, weight_decay=0.1),
    AdamW(0.01),
    AdamW(0.01, weight_decay=0.5),
]


def kind(optimizer):
    return type(optimizer).__name__


def fill(dtype="float64", seed=0, scale=1.0):
    params = Params(SHAPES, dtype)
    params.flat[:] = scale * np.random.default_rng(seed).standard_normal(params.flat.size)
    return params


def run(optimizer, params, updates, state=None, first=0):
    state = optimizer.init(params) if state is None else state
    for k in range(first, first + updates):
        state, _ = optimizer.update(params, fill(params.dtype, 100 + k), state)
    return state


def test_every_kind_is_here():
    assert {type(optimizer).__name__ for optimizer in CASES} == set(REGISTRY)


def pytorch_updates(optimizer, params, clip_norm=None, clip_value=None):
    """The same updates by the namesake in torch.optim; returns flat parameters and the norms it saw."""
    torch = pytest.importorskip("torch")
    theirs = {name: torch.tensor(array.copy(), requires_grad=True) for name, array in params.items()}
    options = {k: v for k, v in vars(optimizer).items() if k not in ("learning_rate", "clip_norm", "clip_value")}
    twin = getattr(torch.optim, kind(optimizer))(theirs.values(), lr=optimizer.learning_rate, **options)
    norms = []
    for k in range(UPDATES):
        for name, gradient in fill(params.dtype, 100 + k).items():
            theirs[name].grad = torch.tensor(gradient.copy())
        if clip_value is not None:
            torch.nn.utils.clip_grad_value_(theirs.values(), clip_value)
        if clip_norm is not None:
            norms.append(float(torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)))
        twin.step()
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in theirs.values()]), norms


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", CASES, ids=kind)
def test_agrees_with_pytorch(optimizer, dtype):
    params = fill(dtype)
    expected, _ = pytorch_updates(optimizer, params)
    before = params.flat.copy()
    state = run(optimizer, params, UPDATES)
    assert state.step == UPDATES and np.abs(params.flat - before).max() > 1e-2
    assert np.abs(params.flat - expected).max() <= TOLERANCE[dtype]


def test_defaults_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    for optimizer in (RMSprop(), Adam(), AdamW()):
        theirs = getattr(torch.optim, kind(optimizer))([torch.zeros(1, requires_grad=True)]).defaults
        ours = vars(optimizer) | {"lr": optimizer.learning_rate}
        shared = set(theirs) & set(ours)
        assert {"lr", "eps", "weight_decay"} < shared
        assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


@pytest.mark.parametrize(
    "clip", [{"clip_norm": 1.0}, {"clip_norm": 12.5}, {"clip_value": 0.5}, {"clip_norm": 5.0, "clip_value": 1.0}]
)
def test_clipping_agrees_with_pytorch(clip):
    params = fill()
    expected, norms = pytorch_updates(SGD(0.1), params, **clip)
    optimizer = SGD(0.1, **clip)
    state, seen, cut = optimizer.init(params), [], []
    for k in range(UPDATES):
        grads = fill(seed=100 + k)
        before = grads.flat.copy()
        state, info = optimizer.update(params, grads, state)
        assert np.array_equal(grads.flat, before)
        seen.append(info.norm)
        cut.append(info.clipped)
    assert np.abs(params.flat - expected).max() <= TOLERANCE["float64"]
    if "clip_value" not in clip:
        assert seen == pytest.approx(norms, rel=1e-14)
        assert cut == [norm > clip["clip_norm"] for norm in norms]
        assert clip["clip_norm"] == 1.0 or set(cut) == {True, False}


def test_info_tells_the_norm_before_clipping_and_whether_it_cut():
    grads = Params({"w": (2,)}, "float64")
    grads["w"] = 3.0, -4.0
    for options, clipped, w in [
        ({}, False, [-3, 4]),
        ({"clip_norm": 6.0}, False, [-3, 4]),
        ({"clip_value": 4.0}, False, [-3, 4]),
        ({"clip_norm": 2.5}, True, [-1.5, 2]),
        ({"clip_value": 3.0}, True, [-3, 3]),
        ({"clip_value": 3.0, "clip_norm": 4.5}, True, [-3, 3]),
    ]:
        params = grads.like()
        optimizer = SGD(1.0, **options)
        _, info = optimizer.update(params, grads, optimizer.init(params))
        assert (info.norm, info.clipped, info.learning_rate) == (5.0, clipped, 1.0)
        assert type(info.clipped) is bool and params["w"].tolist() == pytest.approx(w, rel=1e-6)


def test_the_norm():
    for dtype in ("float32", "float64"):
        flat = fill(dtype).flat.astype(float)
        assert global_norm(fill(dtype)) == pytest.approx(math.sqrt(math.fsum(flat * flat)), rel=1e-15)
    for scale in (1e-200, 1e-300, 1e200, 1e300):
        with np.errstate(over="ignore"):  # plain Python warns, compiled code does not
            assert global_norm(fill(scale=scale)) == pytest.approx(scale * global_norm(fill()), rel=1e-14)
    assert global_norm(fill("float32", scale=1e30)) == pytest.approx(1e30 * global_norm(fill("float32")), rel=1e-6)
    assert global_norm(fill().like()) == 0.0 and global_norm(Params({}, "float64")) == 0.0
    for bad in (np.nan, np.inf, -np.inf):
        for place in (0, 70, 154):
            grads = fill()
            grads.flat[place] = bad
            assert not math.isfinite(global_norm(grads))


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9, clip_value=1.0), Adam(clip_norm=1.0)], ids=kind)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(optimizer, bad):
    params = fill()
    state = run(optimizer, params, 2)
    before = params.flat.copy(), copy.deepcopy(state)
    grads = fill(seed=3)
    grads["gain"], grads["bias"][4] = np.nan, bad
    with pytest.raises(FloatingPointError, match=rf"grads: finite numbers .* 'bias' has {bad} at \(4,\) at update 2"):
        optimizer.update(params, grads, state)
    assert np.array_equal(params.flat, before[0]) and state.step == 2
    assert all(np.array_equal(state.moments[name], before[1].moments[name]) for name in state.moments)


def test_a_norm_too_large_for_float64_is_named():
    params, grads = fill(), fill()
    grads.flat[:] = 1e308
    words = "grads: a finite norm is required; got inf"
    with np.errstate(over="ignore"), pytest.raises(FloatingPointError, match=words):
        SGD().update(params, grads, SGD().init(params))


def test_updates_happen_in_place():
    params = fill()
    optimizer = Adam()
    flat, state = params.flat, optimizer.init(params)
    new, _ = optimizer.update(params, fill(seed=1), state)
    assert params.flat is flat and state.step == 0 and new.step == 1
    assert all(new.moments[name] is state.moments[name] and new.moments[name].any() for name in ("mean", "square"))


@pytest.mark.parametrize("optimizer", CASES, ids=kind)
def test_resuming_gives_the_same_bits(optimizer):
    whole, halves = fill("float32"), fill("float32")
    run(optimizer, whole, 6)
    state = run(optimizer, halves, 3)
    thawed = State(state.step, {name: moment.copy() for name, moment in state.moments.items()})
    run(from_config(json.loads(json.dumps(optimizer.config()))), halves, 3, thawed, first=3)
    assert np.array_equal(whole.flat, halves.flat)


def test_moments_are_kept_only_where_needed():
    params = fill("float32")
    for optimizer, names in [
        (SGD(), set()),
        (SGD(momentum=0.5), {"momentum"}),
        (RMSprop(), {"square"}),
        (RMSprop(momentum=0.5, centered=True), {"square", "momentum", "mean"}),
        (Adam(), {"mean", "square"}),
    ]:
        moments = optimizer.init(params).moments
        assert set(moments) == names
        assert all(m.dtype == np.float32 and m.shape == params.flat.shape and not m.any() for m in moments.values())


def test_a_schedule_sets_the_rate():
    schedule = WarmUp(2, CosineDecay(0.3, 5))
    optimizer, params = SGD(schedule), fill()
    state = optimizer.init(params)
    for step in range(8):
        before, grads = params.flat.copy(), fill(seed=step)
        state, info = optimizer.update(params, grads, state)
        assert info.learning_rate == schedule(step)
        assert np.abs(params.flat - (before - schedule(step) * grads.flat)).max() <= TOLERANCE["float64"]
    assert optimizer.schedule is schedule and SGD(0.3).schedule == Constant(0.3)


def test_a_plateau_lowers_the_rate():
    optimizer, params = SGD(ReduceOnPlateau(0.4, 0.5, patience=0)), fill()
    for _ in range(2):
        optimizer.schedule.observe(1.0)
    assert optimizer.update(params, fill(), optimizer.init(params))[1].learning_rate == 0.2


@pytest.mark.parametrize("optimizer", [*CASES, Adam(WarmUp(2, 0.1), clip_value=np.float32(0.5))], ids=kind)
def test_config_survives_json(optimizer):
    twin = from_config(json.loads(json.dumps(optimizer.config())))
    assert twin == optimizer and twin.config() == optimizer.config()


def test_a_variance_that_rounds_below_zero_stays_a_number():
    params, grads = Params({"w": (50,)}, "float32"), Params({"w": (50,)}, "float32")
    grads.flat[:] = np.linspace(0.1, 3, 50)
    optimizer = RMSprop(1e-3, alpha=0.3, centered=True)
    state = optimizer.init(params)
    for _ in range(60):  # a constant gradient: its variance goes to 0
        state, _ = optimizer.update(params, grads, state)
    assert np.isfinite(params.flat).all()


def test_nothing_to_update():
    empty = Params({}, "float32")
    for optimizer in (SGD(), Adam(clip_norm=1.0, clip_value=1.0)):
        state, info = optimizer.update(empty, empty.like(), optimizer.init(empty))
        assert state.step == 1 and info.norm == 0.0 and not info.clipped


def test_a_read_only_gradient_will_do():
    params, twin, grads = fill(), fill(), fill(seed=1)
    run_on = SGD(0.1)
    run_on.update(params, grads, run_on.init(params))
    grads.flat.flags.writeable = False
    run_on.update(twin, grads, run_on.init(twin))
    assert np.array_equal(params.flat, twin.flat)


class Broken(Schedule):
    def __call__(self, step):
        return math.nan


def frozen():
    params = fill()
    params.flat.flags.writeable = False
    return params


@pytest.mark.parametrize("params, grads, optimizer, other, words", [
    (fill(), Params({"weight": (155,)}, "float64"), SGD(), None, r"grads: the names, .* of Params\(weight\[11, 13\]"),
    (fill(), fill("float32"), SGD(), None, "grads: .* got .*float32"),
    (frozen(), fill(), SGD(), None, "params: a writable, contiguous"),
    (fill(), fill(), Adam(), SGD(), r"state: moments \('mean', 'square'\) .* Start from init\(params\)"),
    (fill(), fill(), SGD(Broken()), None, "learning_rate: a finite number is required; got nan"),
])  # fmt: skip
def test_what_does_not_belong_together_is_named(params, grads, optimizer, other, words):
    before = params.flat.copy()
    with pytest.raises(ValueError, match=words):
        optimizer.update(params, grads, (other or optimizer).init(params))
    assert np.array_equal(params.flat, before)


def test_moments_of_another_size_are_refused():
    params = fill()
    state = Adam().init(Params({"w": (3,)}, "float64"))
    with pytest.raises(ValueError, match="state: moments"):
        Adam().update(params, fill(), state)


@pytest.mark.parametrize("make, error, words", [
    (lambda: SGD(-0.1), ValueError, "learning_rate: a number of at least 0"),
    (lambda: SGD("fast"), TypeError, "learning_rate: a real number"),
    (lambda: SGD(momentum=1.0), ValueError, "momentum: "),
    (lambda: SGD(nesterov=True), ValueError, "nesterov: a momentum greater than 0"),
    (lambda: SGD(nesterov="yes", momentum=0.5), ValueError, "nesterov: one of False, True"),
    (lambda: SGD(weight_decay=-1), ValueError, "weight_decay: "),
    (lambda: SGD(clip_norm=0), ValueError, "clip_norm: a number greater than 0"),
    (lambda: SGD(clip_value=-1), ValueError, "clip_value: a number greater than 0"),
    (lambda: RMSprop(alpha=1.0), ValueError, "alpha: "),
    (lambda: RMSprop(eps=-1), ValueError, "eps: "),
    (lambda: RMSprop(centered=1), ValueError, "centered: one of False, True"),
    (lambda: Adam(betas=0.9), ValueError, "betas: two numbers are required"),
    (lambda: Adam(betas=(0.9, 1.0)), ValueError, "betas: "),
    (lambda: Adam(eps=math.inf), ValueError, "eps: a finite number"),
    (lambda: from_config({"kind": "Optimizer"}), ValueError, "optimizer: one of 'SGD', 'RMSprop', 'Adam', 'AdamW'"),
    (lambda: from_config({"kind": "SGD", "learning_rate": {"kind": "eval"}}), ValueError, "schedule: one of"),
])  # fmt: skip
def test_bad_arguments_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize("optimizer", [CASES[k] for k in (0, 2, 5, 7, 9)], ids=kind)
def test_kernels_as_plain_python(optimizer, monkeypatch):
    compiled, plain = fill(), fill()
    run(optimizer, compiled, 3)
    for name in ("sum_of_squares", "descent", "heavy_ball", "rmsprop", "adam"):
        function = getattr(updates, name)
        monkeypatch.setattr(updates, name, getattr(function, "py_func", function))
    run(optimizer, plain, 3)
    assert np.abs(plain.flat - compiled.flat).max() <= TOLERANCE["float64"]
