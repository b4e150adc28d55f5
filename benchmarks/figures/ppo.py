"""Figures and tables of algos/ppo.py, for benchmarks/plot.py."""

from pathlib import Path

import numpy as np

from benchmarks.figures.trpo import RETURN, environments_figure, environments_table
from benchmarks.plot import PUBLISHED, Results, machines, number, read_rows

COLUMNS = ["global_step", RETURN, "losses/kl", "losses/clip_fraction", "losses/entropy"]
ENVIRONMENTS = ["HalfCheetah", "Walker2d", "Hopper", "InvertedPendulum", "Reacher", "Swimmer", "InvertedDoublePendulum"]

TEXT = """# PPO

[Schulman et al. 2017](https://arxiv.org/abs/1707.06347) claim the data efficiency of TRPO with first-order updates. One
seed each was run so far: HalfCheetah ends at 2.6 times CleanRL's published return, InvertedPendulum at its maximum. Not
run: the other rows of `benchmark.sh` (Walker2d, Hopper, Reacher, Swimmer, Humanoid, v4). The curves:

```bash
./benchmark.sh ppo
```

One run of them:

```bash
python algos/ppo.py --env-id HalfCheetah --total-timesteps 1000000
```
"""


def facts(name: str, columns: dict[str, np.ndarray]) -> dict:
    return {}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Write the figure and the page; returns the README's block."""
    published = read_rows(PUBLISHED / "ppo.csv")
    environments = [env for env in ENVIRONMENTS if results[f"ppo-{env.lower()}"]]
    environments_figure(results, "ppo", environments, published, folder / "envs.png")
    text = f"""{TEXT}
![Learning curves](envs.png)

{environments_table(results, "ppo", environments, published)}

Returns after a million steps, mean ± standard deviation over seeds. Training: mean of the last 100 episodes, sampled
actions. Deterministic: 100 new episodes of the policy's mode. Published columns are training returns and name their
environments' version. CPU seconds on one shared core.

Measured on: {machines([seed for name in results.all for seed in results[name]])}.
"""
    (folder / "README.md").write_text(text)
    cheetah = results["ppo-halfcheetah"]
    mean = number(float(np.mean([seed.final(RETURN) for seed in cheetah]))) if cheetah else "-"
    return {"ppo-number": f"HalfCheetah-v5 {mean} after 1 M steps (CleanRL, v4: 1,443)"}
