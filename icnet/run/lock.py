"""A lock that ends with the process that holds it, however that ends."""

import contextlib
import fcntl
import os
import socket
from pathlib import Path


class Lock:
    """A lock on a file, between processes; a process that asks again for one of its own gets it.

    The kernel frees it when the process ends, by SIGKILL too. It is a record lock of POSIX, which children do not
    inherit: loader processes that outlive a killed run for seconds do not keep its folder. On a file system without
    locks, everything goes on as if nobody else were there.

    Args:
        path: The file. It holds who has the lock, and is removed with it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self, *, wait: bool = False) -> bool:
        """Take the lock; returns whether it is this process's now.

        Args:
            wait: Whether to wait for another process to release it.

        Raises:
            OSError: If the file cannot be made.
        """
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: somebody else's
                os.close(file)
                return False
            except OSError:  # there are no locks here
                break
            if self._is_in_place(file):
                break
            os.close(file)  # its owner removed it in between
        self._file = file
        with contextlib.suppress(OSError):  # a full disk: nobody reads who it is, no more
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return True

    def release(self) -> None:
        """Give the lock back, if it is held, and remove the file."""
        if self._file is None:
            return
        if self._is_in_place(self._file):
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._file)
        self._file = None

    def owner(self) -> str:
        """Return who has the lock, such as ``process 123 on node7``."""
        try:
            return self.path.read_text(encoding="utf-8") or "another process"
        except OSError:
            return "another process"

    def _is_in_place(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), self.path.stat())
        except OSError:
            return False
