"""The oracle itself: against PyTorch where it has the cell, against closed forms and identities where it has not."""

import itertools

import numpy as np
import pytest
import reference as ref
from tolerances import TOLERANCES

T, B, D, H = 6, 4, 3, 5
LENGTHS = np.array([6, 2, 5, 3])
TORCH_CELLS = [("rnn", {"activation": "tanh"}), ("rnn", {"activation": "relu"}), ("lstm", {}), ("gru", {})]
TORCH_IDS = ["rnn_tanh", "rnn_relu", "lstm", "gru"]
VARIANTS = [
    ("rnn", {}),
    ("rnn", {"activation": "selu"}),
    ("lstm", {"peepholes": True}),
    ("lstm", {"coupled": True, "peepholes": True, "gate_activation": "hard_sigmoid"}),
    ("lstm", {"clip": 0.7, "activation": "elu", "output_activation": "identity"}),
    ("gru", {"reset_after": False}),
    ("gru", {"activation": "relu"}),
    ("indrnn", {"activation": "tanh"}),
    ("leaky", {}),
]
IDS = [f"{cell}-{'-'.join(map(str, options))}" for cell, options in VARIANTS]


def case(cell, options, seed=0, **settings):
    """(params, x, state) drawn for one network."""
    rng = np.random.default_rng(seed)
    params = ref.draw_params(cell, options, D, H, rng, **settings)
    places = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)
    states = tuple(rng.standard_normal((places, B, H)) for _ in ref.STATES[cell])
    return params, rng.standard_normal((T, B, D)), states if len(states) > 1 else states[0]


def close(got, wanted, tolerance=TOLERANCES["reference_identity"]):
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


# PyTorch ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def torch_network(torch, cell, options, params, **settings):
    """torch.nn's module with these parameters, in float64."""
    extra = {"nonlinearity": options["activation"]} if cell == "rnn" else {}
    module = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell](D, H, **settings, **extra, dtype=torch.float64)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in params.items()})
    return module


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["whole", "packed"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "both_ways"])
@pytest.mark.parametrize(("cell", "options"), TORCH_CELLS, ids=TORCH_IDS)
def test_network_and_gradient_agree_with_torch(torch, cell, options, bidirectional, lengths):
    settings = {"num_layers": 3, "bidirectional": bidirectional}
    params, x, state = case(cell, options, **settings)
    module = torch_network(torch, cell, options, params, **settings)
    x_torch = torch.tensor(x, requires_grad=True)
    start = tuple(torch.tensor(s, requires_grad=True) for s in as_tuple(state))
    given = x_torch
    if lengths is not None:
        given = torch.nn.utils.rnn.pack_padded_sequence(x_torch, lengths, enforce_sorted=False)
    y_torch, end = module(given, start if len(start) > 1 else start[0])
    if lengths is not None:
        y_torch, _ = torch.nn.utils.rnn.pad_packed_sequence(y_torch, total_length=T)

    y, state_n = ref.network(cell, options, params, x, state, lengths, **settings)
    tolerance = TOLERANCES["torch"]
    assert ref.normwise(y, y_torch.detach().numpy()) < tolerance
    for mine, theirs in zip(as_tuple(state_n), as_tuple(end), strict=True):
        assert ref.normwise(mine, theirs.detach().numpy()) < tolerance

    rng = np.random.default_rng(1)
    dy, dstate = rng.standard_normal(y.shape), tuple(rng.standard_normal(s.shape) for s in as_tuple(state_n))
    loss = (y_torch * torch.tensor(dy)).sum() + sum((e * torch.tensor(d)).sum() for e, d in zip(as_tuple(end), dstate))
    loss.backward()
    gradients = ref.network_gradient(cell, options, params, x, state, lengths, dy=dy, dstate=dstate, **settings)
    pairs = [(gradients.x, x_torch.grad), *zip(as_tuple(gradients.state), (s.grad for s in start), strict=True)]
    pairs += [(gradients.params[name], tensor.grad) for name, tensor in module.named_parameters()]
    assert len(pairs) == 1 + len(start) + len(params)
    for mine, theirs in pairs:
        assert ref.normwise(mine, theirs.numpy()) < tolerance


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2), (4, 3), (1, 1)])
def test_truncated_bptt_agrees_with_torch_detached_at_the_window(torch, window, stride):
    params, x, state = case("lstm", {}, num_layers=2)
    module = torch_network(torch, "lstm", {}, params, num_layers=2)
    dy = np.random.default_rng(1).standard_normal((T, B, H))
    previous = 0
    for update in ref.bptt_truncated("lstm", {}, params, x, state, window=window, stride=stride, dy=dy, num_layers=2):
        time = min(previous + stride, T)
        start = max(0, time - window)
        carried = tuple(map(torch.from_numpy, state))
        if start:
            carried = tuple(s.detach() for s in module(torch.from_numpy(x[:start]), carried)[1])
        module.zero_grad()
        y, _ = module(torch.from_numpy(x[start:time]), carried)
        (y[previous - start :] * torch.from_numpy(dy[previous:time])).sum().backward()
        for name, tensor in module.named_parameters():
            assert ref.normwise(update.params[name], tensor.grad.numpy()) < TOLERANCES["torch"], name
        previous = time
    assert previous == T


