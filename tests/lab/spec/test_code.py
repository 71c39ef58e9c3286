"""The code that a file names: all of it is found, nothing is imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from oneticket.errors import InputError
from oneticket.lab.spec.code import named_code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}_named.py").write_text("import helper_named\n1 / 0\n")
    (tmp_path / "helper_named.py").write_text("1 / 0\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "four_named.py").write_text("1 / 0\n")
    return tmp_path


NAMED: list[tuple[dict[str, Any], list[str]]] = [
    ({"model": "lenet-300-100"}, []),
    ({}, []),
    ({"model": "one_named:net"}, ["helper_named.py", "one_named.py"]),
    ({"model": {"name": "one_named:net"}}, ["helper_named.py", "one_named.py"]),
    ({"model": ["vgg11", {"name": "one_named:a"}, "helper_named:b"]}, ["helper_named.py", "one_named.py"]),
    ({"arm": {"a": {"model": "two_named:net"}}}, ["helper_named.py", "two_named.py"]),
    ({"code": ["three_named.py"]}, ["helper_named.py", "three_named.py"]),
    ({"code": ["parts/four_named.py"]}, ["parts/four_named.py"]),
]


@pytest.mark.parametrize(("raw", "files"), NAMED)
def test_all_code_of_a_file_is_found_and_none_imported(folder: Path, raw: dict[str, Any], files: list[str]) -> None:
    assert list(named_code(raw, folder).sources.checksums()) == files
    assert not any(name.endswith("_named") for name in sys.modules)


ODD: list[dict[str, Any]] = [
    {"model": 3}, {"model": [3, None, ["a:b"]]}, {"model": {"name": 3}}, {"arm": 3}, {"arm": {"a": 3}},
    {"arm": {"a": {"model": 3}}}, {"code": "one_named.py"}, {"code": [3]}, {"code": 3},
]  # fmt: skip


@pytest.mark.parametrize("raw", ODD)
def test_what_is_not_text_is_left_to_the_reading_of_the_file(folder: Path, raw: dict[str, Any]) -> None:
    assert not named_code(raw, folder).sources.files


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": "nowhere:net"}, "model: there is no module 'nowhere'"),
    ({"model": ["vgg11", "os:system"]}, r"model\[1\]: there is no module 'os'"),
    ({"arm": {"a": {"model": "os:popen"}}}, "arm.a.model: there is no module 'os'"),
    ({"model": "one_named.sub:net"}, "model: there is no module 'one_named.sub'"),
    ({"code": ["/etc/passwd"]}, r"code\[0\]: '/etc/passwd' is not a Python file beside"),
    ({"code": ["one_named.py", "../one_named.py"]}, r"code\[1\]: '../one_named.py' is not"),
    ({"code": ["one_named"]}, r"code\[0\]: 'one_named' is not"),
    ({"code": ["parts"]}, r"code\[0\]: 'parts' is not"),
    ({"code": ["a b.py"]}, r"code\[0\]: 'a b.py' is not"),
    ({"code": ["missing.py"]}, r"code\[0\]: there is no module 'missing'"),
]


@pytest.mark.parametrize(("raw", "said"), REFUSED)
def test_code_in_no_place_where_it_may_be_is_refused_at_its_key(folder: Path, raw: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        named_code(raw, folder)


def test_packages_and_plug_ins_may_be_imported(folder: Path) -> None:
    assert named_code({"model": "click:echo"}, folder, ["click"]).packages == ("click",)
    code = named_code({"code": ["one_named.py"]}, folder, [], {"lamp = click.core": "click.core"})
    assert (code.packages, code.registering) == (("click",), ("click.core", "one_named"))
