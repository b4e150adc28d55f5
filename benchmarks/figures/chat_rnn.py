"""Figures and tables of gen/chat_rnn.py, for benchmarks/plot.py."""

import numpy as np

from benchmarks import plot
from benchmarks.plot import Result, Results

TESTS = {
    "eval/copypasta_from_beginning": "copypasta completed from its first four words",
    "eval/copypasta_from_middle": "copypasta completed from four words in its middle",
    "eval/loops_greedy": "endless loops, greedy",
    "eval/loops_sampled": "endless loops, sampled",
    "eval/rare_next": "rare word is the likeliest",
    "eval/rare_after_a": 'after "a"',
}
NLL, FLOOR, PERPLEXITY = "eval/nll", "eval/floor", "eval/perplexity"
COLUMNS = [
    "global_step", "charts/epoch", "charts/tokens", "losses/nll", NLL, PERPLEXITY, FLOOR, *TESTS,
    "charts/vocabulary", "charts/discount_2", "charts/discount_3",
    "charts/SPS", "time/elapsed",
]  # fmt: skip


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    """Words per CPU second of the peer: the median over the rows but the first, which warms up."""
    if name != "chat-speed-example":
        return {}
    words = np.diff(columns["global_step"]) / np.diff(columns["time/elapsed"])
    return {"words per second": float(np.median(words))}


def words_per_second(result: Result) -> float:
    return result.facts.get("words per second", result.final("charts/SPS"))


def draw(results: Results, folder) -> dict[str, str]:
    ubuntu, counting, grammar = (results[name] for name in ("chat-ubuntu", "chat-kneser-ney", "chat-grammar"))
    with plot.figure(folder / "ubuntu.png") as (axes,):
        levels = {"Kneser-Ney trigram": counting[0].final(PERPLEXITY)}
        words = {"xlabel": "epochs", "ylabel": "perplexity, held-out messages", "title": "Ubuntu channel"}
        plot.panel(axes, {"LSTM": ubuntu}, "charts/epoch", PERPLEXITY, levels, **words)

    def above(seeds: list[Result], digits: int = 2) -> str:
        """Nats per word above the grammar's own."""
        return f"{plot.mean(100 * (seed.final(NLL) / seed.final(FLOOR) - 1) for seed in seeds):.{digits}f} %"

    perplexity = plot.column(PERPLEXITY, ".1f")
    nats = {
        "nats per word": plot.column(NLL, ".4f"),
        "the grammar itself": plot.column(FLOOR, ".4f"),
        "above it": above,
        "CPU seconds": plot.cpu,
    }
    example = results["chat-speed-example"]
    speed = {
        "runs": plot.count,
        "words per CPU second": lambda seeds: plot.spread(map(words_per_second, seeds)),
        "faster": lambda seeds: plot.spread(plot.ratios(seeds, example, words_per_second)) + "x",
    }
    models = {"LSTM, 2 layers of 200, 7 epochs": ubuntu, "Kneser-Ney trigram": counting}
    programs = {"gen/chat_rnn.py": results["chat-speed-float32"], "pytorch/examples": example}
    columns = {label: plot.column(test, ".0f", 100, " %") for test, label in TESTS.items()}
    return {
        "ubuntu": plot.beside("Ubuntu channel", models, {"perplexity": perplexity, "CPU seconds": plot.cpu}),
        "grammar": plot.beside("built-in grammar", {f"seed {seed.seed}": [seed] for seed in grammar}, nats),
        "tests": plot.beside("completions", {"built-in grammar": grammar, "Ubuntu channel": ubuntu}, columns),
        "speed": plot.beside("speed", programs, speed),
        "number": f"perplexity {perplexity(ubuntu)} on the Ubuntu channel (Kneser-Ney: {perplexity(counting)}); "
        f"{above(grammar, 1)} above the grammar's entropy",
    }
