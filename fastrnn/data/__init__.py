"""Batches of sequences, generators of tasks with a known chance level, and real data."""

from .batches import Batch as Batch
from .batches import Batches as Batches
from .batches import Stream as Stream
from .batches import TextBatches as TextBatches
from .batches import as_batch as as_batch
from .batches import pad as pad
from .batches import pad_images as pad_images
from .batches import stream as stream
from .batches import windows as windows
from .corpora import SequenceData as SequenceData
from .corpora import Sequences as Sequences
from .corpora import TextData as TextData
from .corpora import digits as digits
from .corpora import english_text as english_text
from .corpora import japanese_vowels as japanese_vowels
from .corpora import mnist as mnist
from .corpora import plaid as plaid
from .corpora import text as text
from .corpora import unigram_entropy as unigram_entropy
from .tasks import Adding as Adding
from .tasks import Copy as Copy
from .tasks import TemporalOrder as TemporalOrder
