"""Makes the table that table.toml reads: scikit-learn's measurements of 569 breast tumours, benign or malignant.

python examples/make_table.py              # into tumours.csv, beside the experiment file
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer


def write(file: Path) -> int:
    """The table with a header, the class in the column ``tumour``; the number of rows."""
    bunch = load_breast_cancer()
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow([*(name.replace(" ", "_") for name in bunch.feature_names), "tumour"])
        for row, label in zip(bunch.data, bunch.target, strict=True):
            writer.writerow([*(f"{value:.6g}" for value in row), bunch.target_names[label]])
    return len(bunch.target)


if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "tumours.csv"
    print(f"{file}: {write(file)} rows")
