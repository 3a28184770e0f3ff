"""How things are compiled, and where the compiled code is kept.

Numba's own cache does not notice edits in *another* file than the kernel's, and misses whenever a kernel closes over a
dispatcher or an intrinsic. Ours is keyed by content: a folder per (package sources, numba, llvmlite), and within it one per
fingerprint of everything a kernel can reach. An edited cell is never served stale; an unedited one is never compiled twice.
"""

import hashlib
import itertools
import os
import secrets
import stat
import sys
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import CodeType, FunctionType, ModuleType

import llvmlite
import llvmlite.binding
import numba
from numba import njit, types
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher
from numba.core.environment import lookup_environment
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload, register_jitable

# No fast-math flag at all. nnan, ninf: isnan would fold to False; arcp: vector division would become an estimate; reassoc: order is
# promised; contract: where a product is fused with a sum would depend on what was inlined where, and the bits with it. What is to be
# fused says so: `_math.fma`, and the tile product.
INLINE = {"error_model": "numpy", "forceinline": True}
_FEATURES = llvmlite.binding.get_host_cpu_features()
X86 = llvmlite.binding.get_process_triple().startswith(("x86_64", "i686", "amd64"))
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
FUSED = not X86 or bool(_FEATURES.get("fma"))  # the machine multiplies and adds in one rounding
# the only files with Numba code for the CPU; what the GPU's kernels are made of has no say in what is kept for it
COMPILED = ("_jit.py", "_math.py", "_team.py", "cells/**/*.py", "cells2d/**/*.py", "kernels/*.py", "kernels/cpu/**/*.py", "losses.py")
JIT_DISABLED = bool(numba.config.DISABLE_JIT)
LOOK_UP = 0.05  # seconds
MARK = "\n// "  # in a text that is kept, a comment: what is behind it is a hash of what is before


def _number_functions_apart() -> None:
    """Let this process number its functions from a random start.

    Numba tells two functions of one name apart, in the symbols of compiled code, by a number counted from 1 in every process. Two
    cells compiled in two processes then share symbols, and a third process that loads both from disk would run one's code in the
    other: garbage, or a crash.
    """
    FunctionIdentity._unique_ids = itertools.count(1 + secrets.randbits(62))


_number_functions_apart()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_functions_apart)


def pointwise(function):
    """Scalar maths of one unit: stays callable as plain Python; compiled, LLVM inlines it into the loop that uses it.

    LLVM must be told to: left to its own judgement it calls what a cell uses several times, and the loop stays scalar (nine times
    slower). Numba's own inlining gives the same loop and takes five times as long to compile.
    """
    return register_jitable(**INLINE)(function)


def loop(function):
    """A loop that stays a function of its own when compiled, so that LLVM checks its arrays for overlap at each call, not over all rows."""
    return register_jitable(error_model="numpy")(function)


def full_vectors():
    """First line of a loop worth the widest registers: LLVM prefers half of them on processors that once slowed down for them."""


@intrinsic
def _ask_for_full_vectors(typing_context):
    def codegen(context, builder, signature, args):
        # llvmlite knows no attributes with values; its set writes out whatever it holds
        set.add(builder.function.attributes, f'"prefer-vector-width"="{8 * VECTOR_BYTES}"')
        return context.get_dummy_value()

    return types.void(), codegen


@overload(full_vectors, inline="always")
def _full_vectors_overload():
    return lambda: _ask_for_full_vectors()


def kernel(function):
    """Compile `function` on first use, without the interpreter lock, through the package's own disk cache."""
    if JIT_DISABLED:
        return function
    # _nrt=False: a kernel allocates nothing, so its arrays need no reference counts (a third less code to compile)
    dispatcher = njit(nogil=True, error_model="numpy", _nrt=False, no_cfunc_wrapper=True)(function)
    resolve = dispatcher.get_call_template
    # a call with a constant from another kernel would otherwise compile a variant of its own for Literal[int]
    dispatcher.get_call_template = lambda args, kws: resolve(tuple(map(types.unliteral, args)), kws)
    dispatcher.compile = partial(_compile_apart, dispatcher.compile)
    folder = cache_folder()
    if folder is not None:
        dispatcher._cache = _ContentCache(function, folder / fingerprint(function)[:24])
    return dispatcher


