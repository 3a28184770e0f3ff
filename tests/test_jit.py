"""Compiled code on disk: found again, never stale, never another's, and dispensable."""

import importlib
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from numba.extending import overload

import fastrnn
from fastrnn import _jit
from fastrnn._jit import fingerprint, kernel, loop, pointwise

SOURCES = str(Path(fastrnn.__file__).parents[1])


def python(arguments, **environment) -> str:
    """What a new process prints."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")} | environment
    variables["PYTHONPATH"] = os.pathsep.join([SOURCES, environment.get("PYTHONPATH", "")])
    result = subprocess.run([sys.executable, "-W", "error", *arguments], env=variables, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# Fingerprints -------------------------------------------------------------------------------------------------------


def scaled(factor, function=None, shift=0.0):
    if function is None:
        return lambda x: x * factor
    return lambda x, shift=shift: function(x) * factor + shift


def make(code, **names):
    """The function f defined by `code`, with `names` as its globals."""
    names["__name__"] = "somewhere"
    exec(textwrap.dedent(code), names)
    return names["f"]


def test_closures_and_defaults_count():
    functions = [scaled(2.0), scaled(3.0), scaled(2), scaled(2.0, abs), scaled(2.0, scaled(1.0)), scaled(2.0, scaled(4.0))]
    functions += [scaled(2.0, abs, 1.0), scaled(2.0, pointwise(scaled(1.5))), scaled(2.0, njit(scaled(2.5))), scaled((2.0, 1))]
    functions += [scaled(-0.0), scaled(0.0), scaled(np.float32(2.0)), scaled(np.array([2.0])), scaled(np.array([3.0])), scaled(True)]
    functions += [scaled(1)]
    marks = [fingerprint(function) for function in functions]
    assert len(set(marks)) == len(marks)
    assert fingerprint(scaled(2.0, scaled(4.0))) == marks[5] and fingerprint(scaled(np.array([3.0]))) == marks[14]


def test_code_and_globals_count():
    codes = ["def f(x): return x + K", "def f(x): return x - K", "def f(x): return x + K + 1", "def f(x, y=1): return x + K"]
    codes += ["def f(x):\n  def g(y): return y + K\n  return g(x)", "def f(x):\n  def g(y): return y - K\n  return g(x)"]
    marks = [fingerprint(make(code, K=k)) for code in codes for k in (1.0, 2.0)]
    assert len(set(marks)) == len(marks)
    assert fingerprint(make(codes[0], K=1.0, unrelated=3)) == marks[0]
    deep = [fingerprint(make("def f(x): return g(x)", g=make("def f(x): return h(x)", h=scaled(k)))) for k in (1.0, 2.0)]
    assert deep[0] != deep[1]


def test_recursion_ends():
    names = {}
    f = make("def f(x): return g(x) if x else 0", **names)
    f.__globals__["g"] = make("def f(x): return g(x - 1)", g=f)
    assert fingerprint(f) == fingerprint(f)


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Write module `helper` anew with given lines, and the fingerprint of a function elsewhere that uses it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def mark(helper: str, user: str) -> str:
        (tmp_path / "fr_helper.py").write_text(textwrap.dedent(helper))
        (tmp_path / "fr_user.py").write_text(textwrap.dedent(user))
        for name in ("fr_helper", "fr_user"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return fingerprint(importlib.import_module("fr_user").f)

    yield mark
    for name in ("fr_helper", "fr_user"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("user", "helpers"),
    {
        "function": ("from fr_helper import g\ndef f(x): return g(x)\n", ("def g(x): return x", "def g(x): return x + 1")),
        "its constant": (
            "from fr_helper import g\ndef f(x): return g(x)\n",
            ("K = 1\ndef g(x): return x + K", "K = 2\ndef g(x): return x + K"),
        ),
        "function by module": ("import fr_helper\ndef f(x): return fr_helper.g(x)\n", ("def g(x): return x", "def g(x): return x + 1")),
        "constant by module": ("import fr_helper\ndef f(x): return x + fr_helper.K\n", ("K = 1.0", "K = 2.0")),
        "compiled by module": (
            "import fr_helper\ndef f(x): return fr_helper.g(x)\n",
            ("import numba\n@numba.njit\ndef g(x): return x", "import numba\n@numba.njit\ndef g(x): return x + 1"),
        ),
        "namespace": (
            "from fr_helper import ns\ndef f(x): return x + ns.K\n",
            ("import types\nns = types.ModuleType('ns')\nns.K = 1.0", "import types\nns = types.ModuleType('ns')\nns.K = 2.0"),
        ),
    }.values(),
    ids=["function", "its constant", "function by module", "constant by module", "compiled by module", "namespace"],
)
def test_an_edit_in_another_module_counts(modules, user, helpers):
    marks = [modules(helper, user) for helper in helpers]
    assert marks[0] != marks[1]
    assert modules(helpers[0], user) == marks[0]


def test_package_hash_covers_every_file_with_compiled_code():
    root = Path(_jit.__file__).parent
    covered = {path for pattern in _jit.COMPILED for path in root.glob(pattern)} | set(root.glob("kernels/cuda/*.py"))
    users = {path for path in root.rglob("*.py") if any(word in path.read_text() for word in ("kernel(", "@kernel", "@pointwise", "@loop"))}
    assert users and {p for p in users if "_jit import" in p.read_text()} <= covered


# Parts --------------------------------------------------------------------------------------------------------------


def test_what_a_kernel_calls_can_be_called_from_python_too(monkeypatch):
    monkeypatch.setattr(_jit, "cache_folder", lambda: None)

    @njit
    def twice(x):
        return 2 * x

    @kernel
    def both(a):
        a[0] = twice(a[0])

    a = np.array([1.5])
    both(a)
    assert len(twice.signatures) == 1 and a[0] == 3.0
    assert twice(a[0]) == 6.0 and len(twice.signatures) == 1


def test_what_a_kernel_calls_can_print(monkeypatch, capfd):
    """For which it needs its environment, that Numba gives to what has machine code of its own."""
    monkeypatch.setattr(_jit, "cache_folder", lambda: None)

    @loop
    def show(x):
        print(x)

    @kernel
    def run(a):
        show(a[0])

    run(np.array([1.5]))
    assert capfd.readouterr().out == "1.5\n"


# The cache folder ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """`cache_folder`, uncached, under a base that is given."""
    if sys.platform in ("win32", "darwin"):
        pytest.skip("the place of caches is set by XDG_CACHE_HOME on other systems only")

    def find(base):
        monkeypatch.setenv("XDG_CACHE_HOME", str(base))
        return _jit.cache_folder.__wrapped__()

    return find


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_cache_folder_is_private(tmp_path, folder):
    before = os.umask(0)
    try:
        found = folder(tmp_path / "new" / "base")
    finally:
        os.umask(before)
    assert found.is_dir() and mode(found) == mode(found.parent) == 0o700
    open_to_all = tmp_path / "fastrnn"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    assert mode(folder(tmp_path).parent) == 0o700


def test_no_cache_where_no_private_folder_can_be_had(tmp_path, folder):
    (tmp_path / "file").write_text("")
    assert folder(tmp_path / "file") is None and folder(tmp_path / "file" / "below") is None
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "fastrnn").symlink_to(tmp_path / "elsewhere")
    assert folder(tmp_path / "linked") is None
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "fastrnn").write_text("")
    assert folder(tmp_path / "taken") is None


TINY = """
import sys
import numpy as np
from fastrnn import _jit
from fastrnn._jit import kernel
from fr_part import part

