"""Completion of a shell: the printed script is click's, and names complete without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from oneticket.cli import group


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_the_command(shell: str) -> None:
    result = CliRunner().invoke(group, ["completion", shell])
    assert result.exit_code == 0
    assert f"_ONETICKET_COMPLETE={shell}_complete" in result.output
    assert "oneticket" in result.output


def test_another_shell_is_refused() -> None:
    result = CliRunner().invoke(group, ["completion", "tcsh"])
    assert result.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in result.output


@pytest.mark.parametrize(
    ("begun", "last", "words"),
    [
        (["results", "store", "--arm"], "win", ["winning"]),
        (["results", "store", "--against"], "layer-", ["layer-permuted", "layer-wise"]),
        (["figure", "store", "--arm"], "dense-f", ["dense-from-k", "dense-finetune"]),
        (["find", "--criterion"], "sn", ["snip"]),
        (["find", "--allocation"], "smart-", ["smart-vgg"]),
        ([], "comp", ["completion"]),
        (["run"], "fash", ["fash"]),  # a file: the shell looks for it
    ],
)
def test_names_complete(begun: list[str], last: str, words: list[str]) -> None:
    found = ShellComplete(group, {}, "oneticket", "_ONETICKET_COMPLETE").get_completions(begun, last)
    assert [item.value for item in found] == words
    assert {item.type for item in found} == {"file" if begun == ["run"] else "plain"}


def test_completing_loads_no_torch() -> None:
    code = (
        "import sys; from click.shell_completion import ShellComplete; from oneticket.cli import group; "
        "ShellComplete(group, {}, 'oneticket', 'X').get_completions(['results', 's', '--arm'], 'w'); "
        "print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
