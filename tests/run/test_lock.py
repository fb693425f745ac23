"""A lock that ends with its process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icnet.run.lock import Lock

ROOT = Path(__file__).parents[2]
HOLD = """
import os, sys, time
from pathlib import Path
from icnet.run.lock import Lock
assert Lock(Path(sys.argv[1])).acquire()
if os.fork() == 0:  # as a loader's worker, which outlives its parent for a while
    os.close(1)
    time.sleep(60)
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds a lock, with a child that it has forked since."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True, cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    process.number = int(process.stdout.readline())
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_lock_is_refused_while_its_process_lives_and_free_when_that_is_killed(tmp_path, holder):
    lock = Lock(tmp_path / "lock")
    assert not lock.acquire()
    assert lock.owner().startswith(f"process {holder.number} on ")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert lock.acquire()  # although the child has the file open
    assert lock.owner().startswith(f"process {os.getpid()} on ")


def test_wait_ends_when_the_lock_is_free(tmp_path, holder):
    begun = time.monotonic()
    subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -9 {holder.pid}"])
    assert Lock(tmp_path / "lock").acquire(wait=True)
    assert time.monotonic() - begun > 0.2


def test_released_lock_leaves_no_file_and_can_be_taken_again(tmp_path):
    lock = Lock(tmp_path / "lock")
    for _ in range(2):
        assert lock.acquire()
        assert lock.path.exists()
        lock.release()
        assert list(tmp_path.iterdir()) == []
    lock.release()  # not held


def test_file_of_another_owner_is_not_removed(tmp_path):
    lock = Lock(tmp_path / "lock")
    assert lock.acquire()
    lock.path.unlink()  # somebody was sure that the process had ended
    lock.path.write_text("another's")
    lock.release()
    assert lock.path.read_text() == "another's"


def test_file_system_without_locks_does_not_stop_a_run(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    assert Lock(tmp_path / "lock").acquire()
