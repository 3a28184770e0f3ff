"""The documents: every public name is in the reference, links lead somewhere, and the code they show runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from processes import ROOT

import fastrnn as fr
import fastrnn.plot

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def code(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_the_reference_has_every_public_name():
    text = (ROOT / "docs" / "reference.md").read_text("utf-8")
    modules = {"bench", "bptt", "callbacks", "cells", "cells2d", "cli", "decode", "diagnose", "encoder_decoder", "ensemble", "history"}
    modules |= {"io", "kernels", "layers", "losses", "model", "optimizers", "plot", "train"}
    names = [f"fr.{name}" for name in vars(fr) if not name.startswith("_") and name not in modules]
    modules = {"batches", "corpora", "pairs", "systems", "tasks"}
    names += [f"fr.data.{name}" for name in vars(fr.data) if not name.startswith("_") and name not in modules]
    measures = [name for name, thing in vars(fr.measures).items() if getattr(thing, "__module__", "") == "fastrnn.measures"]
    names += [f"fr.measures.{name}" for name in measures if not name.startswith("_")]
    drawn = [name for name, thing in vars(fastrnn.plot).items() if getattr(thing, "__module__", "") == "fastrnn.plot"]
    names += [f"plot.{name}" for name in drawn if not name.startswith("_")]
    assert len(names) > 50
    assert [name for name in names if f"`{name}`" not in text] == []
    for module in (fr.schedules, fr.initializers):
        kinds = [name for name, thing in vars(module).items() if isinstance(thing, type) and thing.__module__ == module.__name__]
        known = [name for name in kinds if name[0] != "_" and name not in ("Schedule", "Initializer")]
        assert [name for name in known if f"`{name}`" not in text] == []


def test_the_reference_names_nothing_that_is_not_there():
    for name in re.findall(r"`fr\.([\w.]+)`", (ROOT / "docs" / "reference.md").read_text("utf-8")):
        thing = fr
        for part in name.split("."):
            thing = getattr(thing, part)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_the_readme_runs_and_its_network_learns(capsys):
    pytest.importorskip("sktime")
    (script,) = code(ROOT / "README.md")
    names = {}
    exec(compile(script, "README.md", "exec"), names)
    first, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("{'loss': ")
    assert names["model"].evaluate((names["x"] - names["mean"]) / names["spread"], names["test"].target, names["lengths"])["accuracy"] > 0.9
    assert np.isfinite(names["grads"].h).all()


def test_what_write_a_cell_shows_runs():
    names = {"__name__": "write_a_cell"}
    exec(compile("\n".join(code(ROOT / "docs" / "write-a-cell.md")), "write-a-cell.md", "exec"), names)
    assert names["network"].cell.name == "ugrnn" and names["dh"] == pytest.approx(names["exact"], abs=1e-15)
