"""What ``import rnnforecast`` adds to importing torch, scikit-learn and pandas.

    python benchmarks/import_time.py [--rounds 7]

Two fresh processes in turn, A with and B without ``import rnnforecast``; median of the differences.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

_TIMED = """
import time
start = time.perf_counter()
import torch, sklearn, pandas
{extra}
print(time.perf_counter() - start)
"""


def seconds(extra: str) -> float:
    """Import time in a fresh process."""
    code = _TIMED.format(extra=extra)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout)


def main() -> None:
    """Print the figures and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    package, forecaster = "import rnnforecast", "from rnnforecast import DeepLSTMForecaster"
    seconds(""), seconds(forecaster)
    rows = [(seconds(""), seconds(package), seconds(forecaster)) for _ in range(args.rounds)]
    result = {
        "base_s": statistics.median(row[0] for row in rows),
        "package_adds_s": statistics.median(row[1] - row[0] for row in rows),
        "forecaster_adds_s": statistics.median(row[2] - row[0] for row in rows),
    }
    print(f"torch, sklearn, pandas: {result['base_s']:.2f} s")
    print(f"import rnnforecast adds {result['package_adds_s']:+.3f} s")
    print(f"from rnnforecast import DeepLSTMForecaster adds {result['forecaster_adds_s']:+.3f} s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
