"""Makes the two folders that text.toml reads: Python source, and English documents of installed packages.

    python examples/text_corpora.py            # into corpora/, beside the experiment file

Files are taken in the order of their names until a folder has two megabytes. Licences, which many packages share word
for word, are left out, and so are files that repeat another. The same installation gives the same folders.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

BYTES = 2_000_000
LARGEST, SMALLEST = 100_000, 2_000
SHARED = ("licen", "copying", "notice", "authors", "code_of_conduct")


def python_source() -> Iterable[Path]:
    """The modules of the standard library, without its tests."""
    home = Path(sysconfig.get_paths()["stdlib"])
    return (file for file in home.rglob("*.py") if not {"test", "tests", "site-packages"} & set(file.parts))


def documents() -> Iterable[Path]:
    """README files, descriptions and other documents that were installed with packages."""
    home = Path(sysconfig.get_paths()["purelib"])
    found = (file for pattern in ("*.md", "*.rst", "METADATA") for file in home.rglob(pattern))
    return (file for file in found if not file.name.lower().startswith(SHARED) and "licenses" not in file.parts)


def collect(files: Iterable[Path], folder: Path, suffix: str) -> tuple[int, int]:
    """Copies of ``files`` in ``folder``, at most ``BYTES``; their number and their bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seen: set[bytes] = set()
    count = total = 0
    for file in sorted(files):
        content = file.read_bytes()
        key = hashlib.sha256(content).digest()
        if not SMALLEST <= len(content) <= LARGEST or key in seen or total + len(content) > BYTES:
            continue
        seen.add(key)
        # The name of the package is kept: many files are called METADATA.
        (folder / f"{file.parent.name}-{file.stem}-{key.hex()[:8]}{suffix}").write_bytes(content)
        count, total = count + 1, total + len(content)
    return count, total


if __name__ == "__main__":
    home = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "corpora"
    for name, files, suffix in (("python", python_source(), ".py"), ("english", documents(), ".txt")):
        count, total = collect(files, home / name, suffix)
        print(f"{home / name}: {count} files, {total:,} bytes")
