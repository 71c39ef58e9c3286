"""The server of workers is started before anything heavy is loaded, once, and leaves Ctrl-C as it was."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LOOK = """
import multiprocessing.forkserver as server
import signal, sys
from oneticket.lab.execution.forkserver import start_server
signal.signal(signal.SIGINT, signal.default_int_handler)
start_server()
first = server._forkserver._forkserver_pid
process = start_server().Process(target=print, args=("a word",))
process.start()
process.join()
print(first == server._forkserver._forkserver_pid, "torch" in sys.modules)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
with open(f"/proc/{first}/status") as status:
    ignored = int(next(line for line in status if line.startswith("SigIgn")).split()[1], 16)
print(bool(ignored >> (signal.SIGINT - 1) & 1))
"""


def test_the_server_starts_once_without_torch_here_and_ignores_ctrl_c() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"if __name__ == '__main__':\n    {_LOOK.replace(chr(10), chr(10) + '    ')}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ended.stdout.splitlines() == ["a word", "True False", "True", "True"], ended.stderr


@pytest.mark.parametrize(
    ("accelerator", "trained"), [(None, True), pytest.param("cuda", False, marks=pytest.mark.slow)]
)
def test_the_server_warms_up_unless_autograd_would_start_threads(accelerator: str | None, trained: bool) -> None:
    look = f"""
import threading, torch
calls, backward = [], torch.Tensor.backward
torch.accelerator.current_accelerator = lambda: {accelerator!r}
torch.Tensor.backward = lambda *arguments: (calls.append(0), backward(*arguments))[1]
import oneticket.lab.execution.engines.server
print(bool(calls), threading.active_count(), torch.get_num_threads())
"""
    ended = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=120)
    assert ended.stdout.split() == [str(trained), "1", "1"], ended.stderr
