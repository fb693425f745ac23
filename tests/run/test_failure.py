"""The note that a failed job of a sweep leaves."""

from icnet.run.failure import (
    DIED,
    FAILED,
    clear_failure,
    clear_failures,
    kind_of,
    kinds_below,
    read_failure,
    write_failure,
)


def test_kinds_of_failures_are_known_until_they_are_cleared(tmp_path):
    for name, kind in (("0", FAILED), ("1", DIED), ("2", FAILED)):
        (tmp_path / name).mkdir()
        write_failure(tmp_path / name, kind, "a line: with a colon")
    (tmp_path / "3").mkdir()
    assert (tmp_path / "1" / "error.txt").read_text() == "died: a line: with a colon\n"
    assert read_failure(tmp_path / "1") == "died: a line: with a colon"
    assert kind_of(read_failure(tmp_path / "2")) == "failed"
    assert read_failure(tmp_path / "3") is None
    assert kinds_below(tmp_path) == {"failed", "died"}
    clear_failure(tmp_path / "1")
    clear_failure(tmp_path / "3")
    assert kinds_below(tmp_path) == {"failed"}
    clear_failures(tmp_path)
    assert kinds_below(tmp_path) == set()


def test_note_that_cannot_be_written_or_read_hides_no_error(tmp_path):
    (tmp_path / "0").write_text("a file, no folder")
    write_failure(tmp_path / "0", DIED, "a line")
    (tmp_path / "1" / "error.txt").mkdir(parents=True)
    assert kinds_below(tmp_path) == set()


def test_note_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_failure(tmp_path, FAILED, "before")

    def full(*given):
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    write_failure(tmp_path, DIED, "after")
    assert read_failure(tmp_path) == "failed: before"
    assert [path.name for path in tmp_path.iterdir()] == ["error.txt"]
