"""Files that appear whole, what killed writers leave, and JSON that is read strictly."""

import json
import os
import time

import pytest

from eltbench.core import atomic


class KilledError(BaseException):
    """Stands for the end of the process: no handler of the code under test catches it."""


def leftover(path, minutes=0.0):
    path.write_bytes(b"half")
    then = time.time() - 60 * minutes
    os.utime(path, (then, then))
    return path


class TestLeftovers:
    def test_the_next_start_clears_what_killed_writers_left_and_nothing_else(self, tmp_path):
        leftover(tmp_path / "rows.parquet.4711-0123abcd.tmp", minutes=30)
        others = [
            leftover(tmp_path / name, minutes=minutes)
            for name, minutes in [
                ("claims.json.4711-0123abcd.tmp", 0),  # of a writer that may be at work, also on another machine
                ("notes.tmp", 30),
                ("probe", 30),
                ("rows.parquet", 30),
            ]
        ]
        (tmp_path / "folder.1-0123abcd.tmp").mkdir()
        atomic.check_writable(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / "folder.1-0123abcd.tmp"])

    def test_a_check_that_is_killed_leaves_nothing_that_the_next_would_keep(self, tmp_path, monkeypatch):
        def die(*arguments, **named):
            raise KilledError

        with monkeypatch.context() as patched:
            patched.setattr(atomic.Path, "unlink", die)
            with pytest.raises(KilledError):
                atomic.check_writable(tmp_path)
        (left,) = tmp_path.iterdir()
        leftover(left, minutes=30)
        atomic.check_writable(tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestJson:
    @pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "ü"]}, [], 3, "x"])
    def test_what_was_written_is_read(self, tmp_path, value):
        (tmp_path / "file.json").write_text(json.dumps(value))
        assert atomic.read_json(tmp_path / "file.json") == value

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b'{"a": NaN}',
            b"[Infinity]",
            b"-Infinity",
            b"1e999",
            b"9" * 5000,
            b"[" * 100_000 + b"]" * 100_000,
            b"[" * 100 + b"]" * 100,
            b'{"a":' * 100 + b"1" + b"}" * 100,
            '{"a": 1}'.encode("utf-16"),
            b"\xef\xbb\xbf{}",
            b'"\xff"',
        ],
    )
    def test_anything_else_is_a_value_error(self, tmp_path, data):
        (tmp_path / "file.json").write_bytes(data)
        with pytest.raises(ValueError, match=r".+"):
            atomic.read_json(tmp_path / "file.json")

    def test_what_is_no_file_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "file.json")
        with pytest.raises(ValueError, match="no regular file"):
            atomic.read_json(tmp_path / "file.json")

    def test_what_the_system_refuses_stays_an_error_of_the_system(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            atomic.read_json(tmp_path / "file.json")
