"""The server of workers is started before anything heavy is loaded, once, and leaves Ctrl-C as it was."""

from __future__ import annotations

import subprocess
import sys

_LOOK = """
import multiprocessing.forkserver as server
import signal, sys
from oneticket.lab.forkserver import start_server
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
