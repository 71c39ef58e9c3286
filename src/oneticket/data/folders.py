"""Image folders: which file is a picture of which class, and what is left out, with its reason."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from oneticket.errors import InputError, nearest

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
# Pictures that are not read: leaving them out would change the data, and guessing at them would do so as well.
UNREAD = frozenset(
    {".ai", ".cr2", ".dcm", ".dds", ".dng", ".eps", ".exr", ".fits", ".heic", ".heif", ".ico", ".jxl", ".mat", ".nef"}
    | {".nii", ".npy", ".npz", ".pdf", ".ps", ".psd", ".raw", ".svg", ".tga", ".xbm", ".xpm"}
)
FORMATS = ("PNG", "JPEG", "MPO", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Left behind by operating systems and archives: never a class, never a picture.
DEBRIS = frozenset({"__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "lost+found"})
DEBRIS |= {"system volume information", "thumbs.db", "desktop.ini", "icon\r"}
DOCUMENTS = frozenset({".md", ".rst", ".txt", ".html", ".bib", ".cff"})
_PAPERS = ("readme", "license", "licence", "copying", "citation", "checksums", "sha256sums", "md5sums")


class Left(NamedTuple):
    """A file or folder that is left out, and why."""

    path: Path
    reason: str


class Labelled(NamedTuple):
    """A picture and the number of its class."""

    file: Path
    label: int


def pictures_to_part(home: Path, left: list[Left]) -> tuple[list[str], list[Labelled]]:
    """Classes and pictures of a folder of CLASS/FILE that is not parted into train and test.

    Raises InputError as :func:`classes_of` and :func:`pictures_of` do, and for a folder without a class.
    """
    classes = sorted(_class_folders(home, left), key=in_order)
    if not classes:
        raise InputError(f"no folder in {home}", expected="a folder for each class")
    _check_names(classes, home)
    return classes, pictures_of(home, classes, left)


def classes_of(home: Path, left: list[Left]) -> list[str]:
    """The classes of a folder of images: the names of the folders in train, in the order of their labels.

    Raises InputError for a class that only test has, for names that are not text, and for a picture outside the
    class folders. What is left out of ``home``, train and test is added to ``left``.
    """
    left += [
        Left(entry, "only train and test are read")
        for entry in listed(home)
        if entry.name not in ("train", "test") and not is_document(entry)
    ]
    found = {part: _class_folders(existing(home / part), left) for part in ("train", "test")}
    classes = sorted(found["train"], key=in_order)
    strangers = set(found["test"]) - set(classes)
    if strangers:
        word = min(strangers)
        raise InputError(
            f"class '{word}' is in test, but not in train", where=str(home), nearest=nearest(word, classes)
        )
    _check_names(classes, home)
    return classes


def _check_names(classes: Sequence[str], home: Path) -> None:
    unreadable = [name for name in classes if any("\ud800" <= letter <= "\udfff" for letter in name)]
    if unreadable:
        raise InputError(
            f"the name of the class folder {unreadable[0]!a} is not valid UTF-8",
            where=str(home),
            expected="a UTF-8 name",
        )


def pictures_of(folder: Path, classes: Sequence[str], left: list[Left]) -> list[Labelled]:
    """The pictures of a split, in the order of the classes and of the names; those in sub-folders of a class too.

    Raises InputError for a pipe or a device, for a picture in a format that is not read, and for a link to a folder.
    """
    return [
        Labelled(file, label)
        for label, name in enumerate(classes)
        if (folder / name).is_dir()
        for file in _pictures(folder / name, left)
    ]


def existing(folder: Path) -> Path:
    """``folder``; InputError with the nearest name if it is not a folder."""
    if not folder.is_dir():
        beside = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise InputError(f"the folder {folder} does not exist", nearest=nearest(folder.name, beside))
    return folder


def listed(folder: Path) -> list[Path]:
    """What is in a folder, by name; InputError if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(folder)) from None


