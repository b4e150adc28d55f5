"""Dyna-2: its boards, mazes, lambda-returns and memories against slow second opinions, its play by matches."""

import csv
import json
import random
import subprocess
import sys
from dataclasses import replace

import gymnasium as gym
import pytest
import torch

from algos.dyna2 import (
    DYNA_MAZE,
    LINES,
    Args,
    ConnectFour,
    Maze,
    UsageError,
    act,
    draw,
    learn,
    make_player,
    play_match,
    random_player,
    search,
    simulate,
    train,
    transition_table,
)

CLOCKS = {"charts/SPS", "time/elapsed"}
CPU = torch.device("cpu")


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in CLOCKS} for row in csv.DictReader(file)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def game_args(**changed):
    return Args(**({"learning_rate": 1.0, "search_learning_rate": 0.5} | changed))


# --- Connect Four ----------------------------------------------------------------------------


def won(board, player):
    """Four in a row somewhere, by looking at every cell in every direction: board {(column, row): player}."""
    for x, y in board:
        for dx, dy in ((0, 1), (1, 0), (1, 1), (1, -1)):
            if all(board.get((x + i * dx, y + i * dy)) == player for i in range(4)):
                return True
    return False


def slow_patterns(board, heights, mover):
    """The pattern of every line, cell by cell."""
    found = []
    for cells in LINES:
        digits = []
        for x, y in cells:
            if (x, y) in board:
                digits.append(2 if board[x, y] == mover else 3)
            else:
                digits.append(1 if heights[x] == y else 0)
        found.append(sum(digit * 4**i for i, digit in enumerate(digits)))
    return found


def test_there_are_69_different_lines_of_four():
    assert len({frozenset(cells) for cells in LINES}) == len(LINES) == 69
    assert all(0 <= x < 7 and 0 <= y < 6 for cells in LINES for x, y in cells)


def test_games_side_by_side_follow_the_rules():
    rng, world, num = random.Random(1), ConnectFour(CPU), 16
    state, boards, heights = world.start(num, generator()), [{} for _ in range(num)], [[0] * 7 for _ in range(num)]
    playing, ends = list(range(num)), []
    for ply in range(42):
        features = world.features(state)
        assert world.legal(state).tolist() == [[h < 6 for h in heights[game]] for game in playing]
        actions = [rng.choice([x for x in range(7) if heights[game][x] < 6]) for game in playing]
        for i, (game, x) in enumerate(zip(playing, actions, strict=True)):
            boards[game][x, heights[game][x]] = ply % 2
            heights[game][x] += 1
            after = slow_patterns(boards[game], heights[game], ply % 2)
            assert features[i, x].tolist() == [256 * line + pattern for line, pattern in enumerate(after)]
        state, rewards, over, cut = world.step(state, torch.tensor(actions), generator())
        assert not cut.any()
        wins = [won(boards[game], ply % 2) for game in playing]
        assert rewards.tolist() == wins and over.tolist() == [win or ply == 41 for win in wins]
        cells = world.cells(state).tolist()
        for i, game in enumerate(playing):
            assert state[i, :69].tolist() == slow_patterns(boards[game], heights[game], (ply + 1) % 2)
            seen = {(x, y): d - 2 for x in range(7) for y, d in enumerate(cells[i][x]) if d >= 2}
            assert seen == {cell: (who - ply - 1) % 2 for cell, who in boards[game].items()}  # 0: of the player to move
        ends += [ply for end in over if end]
        playing = [game for game, end in zip(playing, over.tolist(), strict=True) if not end]
        state = state[~over]
        if not playing:
            break
    assert not playing and min(ends) < 20 < max(ends)


def test_a_full_board_is_a_draw():
    world = ConnectFour(CPU)
    state = world.start(1, generator())
    columns = [0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1]  # two columns without a line, and so on
    order = columns + [x + 2 for x in columns] + [x + 4 for x in columns] + [6] * 6
    for ply, x in enumerate(order):
        state, rewards, over, _ = world.step(state, torch.tensor([x]), generator())
        assert not rewards.any() and bool(over) == (ply == 41), ply


# --- mazes -----------------------------------------------------------------------------------