def _compile_apart(compile, signature):
    """``compile(signature)``, in a thread of its own.

    LLVM does not look up for seconds; and a KeyboardInterrupt inside the compiler could leave a lock taken or a file half written. This
    way Ctrl-C only ends the wait: the compiler finishes, and keeps what it has made for the next call.
    """
    if global_compiler_lock.is_locked():  # by this thread: a kernel within a kernel
        return compile(signature)
    done = SimpleQueue()

    def work():
        try:
            with global_compiler_lock, _parts_only_linked():
                done.put((compile(signature), None))
        except BaseException as error:
            done.put((None, error))

    Thread(target=work, name="fastrnn-compile").start()
    while True:
        with suppress(Empty):  # a wait without end would miss a signal that came just before it
            entry, error = done.get(timeout=LOOK_UP)
            break
    if error is not None:
        raise error
    return entry


class _Part(JITCodeLibrary):
    """The code of a function, and machine code only once there is a place in it that Python calls.

    Numba makes machine code of every function that a kernel calls, of those these call, and so on, all of them optimized again with what
    they call. None of that is ever run: a kernel has its parts linked into it. It was a fifth of the time that `fastrnn warmup` takes.
    """

    held = False

    def _finalize_final_module(self):
        if self._shared_module is not None:  # from the disk
            super()._finalize_final_module()
        else:
            self.held = self._finalized = True

    def get_pointer_to_function(self, name):
        self._ensure_finalized()
        if self.held:
            if not any(name == function.name for function in self.get_defined_functions()):
                return 0
            self.held = False
            super()._finalize_final_module()
        return super().get_pointer_to_function(name)

    def _finalize_specific(self):
        super()._finalize_specific()
        for variable in self._final_module.global_variables:  # also those of its parts, which had no place for them yet
            environment = lookup_environment(variable.name)
            if environment is not None:
                self._codegen.set_env(variable.name, environment)

    @property
    def codegen(self):
        return self if self.held else self._codegen

    def set_env(self, name, environment):
        pass


@contextmanager
def _parts_only_linked():
    """Under the compiler's lock: what is compiled now is a `_Part`."""
    codegen = cpu_target.target_context.codegen()
    codegen._library_class = _Part
    try:
        yield
    finally:
        del codegen._library_class


# The cache folder ---------------------------------------------------------------------------------------------------


@cache
def package_hash() -> str:
    """A hash of the sources that are compiled and of the versions of the compilers."""
    versions = f"{numba.__version__} {llvmlite.__version__} {sys.version_info[:3]}"
    return hashlib.sha256(f"{versions} {sources_hash(*COMPILED)}".encode()).hexdigest()


def sources_hash(*patterns: str) -> str:
    """A hash of the package's files of these names."""
    digest, root = hashlib.sha256(), Path(__file__).parent
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def cache_folder() -> Path | None:
    """This user's folder of compiled code for these sources; None where no private writable folder can be had."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
    elif sys.platform == "darwin":
        base = os.path.expanduser("~/Library/Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not base or base.startswith("~"):
        return None
    root = Path(base) / "fastrnn"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if hasattr(os, "getuid"):
            status = root.lstat()
            if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode):
                return None  # compiled code is executed: never from a folder someone else could write
            root.chmod(0o700)
        folder = root / package_hash()[:24]
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def kept_text(path: Path, make: Callable[[], str]) -> Path:
    """`path`, with the text that `make` gives, and a hash of it: made where there is none, or none that is whole."""
    if not is_whole(path):
        text = make()
        unfinished = path.with_suffix(f".{secrets.token_hex(8)}")  # of this thread alone
        unfinished.write_text(f"{text}{MARK}{_hash(text)}\n", "utf-8")
        unfinished.replace(path)
    return path


def is_whole(path: Path) -> bool:
    """Whether `kept_text` has written it, and nobody else."""
    try:
        text, _, mark = path.read_text("utf-8").rpartition(MARK)
    except (OSError, UnicodeDecodeError):
        return False
    return mark.strip() == _hash(text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class _Locator(_CacheLocator):
    """The folder that `_ContentCache` was given."""

    folder: Path

    def __init__(self, folder: Path):
        self.folder = folder

    def get_cache_path(self):
        return str(self.folder)

    def get_source_stamp(self):
        return self.folder.name

    def get_disambiguator(self):
        return None


class _Files(IndexDataCacheFile):
    """One file a signature, named by it: two processes that compile at once do not meet in an index. Each ends in a hash of the rest."""

    def load(self, key):
        name = self._name(key)
        try:
            content = Path(self._data_path(name)).read_bytes()
        except OSError:
            return None
        sound = hashlib.sha256(content[:-32]).digest() == content[-32:]
        return self._load_data(name) if sound else None  # damaged: compiled again, and overwritten

    def save(self, key, data):
        self._save_data(self._name(key), data)

    def _name(self, key) -> str:
        return hashlib.sha256(repr(key).encode()).hexdigest()[:24] + ".nbc"

    def _dump(self, obj):
        payload = super()._dump(obj)
        return payload + hashlib.sha256(payload).digest()


class _ContentCache(FunctionCache):
    """Numba's function cache under a key made of content, in a folder of ours; a full disk means no cache."""

    def __init__(self, function, folder: Path):
        class Impl(CompileResultCacheImpl):
            def __init__(self, py_func):
                self._locator = _Locator(folder)
                self._filename_base = self.get_filename_base(py_func.__name__, getattr(sys, "abiflags", ""))
                self._lineno = 0

        self._impl_class = Impl
        self._fingerprint = folder.name
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, folder.name)

    def _index_key(self, sig, codegen):
        return sig, codegen.magic_tuple(), self._fingerprint

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self.disable()
            warnings.warn(f"fastrnn could not keep compiled code in {self._cache_path}: {error}", RuntimeWarning, stacklevel=2)


