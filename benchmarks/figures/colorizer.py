"""Figures and tables of gen/colorizer.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

AB, L1 = "eval/ab", "eval/l1"
COLUMNS = ["global_step", "losses/error", "losses/adversarial", "losses/discriminator", L1, AB]
COLUMNS += [f"eval/{hint}_{error}" for hint in ("empty_hint", "blur") for error in ("l1", "ab")]
RUNS = {
    "first": "squared error, no hint",
    "none": "adversary, no hint",
    "blur": "hint: the blurred image",
    "holes": "hint: squares whited out, then blurred",
}
SHOWN = "from left to right image, lines, blurred image, painted with the full hint, painted with an empty hint"
OLD_SHOWN = "from left to right image, lines, full hint, its result, result of an empty hint, strokes, their result"
PICTURES = {
    f"colorizer-{kind}.png": (f"colorizer-{kind}", "samples.png", f"{label}; {SHOWN}") for kind, label in RUNS.items()
}
OLD_PICTURES = {f"old_{kind}.png": ("", "", f"{RUNS[kind]}; {OLD_SHOWN}") for kind in ("blur", "holes")}
OLD = (
    "All in bfloat16. Without a hint 1.5 epochs in place of 3; the first had no skip connections, the others half that "
    "weight of L1, and 128 pixels where there is a hint."
)


def draw(results: Results, folder) -> dict[str, str]:
    ours = {label: results[f"colorizer-{kind}"] for kind, label in RUNS.items()}
    known = next(seed for seed in results if seed.final("eval/blur_ab") > 0)
    with plot.figure(folder / "learning.png", size=(6.5, 4)) as (axes,):
        levels = {"the blurred image itself": known.final("eval/blur_ab")}
        words = {"xlabel": "images", "ylabel": "error in Lab's a and b, test", "ylim": (0, None), "title": "Cartoons"}
        plot.panel(axes, ours, "global_step", AB, levels, **words)
    empty = "eval/empty" if known.old else "eval/empty_hint"
    columns = {
        "L1": plot.column(L1, ".3f"),
        "Lab a, b": plot.column(AB, ".1f"),
        "L1, empty hint": plot.column(f"{empty}_l1", ".3f"),
        "Lab a, b, empty hint": plot.column(f"{empty}_ab", ".1f"),
        "CPU seconds": plot.cpu,
    }
    blurred = [f"{known.final('eval/blur_l1'):.3f}", f"{known.final('eval/blur_ab'):.1f}", "-", "-", "-"]
    blur, holes = (results[f"colorizer-{kind}"][0].final(AB) for kind in ("blur", "holes"))
    return {
        "table": plot.beside("cartoons, one seed each", ours, columns, [["the blurred image itself", *blurred]]),
        "pictures": plot.pictures(folder, PICTURES) or plot.pictures(folder, OLD_PICTURES),
        "number": f"error in Lab a and b on unseen cartoons: {blur:.1f} from blurs, {holes:.1f} with squares",
    }
