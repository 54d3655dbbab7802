"""Becomes the embedded store, or watches over it; started by path with PARENT_PID BINARY ARGUMENT...

The store must die with the server, even when that is killed with no chance to clean up. On Linux the kernel
sees to it: this process asks for SIGTERM at the death of its parent and then turns into the store. (Asking
between fork and exec, as `preexec_fn` would, may deadlock in a server with threads.) Elsewhere this process
stays, with the store as its child, and waits for the end of its standard input, a pipe from the server.

SIGTERM and not SIGKILL, so that the store writes its append-only file to the end. The kernel ties the signal
to the thread that started this process: start it from one that lives as long as the server does.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def become(parent_pid: int, command: list[str]) -> None:
    """Turn into the store, to be ended with the parent. Linux only."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit("the server ended before its store started")
    os.execv(command[0], command)  # noqa: S606  # the server chose the binary


def watch(command: list[str]) -> int:
    """Run the store until standard input ends or SIGTERM comes; its exit code."""
    store = subprocess.Popen(command, stdin=subprocess.DEVNULL, close_fds=False)  # noqa: S603  # as above
    signal.signal(signal.SIGTERM, lambda *_: store.terminate())

    def end_with_parent() -> None:
        while os.read(0, 1):  # not sys.stdin: its lock, held here, would break the end of the interpreter
            pass
        store.terminate()

    threading.Thread(target=end_with_parent, daemon=True).start()
    return store.wait()


if __name__ == "__main__":
    _, parent, *words = sys.argv
    if sys.platform == "linux":
        become(int(parent), words)
    else:
        sys.exit(watch(words))
