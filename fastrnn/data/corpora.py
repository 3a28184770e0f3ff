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

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Sequences(NamedTuple):
    """Labelled sequences.

    Attributes
    ----------
    x : list of N ndarrays, shape (T_i, D), float32
    target : ndarray, shape (N,), int64; or list of N such, shape (T_i,), where every step has a label
        Classes 0 ... K - 1.
    """

    x: list[np.ndarray]
    target: np.ndarray | list[np.ndarray]


class SequenceData(NamedTuple):
    """A data set for the classification of sequences, or of their steps.

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


def ocr_letters(path, fold: int = 0) -> SequenceData:
    """6 877 handwritten words, 52 152 letters: a letter a step, 16 by 8 pixels of 0 or 1, and which of a ... z it is.

    The words are lower case without their first letter, from 150 writers, in ten folds; as in the paper, one fold is for training
    and the other nine for testing. The labels are those of the steps.

    Parameters
    ----------
    path : str or Path
        The file ``letter.data`` of ai.stanford.edu/~btaskar/ocr (Rob Kassel's, prepared by Ben Taskar), unpacked. A line a letter, fields
        apart by tabs: its number, the letter, the number of the next letter of the word or -1, the word, the place in it, the fold,
        and 128 pixels.
    fold : int
        Which of the folds, 0 to 9, is for training.

    Raises
    ------
    FileNotFoundError, ValueError
        Where the file is missing or is not what it should be.

    References
    ----------
    Taskar, Guestrin & Koller 2003, "Max-margin Markov networks", NIPS 16.
    """
    check.integer("fold", fold, 0, 9)
    words, labels, folds = _read_letters(Path(path))
    train = [place == fold for place in folds]
    if all(train) or not any(train):
        raise ValueError(f"{path}: words in fold {fold} and in others are required; got {sum(train)} of {len(train)} words in it")

    def part(chosen: bool) -> Sequences:
        return Sequences(*([item for item, own in zip(items, train) if own is chosen] for items in (words, labels)))

    return SequenceData(part(True), part(False), tuple(_LETTERS))


def bach_chorales() -> list[np.ndarray]:
    """Chorales by J. S. Bach in four parts, soprano, alto, tenor and bass: the pitches that sound at every quarter note.

    About 350, as many as music21 has with exactly these parts, those left out that are a note for note repetition of an earlier one.
    Reading them takes about a minute: keep what is returned.

    Returns
    -------
    list of ndarray, shape (T_i, 4), int64
        MIDI pitches, 60 for the middle c; -1 for a rest.

    Raises
    ------
    ImportError
        Where music21 is not installed.

    References
    ----------
    music21, the corpus of Cuthbert & Ariza 2010, "music21: A toolkit for computer-aided musicology".
    """
    try:
        from music21 import corpus
    except ImportError as error:
        raise ImportError(_needs("bach_chorales", "music21", "music")) from error
    found = {}
    for name in corpus.getComposer("bach"):
        score = corpus.parse(name)
        if [part.partName for part in score.parts] == ["Soprano", "Alto", "Tenor", "Bass"]:
            pitches = np.stack([_pitches(part, int(score.duration.quarterLength)) for part in score.parts], axis=1)
            found.setdefault(pitches.tobytes(), pitches)
    return list(found.values())


def santafe_laser(path=None) -> np.ndarray:
    """Intensity of a far-infrared laser in a chaotic state: 10 093 measurements, integers from 0 to 255.

    Pulses that grow until they collapse. The competition was to go on from the first 1 000.

    Parameters
    ----------
    path : str or Path, optional
        Text file with numbers, apart by white space; reservoirpy's own series by default.

    Returns
    -------
    ndarray, shape (T, 1), float32
        Not scaled.

    Raises
    ------
    ImportError
        Where neither reservoirpy nor a path is given.
    FileNotFoundError, ValueError
        Where the file is missing or is not what it should be.

    References
    ----------
    Hübner, Abraham & Weiss 1989, Phys. Rev. A 40; Weigend & Gershenfeld 1994, "Time Series Prediction", data set A of the
    Santa Fe competition.
    """
    if path is None:
        found = importlib.util.find_spec("reservoirpy")
        if found is None or not found.submodule_search_locations:
            raise ImportError(f"{_needs('santafe_laser', 'reservoirpy')}, or give the path of a text file with the numbers")
        path = Path(found.submodule_search_locations[0], "datasets", "santafe_laser.npy")
        if not path.is_file():
            raise FileNotFoundError(f"santafe_laser: reservoirpy of at least 0.4, which brings the series, is required; no file {path}")
        series = np.load(path, allow_pickle=False)
    else:
        words = _read(Path(path), "utf-8-sig").split()
        try:
            series = np.array(words, np.float64)
        except ValueError as error:
            raise ValueError(f"path: numbers apart by white space are required; {path}: {error}") from None
    if not series.size or not np.isfinite(series).all():
        raise ValueError(f"path: at least one number, and finite ones, are required; {path} has {len(series)}, or others")
    return series.reshape(-1, 1).astype(np.float32)


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


def _needs(what: str, package: str, extra: str = "data") -> str:
    return f"{what}: the package {package} is required; it is not installed. Get it with pip install 'fastrnn[{extra}]'"


def _read(path: Path, encoding: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"path: a file is required; there is none at {path}")
    try:
        return path.read_text(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"path: text in {encoding} is required; {path}: {error}. Name its encoding") from None
    except LookupError:
        raise ValueError(f"encoding: the name of a text encoding is required; got {encoding!r}") from None


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


def _read_letters(path: Path) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
    """Pixels (T, 128), labels (T,) and fold of every word of a file ``letter.data``."""
    words, labels, folds, expected = [], [], [], None
    for number, line in enumerate(_read(path, "ascii").splitlines(), 1):
        fields = line.rstrip().split("\t")
        try:
            own, letter, following, word, _, fold, *pixels = fields
            following, word, fold = int(following), int(word), int(fold)
            image, label = np.array(pixels, np.float32), _LETTERS.index(letter)
            if image.shape != (128,) or not np.isin(image, (0, 1)).all() or len(letter) != 1 or not 0 <= fold <= 9:
                raise ValueError("one of them is out of range, or missing")
        except ValueError as error:
            wanted = "number, letter a-z, next number, word, place, fold 0-9, and 128 pixels of 0 or 1, apart by tabs,"
            raise ValueError(f"{path}, line {number}: {wanted} are required: {error}") from None
        if expected is None:
            words.append([])
            labels.append([])
            folds.append(fold)
        elif expected != (int(own), word, fold):
            raise ValueError(f"{path}, line {number}: the next letter of word {expected[1]} is required, as the line before announces")
        words[-1].append(image)
        labels[-1].append(label)
        expected = None if following == -1 else (following, word, fold)
    if not words or expected is not None:
        raise ValueError(f"{path}: whole words are required, each up to a letter without a next one; got {len(words)}, the last cut off")
    return [np.stack(word) for word in words], [np.array(word, np.int64) for word in labels], folds


def _pitches(part, steps: int) -> np.ndarray:
    """The MIDI pitch that sounds in one part of a score at every quarter note, -1 where there is none; the highest of a chord."""
    pitches = np.full(steps, -1, np.int64)
    for note in part.flatten().notes:
        first, last = math.ceil(note.offset), math.ceil(note.offset + note.quarterLength)
        pitches[first:last] = max(pitch.midi for pitch in note.pitches)
    return pitches
