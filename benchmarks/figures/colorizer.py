"""Figures and tables of gen/colorizer.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

AB, L1 = "eval/ab", "eval/l1"
COLUMNS = ["global_step", "losses/error", "losses/adversarial", "losses/discriminator", L1, AB]
COLUMNS += [f"eval/{hint}_{error}" for hint in ("empty_hint", "blur", "strokes") for error in ("l1", "ab")]
LIGHTNESS = [f"lightness/{what}" for what in ("image", "full", "empty")]
SHADING = [f"shading/{what}" for what in ("full", "empty")]
AREA = [f"area/{what}" for what in ("32", "128", "512", "more")]
LINES = [f"lines/{what}" for what in ("weak", "short", "long")]
COLUMNS += LIGHTNESS + SHADING + AREA + LINES
RUNS = {
    "first": "squared error, no hint",
    "none": "adversary, no hint",
    "blur": "hint: the blurred image",
    "holes": "hint: squares whited out, then blurred",
}
SHOWN = "from left to right image, lines, blurred image, painted with the full hint, painted with an empty hint"
PICTURES = {
    f"colorizer-{kind}.png": (f"colorizer-{kind}", "samples.png", f"{label}; {SHOWN}") for kind, label in RUNS.items()
}


def draw(results: Results, folder) -> dict[str, str]:
    ours = {label: results[f"colorizer-{kind}"] for kind, label in RUNS.items()}
    known = ours[RUNS["blur"]][0]
    with plot.figure(folder / "learning.png", size=(6.5, 4)) as (axes,):
        levels = {"the blurred image itself": known.final("eval/blur_ab")}
        words = {"xlabel": "images", "ylabel": "error in Lab's a and b, test", "ylim": (0, None), "title": "Cartoons"}
        plot.panel(axes, ours, "global_step", AB, levels, **words)
    columns = {"L1": plot.column(L1, ".3f"), "Lab a, b": plot.column(AB, ".1f")}
    for hint in ("strokes", "empty_hint"):
        words = hint.replace("_", " ")
        columns[f"L1, {words}"] = plot.column(f"eval/{hint}_l1", ".3f")
        columns[f"Lab a, b, {words}"] = plot.column(f"eval/{hint}_ab", ".1f")
    columns["CPU seconds"] = plot.cpu
    blurred = [f"{known.final('eval/blur_l1'):.3f}", f"{known.final('eval/blur_ab'):.1f}", *"-----"]

    def several(names: list[str], form: str):
        return lambda seeds: " / ".join(plot.column(name, form)(seeds) for name in names)

    where = {
        "lightness: images / painted / empty hint": several(LIGHTNESS, ".1f"),
        "shading, r: painted / empty hint": several(SHADING, ".2f"),
        "Lab a, b by area: < 32 / < 128 / < 512 / more": several(AREA, ".1f"),
        "contrast of lines: weak / short / long": several(LINES, ".2f"),
    }
    blur, holes = (results[f"colorizer-{kind}"][0].final(AB) for kind in ("blur", "holes"))
    return {
        "table": plot.beside("cartoons, one seed each", ours, columns, [["the blurred image itself", *blurred]]),
        "where": plot.beside("cartoons, one seed each", ours, where),
        "pictures": plot.pictures(folder, PICTURES),
        "number": f"error in Lab a and b on unseen cartoons: {blur:.1f} from blurs, {holes:.1f} with squares",
    }