@pytest.mark.parametrize("name", ["tanh", "relu", "sigmoid", "hard_sigmoid", "elu", "selu", "identity"])
def test_activations_and_their_slopes_agree_with_torch(torch, name):
    # the kinks themselves, both sides of them, and the far tails
    x = np.concatenate([np.linspace(-8, 8, 201), [0.0, -3.0, 3.0, -30.0, 30.0, -700.0, 700.0, 1e-9, -1e-9]])
    there = torch.tensor(x, requires_grad=True)
    functional = torch.nn.functional
    functions = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "hard_sigmoid": functional.hardsigmoid, "identity": lambda a: a * 1}
    y = functions.get(name, getattr(functional, name, None))(there)
    y.sum().backward()
    close(ref.activation(name)(x), y.detach().numpy())
    slopes = there.grad.numpy()
    if name == "hard_sigmoid":
        slopes = np.sign(slopes) / 6  # PyTorch rounds its 1 / 6 to float32 here, in float64 too
    close(ref.complex_step(lambda a: ref.activation(name)(a).sum(), x), slopes)


def test_sigmoid_keeps_its_relative_accuracy_in_the_lower_tail():
    x = np.array([-20.0, -100.0, -600.0])
    tail = np.exp(x) / (1 + np.exp(x))
    np.testing.assert_allclose(ref.sigmoid(x), tail, rtol=1e-15)
    np.testing.assert_allclose(ref.complex_step(lambda a: ref.sigmoid(a).sum(), x), tail * (1 - tail), rtol=1e-15)


# Cells without a counterpart: by hand, by identities ---------------------------------------------------------------


def one_step(cell, options, seed=0):
    """(params without suffix, x (B, D), states (B, H)) of one step."""
    params, x, state = case(cell, options, seed)
    return {name.removesuffix("_l0"): array for name, array in params.items()}, x[0], tuple(s[0] for s in as_tuple(state))


def sigma(a):
    return 1 / (1 + np.exp(-a))


def test_lstm_with_peepholes_and_clip_unit_by_unit():
    p, x, (h, c) = one_step("lstm", {"peepholes": True})
    (h_new, c_new), seen = ref.step("lstm", {"peepholes": True, "clip": 0.8}, p, x, (h, c))
    acted = 0
    for b, j in itertools.product(range(B), range(H)):

        def a(gate, b=b, j=j):
            row = gate * H + j
            return p["weight_ih"][row] @ x[b] + p["bias_ih"][row] + p["weight_hh"][row] @ h[b] + p["bias_hh"][row]

        def limit(value):
            nonlocal acted
            acted += abs(value) > 0.8
            return min(max(value, -0.8), 0.8)

        i = sigma(limit(a(0) + p["peephole_i"][j] * c[b, j]))
        f = sigma(limit(a(1) + p["peephole_f"][j] * c[b, j]))
        cell = f * c[b, j] + i * np.tanh(limit(a(2)))
        o = sigma(limit(a(3) + p["peephole_o"][j] * cell))
        close([c_new[b, j], h_new[b, j], seen["o"][b, j]], [cell, o * np.tanh(cell), o])
        close([seen[f"a_{name}"][b, j] for name in "ifgo"], [a(0), a(1), a(2), a(3)])
    assert 0 < acted < 4 * B * H


