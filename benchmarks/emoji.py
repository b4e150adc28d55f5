# /// script
# requires-python = ">=3.11"
# dependencies = ["fonttools", "numpy", "pillow"]
# ///
"""The 3,900 cartoons of Debian's fonts-noto-color-emoji as data/emoji/train/ and test/, written once; then a command.

    python benchmarks/emoji.py
    python benchmarks/emoji.py gen/colorizer.py --data-dir data/emoji

Many emoji are variants of one another, as a person in five skin colours, spelled by sequences that begin with the same
code point. A tenth of these first code points is held out for the test images: no variant of a test image is a training
image. Test images that look like a training image all the same are left out.
"""

import io
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image

FOLDER = Path("data", "emoji")


def find_font() -> Path:
    """Noto Color Emoji, as fontconfig finds it."""
    command = ["fc-match", "--format=%{file}", "Noto Color Emoji"]
    path = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if path.name != "NotoColorEmoji.ttf":
        raise SystemExit("no Noto Color Emoji: install Debian's fonts-noto-color-emoji")
    return path


def first_code_points(font: TTFont) -> dict[str, set[int]]:
    """For each glyph the code points that a spelling of it begins with."""
    firsts = {name: set() for name in font.getGlyphOrder()}
    for code, name in font.getBestCmap().items():
        firsts[name].add(code)
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            for name, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    firsts[ligature.LigGlyph] |= firsts[name]
    return firsts


def split(firsts: dict[str, set[int]], names: list[str]) -> tuple[list[str], list[str]]:
    """Names of the training and of the test glyphs, which share no first code point."""
    codes = sorted(set().union(*(firsts[name] for name in names)))
    rng = np.random.default_rng(6)  # a draw without the persons and signs that begin hundreds of spellings
    held_out = set(rng.choice(codes, len(codes) // 10, replace=False).tolist())
    test = [name for name in names if firsts[name] & held_out]
    return [name for name in names if not firsts[name] & held_out], test


def without_twins(test: list[Image.Image], train: list[Image.Image]) -> list[Image.Image]:
    """The test images that differ from every training image by .05 or more (rms of the luminance at 64 x 64)."""
    a, b = (np.stack([np.asarray(x.convert("L").resize((64, 64))).ravel() / 255 for x in xs]) for xs in (test, train))
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return [image for image, distance in zip(test, squared.min(1), strict=True) if distance >= 64**2 * 0.05**2]


def write(font: TTFont, folder: Path):
    """136 x 128 pixels each, on white; the folder appears when all are there."""
    bitmaps, firsts, images = font["CBDT"].strikeData[0], first_code_points(font), []
    for names in split(firsts, [name for name in bitmaps if firsts[name]]):
        pictures = [Image.open(io.BytesIO(bitmaps[name].imageData)).convert("RGBA") for name in names]
        white = [Image.new("RGBA", picture.size, "white") for picture in pictures]
        images.append([Image.alpha_composite(*pair).convert("RGB") for pair in zip(white, pictures, strict=True)])
    train, test = images[0], without_twins(images[1], images[0])
    part = folder.with_suffix(".part")
    for kind, kept in (("train", train), ("test", test)):
        (part / kind).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(kept):  # numbered: names of sequences are longer than file names may be
            image.save(part / kind / f"{i:04d}.png")
        print(f"{folder / kind}: {len(kept)} images", file=sys.stderr)
    part.replace(folder)


if __name__ == "__main__":
    if not FOLDER.exists():
        write(TTFont(find_font()), FOLDER)
    if sys.argv[1:]:
        del sys.argv[0]
        runpy.run_path(sys.argv[0], run_name="__main__")
