"""Where the tests find each other, and Ctrl-C as Python has it."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# A shell without job control starts what it puts in the background with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
