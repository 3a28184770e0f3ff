"""Real data: what comes is what the archives say, and files that are not what they should be are told so."""

import ast
import gzip
import importlib.machinery
import importlib.util
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fastrnn.data import (
    TextData,
    bach_chorales,
    corpora,
    digits,
    english_text,
    japanese_vowels,
    mnist,
    ocr_letters,
    plaid,
    santafe_laser,
    text,
    unigram_entropy,
)

TS = """# a comment
@problemName Toy
@classLabel true 2 10
@data
1,2,3:4,5,6:10
7:8:2
"""


@pytest.fixture
def toy(tmp_path):
    """A folder in the archive's format, in the name of JapaneseVowels."""

    def write(train=TS, test=TS):
        for part, content in (("TRAIN", train), ("TEST", test)):
            (tmp_path / f"JapaneseVowels_{part}.ts").write_text(content, "utf-8")
        return tmp_path

    return write


class TestArchive:
    @pytest.mark.parametrize(
        ("load", "loader", "sizes", "lengths", "channels", "classes"),
        [
            (japanese_vowels, "load_japanese_vowels", (270, 370), (7, 29), 12, 9),
            (plaid, "load_plaid", (537, 537), (100, 1344), 1, 11),
        ],
    )
    def test_what_the_archive_says(self, load, loader, sizes, lengths, channels, classes):
        pytest.importorskip("sktime")
        data = load()
        assert (len(data.train.x), len(data.test.x)) == sizes
        counted = [len(x) for part in data[:2] for x in part.x]
        assert (min(counted), max(counted)) == lengths
        assert all(x.shape[1:] == (channels,) and x.dtype == np.float32 for part in data[:2] for x in part.x)
        assert len(data.classes) == classes and data.classes == tuple(sorted(data.classes, key=int))
        for part in data[:2]:
            assert part.target.dtype == np.int64 and set(part.target) == set(range(classes))
            assert len(part.target) == len(part.x) and all(np.isfinite(x).all() for x in part.x)

    def test_agrees_with_sktime(self):
        datasets = pytest.importorskip("sktime.datasets")
        frame, labels = datasets.load_japanese_vowels(split="test", return_X_y=True, return_type="nested_univ")
        data = japanese_vowels()
        assert [data.classes[k] for k in data.test.target] == list(labels)
        for i in (0, 100, 369):
            np.testing.assert_array_equal(data.test.x[i].T, np.array([*frame.iloc[i]], np.float32))

    def test_a_path_of_the_users(self, toy):
        data = japanese_vowels(toy(test="@data\n0,0.5:?,1e-3:2\n\n"))
        assert data.classes == ("2", "10") and data.train.target.tolist() == [1, 0]
        np.testing.assert_array_equal(data.train.x[0], np.array([[1, 4], [2, 5], [3, 6]], np.float32))
        np.testing.assert_array_equal(data.test.x[0], np.array([[0, np.nan], [0.5, 1e-3]], np.float32))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "at least one series"),
            ("1,2:a\n", "at least one series after a line @data"),
            ("@data\n", "at least one series"),
            ("@data\n1,2:3:a\n", "line 2: channels of equally many"),
            ("@data\n1,x:a\n", "line 2.*'x'"),
            ("@data\n(0,1),(1,2):a\n", "line 2"),
            ("@data\n1,2\n", "line 2"),
            ("@data\n1,2:a\n1,2:3,4:a\n", "1 channels, as in series 0.*got 2 in series 1"),
        ],
    )
    def test_refuses_a_file_that_is_none(self, toy, content, message):
        with pytest.raises(ValueError, match=message):
            japanese_vowels(toy(train=content))

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"JapaneseVowels_TRAIN\.ts"):
            japanese_vowels(tmp_path)

    @pytest.mark.parametrize("load", [japanese_vowels, plaid])
    def test_without_sktime(self, load, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"sktime is required.*fastrnn\[data\].*_TRAIN.ts"):
            load()


class TestDigits:
    def test_rows_and_pixels(self):
        pytest.importorskip("sklearn")
        rows, pixels = digits(), digits("pixel")
        assert (len(rows.train.x), len(rows.test.x)) == (898, 899) and rows.classes == tuple("0123456789")
        assert rows.train.x[0].shape == (8, 8) and pixels.train.x[0].shape == (64, 1)
        np.testing.assert_array_equal(rows.test.x[5].ravel(), pixels.test.x[5].ravel())
        values = np.stack(rows.train.x)
        assert values.dtype == np.float32 and values.min() == 0 and values.max() == 1
        assert rows.train.target.dtype == np.int64 and rows.train.target[:4].tolist() == [0, 1, 2, 3]

    def test_refuses(self, monkeypatch):
        with pytest.raises(ValueError, match="by: one of 'row', 'pixel'"):
            digits("column")
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(ImportError, match=r"scikit-learn is required.*fastrnn\[data\]"):
            digits()