def test_lstm_uses_each_activation_where_it_belongs():
    options = {"gate_activation": "hard_sigmoid", "activation": "relu", "output_activation": "elu"}
    p, x, (h, c) = one_step("lstm", options)
    (h_new, c_new), seen = ref.step("lstm", options, p, x, (h, c))
    i, f, o = (np.clip(seen[f"a_{name}"] / 6 + 0.5, 0, 1) for name in "ifo")
    wanted = f * c + i * np.maximum(seen["a_g"], 0)
    close(c_new, wanted)
    close(h_new, o * np.where(wanted > 0, wanted, np.exp(wanted) - 1))


def test_coupled_lstm_is_an_lstm_whose_forget_gate_mirrors_its_input_gate():
    """1 - sigmoid(a) = sigmoid(-a)."""
    p, x, state = one_step("lstm", {"coupled": True, "peepholes": True})

    def whole(array):
        i, g, o = np.split(array, 3)
        return np.concatenate([i, -i, g, o])

    q = {name: array if name.startswith("peephole") else whole(array) for name, array in p.items()}
    q["peephole_f"] = -p["peephole_i"]
    got, seen = ref.step("lstm", {"coupled": True, "peepholes": True}, p, x, state)
    wanted, expected = ref.step("lstm", {"peepholes": True}, q, x, state)
    close(got, wanted)
    close(seen["f"], expected["f"])


def test_gru_that_resets_before_the_product_unit_by_unit():
    p, x, (h,) = one_step("gru", {})
    (h_new,), seen = ref.step("gru", {"reset_after": False}, p, x, (h,))
    for b in range(B):

        def a(gate, operand, b=b):
            rows = slice(gate * H, (gate + 1) * H)
            return p["weight_ih"][rows] @ x[b] + p["bias_ih"][rows] + p["weight_hh"][rows] @ operand + p["bias_hh"][rows]

        r, z = sigma(a(0, h[b])), sigma(a(1, h[b]))
        n = np.tanh(a(2, r * h[b]))
        close(h_new[b], (1 - z) * n + z * h[b])
        close([seen["r"][b], seen["a_n"][b]], [r, a(2, r * h[b])])


def test_indrnn_is_an_rnn_with_a_diagonal_matrix():
    p, x, state = one_step("indrnn", {})
    q = p | {"weight_hh": np.diag(p["weight_hh"]), "bias_hh": np.zeros(H)}
    close(ref.step("indrnn", {}, p, x, state)[0], ref.step("rnn", {"activation": "relu"}, q, x, state)[0])


def test_leaky_decays_with_its_time_constant_to_the_value_it_is_driven_to():
    """Constant drive u: h(t) = u + (h0 - u) e^(-t / tau), exactly, whatever dt."""
    params, x, h0 = case("leaky", {})
    params |= {"weight_ih_l0": np.zeros((H, D)), "weight_hh_l0": np.zeros((H, H))}
    u = np.tanh(params["bias_ih_l0"] + params["bias_hh_l0"])
    y, _ = ref.network("leaky", {}, params, x, h0)
    time = params["dt_l0"] * np.arange(1, T + 1)[:, None]
    decay = np.exp(-time / np.exp(params["log_tau_l0"]))[:, None]
    close(y, u + (h0 - u) * decay)


def test_leaky_with_steps_much_longer_than_tau_is_an_rnn():
    params, x, h0 = case("leaky", {})
    params["dt_l0"] = np.full(H, 100.0)
    close(ref.network("leaky", {}, params, x, h0)[0], ref.network("rnn", {}, params, x, h0)[0])


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_options_reach_every_cell(activation):
    for cell in ("rnn", "gru", "indrnn", "leaky", "lstm"):
        p, x, state = one_step(cell, {})
        options = {"activation": activation}
        plain = {"activation": "sigmoid"}
        assert np.abs(ref.step(cell, options, p, x, state)[0][0] - ref.step(cell, plain, p, x, state)[0][0]).max() > 1e-3
    p, x, state = one_step("gru", {})
    _, seen = ref.step("gru", {"gate_activation": "hard_sigmoid"}, p, x, state)
    close(seen["z"], np.clip(seen["a_z"] / 6 + 0.5, 0, 1))


