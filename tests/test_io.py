"""The container, models and checkpoints: exact round trips, and one exception for everything that is not sound."""

import copy
import functools
import hashlib
import json
import math
import os
import struct
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrnn import io
from fastrnn._params import Params
from fastrnn.io import FileFormatError
from fastrnn.layers.bidirectional import Bidirectional
from fastrnn.layers.delayed import Delayed
from fastrnn.layers.feedforward import Dropout, Embedding, Linear
from fastrnn.layers.networks import GRU, RNN
from fastrnn.losses import CrossEntropy
from fastrnn.model import Model

ARRAYS = {
    "weight": np.arange(6, dtype="float32").reshape(2, 3),
    "bias": np.array([np.nan, -np.inf, -0.0]),
    "count": np.array(-(2**62)),
    "none": np.zeros((0, 5), "float32"),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "some.rnn"


@pytest.fixture
def sound(path):
    """The bytes of a sound file."""
    io.write(path, {"kind": "note", "text": "Grüße"}, ARRAYS)
    return path.read_bytes()


def assert_same_bits(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def container(header: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    """A file with the right digest around any header and body."""
    header += b" " * (-(20 + len(header)) % 64)
    content = struct.pack("<12sQ", io.MAGIC, len(header) if size is None else size) + header + body
    return content + hashlib.sha256(content).digest()


def described(arrays, **other) -> bytes:
    return json.dumps({"format": 1, "header": {}, "arrays": arrays} | other).encode()


def test_round_trip_is_exact(path, sound):
    header, arrays = io.read(path)
    assert header == {"kind": "note", "text": "Grüße"}
    assert list(arrays) == list(ARRAYS)
    for name, array in arrays.items():
        assert_same_bits(array, ARRAYS[name])
        assert array.flags.writeable and array.dtype.isnative


def test_same_content_is_the_same_file(path, sound):
    io.write(path, {"kind": "note", "text": "Grüße"}, ARRAYS)
    assert path.read_bytes() == sound


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3).T, np.arange(8.0)[::2], np.arange(3.0).astype(">f8"), np.broadcast_to(1.0, (3, 2))],
    ids=["transposed", "strided", "byte-swapped", "broadcast"],
)
def test_any_memory_layout_is_written(path, array):
    io.write(path, {}, {"a": array})
    np.testing.assert_array_equal(io.read(path)[1]["a"], array)


@settings(max_examples=30, deadline=None)
@given(shape=st.lists(st.integers(0, 5), max_size=4), dtype=st.sampled_from(io.DTYPES), seed=st.integers(0, 99))
def test_round_trip_of_any_shape(tmp_path_factory, shape, dtype, seed):
    path = tmp_path_factory.mktemp("io") / "f"
    array = np.frombuffer(np.random.default_rng(seed).bytes(8 * math.prod(shape)), "int64").reshape(shape)
    array = array.view("float64") if dtype == "float64" and array.ndim else array.astype(dtype)
    io.write(path, {}, {"a": array, "b": array[..., None]})
    assert_same_bits(io.read(path)[1]["a"], array)
    assert_same_bits(io.read(path)[1]["b"], array[..., None])


