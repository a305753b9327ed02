"""The top of a report as two pictures, light and dark, for the README.

python -m harness run suite=smoke fresh=true && python tools/screenshot.py reports/smoke.html docs/images
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/browser"))

from chromium import opened, started  # noqa: E402

WIDTH, HEIGHT, MOST_BYTES = 1200, 1500, 250_000


def main() -> int:
    parser = argparse.ArgumentParser(description="Write report-light.png and report-dark.png.")
    parser.add_argument("page", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    if not args.page.is_file():
        parser.error(f"{args.page}: no such page; python -m harness run suite=smoke makes one")
    with started() as browser:
        for scheme in ("light", "dark"):
            path = args.folder / f"report-{scheme}.png"
            with opened(browser, args.page, scheme=scheme, width=WIDTH, height=HEIGHT) as visit:
                taken = Image.open(io.BytesIO(visit.page.screenshot()))
            taken.convert("RGB").quantize(128).save(path, optimize=True)  # flat colours: a palette loses nothing
            print(f"{path}: {path.stat().st_size} bytes")
            if path.stat().st_size > MOST_BYTES:
                print(f"{path}: larger than {MOST_BYTES} bytes", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