# Networks ---------------------------------------------------------------------------------------------------------


def test_linear_network_has_its_closed_form():
    """dh_T/dh_0 = W^T, and h_T = W^T h_0 + sum_t W^(T-1-t) (U x_t + b)."""
    params, x, h0 = case("rnn", {})
    W, U, b = params["weight_hh_l0"], params["weight_ih_l0"], params["bias_ih_l0"] + params["bias_hh_l0"]
    power = np.linalg.matrix_power
    _, h_n = ref.network("rnn", {"activation": "identity"}, params, x, h0)
    close(h_n[0], h0[0] @ power(W, T).T + sum((x[t] @ U.T + b) @ power(W, T - 1 - t).T for t in range(T)))
    dh = np.random.default_rng(1).standard_normal(h_n.shape)
    gradients = ref.network_gradient("rnn", {"activation": "identity"}, params, x, h0, dstate=dh)
    close(gradients.state, dh @ power(W, T))


@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=IDS)
def test_a_batch_is_its_sequences_one_by_one_and_padding_reaches_nothing(cell, options):
    settings = {"num_layers": 2, "bidirectional": True}
    params, x, state = case(cell, options, **settings)
    lengths = [6, 0, 5, 3]
    for b, length in enumerate(lengths):
        x[length:, b] = np.nan
    y, state_n = ref.network(cell, options, params, x, state, lengths, **settings)
    for b, length in enumerate(lengths):
        alone = tuple(s[:, b : b + 1] for s in as_tuple(state))
        y_b, state_b = ref.network(cell, options, params, x[:length, b : b + 1], alone, **settings)
        close(y[:length, b : b + 1], y_b)
        assert not y[length:, b].any()
        for mine, theirs in zip(as_tuple(state_n), as_tuple(state_b), strict=True):
            close(mine[:, b : b + 1], theirs)
    for mine, start in zip(as_tuple(state_n), as_tuple(state), strict=True):
        assert (mine[:, 1] == start[:, 1]).all()  # no steps: the state passes through


def test_reverse_is_forward_on_reversed_sequences():
    params, x, state = case("gru", {})
    y, state_n = ref.network("gru", {}, params, x, state, LENGTHS, reverse=True)
    flipped = x.copy()
    for b, length in enumerate(LENGTHS):
        flipped[:length, b] = x[:length, b][::-1]
    y_flipped, state_flipped = ref.network("gru", {}, params, flipped, state, LENGTHS)
    for b, length in enumerate(LENGTHS):
        close(y[:length, b], y_flipped[:length, b][::-1])
    close(state_n, state_flipped)


def test_merges_follow_from_both_directions():
    params, x, state = case("rnn", {}, bidirectional=True)

    def y(merge):
        return ref.network("rnn", {}, params, x, state, LENGTHS, bidirectional=True, merge=merge)[0]

    forward, backward = np.split(y("concat"), 2, axis=-1)
    close(y("sum"), forward + backward)
    close(y("mean"), 0.5 * (forward + backward))
    close(y("product"), forward * backward)
    assert np.abs(forward - backward).max() > 0.1


def test_no_steps_and_no_sequences():
    params, x, state = case("lstm", {})
    y, state_n = ref.network("lstm", {}, params, x[:0], state)
    assert y.shape == (0, B, H) and all((a == b).all() for a, b in zip(state_n, state, strict=True))
    y, (h, c) = ref.network("lstm", {}, params, x[:, :0])
    assert y.shape == (T, 0, H) and h.shape == c.shape == (1, 0, H)


def test_masks_scale_what_they_stand_on():
    params, x, h0 = case("rnn", {}, num_layers=2)
    rng = np.random.default_rng(1)
    between, recurrent = rng.uniform(size=(T, B, H)), [rng.uniform(size=(B, H)) for _ in range(2)]
    got, _ = ref.network("rnn", {}, params, x, h0, num_layers=2, masks=[(None, recurrent[:1]), (between, recurrent[1:])])
    y = x
    for k in range(2):
        h, steps = h0[k], []
        for x_t in y * between if k else y:
            a = x_t @ params[f"weight_ih_l{k}"].T + (h * recurrent[k]) @ params[f"weight_hh_l{k}"].T
            h = np.tanh(a + params[f"bias_ih_l{k}"] + params[f"bias_hh_l{k}"])
            steps.append(h)
        y = np.stack(steps)
    close(got, y)


