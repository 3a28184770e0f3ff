import json
import math

import pytest

from fastrnn.schedules import (
    REGISTRY,
    Constant,
    CosineDecay,
    ExponentialDecay,
    ReduceOnPlateau,
    StepDecay,
    WarmUp,
    from_config,
)

ALL = [
    Constant(0.1),
    StepDecay(0.1, 0.5, 3),
    ExponentialDecay(0.1, 0.9, 2),
    CosineDecay(0.1, 10, 0.01),
    WarmUp(4, CosineDecay(0.1, 10)),
    WarmUp(4, 0.1),
    ReduceOnPlateau(0.1, 0.5, 2, 0.01, 0.1),
]


def test_every_kind_is_here():
    assert {type(schedule).__name__ for schedule in ALL} == set(REGISTRY)


def rates(schedule, steps):
    return [schedule(step) for step in range(steps)]


def pytorch_rates(make, steps, initial=0.1):
    """The rates that torch.optim uses for updates 0, 1, ... under a scheduler stepped after each."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=initial)
    scheduler, result = make(torch.optim.lr_scheduler, optimizer), []
    for _ in range(steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return result


@pytest.mark.parametrize("schedule, make", [
    (Constant(0.1), lambda s, o: s.ConstantLR(o, 1.0)),
    (StepDecay(0.1, 0.5, 3), lambda s, o: s.StepLR(o, 3, 0.5)),
    (ExponentialDecay(0.1, 0.9), lambda s, o: s.ExponentialLR(o, 0.9)),
    (CosineDecay(0.1, 12, 0.01), lambda s, o: s.CosineAnnealingLR(o, 12, 0.01)),
    (WarmUp(4, 0.1), lambda s, o: s.LinearLR(o, 1 / 5, 1.0, 4)),
])  # fmt: skip
def test_agrees_with_pytorch(schedule, make):
    assert rates(schedule, 12) == pytest.approx(pytorch_rates(make, 12), rel=1e-13)


def test_reduce_on_plateau_agrees_with_pytorch():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2, min_lr=0.02, threshold=0.1)
    ours, seen = ReduceOnPlateau(0.1, 0.5, patience=2, minimum=0.02, threshold=0.1), set()
    for value in [5, 4, 3.9, 3.8, 3.7, 3.6, 1, math.nan, 1, 1, 1, 1, 1, 0.95, 0.5, 2, 2, 2, 2, 2, 2, 2, 2, 2]:
        theirs.step(value)
        ours.observe(value)
        seen.add(ours(0))
        assert ours(0) == optimizer.param_groups[0]["lr"]
    assert seen == {0.1, 0.05, 0.025, 0.02}


def test_closed_forms():
    assert rates(StepDecay(1.0, 0.5, 2), 5) == [1, 1, 0.5, 0.5, 0.25]
    assert ExponentialDecay(1.0, 0.25, 100)(50) == 0.5
    cosine = CosineDecay(1.0, 100, 0.2)
    assert cosine(0) == 1.0 and cosine(50) == pytest.approx(0.6) and cosine(100) == cosine(10**9) == 0.2


def test_warm_up_rises_evenly_and_hands_over():
    then = StepDecay(1.0, 0.5, 2)
    assert rates(WarmUp(3, then), 8) == [0.25, 0.5, 0.75, 1, 1, 0.5, 0.5, 0.25]
    assert rates(WarmUp(0, then), 4) == rates(then, 4)


def test_warm_up_passes_on_what_it_hears():
    schedule = WarmUp(1, ReduceOnPlateau(1.0, 0.5, patience=0))
    for value in (1.0, 1.0):
        schedule.observe(value)
    assert rates(schedule, 3) == [0.25, 0.5, 0.5]
    assert schedule.state() == schedule.then.state() != {}


def test_reduce_on_plateau_never_raises_the_rate():
    schedule = ReduceOnPlateau(0.1, 0.5, patience=0, minimum=0.5)
    for value in (1.0, 1.0, 1.0):
        schedule.observe(value)
    assert schedule(0) == 0.1


def test_reduce_on_plateau_starts_with_losses_that_are_not_finite():
    schedule = ReduceOnPlateau(1.0, 0.5, patience=1)
    for value in (math.inf, 1.0, 1.0, 0.5, -1.0, -2.0):
        schedule.observe(value)
    assert schedule(0) == 1.0 and schedule.state() == {"rate": 1.0, "best": -2.0, "waited": 0}
    schedule.observe(-1.9999)
    assert schedule.state()["waited"] == 1


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_state_and_config_survive_json(schedule):
    values = [3.0, 2.0, 2.0, 2.0, 1.99, 1.99, 1.0, 1.0, 1.0, 1.0, 1.0]
    twin = from_config(json.loads(json.dumps(schedule.config())))
    assert type(twin) is type(schedule) and twin.config() == schedule.config()
    live = from_config(schedule.config())
    for value in values[:5]:
        live.observe(value)
    twin.restore(json.loads(json.dumps(live.state())))
    for step, value in enumerate(values[5:]):
        live.observe(value)
        twin.observe(value)
        assert twin(step) == live(step) and twin.state() == live.state()


@pytest.mark.parametrize("schedule, state, words", [
    (Constant(1.0), {"rate": 1.0}, r"state: the keys \[\] are required; got \['rate'\]"),
    (ReduceOnPlateau(1.0), {}, "state: the keys"),
    (ReduceOnPlateau(1.0), {"rate": -1.0, "best": None, "waited": 0}, "rate: a number of at least 0"),
    (ReduceOnPlateau(1.0), {"rate": 0.5, "best": math.nan, "waited": 0}, "best: a finite number"),
    (ReduceOnPlateau(1.0), {"rate": 0.5, "best": None, "waited": -1}, "waited: an integer"),
])  # fmt: skip
def test_states_of_others_are_refused(schedule, state, words):
    before = schedule.state()
    with pytest.raises(ValueError, match=words):
        schedule.restore(state)
    assert schedule.state() == before


@pytest.mark.parametrize("make, error, words", [
    (lambda: Constant(-1), ValueError, "rate: a number of at least 0"),
    (lambda: Constant("1"), TypeError, "rate: a real number"),
    (lambda: Constant(math.inf), ValueError, "rate: a finite number"),
    (lambda: StepDecay(1, 2, 1), ValueError, "factor: a number of at most 1"),
    (lambda: StepDecay(1, 0.5, 0), ValueError, "every: an integer at least 1"),
    (lambda: StepDecay(1, 0.5, 1.5), TypeError, "every: an integer"),
    (lambda: ExponentialDecay(1, -0.5), ValueError, "factor: a number of at least 0"),
    (lambda: CosineDecay(1, 0), ValueError, "steps: an integer at least 1"),
    (lambda: CosineDecay(1, 5, math.nan), ValueError, "final: a finite number"),
    (lambda: WarmUp(-1, 0.1), ValueError, "steps: an integer at least 0"),
    (lambda: WarmUp(5, "cosine"), TypeError, "then: a real number"),
    (lambda: ReduceOnPlateau(1, factor=1.0), ValueError, "factor: "),
    (lambda: ReduceOnPlateau(1, patience=-1), ValueError, "patience: an integer"),
    (lambda: from_config({"kind": "Schedule"}), ValueError, "schedule: one of 'Constant', "),
    (lambda: from_config({}), ValueError, "schedule: one of"),
    (lambda: from_config({"kind": "WarmUp", "steps": 1, "then": {"kind": "print"}}), ValueError, "schedule: one of"),
])  # fmt: skip
def test_bad_arguments_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
