"""Real data. Nothing is downloaded: packages bring it (``pip install 'fastrnn[data]'``), or the user names a path."""

import gzip
import importlib.util
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .. import _check as check


class Sequences(NamedTuple):
    """Labelled sequences.

    Attributes
    ----------
    x : list of N ndarrays, shape (T_i, D), float32
    target : ndarray, shape (N,), int64
        Classes 0 ... K - 1.
    """

    x: list[np.ndarray]
    target: np.ndarray


class SequenceData(NamedTuple):
    """A data set for the classification of sequences.

    Attributes
    ----------
    train, test : Sequences
    classes : tuple of str
        Names of the K classes; a target is an index into it.
    """

    train: Sequences
    test: Sequences
    classes: tuple[str, ...]


class TextData(NamedTuple):
    """A text as numbers.

    Attributes
    ----------
    tokens : ndarray, shape (n,), int64
        Indices into the vocabulary.
    vocabulary : str
        The characters that occur, sorted.

    Examples
    --------
    >>> text = TextData.from_string("banana")
    >>> text.vocabulary, text.tokens, text.decode([1, 0, 2])
    ('abn', array([1, 0, 2, 0, 2, 0]), 'ban')
    """

    tokens: np.ndarray
    vocabulary: str

    @classmethod
    def from_string(cls, string: str) -> "TextData":
        if not isinstance(string, str):
            raise TypeError(f"string: a str is required; got {type(string).__name__}")
        if not string:
            raise ValueError("string: at least one character is required; got an empty text")
        codes, tokens = np.unique(_codes(string), return_inverse=True)
        return cls(tokens.astype(np.int64, copy=False), "".join(map(chr, codes)))

    def encode(self, string: str) -> np.ndarray:
        """The tokens of a text; a ValueError for a character outside the vocabulary."""
        if not isinstance(string, str):
            raise TypeError(f"string: a str is required; got {type(string).__name__}")
        known, codes = _codes(self.vocabulary), _codes(string)
        tokens = np.searchsorted(known, codes)
        unknown = np.flatnonzero(known[np.minimum(tokens, len(known) - 1)] != codes)
        if unknown.size:
            raise ValueError(
                f"string: characters of the vocabulary are required; got {string[unknown[0]]!r} at position "
                f"{unknown[0]}. Replace or drop it"
            )
        return tokens.astype(np.int64, copy=False)

    def decode(self, tokens) -> str:
        """The text of tokens (n,)."""
        tokens = check.integers("tokens", tokens, ("n",), 0, len(self.vocabulary) - 1)
        return "".join(self.vocabulary[token] for token in tokens)


def japanese_vowels(path=None) -> SequenceData:
    """Nine speakers saying two Japanese vowels: 270 + 370 series of length 7-29, 12 cepstral coefficients each.

    Parameters
    ----------
    path : str or Path, optional
        Folder with ``JapaneseVowels_TRAIN.ts`` and ``JapaneseVowels_TEST.ts``; sktime's own by default.

    Raises
    ------
    ImportError
        Where neither sktime nor a path is given.
    FileNotFoundError, ValueError
        Where the files are missing or are not what they should be.

    References
    ----------
    Kudo, Toyama & Shimbo 1999, "Multidimensional curve classification using passing-through regions", Pattern
    Recognition Letters 20; UEA archive, timeseriesclassification.com.
    """
    return _archive("JapaneseVowels", path)


def plaid(path=None) -> SequenceData:
    """Currents of eleven kinds of household appliance: 537 + 537 series of length 100-1344, one channel, not scaled.

    Parameters
    ----------
    path : str or Path, optional
        Folder with ``PLAID_TRAIN.ts`` and ``PLAID_TEST.ts``; sktime's own by default.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError
        As `japanese_vowels`.

    References
    ----------
    Gao et al. 2014, "PLAID: a public dataset of high-resolution electrical appliance measurements", BuildSys;
    UCR archive, timeseriesclassification.com.
    """
    return _archive("PLAID", path)