@pytest.mark.parametrize(
    ("header", "arrays", "error"),
    [
        ({"x": float("nan")}, {}, ValueError),
        ({"x": object()}, {}, TypeError),
        ({}, {"a": np.array(["text"])}, TypeError),
        ({}, {"a": np.array([object()])}, TypeError),
        ({}, {"a": np.zeros(2, "complex128")}, TypeError),
        ({}, {"a": np.zeros((1,) * 9)}, ValueError),
        ({"x": "y" * (1 << 24)}, {}, ValueError),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(path, sound, header, arrays, error):
    with pytest.raises(error):
        io.write(path, header, arrays)
    assert path.read_bytes() == sound
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_old_file(path, sound, monkeypatch, failing):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="disk full"):
        io.write(path, {}, {})
    assert path.read_bytes() == sound
    assert os.listdir(path.parent) == [path.name]


def test_an_interrupt_while_writing_leaves_the_old_file(path, sound, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        io.write(path, {}, {})
    assert path.read_bytes() == sound
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="links and modes of POSIX")
def test_links_are_followed_and_the_mode_is_the_users(path, sound, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    before = os.umask(0o022)
    try:
        io.write(link, {}, {})
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert io.read(path) == ({}, {})
    assert path.stat().st_mode & 0o777 == 0o644


def test_every_truncation_is_refused(path, sound):
    for size in range(len(sound)):
        path.write_bytes(sound[:size])
        with pytest.raises(FileFormatError):
            io.read(path)


def test_every_flipped_bit_is_refused(path, sound):
    for position in range(len(sound)):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError):
            io.read(path)


def test_bytes_after_the_end_are_refused(path, sound):
    path.write_bytes(sound + b"\0")
    with pytest.raises(FileFormatError, match="truncated or extended"):
        io.read(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_refused(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("io") / "f"
    for content in (noise, io.MAGIC + noise, container(noise)):
        path.write_bytes(content)
        with pytest.raises(FileFormatError):
            io.read(path)


GOOD = {"name": "a", "dtype": "float64", "shape": [8], "offset": 0}


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"[" * 100_000, b""),
        (b'{"a":' * 100_000, b""),
        (b'{"format": 1, "header": {"x": NaN}, "arrays": []}', b""),
        (b'{"format": ' + b"9" * 10_000 + b', "header": {}, "arrays": []}', b""),
        (b"[]", b""),
        (b"\xff\xfe", b""),
        (described([], format=2), b""),
        (described([], format=0), b""),
        (described([], format=True), b""),
        (described([], format="1"), b""),
        (described([], header=None), b""),
        (described({}), b""),
        (described([None]), b""),
        (described([{}]), b""),
        (described([GOOD | {"extra": 1}]), bytes(64)),
        (described([GOOD | {"name": 1}]), bytes(64)),
        (described([GOOD, GOOD | {"offset": 64}]), bytes(128)),
        (described([GOOD, GOOD | {"name": "b"}]), bytes(64)),
        (described([GOOD | {"offset": -64}]), bytes(64)),
        (described([GOOD | {"offset": 1 << 70}]), bytes(64)),
        (described([GOOD | {"offset": 0.0}]), bytes(64)),
        (described([GOOD | {"offset": False}]), bytes(64)),
        (described([GOOD | {"dtype": "object"}]), bytes(64)),
        (described([GOOD | {"dtype": "O8"}]), bytes(64)),
        (described([GOOD | {"dtype": []}]), bytes(64)),
        (described([GOOD | {"dtype": "complex128", "shape": [4]}]), bytes(64)),
        (described([GOOD | {"shape": [-8]}]), bytes(64)),
        (described([GOOD | {"shape": [-2, -4]}]), bytes(64)),
        (described([GOOD | {"shape": [8.0]}]), bytes(64)),
        (described([GOOD | {"shape": [True] * 3}]), bytes(64)),
        (described([GOOD | {"shape": 8}]), bytes(64)),
        (described([GOOD | {"shape": [1] * 9}]), bytes(64)),
        (described([GOOD | {"shape": [1 << 40, 1 << 40]}]), bytes(64)),
        (described([GOOD | {"shape": [1 << 62]}]), bytes(64)),
        (described([GOOD | {"shape": [0, 1 << 47, 1 << 47]}]), b""),
        (described([GOOD | {"shape": [9]}]), bytes(64)),
    ],
)
def test_hostile_files_with_the_right_digest_are_refused(path, header, body):
    path.write_bytes(container(header, body))
    with pytest.raises(FileFormatError) as caught:
        io.read(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 500


def test_the_forged_container_of_these_tests_is_read_where_it_is_sound(path):
    path.write_bytes(container(described([GOOD]), np.arange(8.0).tobytes()))
    np.testing.assert_array_equal(io.read(path)[1]["a"], np.arange(8.0))


@pytest.mark.parametrize("size", [1 << 63, (1 << 24) + 1, 129, 1])
def test_a_wrong_header_size_is_refused(path, size):
    path.write_bytes(container(described([GOOD]), bytes(64), size=size))
    with pytest.raises(FileFormatError):
        io.read(path)


def test_what_the_file_system_says_is_passed_on(tmp_path):
    with pytest.raises(FileNotFoundError):
        io.read(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        io.write(tmp_path / "missing" / "f", {}, {})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_pipes_and_folders_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileFormatError, match="regular file"):
        io.read(tmp_path / "pipe")
    with pytest.raises((FileFormatError, OSError)):
        io.read(tmp_path)


TREE = {
    "state": (np.arange(3.0), None, [np.float32(0.1), True, 2**127]),
    "numbers": [math.inf, -math.inf, 0.1, -0.0, 1],
    "empty": {"dict": {}, "tuple": (), "list": []},
    "text": "array",
}


def test_checkpoints_keep_every_value_and_type(path):
    io.save_checkpoint(path, TREE | {"nan": math.nan})
    tree = io.load_checkpoint(path)
    assert math.isnan(tree.pop("nan"))
    np.testing.assert_array_equal(tree["state"][0], TREE["state"][0])
    assert tree["state"][1:] == (None, [float(np.float32(0.1)), True, 2**127])
    assert repr(tree["numbers"]) == repr(TREE["numbers"])
    assert tree["empty"] == TREE["empty"] and tree["text"] == "array"


@pytest.mark.parametrize("value", [object(), {1: 2}, b"bytes", {1, 2}, np.array(["a"])])
def test_checkpoints_refuse_what_they_cannot_hold(path, value):
    with pytest.raises(TypeError):
        io.save_checkpoint(path, {"x": value})
    assert not path.exists()


@pytest.mark.parametrize(
    "tree",
    [
        {"array": "missing"},
        {"array": []},
        {"float": "1"},
        {"float": []},
        {"tuple": 1},
        {"dict": []},
        {"unknown": 1},
        {},
        {"dict": {}, "tuple": []},
    ],
)
def test_hostile_checkpoints_are_refused(path, tree):
    io.write(path, {"kind": "checkpoint", "tree": tree}, {})
    with pytest.raises(FileFormatError, match="no sound checkpoint"):
        io.load_checkpoint(path)


def test_deep_checkpoints_are_refused(path):
    # As deep as json still reads, but not so the recursion over the result.
    header = b'{"format": 1, "arrays": [], "header": {"kind": "checkpoint", "tree": %s}}'
    for depth in (500, 900, 5_000, 50_000):
        path.write_bytes(container(header % (b'{"tuple": [' * depth + b"1" + b"]}" * depth)))
        if depth > 900:
            with pytest.raises(FileFormatError):
                io.load_checkpoint(path)
        else:
            try:
                io.load_checkpoint(path)
            except FileFormatError:
                pass


class FakeModel:
    """What `save` and `load` need of a model: one matrix of the shape that its configuration says."""

    def __init__(self, input_size=3, hidden_size=2, dtype="float32"):
        self.params = Params({"weight": (hidden_size, input_size), "bias": (hidden_size,)}, dtype)

    def config(self):
        (hidden_size, input_size), dtype = self.params.shapes["weight"], self.params.dtype.name
        return {"layers": [{"input_size": input_size, "hidden_size": hidden_size, "dtype": dtype}]}

    @classmethod
    def from_config(cls, config, cells=None):
        return cls(**config["layers"][0])


@pytest.fixture
def fake_model(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastrnn.model", types.SimpleNamespace(Model=FakeModel))


def test_models_are_loaded_as_they_were_saved(path, fake_model):
    model = FakeModel(5, 4)
    model.params.flat[:] = np.random.default_rng(0).normal(size=24)
    io.save(model, path)
    again = io.load(path)
    assert again.config() == model.config()
    assert_same_bits(again.params.flat, model.params.flat)


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": 4},
        {"dtype": "float64"},
        {"hidden_size": 10**18},
        {"hidden_size": 3, "cell": "lstm"},
        {"num_layers": 10**18},
        {"input_size": 10**18},
        {"hidden_size": "2"},
        {"hidden_size": -2},
        {"unknown": 1},
    ],
)
def test_models_that_do_not_match_their_arrays_are_refused(path, fake_model, change):
    model = FakeModel()
    config = {"layers": [model.config()["layers"][0] | change]}
    io.write(path, {"kind": "model", "config": config}, model.params)
    with pytest.raises(FileFormatError):
        io.load(path)


