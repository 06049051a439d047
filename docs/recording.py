"""Records what `make run` shows in a terminal of 80 columns, for docs/commands.md: `python docs/recording.py`.

Trains the six models of the preset quick anew, minutes on a laptop. Needs pyte (a terminal in memory) and a pseudo
terminal, which Windows lacks.
"""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pyte

PAGE = Path(__file__).parent / "commands.md"
COLUMNS, LINES = 80, 40
LOOK = 60.0  # seconds after which the bars are recorded
BLOCK = "<!-- recording: {0} -->\n```text\n{1}\n```\n<!-- end of recording -->"


def main() -> int:
    """Run `make run` and write both screens into the page; gives its exit code."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    with tempfile.TemporaryDirectory() as place:
        child, terminal = pty.fork()
        if not child:
            os.chdir(PAGE.parents[1])
            os.environ |= {"ELTBENCH_RUNS": place, "TERM": "xterm-256color"}
            os.execvp("make", ["make", "run"])
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        began, running = time.monotonic(), ""
        while True:
            if select.select([terminal], [], [], 0.02)[0]:
                try:
                    stream.feed(os.read(terminal, 65_536))
                except OSError:  # the other end is closed
                    break
            elif not running and time.monotonic() > began + LOOK:  # between two drawings of the bars
                running = shown(screen)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = PAGE.read_text(encoding="utf-8")
    for name, block in (("running", running), ("end", shown(screen))):
        pattern = rf"<!-- recording: {name} -->.*?<!-- end of recording -->"
        text = re.sub(pattern, lambda _, its=(name, block): BLOCK.format(*its), text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
    return code


def shown(screen: pyte.Screen) -> str:
    """The screen as text, without what is empty at its end."""
    return "\n".join(line.rstrip() for line in screen.display).rstrip()


if __name__ == "__main__":
    sys.exit(main())
