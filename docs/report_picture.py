"""Draws the top of the report, as a browser shows it, for the README: `python docs/report_picture.py`.

The page is made from the committed results. Needs chromium (Debian: `apt-get install chromium`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from eltbench import studies
from eltbench.core.atomic import replacing
from eltbench.evidence import report
from eltbench.studies import deciding

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "report.png"
WIDTH, HEIGHT = 1200, 1000  # pixels of the window
COLOURS = 128  # text and tables need no more, and the file stays small
SWITCHES = "headless no-sandbox disable-gpu disable-dev-shm-usage no-first-run hide-scrollbars disable-sync"


def main() -> int:
    """Write docs/report.png; exits 1 where there is no browser."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        print(f"error: none of {', '.join(names)} is here; install one", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as place:
        page, *_ = report.write(ROOT / "results", Path(place) / "report.html", studies.claims(), deciding.read_folder)
        shot = Path(place) / "report.png"
        valued = [f"screenshot={shot}", f"window-size={WIDTH},{HEIGHT}", f"user-data-dir={place}/profile"]
        options = [f"--{name}" for name in (*SWITCHES.split(), *valued)]
        subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True, timeout=240)
        with Image.open(shot) as image, replacing(PICTURE) as temporary:
            image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(temporary, "png", optimize=True)
    print(PICTURE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