def digits(by: str = "row") -> SequenceData:
    """1 797 handwritten digits of 8 by 8 pixels, as sequences; values in [0, 1].

    The first 898 are for training, the rest for testing, as in scikit-learn's own example; they come from different
    writers for the most part.

    Parameters
    ----------
    by : {"row", "pixel"}
        Eight steps of eight pixels, or 64 steps of one.

    Raises
    ------
    ImportError
        Where scikit-learn is not installed.

    References
    ----------
    Alpaydin & Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI repository (its test set).
    """
    check.choice("by", by, ("row", "pixel"))
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(_needs("digits", "scikit-learn")) from error
    bunch = load_digits()
    x = (bunch.data / 16).astype(np.float32).reshape(-1, *((8, 8) if by == "row" else (64, 1)))
    target = bunch.target.astype(np.int64)
    half = len(x) // 2
    return SequenceData(
        Sequences(list(x[:half]), target[:half]),
        Sequences(list(x[half:]), target[half:]),
        tuple(map(str, bunch.target_names)),
    )


def mnist(path) -> SequenceData:
    """Handwritten digits, 60 000 + 10 000 images of 28 by 28 pixels from 0 to 1, row by row: (28, 28) each.

    Parameters
    ----------
    path : str or Path
        Folder with ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
        ``t10k-labels-idx1-ubyte``, as they are or compressed (``.gz``). Any number of images of any one size is read, so that
        Fashion-MNIST and others in this format are, too.

    Raises
    ------
    FileNotFoundError, ValueError
        Where the files are missing or are not what they should be.

    References
    ----------
    LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11).
    """
    parts = []
    for name in ("train", "t10k"):
        images, labels = (_idx(Path(path, f"{name}-{kind}-ubyte"), rank) for kind, rank in (("images-idx3", 3), ("labels-idx1", 1)))
        if len(images) != len(labels):
            raise ValueError(f"path: a label for each of the {len(images)} images of {name} is required; got {len(labels)}")
        parts.append(Sequences(list(images.astype(np.float32) / np.float32(255)), labels.astype(np.int64)))
    if parts[0].x[0].shape != parts[1].x[0].shape:
        raise ValueError(f"path: images of one size are required; got {parts[0].x[0].shape} and {parts[1].x[0].shape}")
    return SequenceData(*parts, tuple(map(str, range(1 + max(int(part.target.max()) for part in parts)))))


