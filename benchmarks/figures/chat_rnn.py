"""Figures and tables of gen/chat_rnn.py, for benchmarks/plot.py."""

import math
import shutil
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import (
    BLUE,
    GREY,
    ORANGE,
    VERMILLION,
    Result,
    Results,
    curves,
    machines,
    ratios,
    save,
    spread,
    table,
)

PERPLEXITY, BITS, FLOOR, LOSS = "eval/perplexity", "eval/bits_per_character", "eval/floor", "eval/loss"
POSITIONS = (1, 2, 3, 5, 10, 20)
TESTS = {
    "eval/copypasta_from_beginning": "copypasta completed from its first four words",
    "eval/copypasta_from_middle": "copypasta completed from four words in its middle",
    "eval/loops_greedy": "endless loops, greedy",
    "eval/loops_sampled": "endless loops, sampled",
    "eval/judge_generated": "judge's accuracy, generated messages",
    "eval/judge_shuffled": "judge's accuracy, real messages with shuffled words",
}
COLUMNS = [
    "global_step", "charts/epoch", "charts/tokens", "losses/loss", LOSS, PERPLEXITY, BITS, FLOOR,
    *(f"eval/perplexity_word_{position}" for position in POSITIONS), *TESTS,
    "charts/vocabulary", "charts/discount_2", "charts/discount_3", "time/completion", "time/elapsed",
]  # fmt: skip
NETWORKS = {"chat-ubuntu": "LSTM, 200 wide, 2 layers", "chat-tied": "the same, --tied-weights"}
SPEED = {
    "chat-speed-float32": "gen/chat_rnn.py",
    "chat-speed-bf16": "gen/chat_rnn.py --bf16",
    "chat-speed-softmax": "gen/chat_rnn.py --cutoffs (one softmax)",
    "chat-speed-example": "pytorch/examples",
}


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Words per CPU second: the median over the rows but the first, which warms up."""
    if "speed" not in name or len(columns["time/elapsed"]) < 2:
        return {}
    words = columns["charts/tokens"] if "charts/tokens" in columns else columns["global_step"]
    return {"words per second": float(np.median(np.diff(words) / np.diff(columns["time/elapsed"])))}


def words_per_second(result: Result) -> float:
    return result.summary["facts"].get("words per second", math.nan)


def mean(seeds: list[Result], column: str) -> float:
    return float(np.mean([seed.final(column) for seed in seeds])) if seeds else math.nan


def decimals(value: float, count: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{count}f}"


def share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"


def ubuntu_part(results: Results, folder: Path) -> list[str]:
    """The network beside counting, on real messages: over training, over the position in the message."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    counting = results["chat-kneser-ney"]
    rows = []
    for (name, label), color in zip(NETWORKS.items(), (BLUE, ORANGE), strict=True):
        if seeds := results[name]:
            curves(axes[0], seeds, "charts/epoch", PERPLEXITY, color, label)
            by_position = [mean(seeds, f"eval/perplexity_word_{position}") for position in POSITIONS]
            axes[1].plot(POSITIONS, by_position, "o-", color=color, label=label)
        epochs, perplexity, bits = (mean(seeds, column) for column in ("charts/epoch", PERPLEXITY, BITS))
        rows.append([label, decimals(epochs, 0), decimals(perplexity, 1), decimals(bits, 3)])
    rows.append(["Kneser-Ney trigram", "1", decimals(mean(counting, PERPLEXITY), 1), decimals(mean(counting, BITS), 3)])
    if counting:
        axes[0].axhline(mean(counting, PERPLEXITY), color=VERMILLION, linestyle=":", label="Kneser-Ney trigram")
        by_position = [mean(counting, f"eval/perplexity_word_{position}") for position in POSITIONS]
        axes[1].plot(POSITIONS, by_position, "s:", color=VERMILLION, label="Kneser-Ney trigram")
    axes[0].set(xlabel="epochs", ylabel="perplexity, held-out messages")
    axes[1].set(xlabel="position in the message", ylabel="perplexity", xticks=POSITIONS)
    for panel in axes:
        panel.legend(frameon=False, fontsize=8)
        panel.grid(alpha=0.25)
    save(figure, folder / "ubuntu.png")
    note = (
        "195,611 messages of the Ubuntu channel, those of two words or more; trained on the first 90 %, tested on the "
        "last 10 %, with the same vocabulary (the end of a message and the rare word are words, too). Bits per "
        "character charge for spelling rare words. For scale: this network without dropout has a perplexity of 115 on "
        "the test set of Penn Treebank (Zaremba et al.), other text, with another vocabulary, read on from sentence "
        "to sentence."
    )
    header = ["Ubuntu channel", "epochs", "perplexity", "bits per character"]
    return ["## Beside counting", table(header, rows), note, "![perplexity](ubuntu.png)"]


