"""Searches side by side: boards against mcts.py's, play against every line of it, one tree against one in a table."""

import csv
import random

import pytest
import torch

from algos import mcts
from algos.mcts_batched import GAMES, Args, Board, UsageError, best_moves, play, random_moves, rollout, search, train
from benchmarks.exact_tictactoe import exact_result

CPU = torch.device("cpu")


def one_board(game: str, seed: int = 0) -> mcts.Board:
    return mcts.Board(*mcts.GAMES[game], random.Random(seed))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(states: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    own, other = torch.tensor(states, dtype=torch.int64).T
    return own, other


def some_states(game: str, count: int) -> list[tuple[int, int]]:
    """Positions of random games in which somebody has yet to move."""
    board, rng, states = one_board(game), random.Random(0), []
    while len(states) < count:
        state, done = board.start(), False
        while not done:
            states.append(state)
            state, _, done = board.step(state, rng.choice(board.actions(state)))
    return states[:count]


@pytest.mark.parametrize("game", GAMES)
def test_the_rules_on_tensors_are_those_on_numbers(game):
    board, single, states = Board(*GAMES[game], CPU), one_board(game), some_states(game, 400)
    own, other = tensors(states)
    legal = board.legal(own | other)
    for i, state in enumerate(states):
        assert legal[i].nonzero().flatten().tolist() == single.actions(state)
    assert board.count(own).tolist() == [state[0].bit_count() for state in states]
    wins = 0
    for action in range(len(board.masks)):
        moved = board.put(own, other, torch.full_like(own, action))
        won = board.won(moved)
        for i, state in enumerate(states):
            if legal[i, action]:
                after, reward, _ = single.step(state, action)
                assert after == (state[1], int(moved[i])) and bool(won[i]) == (reward == 1)
                wins += reward
            else:
                assert int(moved[i]) == state[0]
    assert wins > 10


def test_a_random_move_is_any_legal_one_equally_often():
    board = Board(*GAMES["connect-four"], CPU)
    full = int(board.masks[2])
    own, other = torch.full((14_000,), full), torch.zeros(14_000, dtype=torch.int64)
    moves = random_moves(board, own, other, torch.rand(14_000, 7, generator=seeded()))
    counts = moves.bincount(minlength=7).tolist()
    assert counts[2] == 0
    assert all(abs(counts[i] - 14_000 / 6) < 4 * (14_000 * 5 / 36) ** 0.5 for i in range(7) if i != 2)


def test_rollouts_have_the_known_results():
    n = 20_000
    empty = torch.zeros(n, dtype=torch.int64)
    results = rollout(Board(*GAMES["tic-tac-toe"], CPU), empty, empty, 9, seeded())
    for outcome, share in ((1.0, 0.5849), (-1.0, 0.2881), (0.0, 0.1270)):
        assert abs((results == outcome).double().mean() - share) < 4 * 0.5 / n**0.5
    results = rollout(Board(*GAMES["connect-four"], CPU), empty[:4000], empty[:4000], 42, seeded())
    assert abs((results == 1).double().mean() - 0.554) < 4 * 0.5 / 4000**0.5
    assert abs((results == -1).double().mean() - 0.443) < 4 * 0.5 / 4000**0.5


@pytest.mark.parametrize("game", GAMES)
def test_rollouts_from_anywhere_agree_with_those_of_one_board(game):
    board, single, n = Board(*GAMES[game], CPU), one_board(game), 3000
    for state in some_states(game, 40)[::8]:
        own, other = (x.expand(n) for x in tensors([state]))
        plies = board.cells.bit_count() - int(board.count(own | other)[0])
        ours = rollout(board, own, other, plies, seeded()).mean()
        assert abs(ours - sum(single.rollout(state, 99) for _ in range(n)) / n) < 4 * 2**0.5 / n**0.5


@pytest.mark.parametrize("game", GAMES)
def test_every_simulation_counts_once_for_an_allowed_action(game):
    board, states = Board(*GAMES[game], CPU), some_states(game, 60)
    own, other = tensors(states)
    visits, totals = search(board, own, other, 80, 1.4, seeded())
    assert visits.sum(dim=1).tolist() == [80] * 60
    legal = board.legal(own | other)
    assert (visits > 0).equal(legal)
    assert (totals[legal].abs() <= visits[legal]).all() and (totals[~legal] == -torch.inf).all()


def test_each_tree_is_that_of_one_search_in_distribution():
    """Few simulations, before the tables of mcts.py join two orders of moves: the mean visits and returns agree."""
    board, n = Board(*GAMES["tic-tac-toe"], CPU), 1500
    for state, exploration in (((0, 0), 1.4), ((0b1, 0b10000), 0.5)):
        single = one_board("tic-tac-toe")
        own, other = (x.expand(n) for x in tensors([state]))
        visits, totals = search(board, own, other, 25, exploration, seeded())
        args = mcts.Args(simulations=25, exploration=exploration)
        sums = torch.zeros(n // 3, 2, 9)
        for i in range(n // 3):
            node = mcts.tree_search(single, state, args)[state]
            sums[i, 0, node.actions] = torch.tensor(node.visits, dtype=torch.float32)
            sums[i, 1, node.actions] = torch.tensor(node.means) * sums[i, 0, node.actions]
        legal = board.legal(own | other)[0]
        pairs = (visits, sums[:, 0]), (totals, sums[:, 1])
        for ours, theirs in ((ours[:, legal], theirs[:, legal]) for ours, theirs in pairs):
            error = (ours.var(dim=0) / n + theirs.var(dim=0) / (n // 3)).sqrt()
            assert ((ours.mean(dim=0) - theirs.mean(dim=0)).abs() < 4.5 * error + 1e-6).all()


def test_the_bound_decides_between_actions_that_were_all_tried():
    """The last stone but two: no rollout has any luck in it, so UCB1 can be followed by hand."""
    board, single = Board(*GAMES["tic-tac-toe"], CPU), one_board("tic-tac-toe")
    state = (0, 0)
    for action in (0, 1, 2, 4, 3, 5, 7):
        state, _, done = single.step(state, action)
    assert not done and len(single.actions(state)) == 2
    for simulations in (5, 40, 300):
        visits, totals = search(board, *tensors([state]), simulations, 0.7, seeded())
        node = mcts.tree_search(single, state, mcts.Args(simulations=simulations, exploration=0.7))[state]
        assert visits[0, node.actions].tolist() == node.visits
        assert totals[0, node.actions].tolist() == pytest.approx(
            [n * mean for n, mean in zip(node.visits, node.means, strict=True)], abs=1e-4
        )


def test_the_move_is_the_most_visited_one_and_the_better_of_two():
    visits = torch.tensor([[5.0, 9.0, 9.0], [3.0, 2.0, 0.0]])
    totals = torch.tensor([[5.0, -3.0, 1.0], [-3.0, 2.0, -torch.inf]])
    assert best_moves(visits, totals).tolist() == [2, 0]


@pytest.mark.parametrize("seed", [1])
def test_a_thousand_simulations_never_lose_at_tic_tac_toe(seed):
    """Every line of play: the positions that it can come to after each of its moves are searched side by side."""
    board, single, generator = Board(*GAMES["tic-tac-toe"], CPU), one_board("tic-tac-toe"), seeded(seed)
    moves, first = {}, {(0, 0)}
    second = {single.step((0, 0), action)[0] for action in range(9)}
    while states := sorted((first | second) - moves.keys()):
        chosen = best_moves(*search(board, *tensors(states), 1000, 1.4, generator))
        moves |= dict(zip(states, chosen.tolist(), strict=True))
        first = set()
        for state in states:
            after, _, done = single.step(state, moves[state])
            replies = [] if done else [single.step(after, reply) for reply in single.actions(after)]
            first |= {reached for reached, _, over in replies if not over}
    for begins, bar in ((True, 0.968), (False, 0.778)):
        won, _, lost = exact_result(single, lambda state: [moves[state]], single.actions, begins)
        assert lost == 0 and won >= bar


def test_games_are_scored_for_the_search_and_end_at_a_line():
    board = Board(*GAMES["connect-four"], CPU)
    results, lengths, made, _ = play(board, 30, Args(env_id="connect-four", simulations=40), seeded())
    assert results.mean() > 0.8
    assert lengths.min() >= 7 and lengths.max() <= 42
    assert (lengths[::2][results[::2] == 1] % 2 == 1).all()  # who moved first wins with an odd number of moves
    assert (lengths[1::2][results[1::2] == 1] % 2 == 0).all()
    assert made % 40 == 0 and made >= 30 * 3 * 40


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "charts/SPS"))} for row in rows]


def test_the_seed_decides_every_number(tmp_path):
    flags = {"total_episodes": 50, "num_runs": 20, "simulations": 10}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(Args(run_dir=tmp_path / name, seed=seed, **flags))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert len(rows(tmp_path / "a")) == 3  # 20, 20 and 10 games
    assert (tmp_path / "a" / "first_move.png").exists()


@pytest.mark.parametrize(
    "args, complaint",
    [
        ({"simulations": 0}, "--simulations"),
        ({"num_runs": 0}, "--num-runs"),
        ({"exploration": -1.0}, "--exploration"),
        ({"seed": -1}, "--seed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(args, complaint, tmp_path):
    with pytest.raises(UsageError, match=complaint):
        train(Args(**args, run_dir=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    train(Args(run_dir=tmp_path, total_episodes=2, num_runs=2, simulations=5))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="--run-dir"):
        train(Args(run_dir=tmp_path, total_episodes=2, num_runs=2, simulations=5))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
