"""Figures and tables of algos/es_mnist.py and algos/node_perturbation_mnist.py, for benchmarks/plot.py."""

from benchmarks import plot
from benchmarks.plot import Results

TEST, TRAIN, LINEAR = "eval/test_accuracy", "eval/train_accuracy", "eval/test_accuracy_float64"
COLUMNS = ["global_step", "losses/loss", "charts/SPS", TEST, TRAIN, LINEAR]
METHODS = {"es-mnist-low-rank": "ES, low-rank noise", "es-mnist-backprop": "backpropagation"}


def percent(column: str):
    return plot.column(column, ".1f", 100, " %")


def accuracies(results: Results, methods: dict[str, str], path, lowest: float = 0.0) -> str:
    """Test accuracy over the images evaluated, those of all perturbed networks: the figure and the table."""
    published = {row["method"]: row for row in plot.published("es_mnist")}
    ours = {label: results[name] for name, label in methods.items()}
    with plot.figure(path, size=(7.5, 4)) as (axes,):
        levels = {
            f"published, {method}: {row['test_accuracy']} %": float(row["test_accuracy"]) / 100
            for method, row in published.items()
        }
        words = {"xscale": "log", "xlabel": "images evaluated", "ylabel": "accuracy on 10,000 test digits"}
        plot.panel(axes, ours, "global_step", TEST, levels, ylim=(lowest, 1), **words)

    def theirs(column: str):
        return lambda seeds: published["backpropagation" if "backprop" in seeds[0].name else "ES"][column] + " %"

    columns = {
        "seeds": plot.count,
        "images": lambda seeds: f"{seeds[0].final('global_step'):,.0f}",
        "CPU seconds": plot.cpu,
        "training": percent(TRAIN),
        "published, training": theirs("train_accuracy"),
        "test": percent(TEST),
        "published, test": theirs("test_accuracy"),
        "test in float64": percent(LINEAR),
    }
    return plot.beside("MNIST", ours, columns)


def draw(results: Results, folder) -> dict[str, str]:
    es = results["es-mnist-low-rank"]
    images = f"{es[0].final('global_step') / 1e6:.1f} M images"
    return {
        "table": accuracies(results, METHODS, folder / "accuracy.png"),
        "number": f"{percent(TRAIN)(es)} training, {percent(TEST)(es)} test after {images} (published: > 99 %, "
        "96.7 %, budget not stated)",
    }
