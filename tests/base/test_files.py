"""Files: the old one or the new one, never half; and one line for what cannot be written."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ifllm.base.files import InputError, alone, as_new_files, atomic_path, read_json, sweep, write_bytes, write_json


def test_a_new_folder_is_made_with_those_above_it(tmp_path):
    assert write_bytes(tmp_path / "a" / "b" / "c", b"1")
    assert (tmp_path / "a" / "b" / "c").read_bytes() == b"1"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failure_leaves_the_old_one_and_nothing_else(tmp_path, kind):
    target = tmp_path / "t"
    write_bytes(target / "in" if kind == "folder" else target, b"old")
    with pytest.raises(RuntimeError), atomic_path(target) as tmp:
        write_bytes(tmp / "in" if kind == "folder" else tmp, b"new")
        raise RuntimeError
    assert (target / "in" if kind == "folder" else target).read_bytes() == b"old" and os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_new_one_is_there_whole_and_alone(tmp_path, kind):
    target = tmp_path / "t"
    write_bytes(target / "old" if kind == "folder" else target, b"old")
    with atomic_path(target) as tmp:
        write_bytes(tmp / "new" if kind == "folder" else tmp, b"new")
    assert (target / "new" if kind == "folder" else target).read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["t"] and (kind == "file" or os.listdir(target) == ["new"])


@pytest.mark.parametrize("old", ["file", "folder"])
def test_a_folder_does_not_replace_a_file_nor_a_file_a_folder(tmp_path, old):
    target = tmp_path / "t"
    write_bytes(target / "in" if old == "folder" else target, b"old")
    with pytest.raises(InputError, match=f"t: is a {old}"), atomic_path(target) as tmp:
        write_bytes(tmp if old == "folder" else tmp / "in", b"new")
    assert (target / "in" if old == "folder" else target).read_bytes() == b"old" and os.listdir(tmp_path) == ["t"]


def test_who_makes_nothing_loses_nothing(tmp_path):
    write_bytes(tmp_path / "t" / "in", b"old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "t"):
        pass
    assert (tmp_path / "t" / "in").read_bytes() == b"old" and os.listdir(tmp_path) == ["t"]


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, kind):
    real, link = tmp_path / "real", tmp_path / "link"
    if kind != "nothing":
        write_bytes(real / "old" if kind == "folder" else real, b"old")
    link.symlink_to("real")
    with atomic_path(link) as tmp:
        write_bytes(tmp / "new" if kind == "folder" else tmp, b"new")
    assert link.is_symlink() and (real / "new" if kind == "folder" else real).read_bytes() == b"new"


@pytest.mark.parametrize("path", [".", "..", "/", "../inside/."])
def test_the_folder_one_works_in_is_not_replaced(tmp_path, monkeypatch, path):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    with pytest.raises(InputError, match="holds the one you work in"), atomic_path(path):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_names_what_could_not_be_written(tmp_path):
    """It once was "a file: No space left on device"."""
    with pytest.raises(OSError, match="No space left") as fault, atomic_path(tmp_path / "out.csv"):
        Path("/dev/full").write_bytes(b"x")
    assert fault.value.filename == str(tmp_path / "out.csv")


def test_the_same_content_is_not_written_again(tmp_path):
    target = tmp_path / "t.json"
    assert write_json(target, {"b": "é", "a": [1, None]})
    before = target.stat()
    key = lambda stat: (stat.st_ino, stat.st_mtime_ns, stat.st_size)  # reading it again changes st_atime
    assert not write_json(target, {"a": [1, None], "b": "é"}) and key(target.stat()) == key(before)
    assert (
        target.read_text() == '{\n "a": [\n  1,\n  null\n ],\n "b": "é"\n}\n'
    )  # sorted, as it is read, one end of line
    assert write_json(target, {"b": "e"}) and json.loads(target.read_text()) == {"b": "e"}


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "t.json", {"a": float("nan")})
    assert os.listdir(tmp_path) == []


def test_files_of_a_library_get_the_permissions_of_new_ones(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    private = [tmp_path / "model" / "weights", tmp_path / "model" / "deep" / "more"]
    for file in private:
        file.touch(0o600)
    before = os.umask(0o027)
    try:
        as_new_files(tmp_path / "model")
    finally:
        os.umask(before)
    assert [file.stat().st_mode & 0o777 for file in private] == [0o640, 0o640]
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["deep", "weights"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1,\n "b', r":2: not whole JSON \("),
        (b"", r":1: not whole JSON \("),
        (b'{"a": "\xff"}', r": not JSON \("),
        (b"[" * 100_000, r": not JSON \("),
        (b'{"a": ' + b"9" * 5000 + b"}", r": not JSON \("),
        (b"[1]", ":1: holds a list in place of a dict"),
    ],
)
def test_a_torn_json_is_told_in_one_line(tmp_path, content, says):
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(InputError, match=f"^{tmp_path.name}/t.json{says}") as fault:
        read_json(tmp_path / "t.json")
    assert "\n" not in str(fault.value)


def test_a_lock_is_its_holders_and_dies_with_it(tmp_path, capsys):
    hold = (
        "import sys, time; from ifllm.base.files import alone\n"
        "with alone(sys.argv[1], 'ifllm run'): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / ".lock")], stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f"in use by `ifllm run`, process {other.pid}, since .*; wait until it ends"):
        with alone(tmp_path / ".lock", "ifllm report"):
            pass
    threading.Timer(0.3, other.kill).start()
    with alone(tmp_path / ".lock", "ifllm report", patience_s=30):  # the file is there, its holder is not
        assert (tmp_path / ".lock").exists()
    other.wait()
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and f"in use by `ifllm run`, process {other.pid}, since " in said and "; waiting" in said
    )


def test_what_a_killed_writer_left_is_swept_and_a_living_one_is_left_alone(tmp_path):
    hold = (
        "import sys, time; from ifllm.base.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as tmp:\n    tmp.write_text('half'); print('in it', flush=True); time.sleep(60)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", hold, tmp_path / name], stdout=subprocess.PIPE) for name in ("a", "b")
    ]
    try:
        assert [writer.stdout.readline() for writer in writers] == [b"in it\n"] * 2
        writers[0].kill()
        writers[0].wait()
        (tmp_path / ".mine-abcdefgh").mkdir()
        sweep(tmp_path)
        assert sorted(name[:3] for name in os.listdir(tmp_path)) == [".b-", ".mi"]
    finally:
        writers[1].kill()
        writers[1].wait()
