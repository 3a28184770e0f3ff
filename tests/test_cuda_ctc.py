"""CTC on a GPU that is simulated, against the CPU."""

import numpy as np
import pytest
from test_cuda import assert_alike

import fastrnn as fr
from fastrnn import _device
from fastrnn.kernels.cuda import ctc, target

T, B, O = 9, 6, 4
LABELS = [[1, 2, 3], [2, 2, 1, 1], [], [3], [1, 2, 1, 2, 1], [3, 3]]
LENGTHS = np.array([9, 8, 4, 0, 9, 5])


def logits(dtype="float64", scale: float = 3.0):
    z = (scale * np.random.default_rng(0).normal(size=(T, B, O))).astype(dtype)
    z[np.arange(T)[:, None] >= LENGTHS] = np.nan
    return z


def both(loss, z, *arguments):
    device = _device.device("cuda")
    want, got = loss.value_and_gradient(z, *arguments), loss.value_and_gradient(device.put(z), *arguments)
    return want, (got[0], got[1].get(), got[2])


def assert_same(want, got):
    assert want[2] == got[2] and got[1].dtype == want[1].dtype
    np.testing.assert_allclose(got[0], want[0], rtol=1e-13)
    assert_alike(got[1], want[1])


@pytest.mark.parametrize("order", ["fifo", "random", "uneven"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_and_gradients_are_those_of_the_cpu(dtype, order, gpu):
    """Repeated labels, none at all, one that no alignment has; steps that are no number beyond the ends."""
    gpu(order=order)
    for infeasible, weight in (("inf", 0), ("zero", 1)):
        assert_same(*both(fr.CTC(infeasible=infeasible), logits(dtype), LABELS, LENGTHS, [1, 0.5, 2, weight, 3, 1]))


@pytest.mark.parametrize("scale", [1e-3, 50.0, 1e4])
def test_the_less_probable_and_the_sure(scale, gpu):
    assert_same(*both(fr.CTC(infeasible="zero", blank=0), logits(scale=scale), LABELS, LENGTHS))


def test_another_blank_and_more_labels_than_threads(gpu, monkeypatch):
    monkeypatch.setattr(ctc, "THREADS", 4)
    rng = np.random.default_rng(1)
    z, labels = rng.normal(size=(30, 2, 7)), [[2, 3, 4, 5, 6, 0, 0, 2, 2, 3], [5]]
    assert_same(*both(fr.CTC(blank=1), z, labels))


def test_sequences_a_few_at_a_time_have_the_same_bits(gpu, monkeypatch):
    device, loss = _device.device("cuda"), fr.CTC(infeasible="zero")
    want = loss.value_and_gradient(device.put(logits()), LABELS, LENGTHS)
    monkeypatch.setattr(ctc, "ROWS_BYTES", 2 * 8 * 10 * 4 * 7)  # of two
    got = loss.value_and_gradient(device.put(logits()), LABELS, LENGTHS)
    assert got[0] == want[0] and (got[1].get() == want[1].get()).all()


def test_a_sequence_alone_has_the_bits_that_it_has_among_others(gpu):
    device, loss, z = _device.device("cuda"), fr.CTC(infeasible="zero"), logits()
    for b in (0, 1, 4):
        weights = np.zeros(B)
        weights[b] = 1.0
        value, gradient, _ = loss.value_and_gradient(device.put(z), LABELS, LENGTHS, weights)
        alone = loss.value_and_gradient(device.put(z[:, b : b + 1]), LABELS[b : b + 1], LENGTHS[b : b + 1])
        assert alone[0] == value and (alone[1].get()[:, 0] == gradient.get()[:, b]).all()


def test_nothing_that_counts(gpu):
    for z, labels in ((np.zeros((3, 0, 2)), np.zeros((0, 1), int)), (np.zeros((0, 2, 2)), [[], []])):
        assert_same(*both(fr.CTC(), z, labels))
    assert_same(*both(fr.CTC(), logits(), LABELS, LENGTHS, np.zeros(B)))


def test_impossible_labels_raise_as_on_the_cpu(gpu):
    z = np.zeros((2, 1, 3))
    z[:, 0, 1] = -np.inf
    for labels, given in (([[1]], z), ([[1, 1]], np.zeros((2, 1, 3)))):
        said = []
        for put in (np.asarray, _device.device("cuda").put):
            with pytest.raises(ValueError) as raised:
                fr.CTC().value_and_gradient(put(given), labels)
            said.append(str(raised.value))
        assert said[0] == said[1]


def test_too_little_memory(gpu, monkeypatch):
    device = _device.device("cuda")
    z = device.put(logits())
    monkeypatch.setattr(target, "free_memory", lambda: 10)
    with pytest.raises(MemoryError, match="are required for the alignments and gradients of CTC; got 0 MB that are free"):
        fr.CTC(infeasible="zero").value_and_gradient(z, LABELS, LENGTHS)


@pytest.mark.parametrize("loss", [fr.CTC(), fr.CrossEntropy()])
def test_predictions_of_any_type_and_order(loss, gpu):
    device, z = _device.device("cuda"), np.array([[[0, 3, 1]], [[2, 0, 1]]])
    target = [[1]] if loss.per_sequence else [[1], [0]]
    for dtype in ("int64", "int8", "float16"):
        want, got = (loss.value_and_gradient(put(z.astype(dtype)), target) for put in (np.asarray, device.put))
        assert got[1].dtype == want[1].dtype
        assert_alike(got[1], want[1])
    turned = device.put(np.ascontiguousarray(np.swapaxes(z, 0, 1)).astype("float64")).swapaxes(0, 1)
    assert_alike(loss.value_and_gradient(turned, target)[1], want[1])
    with pytest.raises(TypeError, match="prediction: real numbers are required; got dtype complex128"):
        loss.value_and_gradient(device.put(z.astype(complex)), target)


def test_decoding_takes_logits_from_there(gpu):
    z, put = np.nan_to_num(logits()), _device.device("cuda").put
    for want, got in zip(fr.ctc.greedy(z, LENGTHS), fr.ctc.greedy(put(z), put(LENGTHS)), strict=True):
        assert (got == want).all()
    assert fr.ctc.beam_search(put(z))[0][0].log_probability == fr.ctc.beam_search(z)[0][0].log_probability


def test_what_is_no_number_is_found(gpu):
    z = np.zeros((3, 1, 3))
    z[1, 0, 2] = np.nan
    want, got = both(fr.CTC(infeasible="inf"), z, [[1]])
    assert np.isnan(want[0]) and np.isnan(got[0])
