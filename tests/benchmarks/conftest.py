"""The benchmarks are scripts of a checkout: their folder is where they find each other."""

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")  # read when it is imported