def grammar_part(results: Results, folder: Path) -> list[str]:
    seeds = results["chat-grammar"]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    curves(axes, seeds, "charts/epoch", LOSS, BLUE, "network, held-out messages")
    rows = []
    if seeds:
        axes.axhline(mean(seeds, FLOOR), color=GREY, linestyle=":", label="the grammar itself, same messages")
        above = [100 * (seed.final(LOSS) / seed.final(FLOOR) - 1) for seed in seeds]
        rows.append([str(len(seeds)), f"{mean(seeds, LOSS):.4f}", f"{mean(seeds, FLOOR):.4f}", f"{spread(above)} %"])
    axes.set(xlabel="epochs", ylabel="nats per word", title="built-in chat")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, folder / "grammar.png")
    header = ["seeds", "nats per word, network", "the grammar itself", "above it"]
    return ["## A chat of known entropy", table(header, rows), "![nats per word](grammar.png)"]


def tests_part(results: Results) -> list[str]:
    columns = {"chat-grammar": "built-in chat", "chat-ubuntu": "Ubuntu channel", "chat-tied": "Ubuntu, tied weights"}
    rows = [[label, *(share(mean(results[name], test)) for name in columns)] for test, label in TESTS.items()]
    note = (
        "Copypasta: messages of 8 different words or more that come 5 times or more, completed greedily, word for "
        "word. An endless loop: 60 words without an end, the last 30 of them periodic. The judge is a logistic "
        "regression on words, pairs and triples, trained on half of the real and the generated messages and scored on "
        "the rest: 50 % is chance."
    )
    return ["## What it learned", table(["", *columns.values()], rows), note]


def speed_part(results: Results) -> list[str]:
    rows = []
    for name, label in SPEED.items():
        seeds = results[name]
        faster = ratios(seeds, results["chat-speed-example"], words_per_second) if "example" not in name else []
        completion = decimals(1000 * mean(seeds, "time/completion"), 0)
        rate = spread(map(words_per_second, seeds))
        rows.append([label, str(len(seeds)), rate, f"{spread(faster)}x" if faster else "-", completion])
    note = (
        "Words really read, ends included, padding not, per CPU second of training on one core: two layers of 200, "
        "10,000 words, about 700 words an update on both sides. A completion of two words, in CPU milliseconds."
    )
    return ["## Speed", table(["", "runs", "words/s", "faster", "ms a completion"], rows), note]


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write all figures and tables that there are results for; returns the README's blocks."""
    blocks = {}
    parts = ["# Chat model", *ubuntu_part(results, folder), *grammar_part(results, folder)]
    parts += [*tests_part(results), *speed_part(results)]
    for name, title in (("chat-grammar", "built-in chat"), ("chat-ubuntu", "Ubuntu channel")):
        run = folder.parent.parent / "runs" / "benchmark" / name / "seed1"
        for kept, source in ((f"{name}.png", "chat.png"), (f"{name}.md", "prompts.md")):
            if (run / "summary.json").exists() and (run / source).exists():
                shutil.copy(run / source, folder / kept)
        if (folder / f"{name}.png").exists():
            parts += [f"## {title}: perplexity over the position, and what it learned", f"![{title}]({name}.png)"]
        if (folder / f"{name}.md").exists():
            parts += [f"## {title}: how it goes on", (folder / f"{name}.md").read_text().strip()]
    used = [seed for seeds in results.all.values() for seed in seeds]
    (folder / "README.md").write_text("\n\n".join([*parts, f"Measured on: {machines(used)}."]) + "\n")
    found = []
    if (ours := results["chat-ubuntu"]) and (counting := results["chat-kneser-ney"]):
        found.append(
            f"perplexity {mean(ours, PERPLEXITY):.1f} on the Ubuntu channel "
            f"(Kneser-Ney trigram: {mean(counting, PERPLEXITY):.1f})"
        )
    if seeds := results["chat-grammar"]:
        above = mean(seeds, LOSS) / mean(seeds, FLOOR) - 1
        found.append(f"{100 * above:.1f} % above the entropy of the built-in grammar")
    if found:
        blocks["chat_rnn-number"] = found[0]
    if (folder / "ubuntu.png").exists():
        blocks["chat_rnn-picture"] = (
            '<img src="results/chat_rnn/ubuntu.png" width="200" alt="Perplexity, beside counting">'
        )
    return blocks
