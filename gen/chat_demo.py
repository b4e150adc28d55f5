# /// script
# requires-python = ">=3.11"
# dependencies = ["gradio>=6", "pydantic>=2.6", "torch>=2.4", "tyro>=0.9.2"]
# ///
"""Page to try what gen/chat_rnn.py has trained: type the beginning of a message and see how the chat goes on.

    python gen/chat_rnn.py --run-dir runs/chat
    python gen/chat_demo.py --model runs/chat

Its address is printed, and only this machine can open it. A slider sets the temperature of sampling; at 0 the most
likely word is taken every time, as in the post. The network is the one of gen/chat_rnn.py, copied.

Frans 2016 (http://kvfrans.com/simulating-twitch-chat-with-a-recurrent-neural-network/), whose page this one follows.
"""

import json
import math
import re
from functools import partial
from pathlib import Path

import torch
import tyro
from pydantic.dataclasses import dataclass
from torch import nn


@dataclass(config={"allow_inf_nan": False})
class Args:
    model: Path
    """folder of a run of gen/chat_rnn.py, with args.json, vocabulary.json and model.pt"""


# --- as in gen/chat_rnn.py -------------------------------------------------------------------

MAX_WORDS = 20
END, UNK = 0, 1  # END also stands before the first word


def clean(text: str) -> list[str]:
    """The words of a message: lower case, letters and digits."""
    return re.sub("[^0-9a-z ]", "", re.sub(r"\s", " ", text).lower()).split()


class ChatRNN(nn.Module):
    """Word indices [n, t] -> hidden states [n, t, width], from which `output` predicts each next word."""

    def __init__(self, num_words: int, width: int, dropout: float = 0.0):
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(num_words, width), nn.Dropout(dropout)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True, dropout=dropout)
        cutoffs = [num_words // 50 + 2, num_words // 10 + 3, num_words // 3 + 4]  # frequent words first
        self.output = nn.AdaptiveLogSoftmaxWithLoss(width, num_words, cutoffs, div_value=1.0)

    def forward(self, x: torch.Tensor, state=None) -> tuple[torch.Tensor, tuple]:
        hidden, state = self.lstm(self.dropout(self.embedding(x)), state)
        return self.dropout(hidden), state

    @torch.no_grad()
    def complete(self, words: list[int], temperature: float) -> list[int]:
        """The rest of a message that begins with these words: samples until its end, at most 20 words."""
        x, state, added = torch.tensor([[END, *words]], device=self.embedding.weight.device), None, []
        while len(words) + len(added) < MAX_WORDS:
            hidden, state = self(x, state)
            log_probs = self.output.log_prob(hidden[:, -1])[0]
            log_probs[UNK] = -math.inf
            word = (log_probs / max(temperature, 1e-6)).softmax(0).multinomial(1)  # at 0 the most likely one
            if word == END:
                break
            added.append(word.item())
            x = word.view(1, 1)
        return added


# --- the page --------------------------------------------------------------------------------

MAX_CHARACTERS = 500  # of what is typed, the rest is ignored


def load(folder: Path) -> tuple[ChatRNN, list[str]]:
    """The trained model and its vocabulary."""
    try:
        flags = json.loads((folder / "args.json").read_text())
        vocabulary = json.loads((folder / "vocabulary.json").read_text())
        model = ChatRNN(len(vocabulary), flags["width"])
        model.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True)["model"])
    except Exception as error:  # missing, damaged, or another program's files
        raise UsageError(f"--model {folder}: no run of chat_rnn.py ({type(error).__name__})") from None
    return model, vocabulary


def answer(model: ChatRNN, vocabulary: list[str], text: str, temperature: float) -> str:
    """The whole message that begins with what was typed."""
    index, typed = {word: i for i, word in enumerate(vocabulary)}, clean(text[:MAX_CHARACTERS])[: MAX_WORDS - 1]
    added = model.complete([index.get(word, UNK) for word in typed], temperature)
    return " ".join([*typed, *(vocabulary[i] for i in added)])


def make_page(model: ChatRNN, vocabulary: list[str]):
    """A gradio page: a box to type in, the temperature, a button, and the message, shown as text and never as HTML."""
    import gradio as gr

    with gr.Blocks(title="How would the chat go on?", analytics_enabled=False) as page:
        gr.Markdown("# How would the chat go on?\nType the beginning of a message.")
        text = gr.Textbox(label="you", placeholder="hello", max_length=MAX_CHARACTERS, autofocus=True)
        temperature = gr.Slider(0, 2, 0.7, label="temperature (0: the most likely word)")
        button, message = gr.Button("Complete", variant="primary"), gr.Textbox(label="the chat")
        gr.on([button.click, text.submit], partial(answer, model, vocabulary), [text, temperature], message)
    return page


def serve(args: Args):
    """Serve the page to this machine only, at the first free port from 7860 on, until Ctrl-C."""
    make_page(*load(args.model)).launch(server_name="127.0.0.1")


# --- one run's folder: the same in every file ------------------------------------------------


class UsageError(ValueError):
    """A user's mistake: the message names the flag and says what would work."""


if __name__ == "__main__":
    try:
        serve(tyro.cli(Args, description=__doc__))
    except (UsageError, OSError) as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