@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=IDS)
def test_a_mask_on_the_recurrent_operand_is_a_scaling_of_the_columns_it_meets(cell, options):
    """U (m h) = (U diag m) h, with one m for all sequences; IndRNN has no recurrent product."""
    params, x, state = case(cell, options)
    m = np.random.default_rng(1).uniform(size=H)
    got, _ = ref.network(cell, options, params, x, state, masks=[(None, [np.tile(m, (B, 1))])])
    scaled = params if cell == "indrnn" else params | {"weight_hh_l0": params["weight_hh_l0"] * m}
    close(got, ref.network(cell, options, scaled, x, state)[0])


def test_details_show_every_step():
    settings = {"num_layers": 2, "bidirectional": True}
    params, x, state = case("lstm", {}, **settings)
    y, (_, c_n), seen = ref.network("lstm", {}, params, x, state, LENGTHS, **settings, details=True)
    assert set(seen) == {"h", "c", "i", "f", "g", "o", "a_i", "a_f", "a_g", "a_o"}
    assert all(array.shape == (4, T, B, H) for array in seen.values())
    close(np.concatenate(seen["h"][2:], axis=-1), y)
    close(seen["h"], seen["o"] * np.tanh(seen["c"]))
    for b, length in enumerate(LENGTHS):
        close(seen["c"][0, length - 1, b], c_n[0, b])  # forward ends at the last step, reverse at the first
        close(seen["c"][3, 0, b], c_n[3, b])
        assert not any(array[:, length:, b].any() for array in seen.values())


# Derivatives ------------------------------------------------------------------------------------------------------


def test_complex_step_is_exact_where_finite_differences_are_not():
    x = np.random.default_rng(0).standard_normal((3, 4))
    exact = np.exp(x) * (np.sin(x) + np.cos(x))
    close(ref.complex_step(lambda a: (np.exp(a) * np.sin(a)).sum(), x), exact)
    for chunk in (1, 5, 256):
        close(ref.complex_step_copies(lambda a: (np.exp(a) * np.sin(a)).sum(axis=(1, 2)), x, chunk), exact)


def test_complex_step_copies_refuses_a_function_that_mixes_its_copies():
    with pytest.raises(ValueError, match=r"f: one value a copy, shape \(2,\)"):
        ref.complex_step_copies(lambda a: a.sum(), np.ones(2))


@pytest.mark.parametrize("merge", ["concat", "product"])
@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=IDS)
def test_gradient_of_every_variant_agrees_with_finite_differences(cell, options, merge):
    """Along one random direction in all arrays at once: coarse, but real arithmetic, so independent of the complex one."""
    settings = {"num_layers": 2, "bidirectional": True, "merge": merge}
    params, x, state = case(cell, options, **settings)
    lengths = [6, 0, 5, 3]
    rng = np.random.default_rng(1)
    y, state_n = ref.network(cell, options, params, x, state, lengths, **settings)
    dy, dstate = rng.standard_normal(y.shape), tuple(rng.standard_normal(s.shape) for s in as_tuple(state_n))
    gradients = ref.network_gradient(cell, options, params, x, state, lengths, dy=dy, dstate=dstate, **settings)
    to = {name: rng.standard_normal(array.shape) for name, array in params.items()}
    to_x, to_state = rng.standard_normal(x.shape), tuple(rng.standard_normal(s.shape) for s in as_tuple(state))

    def loss(e):
        there = {name: array + e * to[name] for name, array in params.items()}
        start = tuple(s + e * d for s, d in zip(as_tuple(state), to_state))
        y, end = ref.network(cell, options, there, x + e * to_x, start, lengths, **settings)
        return (dy * y).sum() + sum((d * s).sum() for d, s in zip(dstate, as_tuple(end)))

    e = 1e-6
    along = sum((gradients.params[name] * to[name]).sum() for name in params) + (gradients.x * to_x).sum()
    along += sum((g * d).sum() for g, d in zip(as_tuple(gradients.state), to_state))
    assert all(np.any(array) for array in gradients.params.values())
    assert along == pytest.approx((loss(e) - loss(-e)) / (2 * e), rel=TOLERANCES["finite_differences"])