def regular(file: Path) -> Path:
    """``file``; InputError for a pipe, a socket, a device (reading may never end) and for a broken link."""
    try:
        mode = file.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot be read ({reason})", where=str(file), expected="a file") from None
    if not stat.S_ISREG(mode):
        raise InputError("is a pipe, a socket, a device or a folder", where=str(file), expected="a file")
    return file


def is_hidden(path: Path) -> bool:
    """Whether an operating system or an archive left this behind, or a user hid it."""
    return path.name.startswith(".") or path.name.lower() in DEBRIS


def is_document(path: Path) -> bool:
    """Whether this is about the data rather than data: a text, a licence, checksums, what operating systems leave."""
    stem = path.name.lower()
    return is_hidden(path) or path.suffix.lower() in DOCUMENTS or stem.startswith(_PAPERS)


def notes(home: Path, left: Sequence[Left]) -> tuple[str, ...]:
    """One sentence for each reason: how many files and folders are left out, and the first of them."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for path, reason in sorted(left):
        by_reason[reason].append(os.path.relpath(path, home))
    return tuple(
        f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''} left out: {reason}"
        for reason, names in by_reason.items()
    )


def _class_folders(folder: Path, left: list[Left]) -> Iterator[str]:
    for entry in listed(folder):
        if is_hidden(entry):
            left.append(Left(entry, "hidden, or left behind by a system: not a class"))
        elif entry.is_dir():
            yield entry.name
        elif entry.suffix.lower() in SUFFIXES | UNREAD or _looks_like_a_picture(regular(entry)):
            raise InputError("is a picture without a class", where=str(entry), expected="it in the folder of a class")
        elif not is_document(entry):
            left.append(Left(entry, "not a picture"))


def _pictures(folder: Path, left: list[Left]) -> list[Path]:
    found: list[Path] = []

    def failed(error: OSError) -> None:
        raise InputError(f"cannot be read ({error.strerror})", where=str(error.filename)) from None

    for place, folders, files in os.walk(folder, onerror=failed):
        for name in [*folders]:
            inner = Path(place, name)
            if is_hidden(inner):
                folders.remove(name)
                left.append(Left(inner, "hidden, or left behind by a system: not a class"))
            elif inner.is_symlink():
                raise InputError("is a link to a folder", where=str(inner), expected="the folder itself")
        found += [Path(place, name) for name in files if _is_picture(Path(place, name), left)]
    return sorted(found)


def _is_picture(file: Path, left: list[Left]) -> bool:
    if is_hidden(file):
        left.append(Left(file, "hidden, or left behind by a system: not a picture"))
        return False
    suffix = file.suffix.lower()
    if suffix in UNREAD:
        expected = f"{', '.join(FORMATS)}, or the file elsewhere"
        raise InputError(f"pictures of the kind {suffix} are not read", where=str(file), expected=expected)
    regular(file)
    if suffix in SUFFIXES or _looks_like_a_picture(file):
        return True
    if not is_document(file):
        left.append(Left(file, "not a picture"))
    return False


def _looks_like_a_picture(file: Path) -> bool:
    """Whether the first bytes are those of a picture that is read: suffixes such as .jfif, .avif, .jp2, or none."""
    try:
        with file.open("rb") as opened:
            head = opened.read(32)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(file)) from None
    starts = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
    boxes = (b"jP  \r\n\x87\n", b"ftypavif", b"ftypavis")
    return (
        head.startswith((*starts, b"\xff\x4f\xff\x51"))
        or (head.startswith(b"RIFF") and head[8:12] == b"WEBP")
        or (head.startswith(b"BM") and head[6:10] == b"\0\0\0\0")
        or head[4:12].startswith(boxes)
    )


def in_order(name: str) -> tuple[int, str]:
    """The key by which names of classes are sorted."""
    # Classes named by numbers stand in the order of the numbers: 10 after 9, not after 1.
    return (int(name), name) if name.isdecimal() else (2**63, name)
