"""The rules of docs/design.md that can be read off the sources: who may import, print and open what; imports run one way."""

import ast
from functools import cache
from pathlib import Path

import pytest
from processes import ROOT

PACKAGE = ROOT / "fastrnn"
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in sorted(PACKAGE.rglob("*.py"))}
STUDIES = sorted((ROOT / "studies").glob("*.py"))
SCRIPTS = [*STUDIES, *sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "docs").glob("*.py"))]

# From the bottom up. A module imports those of lower rows, and of its own; a folder stands for its modules.
RANKS = (
    ("_version", "_check", "_extent", "_jit", "_math", "math", "_params", "_memory", "_team", "_threads", "_progress", "_interrupts"),
    ("_device",),
    ("cells",),
    ("cells2d",),
    ("kernels",),
    ("initializers", "schedules", "losses", "ctc", "optimizers", "data", "measures"),
    ("layers",),
    ("diagnose", "forcing"),
    ("_feedback",),
    ("decode", "bptt"),
    ("model", "encoder_decoder"),
    ("_members",),
    ("ensemble",),
    ("callbacks", "history", "io", "_source"),
    ("_course",),
    ("_advance",),
    ("_run", "train", "plot"),
    ("bench",),
    ("cli",),
    ("__init__",),
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
# what stands above those who call it, imported when called
UPWARD = {("model", "io"), ("encoder_decoder", "io"), ("history", "plot"), ("_device", "kernels")}

COMPILES = {"_jit", "_math", "_team", "cells", "cells2d", "kernels", "losses"}
OPENS = {"_jit", "io", "data", "bench"}  # bench: what the system says of the machine; the rounds that are kept
PEERS = {"torch", "jax", "onnxruntime", "tensorflow"}  # of bench
FILE_CALLS = {"open", "fdopen", "read_text", "write_text", "read_bytes", "write_bytes"}
FILE_CALLS |= {"memmap", "fromfile", "tofile", "savez", "savetxt", "loadtxt", "genfromtxt"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "breakpoint"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def group(module: str) -> str:
    return module.split(".")[0]


def imports(path: Path, package: tuple[str, ...] = ()):
    """(absolute dotted name, whether at module level, line) of everything imported; `package` is that of a file of fastrnn."""
    top = set(map(id, tree(path).body))
    for node in ast.walk(tree(path)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            stem = ".".join(filter(None, (base, node.module)))
            names = [f"{stem}.{alias.name}" for alias in node.names]
        for name in names:
            yield name, id(node) in top, node.lineno


def package_of(module: str) -> tuple[str, ...]:
    return ("fastrnn", *module.split(".")[:-1])


def imports_of(module: str):
    return imports(MODULES[module], package_of(module))


def calls(path: Path):
    """(name, line) of every call by a plain name or as an attribute."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            yield name, node.lineno


@pytest.mark.parametrize("module", MODULES)
def test_only_what_is_compiled_imports_numba(module):
    for name, _, line in imports_of(module):
        if name.split(".")[0] in ("numba", "llvmlite"):
            assert group(module) in COMPILES, f"{module}:{line} imports {name}"
            assert "cuda" not in name.split(".") or module.startswith("kernels.cuda"), f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_only_plot_imports_matplotlib_and_only_when_it_draws(module):
    for name, at_top, line in imports_of(module):
        if name.split(".")[0] in ("matplotlib", "mpl_toolkits"):
            assert module == "plot" and not at_top, f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_other_libraries_are_imported_by_their_peer_alone_and_that_by_nobody(module):
    for name, _, line in imports_of(module):
        library = {"onnx": "onnxruntime", "keras": "tensorflow"}.get(name.split(".")[0], name.split(".")[0])
        assert library not in PEERS or module == f"bench.peers.{library}", f"{module}:{line} imports {name}"
        assert not name.startswith(tuple(f"fastrnn.bench.peers.{peer}" for peer in PEERS)), f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_prints(module):
    if module != "cli":
        assert [line for name, line in calls(MODULES[module]) if name == "print"] == []


@pytest.mark.parametrize("module", MODULES)
def test_only_io_and_data_open_files(module):
    if group(module) not in OPENS:
        assert [(name, line) for name, line in calls(MODULES[module]) if name in FILE_CALLS] == []


@pytest.mark.parametrize("path", [*MODULES.values(), *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_unpickled_evaluated_or_caught_unnamed(path):
    found = [(name, line) for name, _, line in imports(path) if name.split(".")[0] in FORBIDDEN_MODULES]
    found += [(name, line) for name, line in calls(path) if name in FORBIDDEN_CALLS]
    found += [("except:", node.lineno) for node in ast.walk(tree(path)) if isinstance(node, ast.ExceptHandler) and node.type is None]
    assert found == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    assert group(module) in RANK, f"{module} is not in RANKS: say there where it stands"
    for name, at_top, line in imports_of(module):
        if name.split(".")[0] != "fastrnn" or name == "fastrnn.":
            continue
        target = group(name.removeprefix("fastrnn."))
        assert target in RANK, f"{module}:{line} imports {name}"
        below = RANK[target] <= RANK[group(module)]
        assert below or (not at_top and (module, target) in UPWARD), f"{module}:{line} imports {name}, which stands above it"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("kernels.")])
def test_no_kernel_imports_a_cell(module):
    assert [name for name, _, _ in imports_of(module) if name.startswith("fastrnn.cells")] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("cells.")])
def test_no_cell_imports_a_kernel_or_another_cell(module):
    allowed = ("fastrnn._", "fastrnn.cells._")
    for name, _, line in imports_of(module):
        if module != "cells.__init__" and name.startswith("fastrnn"):
            assert name.startswith(allowed), f"{module}:{line} imports {name}"


@pytest.mark.parametrize("path", [*MODULES.values(), *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_is_longer_than_600_lines(path):
    assert len(path.read_text("utf-8").splitlines()) <= 600


def test_there_is_something_to_look_at():
    assert len(MODULES) > 30 and {"_jit", "cells.lstm", "kernels.cpu.loop"} <= set(MODULES) and STUDIES
    assert ("fastrnn.cells._cell.Cell", True) in {(name, at_top) for name, at_top, _ in imports_of("cells.lstm")}