def english_text() -> TextData:
    """The topics of Python's own ``help()``: about half a megabyte of English about Python, on every machine.

    The text grows and changes with Python's version, so numbers measured on it belong to one version.

    Raises
    ------
    ImportError
        Where the system's Python comes without ``pydoc_data``; `text` reads any other text.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ImportError(
            "english_text: Python's module pydoc_data, which holds the text, is required; this Python has none. "
            "Read another text with fastrnn.data.text(path)"
        ) from error
    return TextData.from_string("\n".join(topics[name] for name in sorted(topics)))


def text(path, encoding: str = "utf-8") -> TextData:
    """Any text file, as characters; line ends become ``\\n``.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where it is empty or is not text in this encoding.
    """
    string = _read(Path(path), encoding)
    if not string:
        raise ValueError(f"path: a text file with at least one character is required; {path} is empty")
    return TextData.from_string(string)


def unigram_entropy(tokens) -> float:
    """Entropy in bits of a token drawn at random: what a model that knows only the frequencies needs a token.

    H = - sum_i p_i log2 p_i, p the relative frequencies in `tokens` (n,).

    Examples
    --------
    >>> unigram_entropy([0, 1, 0, 1])
    1.0
    """
    tokens = check.integers("tokens", tokens, ("n",), np.iinfo(np.int64).min, np.iinfo(np.int64).max)
    if not len(tokens):
        raise ValueError("tokens: at least one token is required; got 0")
    p = np.unique(tokens, return_counts=True)[1] / len(tokens)
    return float(p @ np.log2(1 / p))


def _codes(string: str) -> np.ndarray:
    return np.frombuffer(string.encode("utf-32-le", "surrogatepass"), "<u4")


def _needs(what: str, package: str) -> str:
    return f"{what}: the package {package} is required; it is not installed. Get it with pip install 'fastrnn[data]'"


def _read(path: Path, encoding: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"path: a file is required; there is none at {path}")
    try:
        return path.read_text(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"path: text in {encoding} is required; {path}: {error}. Name its encoding") from None
    except LookupError:
        raise ValueError(f"encoding: the name of a text encoding is required; got {encoding!r}") from None


def _idx(path: Path, rank: int) -> np.ndarray:
    """The bytes of an IDX file, ``path`` or ``path.gz``: 0, 0, 8 (unsigned bytes), rank, sizes of 4 bytes each, values."""
    found = next((file for file in (path, path.with_name(path.name + ".gz")) if file.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"path: a file {path.name} or {path.name}.gz is required; there is none in {path.parent}")
    content = found.read_bytes()
    if found.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{found}: a sound gzip file is required: {error}") from None
    head = 4 + 4 * rank
    if len(content) < head or content[:4] != bytes([0, 0, 8, rank]):
        begins = content[:4].hex(" ")
        raise ValueError(f"{found}: an IDX file of unsigned bytes in {rank} dimensions is required; it begins with {begins!r}")
    sizes = struct.unpack(f">{rank}I", content[4:head])
    if 0 in sizes or len(content) != head + math.prod(sizes):
        raise ValueError(f"{found}: {sizes} bytes, none of them 0, are required by its head; got {len(content) - head} bytes of values")
    return np.frombuffer(content, np.uint8, offset=head).reshape(sizes)


def _archive(name: str, path) -> SequenceData:
    """A data set of the UEA / UCR archive, from a folder of the user's or from the one sktime brings."""
    if path is None:
        # Finding the package is enough: importing it takes seconds, and its files are in the archive's own format.
        found = importlib.util.find_spec("sktime")
        if found is None or not found.submodule_search_locations:
            raise ImportError(f"{_needs(name, 'sktime')}, or give the folder of {name}_TRAIN.ts and {name}_TEST.ts")
        path = Path(found.submodule_search_locations[0], "datasets", "data", name)
    parts = [_read_ts(Path(path, f"{name}_{part}.ts")) for part in ("TRAIN", "TEST")]
    # Shorter first: so numbers stand in their order, "10" after "9".
    classes = sorted({label for _, labels in parts for label in labels}, key=lambda label: (len(label), label))
    number = {label: k for k, label in enumerate(classes)}
    train, test = (Sequences(x, np.array([number[label] for label in labels], np.int64)) for x, labels in parts)
    return SequenceData(train, test, tuple(classes))


def _read_ts(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """Series and labels of a ``.ts`` file: a line a series, channels apart by ":", values by ",", the label at the end.

    The format: Middlehurst et al., aeon / sktime, "ts file format". Time stamps are not read; "?" is NaN.
    """
    series, labels, lines = [], [], enumerate(_read(path, "utf-8-sig").splitlines(), 1)
    for _, line in lines:
        if line.strip().lower() == "@data":
            break
    for number, line in lines:
        if not line.strip():
            continue
        *channels, label = line.strip().split(":")
        try:
            values = [np.array(channel.replace("?", "nan").split(","), np.float32) for channel in channels]
            series.append(np.stack(values, axis=1))
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: channels of equally many numbers, then a label, are required: {error}"
            ) from None
        labels.append(label.strip())
    if not series:
        raise ValueError(f"{path}: at least one series after a line @data is required; got none")
    width = series[0].shape[1]
    for k, x in enumerate(series):
        if x.shape[1] != width:
            raise ValueError(f"{path}: {width} channels, as in series 0, are required; got {x.shape[1]} in series {k}")
    return series, labels
