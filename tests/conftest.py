"""What holds for all tests.

`from tests.tiny import ...` works wherever pytest was started, no hub is asked, and torch computes on one thread:
threads cost tiny models more than they give, twenty times over where other programs want the processor too. Slow tests
with a real model are quicker with `OMP_NUM_THREADS` set to the number of cores. A shell starts background jobs with
Ctrl-C ignored, and tests interrupt themselves: the usual handler is put back.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine and nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)
