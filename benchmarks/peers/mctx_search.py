# /// script
# requires-python = ">=3.11"
# dependencies = ["mctx==0.0.71"]
# ///
"""mctx's search of 256 positions side by side, tic-tac-toe with random rollouts, timed in CPU seconds on one core.

    taskset -c 0 python -m benchmarks.peers.mctx_search --run-dir runs/mctx

The board and the rollout are written here, because mctx has none. Its muzero_policy chooses by PUCT with equal priors,
another search than UCT at the same number of simulations. Compiling is not timed.
"""

import os
import time

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import mctx

from benchmarks.rows import flags_of, write_rows

LINES = jnp.array([0b111, 0b111000, 0b111000000, 0b1001001, 0b10010010, 0b100100100, 0b100010001, 0b1010100])
CELLS = 1 << jnp.arange(9)


def won(stones):
    """Whether there is a line: [n] -> bool [n]."""
    return ((stones[:, None] & LINES) == LINES).any(axis=1)


def rollout(own, other, key):
    """The result for the one to move when both play at random: [n] -> [n]."""

    def ply(i, carry):
        own, other, result = carry
        free = ((own | other)[:, None] & CELLS) == 0
        draws = jax.random.uniform(jax.random.fold_in(key, i), free.shape)
        stone = jnp.where(free.any(axis=1), CELLS[jnp.where(free, draws, -1.0).argmax(axis=1)], 0)
        own = own | stone
        sign = 1.0 - 2.0 * (i % 2)
        return other, own, jnp.where((result == 0) & won(own), sign, result)

    return jax.lax.fori_loop(0, 9, ply, (own, other, jnp.zeros(len(own))))[2]


def recurrent_fn(params, key, action, state):
    """One move for mctx: what is good for the one who moved is bad for the next, hence the discount of -1."""
    own, other, over = state
    moved = own | jnp.where(over, 0, CELLS[action])
    wins = won(moved) & ~over
    now_over = over | wins | ((moved | other) == 511)
    output = mctx.RecurrentFnOutput(
        reward=wins.astype(jnp.float32),
        discount=jnp.where(now_over, 0.0, -1.0),
        prior_logits=jnp.where(((moved | other)[:, None] & CELLS) == 0, 0.0, -1e9),
        value=jnp.where(now_over, 0.0, rollout(other, moved, key)),
    )
    return output, (other, moved, now_over)


def main():
    flags = flags_of(__doc__, num_runs=256, simulations=100, turns=10)
    n, empty = flags.num_runs, jnp.zeros(flags.num_runs, jnp.int32)

    @jax.jit
    def search(key):
        state = (empty, empty, jnp.zeros(n, bool))
        root = mctx.RootFnOutput(prior_logits=jnp.zeros((n, 9)), value=jnp.zeros(n), embedding=state)
        return mctx.muzero_policy(None, key, root, recurrent_fn, flags.simulations).action

    keys = jax.random.split(jax.random.PRNGKey(flags.seed), flags.turns + 1)
    search(keys[0]).block_until_ready()
    start = time.process_time()
    for key in keys[1:]:
        search(key).block_until_ready()
    made, seconds = n * flags.simulations * flags.turns, time.process_time() - start
    write_rows(flags.run_dir, [{"global_step": made, "time/simulations_per_second": made / seconds}])


if __name__ == "__main__":
    main()
