# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "gymnasium[toy-text]>=1.1",
#     "numpy>=1.26",
#     "torch>=2.4",
# ]
# ///
"""Dynamic programming: the best policy of a known environment, by sweeps over its transition table."""

import warnings
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch


class UsageError(ValueError):
    """The arguments cannot work: the message names the flag and says what would."""


# --- environments ----------------------------------------------------------------------------


class Model(NamedTuple):
    """p(s', r | s, a) as a list of outcomes: each of the first four tensors is [states, actions, outcomes].

    Where a state and action have fewer outcomes than another, the rest have probability 0. What follows a termination
    does not count, so the end of an episode needs no state of its own.
    """

    probabilities: torch.Tensor
    next_states: torch.Tensor
    rewards: torch.Tensor
    terminations: torch.Tensor
    start: torch.Tensor
    """[states]: probability of beginning there"""

    def to(self, device: torch.device) -> "Model":
        return Model(*(tensor.to(device) for tensor in self))


def build_model(outcomes: dict[int, dict[int, list[tuple]]], start: np.ndarray) -> Model:
    """Gymnasium's table, {state: {action: [(probability, next state, reward, terminated), ...]}}, as tensors."""
    num_states, num_actions = len(outcomes), len(outcomes[0])
    most = max(len(listed) for actions in outcomes.values() for listed in actions.values())
    columns = np.zeros((4, num_states, num_actions, most))
    for state, actions in outcomes.items():
        for action, listed in actions.items():
            columns[:, state, action, : len(listed)] = np.array(listed, dtype=float).T
    probabilities, next_states, rewards, terminations = torch.from_numpy(columns)
    return Model(probabilities, next_states.long(), rewards, terminations.bool(), torch.as_tensor(start).double())


UP_DOWN_RIGHT_LEFT = ((-1, 0), (1, 0), (0, 1), (0, -1))  # (rows, columns) of a step


def gridworld_4x4() -> Model:
    """Example 4.1: every step costs 1 until one of two opposite corners is reached; off the grid means no move."""
    outcomes = {}
    for state in range(16):
        outcomes[state] = {}
        for action, (rows, columns) in enumerate(UP_DOWN_RIGHT_LEFT):
            row, column = min(max(state // 4 + rows, 0), 3), min(max(state % 4 + columns, 0), 3)
            next_state = 4 * row + column
            outcomes[state][action] = [(1.0, next_state, -1.0, next_state in (0, 15))]
    for corner in (0, 15):  # no episode goes on from here: worth 0
        outcomes[corner] = {action: [(1.0, corner, 0.0, True)] for action in range(4)}
    return build_model(outcomes, np.array([0.0] + [1 / 14] * 14 + [0.0]))


def gridworld_5x5() -> Model:
    """Example 3.5, without an end: leaving A pays 10 and leads to A', leaving B 5 and to B'; the edge costs 1."""
    jumps = {1: (21, 10.0), 3: (13, 5.0)}
    outcomes = {}
    for state in range(25):
        outcomes[state] = {}
        for action, (rows, columns) in enumerate(UP_DOWN_RIGHT_LEFT):
            row, column = state // 5 + rows, state % 5 + columns
            inside = 0 <= row < 5 and 0 <= column < 5
            next_state, reward = jumps.get(state, (5 * row + column, 0.0) if inside else (state, -1.0))
            outcomes[state][action] = [(1.0, next_state, reward, False)]
    return build_model(outcomes, np.full(25, 1 / 25))


GRIDWORLDS = {"gridworld-4x4": gridworld_4x4, "gridworld-5x5": gridworld_5x5}


def transition_table(env_id: str) -> tuple[str, Model]:
    """The full id and the transition table of a gridworld above or of a Gymnasium environment. Raises UsageError."""
    if env_id in GRIDWORLDS:
        return env_id, GRIDWORLDS[env_id]()
    try:
        with warnings.catch_warnings():  # an id without a version means the newest: no need to warn
            warnings.simplefilter("ignore")
            env = gym.make(env_id)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise UsageError(f"--env-id {env_id}: {error}") from None
    outcomes, start = getattr(env.unwrapped, "P", None), getattr(env.unwrapped, "initial_state_distrib", None)
    if outcomes is None or start is None:
        tables = "FrozenLake-v1, Taxi-v4 or CliffWalking-v1"
        raise UsageError(f"--env-id {env_id}: has no transition table P; take {', '.join(GRIDWORLDS)}, {tables}")
    env.close()
    return env.spec.id, build_model(outcomes, start)