def test_copies_side_by_side_give_the_elementwise_gradient():
    settings = {"num_layers": 2, "bidirectional": True}
    params, x, state = case("lstm", {"peepholes": True}, **settings)
    dy = np.random.default_rng(1).standard_normal((T, B, 2 * H))
    gradients = ref.network_gradient("lstm", {"peepholes": True}, params, x, state, LENGTHS, dy=dy, **settings)
    for name in ("bias_hh_l0", "peephole_o_l1_reverse"):

        def loss(array, name=name):
            return (dy * ref.network("lstm", {"peepholes": True}, params | {name: array}, x, state, LENGTHS, **settings)[0]).sum()

        close(gradients.params[name], ref.complex_step(loss, params[name]))


def test_gradients_at_steps_chain_to_those_of_parameters_and_state():
    params, x, h0 = case("rnn", {})
    dy = np.random.default_rng(1).standard_normal((T, B, H))
    gradients = ref.network_gradient("rnn", {}, params, x, h0, LENGTHS, dy=dy, details=("h", "a_h"))
    _, _, seen = ref.network("rnn", {}, params, x, h0, LENGTHS, details=True)
    dh, da = gradients.details["h"][0], gradients.details["a_h"][0]
    close(da, dh * (1 - seen["h"][0] ** 2) * (np.arange(T)[:, None] < LENGTHS)[..., None])
    close(gradients.params["bias_ih_l0"], da.sum(axis=(0, 1)))
    close(gradients.params["weight_ih_l0"], np.einsum("tbh,tbd->hd", da, x))
    close(gradients.state[0], da[0] @ params["weight_hh_l0"])
    close(dh[LENGTHS - 1, np.arange(B)], dy[LENGTHS - 1, np.arange(B)])  # y_t counts as h_t


@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=IDS)
def test_gradients_at_steps_sum_to_those_of_the_biases(cell, options):
    """A bias adds to its pre-activation at every valid step of every sequence."""
    settings = {"num_layers": 2, "bidirectional": True}
    params, x, state = case(cell, options, **settings)
    _, _, seen = ref.network(cell, options, params, x, state, LENGTHS, **settings, details=True)
    names = [name for name in seen if name.startswith("a_")]
    dy = np.random.default_rng(1).standard_normal((T, B, 2 * H))
    gradients = ref.network_gradient(cell, options, params, x, state, LENGTHS, dy=dy, details=names, **settings)
    gates = ref.gates_of(cell, options)
    assert set(names) - {"a_u_n"} == {f"a_{gate}" for gate in gates}
    for name, (place, suffix) in itertools.product(names, enumerate(("_l0", "_l0_reverse", "_l1", "_l1_reverse"))):
        bias = gradients.params[("bias_hh" if name == "a_u_n" else "bias_ih") + suffix]
        row = gates.index(name[-1]) * H
        assert gradients.details[name].any()
        close(gradients.details[name][place].sum(axis=(0, 1)), bias[row : row + H])


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 1), (2, 2), (5, 2), (4, 3), (1, 3), (6, 6), (9, 9)])
def test_truncated_bptt_of_a_scalar_linear_network_has_its_closed_form(window, stride):
    """h_t = w h_{t-1} + x_t, an update at u: dL/dw = sum over errors t in the stride, sources s in [u - window, t), of w^(t-1-s) h_s."""
    rng, w = np.random.default_rng(0), 0.8
    x, dy, h0 = rng.standard_normal((T, 1, 1)), rng.standard_normal((T, 1, 1)), rng.standard_normal((1, 1, 1))
    params = {"weight_ih_l0": np.eye(1), "weight_hh_l0": np.full((1, 1), w), "bias_ih_l0": np.zeros(1), "bias_hh_l0": np.zeros(1)}
    updates = ref.bptt_truncated("rnn", {"activation": "identity"}, params, x, h0, window=window, stride=stride, dy=dy)
    h = [h0.item()]
    for t in range(T):
        h.append(w * h[-1] + x[t].item())
    times = [*range(stride, T, stride), T]
    assert len(updates) == len(times)
    for previous, time, update in zip([0, *times], times, updates):
        start = max(0, time - window)
        reached = [(t, s) for t in range(max(previous, start) + 1, time + 1) for s in range(start, t)]
        close(update.params["weight_hh_l0"].item(), sum(dy[t - 1].item() * w ** (t - 1 - s) * h[s] for t, s in reached))
        sources = np.zeros(T)
        for t, s in reached:
            sources[s] += dy[t - 1].item() * w ** (t - 1 - s)
        close(update.x.ravel(), sources)
        first = sum(dy[t - 1].item() * w**t for t in range(previous + 1, time + 1)) if start == 0 else 0.0
        close(update.state.item(), first)


