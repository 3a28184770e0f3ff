"""The command line: what it prints, and what it refuses."""

import platform

import pytest

import fastrnn
from fastrnn import cli


def rows(text: str) -> dict[str, str]:
    return {line[:11].strip(): line[12:] for line in text.splitlines()}


def test_info_names_versions_device_and_cache(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "fastrnn" / "0123"
    (folder / "kernel").mkdir(parents=True)
    (folder / "kernel" / "code.nbc").write_bytes(bytes(2_000_000))
    (folder.parent / "older").write_bytes(bytes(1_500_000))
    monkeypatch.setattr(cli, "cache_folder", lambda: folder)
    monkeypatch.setattr(cli, "get_num_threads", lambda: 7)
    assert cli.main(["info"]) == 0
    shown = rows(capsys.readouterr().out)
    assert shown["fastrnn"] == fastrnn.__version__ and shown["Python"] == platform.python_version()
    assert all(shown[name][0].isdigit() for name in ("numpy", "scipy", "numba", "llvmlite", "matplotlib"))
    assert shown["threads"] == "7" and "bits" in shown["device"]
    assert shown["CUDA"].startswith("none; missing: ") or "compute capability" in shown["CUDA"]
    assert shown["cache"] == str(folder)
    assert shown["cache size"] == "2.0 MB; 3.5 MB with earlier versions"


def test_info_says_where_there_is_no_cache(capsys, monkeypatch):
    monkeypatch.setattr(cli, "cache_folder", lambda: None)
    assert cli.main(["info"]) == 0
    shown = rows(capsys.readouterr().out)
    assert shown["cache"].startswith("none") and "cache size" not in shown


def test_info_survives_a_missing_package(capsys, monkeypatch):
    monkeypatch.setattr(cli, "PACKAGES", ("no-such-package",))
    assert cli.main(["info"]) == 0
    assert "not installed" in capsys.readouterr().out


def test_warmup_goes_through_all_cells_and_the_dtypes_asked_for(capsys, monkeypatch):
    done = []

    def jobs(cells, dtype):
        return [(f"{cell} {dtype}", lambda cell=cell: done.append((cell, dtype))) for cell in cells]

    monkeypatch.setattr(cli, "_jobs", jobs)
    assert cli.main(["warmup", "--dtypes", "float64", "float32"]) == 0
    assert done == [(cell, dtype) for dtype in ("float64", "float32") for cell in fastrnn.CELLS]
    assert cli.main(["warmup", "--cells", "rnn"]) == 0
    assert done[-1] == ("rnn", "float32") and len(done) == 2 * len(fastrnn.CELLS) + 1


def test_warmup_warns_where_nothing_can_be_kept(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_jobs", lambda cells, dtype: [])
    monkeypatch.setattr(cli, "cache_folder", lambda: None)
    assert cli.main(["warmup"]) == 0
    assert "lost at the end" in capsys.readouterr().err


def test_an_interruption_is_not_a_traceback(monkeypatch):
    def interrupt(cells, dtype):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_jobs", interrupt)
    assert cli.main(["warmup"]) == 130


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: {info,warmup,bench}"),
        (["train"], "train"),
        (["warmup", "--cells", "lsmt"], "'lsmt' (choose from"),
        (["warmup", "--dtypes", "float16"], "float16"),
    ],
)
def test_what_is_refused(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"fastrnn {fastrnn.__version__}\n"
