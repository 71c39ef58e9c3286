"""The server that local workers are forked from. Nothing here needs torch, so that it can start first."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext


def start_server() -> ForkServerContext:
    """Start the server and return the context of its processes; a second call does nothing.

    The server loads in the background everything that workers need.

    Raises
    ------
    OSError, EOFError : the server cannot be started.
    """
    context = multiprocessing.get_context("forkserver")
    # A process begins with the imports of the main script; the server preloads those from this package, too.
    main = [name for name in sys.modules if name.partition(".")[0] == "oneticket"]
    context.set_forkserver_preload([*main, "oneticket.lab.execution.engines.server"])
    with _without_interrupts():
        multiprocessing.forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """A context that ignores Ctrl-C, which the server inherits: it reaches the whole group, the parent decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