def test_truncated_bptt_whose_window_is_everything_is_bptt():
    params, x, state = case("gru", {}, num_layers=2)
    rng = np.random.default_rng(1)
    dy, dstate = rng.standard_normal((T, B, H)), rng.standard_normal((2, B, H))
    whole = ref.network_gradient("gru", {}, params, x, state, LENGTHS, dy=dy, dstate=dstate, num_layers=2)
    for stride in (2, T):
        parts = ref.bptt_truncated("gru", {}, params, x, state, LENGTHS, window=T, stride=stride, dy=dy, dstate=dstate, num_layers=2)
        close(sum(part.x for part in parts), whole.x)
        close(sum(part.state for part in parts), whole.state)
        for name in params:
            close(sum(part.params[name] for part in parts), whole.params[name])
    short = ref.bptt_truncated("gru", {}, params, x, state, LENGTHS, window=2, stride=2, dy=dy, dstate=dstate, num_layers=2)
    assert ref.normwise(sum(part.params["weight_hh_l0"] for part in short), whole.params["weight_hh_l0"]) > 0.01


def test_truncated_bptt_of_ragged_sequences_is_that_of_whole_ones_without_errors_beyond_their_ends():
    params, x, state = case("lstm", {}, num_layers=2)
    dy = np.random.default_rng(1).standard_normal((T, B, H))
    settings = {"window": 3, "stride": 2, "num_layers": 2}
    ragged = ref.bptt_truncated("lstm", {}, params, x, state, LENGTHS, dy=dy, **settings)
    inside = (np.arange(T)[:, None] < LENGTHS)[..., None]
    whole = ref.bptt_truncated("lstm", {}, params, x, state, dy=dy * inside, **settings)
    for a, b in zip(ragged, whole, strict=True):
        close(a.x, b.x)
        for name in params:
            close(a.params[name], b.params[name])


def test_selu_has_all_the_digits_of_longdouble():
    x, digits = np.array([1.0, -1e4], np.longdouble), np.finfo(np.longdouble).eps
    wanted = [np.longdouble("1.0507009873554804934193349852946"), np.longdouble("-1.7580993408473768599402175208123")]
    np.testing.assert_allclose(ref.selu(x), wanted, rtol=2 * float(digits), atol=0)


@pytest.mark.parametrize(("cell", "options"), VARIANTS, ids=IDS)
def test_longdouble_stays_longdouble_and_float64_is_its_rounding(cell, options):
    params, x, state = case(cell, options, num_layers=2, bidirectional=True)
    wide = {name: array.astype(np.longdouble) for name, array in params.items()}
    start = tuple(s.astype(np.longdouble) for s in as_tuple(state))
    y, _ = ref.network(cell, options, wide, x.astype(np.longdouble), start, LENGTHS, 2, True)
    assert y.dtype == np.longdouble
    assert ref.normwise(ref.network(cell, options, params, x, state, LENGTHS, 2, True)[0], y) < TOLERANCES["reference_identity"]


def test_distances():
    exact = np.array([3.0, 4.0, 0.0])
    assert ref.normwise(exact + [0.0, 0.0, 0.5], exact) == pytest.approx(0.1)
    assert ref.elementwise(exact + [0.3, 0.0, 0.0], exact) == pytest.approx(0.1)
    assert ref.elementwise(exact + [0.0, 0.0, 4e-7], exact) == pytest.approx(0.1)  # held to 4 millionths
    assert ref.normwise(np.zeros(2), np.zeros(2)) == ref.elementwise(np.zeros(2), np.zeros(2)) == 0.0
    assert ref.normwise(np.ones(2), np.zeros(2)) == ref.elementwise(np.ones(2), np.zeros(2)) == np.inf