class TestLetters:
    @pytest.fixture
    def write(self, tmp_path):
        """A file in Taskar's format of words (text, fold), the pixels a function of letter and place; lines can be changed."""

        def write(words=(("ab", 0), ("z", 3), ("cad", 9)), change=lambda lines: lines):
            lines, number = [], 0
            for w, (word, fold) in enumerate(words):
                for place, letter in enumerate(word):
                    number += 1
                    after = -1 if place + 1 == len(word) else number + 1
                    lines.append([number, letter, after, w + 1, place + 1, fold, *self.pixels(letter, place)])
            path = tmp_path / "letter.data"
            path.write_text("".join("\t".join(map(str, line)) + "\t\n" for line in change(lines)), "ascii")
            return path

        return write

    @staticmethod
    def pixels(letter, place):
        return [(ord(letter) * (k + 1) + place) // 7 % 2 for k in range(128)]

    def test_words_folds_and_pixels(self, write):
        data = ocr_letters(write(), fold=3)
        assert [len(x) for x in data.train.x] == [1] and [len(x) for x in data.test.x] == [2, 3]
        assert ["".join(data.classes[k] for k in labels) for labels in data.test.target] == ["ab", "cad"]
        assert all(x.dtype == np.float32 and x.shape[1:] == (128,) for part in data[:2] for x in part.x)
        assert all(labels.dtype == np.int64 for part in data[:2] for labels in part.target)
        np.testing.assert_array_equal(data.test.x[1], [self.pixels(letter, place) for place, letter in enumerate("cad")])
        assert [len(x) for x in ocr_letters(str(write())).train.x] == [2]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda lines: [], "whole words are required.*got 0"),
            (lambda lines: lines[:-1], "whole words are required.*the last cut off"),
            (lambda lines: [lines[0]] + lines[2:], "line 2: the next letter of word 1 is required"),
            (lambda lines: [lines[0], lines[1][:5] + [1] + lines[1][6:]] + lines[2:], "line 2: the next letter of word 1"),
            (lambda lines: [line[:-1] for line in lines], "line 1: .*128 pixels.*out of range, or missing"),
            (lambda lines: [[*lines[0][:-1], 2], *lines[1:]], "line 1: .*128 pixels of 0 or 1"),
            (lambda lines: [[*lines[0][:-1], "x"], *lines[1:]], "line 1: .*'x'"),
            (lambda lines: [[1, "A", *lines[0][2:]], *lines[1:]], "line 1: .*letter a-z"),
            (lambda lines: [[1, "ab", *lines[0][2:]], *lines[1:]], "line 1: .*letter a-z"),
            (lambda lines: [line[:5] + [10] + line[6:] for line in lines], "line 1: .*fold 0-9"),
            (lambda lines: [["1,a,2"]], "line 1: number, letter"),
            (lambda lines: [line[:5] + [4] + line[6:] for line in lines], "words in fold 0 and in others are required; got 0 of 3"),
            (lambda lines: [line[:5] + [0] + line[6:] for line in lines], "words in fold 0 and in others are required; got 3 of 3"),
        ],
    )
    def test_refuses_a_file_that_is_none(self, write, change, message):
        with pytest.raises(ValueError, match=message):
            ocr_letters(write(change=change))

    def test_refuses(self, write, tmp_path):
        with pytest.raises(FileNotFoundError, match="path: a file is required"):
            ocr_letters(tmp_path / "none")
        with pytest.raises(ValueError, match="fold: an integer from 0 to 9 is required; got 10"):
            ocr_letters(write(), fold=10)


class Score:
    """What of music21's scores is used: parts with a name, each a list of (offset, quarters, pitches)."""

    def __init__(self, quarters, **parts):
        self.duration = SimpleNamespace(quarterLength=quarters)
        self.parts = [self.part(name, notes) for name, notes in parts.items()]

    @staticmethod
    def part(name, notes):
        notes = [SimpleNamespace(offset=o, quarterLength=q, pitches=[SimpleNamespace(midi=m) for m in p]) for o, q, p in notes]
        return SimpleNamespace(partName=name, flatten=lambda: SimpleNamespace(notes=notes))


