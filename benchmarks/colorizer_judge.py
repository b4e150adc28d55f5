"""What gen/colorizer.py makes of strokes and of white paper, and where it errs.

    python -m benchmarks.colorizer_judge --run-dir runs/judge

Trains a run with these flags and adds to the last row of its metrics.csv, over all test images:

    eval/strokes_l1, _ab          the script's two errors with ten strokes of each image's own colours on white as hint
    lightness/image, full, empty  mean L of CIE Lab: the images, painted with the full hint, painted with white paper
    shading/full, empty           correlation of lightness less its blur, painted and true, where there are no lines
    area/32, 128, 512, more       error in a and b, full hint, in regions of one colour of 8 to 32 pixels, to 128, ...
    lines/weak, short, long       contrast of the line art's pixels, painted over true: those that are less than 8
                                  levels darker than the mean around them; darker ones in lines of at most 12 pixels,
                                  and in longer ones
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import tyro

from benchmarks.rows import add_to_last_row
from gen.colorizer import Args, Generator, blur, errors, find_lines, load_images, paint, train

AREAS = {"32": (8, 32), "128": (32, 128), "512": (128, 512), "more": (512, np.inf)}


def strokes(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ten random walks on white paper in the colours where they start, uint8 [n, s, s, 3]."""
    papers, size = np.full_like(images, 255), images.shape[1]
    for image, paper in zip(images, papers, strict=True):
        places = np.argwhere((image < 230).any(2))  # nobody paints white on white
        for y, x in rng.choice(places, 10) if len(places) else []:
            path = np.cumsum(np.vstack([[x, y], rng.normal(0, size / 12, (4, 2))]), axis=0)
            cv2.polylines(paper, [path.round().astype(np.int32)], False, image[y, x].tolist(), thickness=size // 14)
    return papers


def areas(mask: np.ndarray) -> np.ndarray:
    """Area of the connected region that a pixel of a mask [s, s] lies in; 0 outside."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return stats[labels, cv2.CC_STAT_AREA] * mask


def region_areas(image: np.ndarray) -> np.ndarray:
    """Area of the region of one colour, a quarter of each channel's levels apart, around each pixel [s, s]."""
    colours = (image // 64) @ [1, 4, 16]
    return sum(areas(colours == colour) for colour in np.unique(colours))


def judge(generator: Generator, test: torch.Tensor, hint: str) -> dict[str, float]:
    """The columns above, of test images uint8 [n, 3, s, s]."""
    images = test.permute(0, 2, 3, 1).numpy()
    x, lines = test / 127.5 - 1, find_lines(test / 127.5 - 1)
    stroked = torch.from_numpy(strokes(images, np.random.default_rng(0))).permute(0, 3, 1, 2) / 127.5 - 1
    full, empty = (paint(generator, lines, colours, hint) for colours in (x, torch.ones_like(x)))
    row = errors(paint(generator, lines, stroked, hint), x, "strokes_")

    def lab(y: torch.Tensor) -> torch.Tensor:
        pixels = ((y + 1) / 2).permute(0, 2, 3, 1).flatten(0, 1).numpy()
        return torch.from_numpy(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)).view(*images.shape).permute(0, 3, 1, 2)

    labs = {name: lab(y) for name, y in (("image", x), ("full", full), ("empty", empty))}
    row |= {f"lightness/{name}": y[:, 0].mean().item() for name, y in labs.items()}
    details = {name: (y[:, :1] - blur(y[:, :1]))[lines > 0] for name, y in labs.items()}
    for name in ("full", "empty"):
        row[f"shading/{name}"] = torch.corrcoef(torch.stack([details["image"], details[name]]))[0, 1].item()

    area, error = np.stack([*map(region_areas, images)]), (labs["full"] - labs["image"])[:, 1:].norm(dim=1).numpy()
    row |= {f"area/{name}": float(error[(low <= area) & (area < high)].mean()) for name, (low, high) in AREAS.items()}

    greys = (127.5 * (0.299 * y[:, :1] + 0.587 * y[:, 1:2] + 0.114 * y[:, 2:]) for y in (x, full))
    means = ((F.avg_pool2d(F.pad(y, [1] * 4, mode="replicate"), 3, stride=1), y) for y in greys)  # find_lines' at 64
    true, painted = ((mean - y)[:, 0].numpy() for mean, y in means)
    length = np.stack([areas(line[0].numpy() < 0) for line in lines])
    strong = true >= 8
    kinds = {
        "weak": (length > 0) & ~strong,
        "short": (length > 0) & (length <= 12) & strong,
        "long": (length > 12) & strong,
    }
    for name, where in kinds.items():
        row[f"lines/{name}"] = float(painted[where].mean() / true[where].mean())
    return row


def main():
    args = tyro.cli(Args, description=__doc__)
    if args.run_dir is None:
        raise SystemExit("needs --run-dir")
    train(args)
    generator = Generator(args.size, args.width)
    generator.load_state_dict(torch.load(args.run_dir / "model.pt", map_location="cpu", weights_only=True)["generator"])
    add_to_last_row(args.run_dir, judge(generator, load_images(args)[1], args.hint))


if __name__ == "__main__":
    main()
