"""What every fuzz case is held to: no traceback, nothing written outside its folders, nothing imported or started.

An audit hook sees what Python opens to write, moves, removes, imports and starts while a case runs. Every case is drawn
from a fixed seed; ELTBENCH_FUZZ=20 draws twenty times as many.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

MANY = int(os.environ.get("ELTBENCH_FUZZ", "1"))
TRAPS = ("http.server:test", "wsgiref.simple_server:demo_app", "this:s", "eltbench_trap:Trap", "json:loads")
"""Names of classes that a file of a stranger may give; none is registered, and none may be imported for it."""

UNASKED = {trap.partition(":")[0] for trap in TRAPS} - {"json"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {  # event → which of its arguments are paths that change, and which the folder they are relative to
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.truncate": ((0, None),),
}
STARTING = (
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
    "webbrowser.open",
)
TALKING = ("socket.bind", "socket.connect", "socket.getaddrinfo", "urllib.Request")
ALLOWED_PROGRAMS = {"git"}  # provenance asks it for the commit

_watches: list[Watch] = []


class Watch:
    """What was done while it was on, beyond the folders that were given."""

    def __init__(self, *folders: Path) -> None:
        self.folders = [str(folder.resolve()) for folder in folders]
        self.harm: list[str] = []

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[2], int) and args[2] & WRITING:
            self._writes(event, args[0], None)
        elif event in PATHS:
            for path, folder in PATHS[event]:
                self._writes(event, args[path], None if folder is None else args[folder])
        elif event == "import":
            if args[0] in UNASKED:
                self.harm.append(f"import {args[0]}")
        elif event == "subprocess.Popen" or event in STARTING:
            if os.path.basename(os.fsdecode(args[0] if args else "")) not in ALLOWED_PROGRAMS:
                self.harm.append(f"{event} {args[:2]}")
        elif event in TALKING:
            self.harm.append(f"{event} {args[1:]}")

    def _writes(self, event: str, path: Any, folder: Any) -> None:
        if isinstance(path, int):
            return
        base = f"/proc/self/fd/{folder}" if isinstance(folder, int) and folder >= 0 else os.getcwd()
        parent, name = os.path.split(os.path.join(base, os.fsdecode(path)))
        whole = os.path.join(os.path.realpath(parent), name)
        if whole != os.devnull and not any(whole == each or whole.startswith(each + "/") for each in self.folders):
            self.harm.append(f"{event} {whole}")


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watches:
        watch = _watches.pop()  # what the watch itself does is not watched
        try:
            watch.see(event, args)
        finally:
            _watches.append(watch)


sys.addaudithook(_hook)


@contextmanager
def watched(*folders: Path) -> Iterator[None]:
    """Fails where something was written outside these folders, imported that no one registered, or started."""
    watch, written = Watch(*folders), sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)
        sys.dont_write_bytecode = written
        assert not watch.harm, watch.harm


@contextmanager
def bounded(seconds: int = 20, memory: int = 4 << 30) -> Iterator[None]:
    """Fails where a case takes longer, or more memory than that: a size that should have been refused."""

    def late(*_: Any) -> None:
        raise AssertionError(f"takes longer than {seconds} s instead of being refused")

    before, limit = signal.signal(signal.SIGALRM, late), resource.getrlimit(resource.RLIMIT_AS)
    used = (
        int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
    )
    if used:
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, limit[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limit)


class Said(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str


def asked(capsys: Any, arguments: Sequence[object]) -> Said:
    """A command in this process; its exit code is 0, 1 or 2, without a traceback, and a refusal has its message."""
    from eltbench.cli import main as cli

    capsys.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as exit:  # a command line that cannot be read
        code = exit.code  # type: ignore[assignment]
    said = Said(code, *capsys.readouterr())
    assert code in (0, 1, 2), said
    assert "Traceback" not in said.out + said.err, said
    assert code != 2 or said.err.strip(), said
    return said


def tried(cases: Iterator[tuple[str, Callable[[], object]]], *folders: Path) -> None:
    """Run every case; ValueError is an answer, anything else a failure. All failures are told, each with its case."""
    failures = []
    for name, case in cases:
        try:
            with watched(*folders), bounded(), suppress(ValueError):
                case()
        except Exception as error:
            failures.append(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    assert not failures, "\n".join(failures)


def drawn(family: str, count: int) -> Iterator[tuple[str, Random]]:
    """`count` times MANY generators, each with its name: the same for ever."""
    for number in range(count * MANY):
        yield f"{family} {number}", Random(f"{family} {number}")