@kernel
def tiny(x):
    for n in range(x.shape[0]):
        x[n] = part(x[n])

x = np.ones(3)
tiny(x)
print(x.sum(), sum(tiny.stats.cache_hits.values()), _jit.cache_folder() is not None)
"""


def test_a_kernel_is_found_by_a_second_process_and_never_stale(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    part = "from fastrnn._jit import pointwise\n@pointwise\ndef part(x): return x * {}\n"
    seen = []
    for factor in (2.0, 2.0, 3.0, 2.0):
        (tmp_path / "fr_part.py").write_text(part.format(factor))
        options = {"XDG_CACHE_HOME": str(tmp_path), "PYTHONHASHSEED": str(len(seen)), "PYTHONDONTWRITEBYTECODE": "1"}
        seen.append(python([tmp_path / "tiny.py"], **options))
    assert seen == ["6.0 0 True", "6.0 1 True", "9.0 0 True", "6.0 1 True"]


def test_without_a_writable_home_everything_works_uncached(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "tiny.py").write_text(TINY)
    (tmp_path / "fr_part.py").write_text("from fastrnn._jit import pointwise\n@pointwise\ndef part(x): return x + 1\n")
    nowhere = str(tmp_path / "file" / "home")
    assert python([tmp_path / "tiny.py"], XDG_CACHE_HOME="", HOME=nowhere, LOCALAPPDATA=nowhere) == "6.0 0 False"


# Symbols ------------------------------------------------------------------------------------------------------------

ALIKE = """
import sys
import numpy as np
from fastrnn._jit import kernel, loop
from fastrnn.math import exp, tanh

def make(factor):
    @loop
    def inner(x, y):  # too long to be inlined at three places
        for n in range(x.shape[0]):
            a = x[n]
            for _ in range(3):
                a = tanh(a) + exp(a) + tanh(a * a)
                a = tanh(a) + exp(a) + tanh(a * a)
                a = tanh(a) + exp(a) + tanh(a * a)
            y[n] = factor + 0.0 * tanh(a)

    @kernel
    def outer(x, y):
        inner(x, y)
        inner(y, x)
        inner(x, y)

    return outer

