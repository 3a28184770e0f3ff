"""The package as it is installed: what importing it loads, what a second process compiles, what a user can name."""

import importlib.metadata
import json
import re

import pytest
from processes import ROOT, python

import fastrnn as fr


def test_importing_loads_nothing_that_is_not_needed():
    heavy = ("matplotlib", "sktime", "sklearn", "torch", "pandas", "tqdm", "IPython")
    script = f"import sys, json, fastrnn; print(json.dumps([name for name in {heavy} if name in sys.modules]))"
    assert json.loads(python("-c", script)) == []


def test_the_version_stands_in_one_place():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?(dev|a|b|rc)\d+)?", fr.__version__)
    assert 'attr = "fastrnn._version.__version__"' in (ROOT / "pyproject.toml").read_text("utf-8")
    try:
        installed = importlib.metadata.version("fastrnn")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed")
    assert installed == fr.__version__


def test_public_names_are_what_they_say():
    for name in vars(fr):
        if not name.startswith("_") and re.match(r"[A-Z]", name) and isinstance(getattr(fr, name), type):
            assert getattr(fr, name).__name__ == name
            assert getattr(fr, name).__doc__, f"{name} has no docstring"