def maze(env_id="DynaMaze", **changed):
    table, limit, cells = transition_table(env_id)
    arguments = {"gamma": 0.9, "time_limit": limit or 10**9, "horizon": 12} | changed
    return Maze(table, **arguments), cells


def test_every_move_in_the_maze():
    world, cells = maze()
    drawn = DYNA_MAZE.split()
    for state, (i, j) in enumerate(cells):
        for action, (down, right) in enumerate([(-1, 0), (0, 1), (1, 0), (0, -1)]):
            y, x = i + down, j + right
            if not (0 <= y < 6 and 0 <= x < 9) or drawn[y][x] == "#":
                y, x = i, j
            after, reward, over, cut = world.step(torch.tensor([[0, state, 0]]), torch.tensor([action]), generator())
            goal = drawn[y][x] == "G"
            assert bool(over) == goal and float(reward) == goal and not cut
            assert goal or cells[int(after[0, 1])] == (y, x)
            assert world.features(torch.tensor([[0, state, 0]]))[0, action, 0] == 4 * state + action


def test_frozen_lake_slips_as_gymnasium_does():
    world, _ = maze("FrozenLake-v1")
    outcomes = gym.make("FrozenLake-v1").unwrapped.P
    num = 30_000
    for state, action in ((14, 2), (0, 0), (9, 1)):
        start = torch.tensor([[0, state, 0]]).expand(num, 3)
        after, rewards, over, _ = world.step(start, torch.full((num,), action), generator())
        expected = {}
        for prob, next_state, reward, ends in outcomes[state][action]:
            key = (None if ends else next_state, float(reward), ends)
            expected[key] = expected.get(key, 0.0) + prob
        found = {}
        for s, reward, ends in zip(after[:, 1].tolist(), rewards.tolist(), over.tolist(), strict=True):
            key = (None if ends else s, reward, ends)
            found[key] = found.get(key, 0.0) + 1 / num
        assert found.keys() == expected.keys()
        assert all(abs(found[key] - expected[key]) < 0.012 for key in expected)


def test_the_counted_model_repeats_what_was_seen_in_the_ratio_of_the_counts_and_stops_at_the_unknown():
    world, _ = maze("FrozenLake-v1")
    model = world.counted(2)
    model.ratios[1, 14, 2, 0], model.ratios[1, 14, 2, 2] = 1, 3
    state = torch.tensor([[1, 14, 0]]).expand(20_000, 3)
    model.step(state, torch.full((20_000,), 2), generator())
    share = torch.bincount(model.outcomes, minlength=3) / 20_000
    assert torch.allclose(share, torch.tensor([0.25, 0.0, 0.75]), atol=0.012)
    for unknown in ([0, 14, 0], [1, 13, 0]):
        *_, cut = model.step(torch.tensor([unknown]), torch.tensor([2]), generator())
        assert cut.all()
    assert not model.step(state[:1], torch.tensor([2]), generator())[3].any()


def test_a_time_limit_cuts_off_and_does_not_end():
    world, _ = maze(time_limit=3)
    state = world.start(2, generator())
    for step in range(3):
        state, _, over, cut = world.step(state, torch.tensor([3, 3]), generator())
        assert not over.any() and cut.all() == (step == 2)


def test_draw_follows_the_ratios_and_never_takes_a_zero():
    ratios = torch.tensor([[0.0, 3.0, 0.0, 1.0, 0.0]]).expand(40_000, 5)
    share = torch.bincount(draw(ratios, generator()), minlength=5) / 40_000
    assert torch.allclose(share, ratios[0] / 4, atol=0.01) and (share[ratios[0] == 0] == 0).all()
    assert draw(torch.zeros(3, 4), generator()).tolist() == [0, 0, 0]


# --- learning --------------------------------------------------------------------------------


def test_act_is_epsilon_greedy_among_what_is_allowed():
    num = 60_000
    q = torch.tensor([2.0, 1.0, 2.0, 9.0]).expand(num, 4)
    legal = torch.tensor([True, True, True, False]).expand(num, 4)
    share = torch.bincount(act(q, legal, 0.3, generator()), minlength=4) / num
    assert torch.allclose(share, torch.tensor([0.45, 0.1, 0.45, 0.0]), atol=0.01)
    assert set(act(q, legal, 0.0, generator()).tolist()) == {0, 2}


