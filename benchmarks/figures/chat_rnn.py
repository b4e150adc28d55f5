"""Figures and tables of gen/chat_rnn.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.plot import BLUE, GREY, VERMILLION, Result, Results, curves, machines, ratios, save, spread, table

OLD_CODE = "7b0c269"  # runs that were made by the file as it was at this commit say so
TESTS = {
    "eval/copypasta_from_beginning": "copypasta completed from its first four words",
    "eval/copypasta_from_middle": "copypasta completed from four words in its middle",
    "eval/loops_greedy": "endless loops, greedy",
    "eval/loops_sampled": "endless loops, sampled",
}
COLUMNS = [
    "global_step", "charts/epoch", "charts/tokens", "losses/nll", "eval/nll", "eval/loss", "eval/perplexity",
    "eval/floor", *TESTS, "charts/vocabulary", "charts/discount_2", "charts/discount_3", "charts/SPS", "time/elapsed",
]  # fmt: skip


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Words per CPU second, of the old file and the peer: the median over the rows but the first, which warms up."""
    if "speed" not in name or len(columns.get("time/elapsed", [])) < 2:
        return {}
    words = columns["charts/tokens"] if "charts/tokens" in columns else columns["global_step"]
    return {"words per second": float(np.median(np.diff(words) / np.diff(columns["time/elapsed"])))}


def words_per_second(result: Result) -> float:
    return result.summary["facts"].get("words per second", result.final("charts/SPS"))


def nll(result: Result) -> float:
    """Nats per word, which the old file called eval/loss."""
    value = result.final("eval/nll")
    return result.final("eval/loss") if math.isnan(value) else value


def made_by(result: Result) -> str:
    """A remark on runs of the code before it was rewritten, which had other columns."""
    return f", made by the file at commit {OLD_CODE}" if "eval/loss" in result.columns else ""


def share(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"


def draw_ubuntu(results: Results, path: Path):
    """Perplexity over training, beside counting."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    curves(axes, results["chat-ubuntu"], "charts/epoch", "eval/perplexity", BLUE, "LSTM")
    for counting in results["chat-kneser-ney"]:
        axes.axhline(counting.final("eval/perplexity"), color=VERMILLION, linestyle=":", label="Kneser-Ney trigram")
    axes.set(xlabel="epochs", ylabel="perplexity, held-out messages", title="Ubuntu channel")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, path)


def draw_grammar(results: Results, path: Path):
    """Nats per word over training, above the grammar's own."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    seeds = results["chat-grammar"]
    column = "eval/nll" if any("eval/nll" in seed.columns for seed in seeds) else "eval/loss"
    curves(axes, seeds, "charts/epoch", column, BLUE, "LSTM")
    if seeds:
        axes.axhline(seeds[0].final("eval/floor"), color=GREY, linestyle=":", label="the grammar itself")
    axes.set(xlabel="epochs", ylabel="nats per word, held-out messages", title="built-in grammar")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, path)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write results/chat_rnn/README.md and its pictures; returns the README's blocks."""
    draw_ubuntu(results, folder / "ubuntu.png")
    draw_grammar(results, folder / "grammar.png")
    ubuntu, counting, grammar = (results[name] for name in ("chat-ubuntu", "chat-kneser-ney", "chat-grammar"))
    rows = []
    for name, label in (("chat-ubuntu", "LSTM, 2 layers of 200"), ("chat-kneser-ney", "Kneser-Ney trigram")):
        for seed in results[name]:
            epochs = seed.final("charts/epoch")
            cells = ["1" if math.isnan(epochs) else f"{epochs:.0f}", f"{seed.final('eval/perplexity'):.1f}"]
            rows.append([label + made_by(seed), *cells, f"{seed.summary['cpu_seconds']:,.0f}"])
    floors, above = [], []
    for seed in grammar:
        above.append(100 * (nll(seed) / seed.final("eval/floor") - 1))
        cells = [f"{x:.4f}" for x in (nll(seed), seed.final("eval/floor"))]
        seconds = f"{seed.summary['cpu_seconds']:,.0f}"
        floors.append([f"seed {seed.seed}{made_by(seed)}", *cells, f"{above[-1]:.2f} %", seconds])
    tests = []
    for test, label in TESTS.items():
        means = [np.mean([seed.final(test) for seed in seeds]) if seeds else math.nan for seeds in (grammar, ubuntu)]
        tests.append([label, *(share(mean) for mean in means)])
    speeds = []
    example = results["chat-speed-example"]
    for name, label in (("chat-speed-float32", "gen/chat_rnn.py"), ("chat-speed-example", "pytorch/examples")):
        if seeds := results[name]:
            faster = spread(ratios(seeds, example, words_per_second)) + "x" if name != "chat-speed-example" else "-"
            rate = spread(map(words_per_second, seeds))
            speeds.append([label + made_by(seeds[0]), f"{len(seeds)}", rate, faster])
    parts = [
        "# Chat model",
        'The post "Simulating Twitch chat with a recurrent neural network" shows completions and reports no '
        "perplexity. Here the network is compared with counting on real messages, and with the entropy of a grammar. "
        f"Runs of the file as it was at commit {OLD_CODE} are marked: it had the same layers, a richer grammar, and "
        "was trained in bfloat16 on the Ubuntu channel.",
        "```\npython benchmarks/ubuntu_chat.py gen/chat_rnn.py --data data/ubuntu-irc.txt.gz --epochs 7 "
        "--learning-rate 0.003\n```",
        "![perplexity](ubuntu.png)",
        table(["Ubuntu channel", "epochs", "perplexity", "CPU seconds"], rows),
        "195,611 messages, those of two words or more; the first 90 % to train on, the last 10 % to test on, with the "
        "same vocabulary (the end of a message and the rare word are words, too). For scale: this network without "
        "dropout has a perplexity of 115 on the test set of Penn Treebank (Zaremba et al.), another text.",
        "![nats per word](grammar.png)",
        table(["built-in grammar", "nats per word", "the grammar itself", "above it", "CPU seconds"], floors),
        table(["", "built-in grammar", "Ubuntu channel"], tests),
        "Copypasta: messages of 8 different words or more that come 5 times or more, completed greedily, word for "
        "word. An endless loop: a completion that repeats itself until the last word allowed. Of the same runs as "
        "above.",
        table(["speed", "runs", "words per CPU second", "faster"], speeds),
        "Words read, ends included and padding not, on one core: two layers of 200, 10,000 words, about 700 words an "
        "update on both sides.",
        "The network is better than counting on the real messages and close to the entropy of the grammar, and "
        "completes a copypasta from its beginning more often than from its middle, as the post says.",
        "Not run: the post's own chat logs, which were not published.",
        f"Measured on: {machines(seed for seeds in results.all.values() for seed in seeds)}.",
    ]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")
    found = []
    if ubuntu and counting:
        ours, theirs = (np.mean([seed.final("eval/perplexity") for seed in seeds]) for seeds in (ubuntu, counting))
        found.append(f"perplexity {ours:.1f} on the Ubuntu channel (Kneser-Ney: {theirs:.1f})")
    if above:
        found.append(f"{np.mean(above):.1f} % above the grammar's entropy")
    return {"chat_rnn-number": "; ".join(found)}
