"""Which files a module needs, and what changes their digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from oneticket.errors import InputError
from oneticket.trust.sources import MOST_FILES, located, read_sources, without_comments


def files(folder: Path, **texts: str) -> Path:
    """Write files; ``a__b`` is ``a/b.py``."""
    for name, text in texts.items():
        place = folder.joinpath(*name.split("__")).with_suffix(".py")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return folder


def needed(folder: Path, module: str) -> list[str]:
    return list(read_sources([module], folder).checksums())


# -- which files ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "statement",
    [
        "import blocks",
        "import blocks as b, sys",
        "from blocks import act",
        "from blocks import *",
        "def later():\n    import blocks",
        "try:\n    import blocks\nexcept ImportError:\n    blocks = None",
        "if False:\n    from blocks import act",
        "class A:\n    from blocks import act",
    ],
)
def test_every_import_statement_counts_wherever_it_stands(tmp_path: Path, statement: str) -> None:
    files(tmp_path, mine=statement, blocks="import deeper", deeper="", other="")
    assert needed(tmp_path, "mine") == ["blocks.py", "deeper.py", "mine.py"]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("from . import blocks", ["nets/blocks.py"]),
        ("from .blocks import act", ["nets/blocks.py"]),
        ("from .sub import deep", ["nets/sub/deep.py"]),
        ("from .sub.deep import x", ["nets/sub/deep.py"]),
        ("from .. import top", ["top.py"]),
        ("import nets.blocks", ["nets/blocks.py"]),
        ("from nets import blocks", ["nets/blocks.py"]),
    ],
)
def test_packages_and_relative_imports(tmp_path: Path, statement: str, found: list[str]) -> None:
    files(tmp_path, nets__mine=statement, nets__blocks="", nets__sub__deep="", top="")
    files(tmp_path, nets____init__="")
    (tmp_path / "nets" / "__init__.py").write_text("")
    assert set(needed(tmp_path, "nets.mine")) == {"nets/__init__.py", "nets/mine.py", *found}


def test_the_package_around_a_module_belongs_to_it(tmp_path: Path) -> None:
    files(tmp_path, nets__mine="", blocks="")
    (tmp_path / "nets" / "__init__.py").write_text("import blocks")
    assert needed(tmp_path, "nets.mine") == ["blocks.py", "nets/__init__.py", "nets/mine.py"]


def test_circles_end(tmp_path: Path) -> None:
    files(tmp_path, a="import b", b="import a")
    sources = read_sources(["a"], tmp_path)
    assert list(sources.checksums()) == ["a.py", "b.py"]
    assert sources.digest("a") == sources.digest("b")


def test_names_of_python_and_of_oneticket_are_never_files_of_the_folder(tmp_path: Path) -> None:
    files(tmp_path, mine="import json, oneticket, random", json="1 / 0", random="", oneticket="")
    assert needed(tmp_path, "mine") == ["mine.py"]


@pytest.mark.parametrize("name", ["click", "torch", "pytest"])
def test_the_name_of_an_installed_package_is_refused(tmp_path: Path, name: str) -> None:
    files(tmp_path, **{"mine": f"import {name}", name: ""})
    with pytest.raises(InputError, match=f"'{name}' is .* under that name; expected a module name that is not in use"):
        read_sources(["mine"], tmp_path)


def test_links_within_the_folder_are_followed_and_links_out_of_it_are_refused(tmp_path: Path) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    files(home, real="x = 1")
    files(away, mine="x = 1")
    (home / "inside.py").symlink_to(home / "real.py")
    (home / "mine.py").symlink_to(away / "mine.py")
    assert needed(home, "inside") == ["inside.py"]
    with pytest.raises(InputError, match="leads out of the folder"):
        located("mine", home)


def test_a_program_without_end_is_refused(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 1):
        (tmp_path / f"m{number}.py").write_text(f"import m{number + 1}")
    with pytest.raises(InputError, match=f"more than {MOST_FILES} files"):
        read_sources(["m0"], tmp_path)


# -- what changes the digest ------------------------------------------------------------------------------------------
CODE = "import blocks\n\n\ndef net(classes):\n    return blocks.act(classes)\n"
SAME = [
    "# a comment\n" + CODE,
    CODE.replace("\n\n\n", "\n"),
    CODE.replace(":\n", ":  # why\n"),
    CODE + "\n\n# the end",
    CODE.replace("\n", "\r\n"),
    CODE.replace("\n\n\n", "\n  \n\t\n"),
    "\ufeff" + CODE,
    "# -*- coding: utf-8 -*-\n" + CODE,
]
OTHER = [
    CODE.replace("return ", "return 1 + "),
    CODE.replace("    return", "    '''# no comment'''\n    return"),
    CODE + "x = '#'",
    CODE.replace("act", "acts"),
]


@pytest.mark.parametrize("text", SAME)
def test_comments_and_blank_lines_do_not_count(tmp_path: Path, text: str) -> None:
    files(tmp_path, mine=CODE, blocks="")
    before = read_sources(["mine"], tmp_path).digest("mine")
    (tmp_path / "mine.py").write_bytes(text.encode())
    assert read_sources(["mine"], tmp_path).digest("mine") == before


@pytest.mark.parametrize("text", OTHER)
def test_everything_else_counts(tmp_path: Path, text: str) -> None:
    files(tmp_path, mine=CODE, blocks="")
    before = read_sources(["mine"], tmp_path).digest("mine")
    (tmp_path / "mine.py").write_text(text)
    assert read_sources(["mine"], tmp_path).digest("mine") != before


def test_what_it_imports_counts_and_what_it_does_not_import_does_not(tmp_path: Path) -> None:
    files(tmp_path, mine=CODE, blocks="import deeper", deeper="x = 1", other="x = 1")
    before = read_sources(["mine", "other"], tmp_path).digest("mine")
    files(tmp_path, other="x = 2")
    assert read_sources(["mine", "other"], tmp_path).digest("mine") == before
    files(tmp_path, deeper="x = 2")
    assert read_sources(["mine", "other"], tmp_path).digest("mine") != before


def test_where_the_folder_lies_does_not_count(tmp_path: Path) -> None:
    here, there = files(tmp_path / "here", mine="x = 1"), files(tmp_path / "there" / "deep", mine="x = 1")
    assert read_sources(["mine"], here).digest("mine") == read_sources(["mine"], there).digest("mine")


def test_the_same_text_in_another_file_counts(tmp_path: Path) -> None:
    """Which of two files holds a text decides what it computes."""
    one, other = files(tmp_path / "1", a="import b", b="x = 1"), files(tmp_path / "2", a="x = 1", b="import b")
    assert read_sources(["a", "b"], one).digest("a") != read_sources(["a", "b"], other).digest("a")


def test_the_encoding_that_a_file_names_is_the_one_it_is_read_in(tmp_path: Path) -> None:
    files(tmp_path, mine="")
    texts = ["# coding: latin-1\nx = 'é'", "x = 'é'"]
    digests = set()
    for text, encoding in zip(texts, ("latin-1", "utf-8"), strict=True):
        (tmp_path / "mine.py").write_bytes(text.encode(encoding))
        digests.add(read_sources(["mine"], tmp_path).digest("mine"))
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("x = '''a\n\n# b\n'''\n\ny = 1", "x = '''a\n\n# b\n'''\ny = 1"),
        ("x = [  # one\n\n    1,  # two\n]\n", "x = [\n    1,\n]"),
        ("x = 1 + \\\n    2  # three\n", "x = 1 + \\\n    2"),
        ("x = f'''{1}\n\n# in it {2}'''\n# out\n", "x = f'''{1}\n\n# in it {2}'''"),
        ("", ""),
        ("# only", ""),
    ],
)
def test_strings_stay_whole(text: str, left: str) -> None:
    assert without_comments(text.encode()) == left
