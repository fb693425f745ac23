"""Files are written whole or not at all."""

import os
import time

import pytest

from icnet.run.files import ABANDONED_SECONDS, atomic_file, is_being_written, write_bytes, write_text


def test_file_is_replaced_when_all_of_it_is_there(tmp_path):
    path = tmp_path / "new" / "file"
    write_text(path, "one ä")
    with atomic_file(path) as file:
        file.write(b"two")
        file.flush()
        assert path.read_text(encoding="utf-8") == "one ä"
        assert [other.name for other in path.parent.glob(".file*")] == [f".file.{os.getpid()}.tmp"]
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_failure_leaves_the_older_file_and_nothing_else(tmp_path, error):
    write_text(tmp_path / "file", "one")

    def fail():
        with atomic_file(tmp_path / "file") as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "file").read_text() == "one"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_killed_processes_left_of_the_same_file_is_removed(tmp_path):
    long_ago = time.time() - ABANDONED_SECONDS - 1
    names = (".file.1.tmp", ".file.2.tmp", ".other.1.tmp", "file.1.tmp")
    for name in names:
        (tmp_path / name).touch()
        if name != ".file.2.tmp":  # another process is writing that one
            os.utime(tmp_path / name, (long_ago, long_ago))
    assert is_being_written(tmp_path / ".file.2.tmp")
    write_bytes(tmp_path / "file", b"content", sync=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"file", *names} - {".file.1.tmp"})


def test_file_of_another_kind_is_not_being_written(tmp_path):
    write_text(tmp_path / "file", "")
    assert not is_being_written(tmp_path / "file")
    assert is_being_written(tmp_path / ".gone.1.tmp")  # by who has just renamed it
