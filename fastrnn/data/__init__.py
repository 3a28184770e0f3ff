"""Batches of sequences, generators of tasks with a known chance level, chaotic systems, and real data."""

from .batches import Batch as Batch
from .batches import Batches as Batches
from .batches import Stream as Stream
from .batches import TextBatches as TextBatches
from .batches import as_batch as as_batch
from .batches import pad as pad
from .batches import stream as stream
from .batches import windows as windows
from .corpora import SequenceData as SequenceData
from .corpora import Sequences as Sequences
from .corpora import TextData as TextData
from .corpora import digits as digits
from .corpora import english_text as english_text
from .corpora import japanese_vowels as japanese_vowels
from .corpora import plaid as plaid
from .corpora import santafe_laser as santafe_laser
from .corpora import text as text
from .corpora import unigram_entropy as unigram_entropy
from .systems import Lorenz63 as Lorenz63
from .systems import Lorenz96 as Lorenz96
from .systems import System as System
from .tasks import Adding as Adding
from .tasks import Copy as Copy
from .tasks import TemporalOrder as TemporalOrder
