"""Renews the pictures of the README from a finished run: ``python docs/make_images.py RUN_DIR``."""

import shutil
import sys
from pathlib import Path

import imageio.v3 as iio

IMAGES = Path(__file__).with_name("images")
MILLISECONDS = 100  # a frame


def main(run_dir: Path) -> None:
    """Copies the curves, and makes a GIF of the imagination video: GitHub shows no mp4."""
    shutil.copyfile(run_dir / "curves.png", IMAGES / "curves.png")
    frames = iio.imread(run_dir / "imagination.mp4")
    iio.imwrite(IMAGES / "imagination.gif", frames, duration=MILLISECONDS, loop=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