# Fingerprints -------------------------------------------------------------------------------------------------------

_FOREIGN = {"numba", "llvmlite", "numpy", "math", "cmath", "builtins", "operator", "functools", "typing", "scipy"}


def fingerprint(thing) -> str:
    """A hash of the content of `thing` and of all the code it can reach: bytecode, constants, closures, globals, sources."""
    digest = hashlib.sha256()
    _feed(digest, thing, {})
    return digest.hexdigest()


def _feed(digest, thing, seen: dict) -> None:
    """Add `thing` to `digest`, each object once (`seen` numbers them, and keeps them alive)."""
    if isinstance(thing, Dispatcher):
        thing = thing.py_func
    thing = getattr(thing, "_defn", thing)  # an intrinsic: the function that defines it
    if id(thing) in seen and not isinstance(thing, (str, int, float)):
        digest.update(f"seen {seen[id(thing)][0]};".encode())
        return
    seen[id(thing)] = len(seen), thing
    if isinstance(thing, FunctionType):
        _feed_function(digest, thing, seen)
    elif isinstance(thing, (tuple, list)):
        digest.update(f"{type(thing).__name__} {len(thing)}(".encode())
        for item in thing:
            _feed(digest, item, seen)
    elif isinstance(thing, (bool, int, float, complex, str, bytes, type(None), slice, frozenset)):
        text = sorted(map(repr, thing)) if isinstance(thing, frozenset) else thing
        digest.update(f"{type(thing).__name__} {text!r};".encode())
    elif isinstance(thing, type):
        digest.update(f"class {thing.__module__}.{thing.__qualname__};".encode())
    elif hasattr(thing, "tobytes") and hasattr(thing, "dtype"):
        digest.update(f"array {thing.dtype} {getattr(thing, 'shape', ())};".encode() + thing.tobytes())
    elif isinstance(thing, dict):
        for key in sorted(thing, key=repr):
            _feed(digest, (key, thing[key]), seen)
    else:
        name = getattr(thing, "__qualname__", getattr(thing, "__name__", type(thing).__qualname__))
        digest.update(f"{getattr(thing, '__module__', '')} {name};".encode())


def _feed_function(digest, function, seen: dict) -> None:
    module = function.__module__ or ""
    digest.update(f"function {module}.{function.__qualname__};".encode())
    if module.split(".")[0] in _FOREIGN:
        return
    if not module.startswith("fastrnn."):  # the package's own sources are in package_hash already
        digest.update(_source_hash(function.__code__.co_filename))
    for cell in function.__closure__ or ():
        _feed(digest, cell.cell_contents, seen)
    _feed(digest, function.__defaults__ or (), seen)
    _feed_code(digest, function.__code__, function.__globals__, seen)


def _feed_code(digest, code: CodeType, names: dict, seen: dict) -> None:
    digest.update(code.co_code + repr((code.co_names, code.co_freevars, code.co_cellvars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            _feed_code(digest, constant, names, seen)
        else:
            _feed(digest, constant, seen)
    for name in code.co_names:
        if name in names:
            _feed_global(digest, names[name], code.co_names, seen)


def _feed_global(digest, value, attributes: tuple[str, ...], seen: dict) -> None:
    """A global of some code; of a module, what that code names of it (Numba freezes `module.constant` just as well)."""
    if not isinstance(value, ModuleType):
        _feed(digest, value, seen)
    elif value.__name__.split(".")[0] not in _FOREIGN and (id(value), attributes) not in seen:
        seen[id(value), attributes] = len(seen), value
        for name in attributes:
            if hasattr(value, name):
                digest.update(f"attribute {name};".encode())
                _feed_global(digest, getattr(value, name), attributes, seen)


def _source_hash(path: str) -> bytes:
    """The content of a source file; empty where there is none (a notebook cell, a string)."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).digest()
    except OSError:
        return b""