def lambda_return(rewards, values, gamma, lambda_, bootstrap):
    """Of the first step, by the definition: all n-step returns, weighed. bootstrap: the value after the last reward."""
    values = [*values[1:], bootstrap]  # values[t]: of what follows reward t
    n_step = []
    for n in range(1, len(rewards) + 1):
        total = sum(gamma**k * rewards[k] for k in range(n))
        n_step.append(total + gamma**n * values[n - 1])
    weights = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, len(rewards))] + [lambda_ ** (len(rewards) - 1)]
    return sum(weight * g for weight, g in zip(weights, n_step, strict=True))


class Recorder:
    """A world that remembers what was done in it."""

    def __init__(self, world):
        self.world, self.steps = world, []

    def __getattr__(self, name):
        return getattr(self.world, name)

    def step(self, state, actions, generator):
        outcome = self.world.step(state, actions, generator)
        self.steps.append((self.world.features(state)[0, actions[0]].tolist(), *(x[0].item() for x in outcome[1:])))
        return outcome


@pytest.mark.parametrize("lambda_", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", ["game", "maze", "cut off", "unknown"])
def test_a_simulated_episode_moves_each_value_towards_its_lambda_return(name, lambda_):
    args = game_args(td_lambda=lambda_, search_epsilon=1.0, search_learning_rate=0.01)
    if name == "game":
        model = Recorder(ConnectFour(CPU))
        state = model.start(1, generator())
    else:
        world, cells = maze(horizon=400 if name == "maze" else 7)
        model = Recorder(world.counted(1) if name == "unknown" else world)
        state = torch.tensor([[0, cells.index((1, 8)), 0]])
        if name == "unknown":
            model.ratios[:, :, 1:] = model.table["probs"][:, 1:]  # up was never tried, and so is not simulated
    memory = 0.3 * torch.randn(1, model.num_features, generator=generator(1))
    before = memory[0].double()
    simulate(model, state, memory, args, generator(5))
    visited, rewards, overs, cuts = zip(*model.steps, strict=True)
    squash = torch.tanh if name == "game" else lambda x: x
    values = [float(squash(before[list(features)].sum())) for features in visited]
    known, bootstrap = len(rewards), 0.0
    if not overs[-1] or cuts[-1]:  # the last pair is not learned from, but what leads to it is
        known, bootstrap = known - 1, values[-1]
        assert name in ("cut off", "unknown")
    assert known > 1
    expected = before.clone()
    for t in range(known):
        target = lambda_return(rewards[t:known], values[t:known], model.gamma, lambda_, bootstrap)
        for feature in visited[t]:
            expected[feature] += 0.01 / model.num_active * (target - values[t])
    assert torch.allclose(memory[0].double(), expected, atol=1e-6)
    assert not torch.allclose(expected, before, atol=1e-5)


def test_episodes_side_by_side_learn_as_they_would_alone():
    """Without chance: a row's memory must not depend on the others, though each episode ends at another step."""
    world, args = ConnectFour(CPU), game_args(search_epsilon=0.0)
    state = world.start(3, generator())
    for x in ((0, 3, 6), (1, 3, 5), (0, 3, 6), (1, 2, 5), (0, 2, 0)):
        state, *_ = world.step(state, torch.tensor(x), generator())
    memory = 0.1 * torch.randn(3, world.num_features, generator=generator(2))  # no two actions are worth the same
    alone = [memory[[i]].clone() for i in range(3)]
    for _ in range(3):
        simulate(world, state, memory, args, generator())
        for i in range(3):
            simulate(world, state[[i]], alone[i], args, generator())
    assert torch.allclose(memory, torch.cat(alone), atol=1e-5)


def test_search_changes_the_short_term_memory_only_and_values_are_those_of_the_sum():
    world, args = ConnectFour(CPU), game_args()
    state = world.start(2, generator())
    long, short = torch.randn(1, world.num_features, generator=generator()) / 9, torch.zeros(2, world.num_features)
    kept = long.clone()
    q = search(world, state, long, short, 5, args, generator())
    assert torch.equal(long, kept) and short.any()
    features = world.features(state)
    for row in range(2):
        for x in range(7):
            expected = torch.tanh((long[0] + short[row])[features[row, x].long()].sum())
            assert torch.isclose(q[row, x], expected, atol=1e-4)


def test_the_long_term_memory_moves_by_the_mean_of_what_is_asked_for():
    long = torch.zeros(1, 6)
    features, errors = torch.tensor([[0, 1], [1, 2], [1, 5]]), torch.tensor([1.0, -2.0, 4.0])
    learn(long, features, errors, 0.5)
    assert torch.allclose(long, torch.tensor([[0.25, 0.25, -0.5, 0.0, 0.0, 1.0]]))


def test_search_solves_a_known_maze():
    """With the true model and no long-term memory the search finds the best first step from near the goal."""
    world, cells = maze(horizon=60)
    args = game_args(search_learning_rate=0.2, search_epsilon=0.3)
    state = torch.tensor([[0, cells.index(cell), 0] for cell in ((2, 8), (3, 8), (4, 8))])
    long, short = torch.zeros(1, world.num_features), torch.zeros(3, world.num_features)
    q = search(world, state, long, short, 150, args, generator())
    assert q.argmax(1).tolist() == [0, 0, 0] and (q[:, 0] > 0.3).all()


def winning_position(world):
    """The one to move can win at once in column 3, and the other would; every other move loses to a good reply."""
    state = world.start(1, generator())
    for x in (3, 2, 3, 2, 3, 2):
        state, _, over, _ = world.step(state, torch.tensor([x]), generator())
        assert not over
    return state


def test_search_finds_the_winning_move_and_the_move_that_does_not_lose():
    world, args = ConnectFour(CPU), game_args()
    win = winning_position(world)
    save, _, over, _ = world.step(win, torch.tensor([6]), generator())  # now column 2 wins for the other...
    assert not over
    both = torch.cat([win, save]).repeat(8, 1)
    short = torch.zeros(16, world.num_features)
    q = search(world, both, torch.zeros(1, world.num_features), short, 60, args, generator())
    found = q.argmax(1).view(8, 2)
    assert (found[:, 0] == 3).float().mean() >= 0.75  # wins
    assert (found[:, 1] == 2).float().mean() >= 0.75  # wins as well


# --- matches ---------------------------------------------------------------------------------


def test_a_match_takes_turns_in_moving_first_and_counts_the_points():
    world, asked = ConnectFour(CPU), []

    def always(column):
        def player(state, games):
            asked.append((column, state[:, -1].tolist(), games.tolist()))
            return torch.full((len(games),), column)

        return player

    points = play_match(world, always(0), always(1), 4, generator())
    assert points.tolist() == [1.0, 0.0, 1.0, 0.0]  # whoever begins has four first
    assert asked[0] == (1, [0, 0], [1, 3]) and asked[1] == (0, [0, 1, 0, 1], [0, 1, 2, 3])


def test_random_play_against_itself_is_even():
    world = ConnectFour(CPU)
    players = (random_player(world, generator(seed)) for seed in (1, 2))
    points = play_match(world, *players, 2000, generator())
    assert abs(points.mean() - 0.5) < 0.035
    assert abs(points[::2].mean() - (0.554 + 0.0026 / 2)) < 0.05  # the first player's share, numbers.md's and others'


def test_a_player_forgets_nothing_of_a_game_and_shares_nothing_between_games():
    world, args = ConnectFour(CPU), game_args(simulations=3)
    long = torch.zeros(1, world.num_features)
    together = make_player(world, long, "short", 2, args, generator())
    state = world.start(2, generator())
    first = together(state, torch.tensor([0, 1]))
    assert first.shape == (2,)
    memory = together.__closure__[together.__code__.co_freevars.index("short")].cell_contents
    kept = memory.clone()
    together(state[:1], torch.tensor([1]))
    assert torch.equal(memory[0], kept[0]) and not torch.equal(memory[1], kept[1])
    assert not long.any()


# --- training --------------------------------------------------------------------------------


def test_the_long_term_memory_learns_to_beat_random_play_and_helps_the_search(tmp_path):
    args = Args(num_runs=128, total_episodes=40, simulations=8, match_games=40, run_dir=tmp_path / "run")
    row = train(args)
    assert row["eval/points_random"] > 0.9
    assert row["eval/points_short"] > 0.6  # both memories against the short-term one: 40 games
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["weights"].shape == (1, ConnectFour.num_features) and saved["weights"].any()
    assert row["global_step"] == sum(float(r["charts/episodic_length"]) * 128 for r in rows(tmp_path / "run"))


def test_the_short_term_memory_alone_leaves_the_long_term_one_empty(tmp_path):
    args = Args(num_runs=4, total_episodes=1, simulations=1, memory="short", match_games=2, run_dir=tmp_path / "run")
    train(args)
    assert not torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["weights"].any()


def test_the_cliff_is_walked_along_soon(tmp_path):
    args = Args(env_id="CliffWalking-v1", num_runs=2, total_episodes=2, simulations=2, max_depth=10, gamma=1.0)
    row = train(replace(args, run_dir=tmp_path / "run"))
    assert row["eval/episodic_length"] < 150  # at random it takes thousands of steps


def test_the_long_term_memory_learns_by_sarsa(tmp_path, monkeypatch):
    """With weights that stay as they are, each error is the reward and the next value, minus the value."""
    fixed, told, world_step = [], [], ConnectFour.step
    happened = []

    def told_only(long, features, errors, learning_rate):
        if not fixed:
            fixed.append(0.1 * torch.randn(long.shape, generator=generator(3)))
            long.copy_(fixed[0])  # what the first error was about was worth 0
        else:
            told.append((features[0].long(), errors.item()))

    def step(self, state, actions, generator):
        outcome = world_step(self, state, actions, generator)
        happened.append((outcome[1].item(), outcome[2].item()))
        return outcome

    monkeypatch.setattr("algos.dyna2.learn", told_only)
    monkeypatch.setattr(ConnectFour, "step", step)
    monkeypatch.setattr("algos.dyna2.play_match", lambda *_: torch.tensor([0.5]))
    train(Args(num_runs=1, total_episodes=4, memory="long", run_dir=tmp_path / "run"))
    values = [torch.tanh(fixed[0][0, features].sum()).item() for features, _ in told]
    steps = happened[1 : len(told) + 1]  # the first was learned from before the weights were fixed
    assert sum(over for _, over in steps) == 4 and {reward for reward, _ in steps} == {0.0, 1.0}
    for t in range(1, len(told) - 1):  # the value of step 0 was looked up before the weights changed
        reward, over = steps[t]
        following = 0.0 if over else -values[t + 1]
        assert told[t][1] == pytest.approx(reward + following - values[t], abs=1e-5)


def test_the_model_counts_every_step_that_is_learned_from(tmp_path, monkeypatch):
    models, counted = [], Maze.counted

    def remembered(self, num_runs):
        models.append(counted(self, num_runs))
        return models[-1]

    monkeypatch.setattr(Maze, "counted", remembered)
    args = Args(env_id="FrozenLake-v1", num_runs=5, total_episodes=4, simulations=1, max_depth=5)
    row = train(replace(args, run_dir=tmp_path / "run"))
    counts, probs = models[0].ratios, models[0].table["probs"]
    assert row["global_step"] == counts.sum() > 50
    assert not counts.sum(0)[probs == 0].any()


def test_same_seed_same_rows_other_seed_other_rows(tmp_path):
    args = Args(num_runs=8, total_episodes=2, simulations=2, practice_simulations=1, match_games=4)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(replace(args, seed=seed, run_dir=tmp_path / name))
    assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")
    assert (tmp_path / "a" / "dyna2.png").exists()
    assert json.loads((tmp_path / "a" / "args.json").read_text())["learning_rate"] == 1.0


@pytest.mark.parametrize(
    "flags, word",
    [
        ("--env-id NoSuchEnv-v0", "NoSuchEnv"),
        ("--env-id CartPole-v1", "transition table"),
        ("--memory short --simulations 0", "--memory long"),
        ("--td-lambda 1.5", "--td-lambda"),
        ("--learning-rate 0", "--learning-rate"),
        ("--gamma 0", "--gamma"),
        ("--total-episodes 0", "--total-episodes"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(flags, word, tmp_path, monkeypatch):
    from algos.dyna2 import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, SystemExit)) as error:
        main(flags.split())
    assert word in str(error.value) or isinstance(error.value, SystemExit)
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_ends_with_one_line_and_code_1(tmp_path):
    command = [sys.executable, "algos/dyna2.py", "--env-id", "NoSuchEnv-v0", "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