class TestChorales:
    def test_the_pitch_at_every_quarter(self, monkeypatch):
        half, voice = 0.5, [(0.0, 4.0, [60])]
        bass = [(0.0, 1.0, [50]), (1.0, half, [48]), (1.5, half, [47]), (2.5, 1.0, [43, 45]), (3.0, 0.0, [99])]
        scores = {
            "one": Score(4.0, Soprano=voice, Alto=voice, Tenor=voice, Bass=bass),
            "again": Score(4.0, Soprano=voice, Alto=voice, Tenor=voice, Bass=bass),
            "five parts": Score(4.0, Soprano=voice, Alto=voice, Tenor=voice, Bass=bass, Continuo=bass),
            "other": Score(1.0, Soprano=voice, Alto=voice, Tenor=voice, Bass=[]),
        }
        corpus = SimpleNamespace(getComposer=lambda name: list(scores) if name == "bach" else [], parse=scores.get)
        monkeypatch.setitem(sys.modules, "music21", SimpleNamespace(corpus=corpus))
        one, other = bach_chorales()
        assert one.dtype == np.int64 and one[:, :3].tolist() == [[60] * 3] * 4
        assert one[:, 3].tolist() == [50, 48, -1, 45]  # of two eighths the first; a note in the air; the highest of a chord
        assert other.tolist() == [[60, 60, 60, -1]]

    def test_without_music21(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "music21", None)
        with pytest.raises(ImportError, match=r"bach_chorales: the package music21 is required.*fastrnn\[music\]"):
            bach_chorales()


class TestText:
    def test_english(self):
        data = english_text()
        assert len(data.tokens) > 300_000 and len(data.vocabulary) > 60
        assert data.tokens.max() == len(data.vocabulary) - 1 and data.tokens.min() == 0
        assert " the " in data.decode(data.tokens[:5000])
        assert 4 < unigram_entropy(data.tokens) < 5.5

    def test_english_where_there_is_none(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
        with pytest.raises(ImportError, match=r"pydoc_data.*fastrnn.data.text\(path\)"):
            english_text()

    @pytest.mark.parametrize("string", ["banana", "x", "Zürich\n\t😀 \x00", "\ud800a"])
    def test_there_and_back(self, string):
        data = TextData.from_string(string)
        assert data.vocabulary == "".join(sorted(set(string))) and data.tokens.dtype == np.int64
        assert data.decode(data.tokens) == string
        np.testing.assert_array_equal(data.encode(string), data.tokens)
        assert data.encode("").shape == (0,) and data.decode([]) == ""

    def test_a_file(self, tmp_path):
        path = tmp_path / "text.txt"
        path.write_bytes("Grüße\r\nb".encode("latin-1"))
        data = text(path, "latin-1")
        assert data.decode(data.tokens) == "Grüße\nb"
        assert text(str(path), encoding="latin-1").vocabulary == data.vocabulary
        with pytest.raises(ValueError, match="text in utf-8 is required"):
            text(path)
        with pytest.raises(ValueError, match="encoding: the name"):
            text(path, encoding="klingon")

    def test_refuses_files_that_are_empty_or_missing(self, tmp_path):
        (tmp_path / "empty.txt").touch()
        with pytest.raises(ValueError, match=r"at least one character.*empty\.txt is empty"):
            text(tmp_path / "empty.txt")
        for path in (tmp_path / "none.txt", tmp_path):
            with pytest.raises(FileNotFoundError, match="path: a file is required"):
                text(path)

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda data: data.encode("banz"), ValueError, "got 'z' at position 3"),
            (lambda data: data.encode("A"), ValueError, "got 'A' at position 0"),
            (lambda data: data.encode(b"ban"), TypeError, "string: a str"),
            (lambda data: data.decode([3]), ValueError, "tokens: integers from 0 to 2.*got 3"),
            (lambda data: data.decode([-1]), ValueError, "tokens: integers from 0"),
            (lambda data: data.decode([0.0]), TypeError, "tokens: integers"),
            (lambda data: TextData.from_string(""), ValueError, "empty text"),
            (lambda data: TextData.from_string(3), TypeError, "string: a str"),
        ],
    )
    def test_refuses(self, call, error, message):
        with pytest.raises(error, match=message):
            call(TextData.from_string("banana"))


class TestUnigramEntropy:
    def test_closed_forms(self):
        assert unigram_entropy(np.zeros(9, int)) == 0
        assert unigram_entropy(np.arange(32)) == pytest.approx(5, abs=1e-15)
        assert unigram_entropy([7, 7, 7, -1]) == pytest.approx(0.75 * np.log2(4 / 3) + 0.5, abs=1e-15)

    @pytest.mark.parametrize(
        ("tokens", "error", "message"),
        [([], ValueError, "at least one token"), ([0.5], TypeError, "integers"), ([[1]], ValueError, "shape")],
    )
    def test_refuses(self, tokens, error, message):
        with pytest.raises(error, match=message):
            unigram_entropy(tokens)