for factor in sys.argv[1:]:
    y = np.zeros(2)
    make(float(factor))(np.ones(2), y)
    print(y[0], end=" ")
"""


def test_kernels_cached_by_different_processes_do_not_take_each_others_functions(tmp_path):
    """Numba numbers functions from 1 in every process: two cells compiled in two processes give equal symbols to unequal code."""
    (tmp_path / "alike.py").write_text(ALIKE)
    assert [python([tmp_path / "alike.py", f], XDG_CACHE_HOME=str(tmp_path)) for f in ("2", "3")] == ["2.0", "3.0"]
    assert python([tmp_path / "alike.py", "2", "3"], XDG_CACHE_HOME=str(tmp_path)) == "2.0 3.0"


# Damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A function that makes the same kernel again, as a new process would: (its result, cache hits)."""
    monkeypatch.setattr(_jit, "cache_folder", lambda: tmp_path)

    def doubled(x):
        for n in range(x.shape[0]):
            x[n] = 2.0 * x[n]

    def call():
        k, x = kernel(doubled), np.ones(2)
        k(x)
        return x[0], sum(k.stats.cache_hits.values())

    assert call() == (2.0, 0) and call() == (2.0, 1)
    return call, tmp_path


def damages(content: bytes):
    yield b""
    yield content[: len(content) // 2]
    yield b"\x00" * len(content)
    yield content[::-1]
    yield b"garbage" + content
    yield os.urandom(len(content))


def files(folder) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    assert found
    return found


@pytest.mark.parametrize("kind", range(6))
def test_damaged_files_are_compiled_anew(cached, kind):
    call, folder = cached
    for path in files(folder):
        path.write_bytes(list(damages(path.read_bytes()))[kind])
        assert call() == (2.0, 0) and call() == (2.0, 1)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_noticed(cached, place):
    """Also one in machine code, which nothing else would notice before it runs."""
    call, folder = cached
    path = max(files(folder), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x10
    path.write_bytes(bytes(content))
    assert call() == (2.0, 0)


@pytest.mark.filterwarnings("ignore:fastrnn could not keep compiled code:RuntimeWarning")
def test_a_folder_in_place_of_a_file_means_no_cache(cached):
    call, folder = cached
    for path in files(folder):
        path.unlink()
        path.mkdir()
        assert call() == (2.0, 0)


def test_missing_files_are_written_again(cached):
    call, folder = cached
    for path in files(folder):
        path.unlink()
    assert call() == (2.0, 0) and call() == (2.0, 1)


def test_a_folder_that_cannot_be_made_means_no_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(_jit, "cache_folder", lambda: tmp_path / "file")

    @kernel
    def negated(x):
        x[0] = -x[0]

    x = np.ones(1)
    with pytest.warns(RuntimeWarning, match="could not keep compiled code"):
        negated(x)
    assert x[0] == -1.0


# Decorators ---------------------------------------------------------------------------------------------------------


def test_pointwise_and_loop_leave_plain_python():
    def f(x):
        return x + 1

    assert pointwise(f)(1) == 2 and loop(f)(2.5) == 3.5 and isinstance(pointwise(f), type(f))


def test_errors_of_numpy_not_of_python():
    """Division by zero gives infinity, as everywhere in NumPy, and NaN stays visible to isnan."""

    @kernel
    def divide(x):
        x[0] = x[0] / x[1]
        x[2] = np.isnan(x[2])

    x = np.array([1.0, 0.0, np.nan])
    divide(x)
    assert x.tolist() == [np.inf, 0.0, 1.0]


def test_a_constant_of_another_kernel_compiles_no_variant():
    @kernel
    def add(x, n):
        x[0] += n

    @kernel
    def twice(x):
        add(x, 3)
        add(x, 4)

    x = np.zeros(1)
    twice(x)
    add(x, 5)
    assert x[0] == 12.0 and len(add.signatures) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no signals to send to a thread")
def test_an_interrupt_ends_the_wait_for_the_compiler_but_not_its_work(tmp_path, monkeypatch):
    monkeypatch.setattr(_jit, "cache_folder", lambda: tmp_path)
    begun, go_on = threading.Event(), threading.Event()

    def doubled(x):
        raise AssertionError("only compiled")

    @overload(doubled)
    def _(x):
        begun.set()
        assert go_on.wait(60)
        return lambda x: 2.0 * x

    @kernel
    def double(x):
        x[0] = doubled(x[0])

    def interrupt():
        assert begun.wait(60)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    x = np.ones(1)
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        double(x)
    assert x[0] == 1.0 and not double.signatures
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "fastrnn-compile":
            thread.join()
    assert len(double.signatures) == 1
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".nbc"]
    double(x)
    assert x[0] == 2.0 and sum(double.stats.cache_misses.values()) == 1
