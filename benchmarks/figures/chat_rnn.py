"""Figures and tables of gen/chat_rnn.py, for benchmarks/plot.py."""

import math
from pathlib import Path

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results

TESTS = {
    "eval/copypasta_from_beginning": "copypasta completed from its first four words",
    "eval/copypasta_from_middle": "copypasta completed from four words in its middle",
    "eval/loops_greedy": "endless loops, greedy",
    "eval/loops_sampled": "endless loops, sampled",
}
NLL, OLD_NLL, FLOOR, PERPLEXITY = "eval/nll", "eval/loss", "eval/floor", "eval/perplexity"
COLUMNS = [
    "global_step", "charts/epoch", "charts/tokens", "losses/nll", NLL, OLD_NLL, PERPLEXITY, FLOOR, *TESTS,
    "charts/vocabulary", "charts/discount_2", "charts/discount_3", "charts/SPS", "time/elapsed",
]  # fmt: skip
OLD = "It had the same layers, a richer grammar, and was trained in bfloat16 on the Ubuntu channel."


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Words per CPU second of the peer: the median over the rows but the first, which warms up."""
    if name != "chat-speed-example":
        return {}
    words = np.diff(columns["global_step"]) / np.diff(columns["time/elapsed"])
    return {"words per second": float(np.median(words))}


def words_per_second(result: Result) -> float:
    return result.facts.get("words per second", result.final("charts/SPS"))


def above(result: Result) -> float:
    """Nats per word above the grammar's own, in percent."""
    return 100 * (result.final(OLD_NLL if result.old else NLL) / result.final(FLOOR) - 1)


def draw(results: Results, folder: Path) -> dict[str, str]:
    ubuntu, counting, grammar = (results[name] for name in ("chat-ubuntu", "chat-kneser-ney", "chat-grammar"))
    (kneser_ney,), floor = counting, grammar[0].final(FLOOR)
    column = OLD_NLL if grammar[0].old else NLL
    with plot.figure(folder / "ubuntu.png") as (axes,):
        levels = {"Kneser-Ney trigram": kneser_ney.final(PERPLEXITY)}
        words = {"xlabel": "epochs", "ylabel": "perplexity, held-out messages", "title": "Ubuntu channel"}
        plot.panel(axes, {"LSTM": ubuntu}, "charts/epoch", PERPLEXITY, levels, **words)

    def epochs(seeds: list[Result]) -> str:
        trained = seeds[0].final("charts/epoch")
        return "1" if math.isnan(trained) else f"{trained:.0f}"

    columns = {
        "epochs": epochs,
        "perplexity": lambda seeds: f"{seeds[0].final(PERPLEXITY):.1f}",
        "CPU seconds": plot.cpu,
    }
    nats = {
        "nats per word": lambda seeds: f"{seeds[0].final(column):.4f}",
        "the grammar itself": lambda seeds: f"{floor:.4f}",
        "above it": lambda seeds: f"{above(seeds[0]):.2f} %",
        "CPU seconds": plot.cpu,
    }
    example = results["chat-speed-example"]
    speed = {
        "runs": plot.count,
        "words per CPU second": lambda seeds: plot.spread(map(words_per_second, seeds)),
        "faster": lambda seeds: plot.spread(plot.ratios(seeds, example, words_per_second)) + "x",
    }
    tests = [
        [label, *(f"{100 * plot.mean(seed.final(test) for seed in seeds):.0f} %" for seeds in (grammar, ubuntu))]
        for test, label in TESTS.items()
    ]
    models = {"LSTM, 2 layers of 200": ubuntu, "Kneser-Ney trigram": counting}
    programs = {"gen/chat_rnn.py": results["chat-speed-float32"], "pytorch/examples": example}
    perplexities = [columns["perplexity"](seeds) for seeds in (ubuntu, counting)]
    return {
        "ubuntu": plot.beside("Ubuntu channel", models, columns),
        "grammar": plot.beside("built-in grammar", {f"seed {seed.seed}": [seed] for seed in grammar}, nats),
        "tests": plot.table(["", "built-in grammar", "Ubuntu channel"], tests),
        "speed": plot.beside("speed", programs, speed),
        "number": f"perplexity {perplexities[0]} on the Ubuntu channel (Kneser-Ney: {perplexities[1]}); "
        f"{plot.mean(map(above, grammar)):.1f} % above the grammar's entropy",
    }