def test_importing_brings_none_of_the_extras():
    for path in Path(corpora.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert all(name.split(".")[0] in {"numpy", *sys.stdlib_module_names} - {"pydoc_data"} for name in modules)


class TestLaser:
    def test_what_the_competition_says(self):
        pytest.importorskip("reservoirpy")
        series = santafe_laser()
        assert series.shape == (10_093, 1) and series.dtype == np.float32
        assert series[:10, 0].tolist() == [86, 141, 95, 41, 22, 21, 32, 72, 138, 111]  # as printed in Weigend & Gershenfeld
        assert series.min() == 0 and series.max() == 255 and (series == np.round(series)).all()

    def test_a_path_of_the_users(self, tmp_path):
        path = tmp_path / "A.dat"
        path.write_text("\ufeff86\n 141\n95 4.5\n", "utf-8")
        np.testing.assert_array_equal(santafe_laser(path), np.array([[86], [141], [95], [4.5]], np.float32))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "at least one number.*A.dat has 0"),
            (b"1 x", "apart by white space.*'x'"),
            (b"1 nan", "finite ones"),
            (b"\xff1", "text in utf-8"),
        ],
    )
    def test_refuses_a_file_that_is_none(self, content, message, tmp_path):
        path = tmp_path / "A.dat"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            santafe_laser(path)
        with pytest.raises(FileNotFoundError, match="path: a file is required"):
            santafe_laser(tmp_path)

    def test_without_reservoirpy(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"reservoirpy is required.*fastrnn\[data\].*path of a text file"):
            santafe_laser()

    def test_a_reservoirpy_without_the_series(self, monkeypatch, tmp_path):
        found = importlib.machinery.ModuleSpec("reservoirpy", None, is_package=True)
        found.submodule_search_locations.append(str(tmp_path))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
        with pytest.raises(FileNotFoundError, match="reservoirpy of at least 0.4"):
            santafe_laser()


IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 11
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


class TestMnist:
    @pytest.fixture
    def folder(self, tmp_path):
        contents = (IMAGES, np.array([7, 2], np.uint8), IMAGES[:1], np.array([3], np.uint8))
        for name, array in zip(NAMES, contents):
            (tmp_path / name).write_bytes(idx(array))
        return tmp_path

    @pytest.mark.parametrize("compressed", [False, True])
    def test_a_folder_of_files(self, folder, compressed):
        if compressed:
            for name in NAMES:
                (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
                (folder / name).unlink()
        data = mnist(str(folder))
        np.testing.assert_array_equal(np.stack(data.train.x), IMAGES.astype(np.float32) / np.float32(255))
        assert data.test.x[0].shape == (4, 3) and data.test.x[0].dtype == np.float32 and data.train.x[1].max() == np.float32(253 / 255)
        assert data.train.target.tolist() == [7, 2] and data.test.target.tolist() == [3] and data.classes == tuple("01234567")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            (NAMES[0], b"", "an IDX file of unsigned bytes in 3 dimensions"),
            (NAMES[0], idx(IMAGES)[:-1], r"\(2, 4, 3\) bytes.* got 23 bytes"),
            (NAMES[0], idx(IMAGES) + b"x", "got 25 bytes of values"),
            (NAMES[0], idx(IMAGES[0]), "in 3 dimensions is required; it begins with '00 00 08 02'"),
            (NAMES[0], b"\0\0\x0d\x03" + idx(IMAGES)[4:], "it begins with '00 00 0d 03'"),
            (NAMES[0], idx(IMAGES[:, :0]), "none of them 0"),
            (NAMES[1], idx(np.zeros(3, np.uint8)), "a label for each of the 2 images of train is required; got 3"),
            (NAMES[2], idx(IMAGES[:1, :2]), r"images of one size are required; got \(4, 3\) and \(2, 3\)"),
        ],
    )
    def test_refuses_a_file_that_is_none(self, folder, name, content, message):
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=message):
            mnist(folder)

    DAMAGED = {"empty": b"", "no gzip": b"no gzip", "cut": gzip.compress(idx(IMAGES))[:-9]}
    DAMAGED["no data"] = gzip.compress(idx(IMAGES))[:10] + b"\xff" * 20

    @pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)  # its bytes have the time in them: no name for a test
    def test_refuses_a_damaged_gzip_file(self, folder, content):
        (folder / NAMES[0]).unlink()
        (folder / f"{NAMES[0]}.gz").write_bytes(content)
        with pytest.raises(ValueError, match="a sound gzip file is required|an IDX file"):
            mnist(folder)

    def test_a_missing_file(self, folder):
        (folder / NAMES[3]).unlink()
        with pytest.raises(FileNotFoundError, match=f"a file {NAMES[3]} or {NAMES[3]}.gz is required"):
            mnist(folder)