def test_what_a_file_only_claims_to_hold_is_never_allocated(path, fake_model, monkeypatch):
    monkeypatch.setattr(FakeModel, "from_config", lambda *given: pytest.fail("a model was made"))
    for layer in (
        {"input_size": "9", "hidden_size": 10**9},
        {"input_size": -(10**9), "hidden_size": 1},
        {"cell": "lstm", "input_size": 1, "hidden_size": 3},
        {"cell": "indrnn", "input_size": 1, "hidden_size": 5},
        {"cell": "indrnn", "input_size": 1, "hidden_size": 2, "num_layers": 3},
        {"kind": "Linear", "input_size": 3, "output_size": 3},
        {"kind": "Embedding", "num_symbols": 9, "dimension": 1},
    ):
        io.write(path, {"kind": "model", "config": {"layers": [layer]}}, {"weight": np.zeros(8)})
        with pytest.raises(FileFormatError, match="describes more than the 8 parameters|cannot be"):
            io.load(path)


@pytest.mark.parametrize("header", [{}, {"kind": "model"}, {"kind": "model", "config": 3}, {"kind": ["model"]}])
def test_headers_without_a_model_are_refused(path, fake_model, header):
    io.write(path, header, {})
    with pytest.raises(FileFormatError):
        io.load(path)


def places(tree, place=()):
    """The paths to all values in nested dicts and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from places(value, (*place, key))


REAL = {
    "a stack": lambda: (Embedding(5, 3), Dropout(0.1), GRU(3, 4, num_layers=2, bidirectional=True), Linear(8, 2)),
    "networks of networks": lambda: (Bidirectional(RNN(2, 3), GRU(2, 3, reverse=True)), Delayed(RNN(6, 2), 3)),
}


@pytest.mark.parametrize("layers", REAL)
def test_a_real_model_with_anything_changed_is_refused_or_loaded(path, monkeypatch, layers):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    model = Model(*REAL[layers](), loss=CrossEntropy())
    io.save(model, path)
    header, arrays = io.read(path)
    assert_same_bits(io.load(path).params.flat, model.params.flat)
    for place in places(header):
        for value in (None, -1, 10**20, 0.5, "x", [], {}):
            changed = copy.deepcopy(header)
            parent = functools.reduce(lambda tree, key: tree[key], place[:-1], changed)
            parent[place[-1]] = value
            io.write(path, changed, arrays)
            try:
                assert_same_bits(io.load(path).params.flat, model.params.flat)
            except FileFormatError:
                pass


def test_kinds_are_told_apart(path):
    io.write(path, {"kind": "note"}, {})
    with pytest.raises(FileFormatError, match="a checkpoint is required; this is a 'note'"):
        io.load_checkpoint(path)
