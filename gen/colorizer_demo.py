# /// script
# requires-python = ">=3.11"
# dependencies = ["gradio>=6", "numpy", "pillow", "pydantic>=2.6", "torch>=2.4", "tyro>=0.9.2"]
# ///
"""Page to try what gen/colorizer.py has trained: brush a few strokes of colour on a drawing, and see it painted.

    python gen/colorizer.py --run-dir runs/colorizer
    python gen/colorizer_demo.py --model runs/colorizer

Its address is printed, and only this machine can open it. Upload a photograph, a drawing or line art: lines are found
as in training. Strokes on white paper become the hint as in colorizer.py's evaluation: blurred and, if the model was
trained with holes, faded towards white. The network runs on the CPU.

Frans 2017 (https://kvfrans.com/coloring-and-shading-line-art-automatically-through-conditional-gans/): the page.
Isola et al. 2017, "Image-to-image translation with conditional adversarial networks" (arXiv 1611.07004).
"""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from pydantic.dataclasses import dataclass
from torch import nn


@dataclass(config={"allow_inf_nan": False})
class Args:
    model: Path
    """folder of a run of gen/colorizer.py, with args.json and model.pt"""


# --- as in gen/colorizer.py ------------------------------------------------------------------

BLUR, VISIBLE = 100 / 256, 0.39  # the blur's side; share of an image that whited-out squares leave on average


def find_lines(x: torch.Tensor) -> torch.Tensor:
    """Line art [n, 1, s, s] of x [n, 3, s, s]: -1 where a pixel is 2 levels darker than the mean around it."""
    block = max(3, x.shape[-1] * 9 // 256 | 1)  # 9 at 256 pixels; must be odd
    grey = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    mean = F.avg_pool2d(F.pad(grey, [block // 2] * 4, mode="replicate"), block, stride=1)
    return torch.where(grey > mean - 2 / 127.5, 1.0, -1.0)


def blur(x: torch.Tensor) -> torch.Tensor:
    """Mean over a box around each pixel, mirrored at the border: x [n, 3, s, s]."""
    box = round(BLUR * x.shape[-1])
    x = F.pad(x, (box // 2, box - 1 - box // 2) * 2, mode="reflect")
    return F.avg_pool2d(F.avg_pool2d(x, (box, 1), stride=1), (1, box), stride=1)


def hint_in_use(x: torch.Tensor, hint: str) -> torch.Tensor:
    """The hint from what a person painted, x [n, 3, s, s] in [-1, 1]: no squares, but as pale as they make it."""
    if hint == "none":
        return torch.ones_like(x)
    return blur(VISIBLE * x + (1 - VISIBLE) if hint == "holes" else x)


def normalize(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(channels, max(1, channels // 16)), channels)


class Generator(nn.Module):
    """U-Net: strided convolutions down to one pixel, transposed ones back up. All images are in [-1, 1]."""

    def __init__(self, size: int, width: int):
        super().__init__()
        levels = size.bit_length() - 1
        widths = [4] + [width * min(2**i, 8) for i in range(levels)]  # pix2pix: 64 128 256 512 512 ...
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (before, after) in enumerate(pairwise(widths)):
            down = [nn.Conv2d(before, after, 4, stride=2, padding=1), normalize(after), nn.LeakyReLU(0.2)]
            if i in (0, levels - 1):  # neither the first layer nor the last pixel is normalized
                del down[1]
            up = [nn.ConvTranspose2d(after if i == levels - 1 else 2 * after, before, 4, stride=2, padding=1)]
            self.down.append(nn.Sequential(*down))
            self.up.insert(0, nn.Sequential(*up, normalize(before), nn.ReLU()))
        self.up[-1] = nn.Sequential(nn.ConvTranspose2d(2 * width, 3, 4, stride=2, padding=1), nn.Tanh())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Lines and hint [n, 4, s, s] -> painted image [n, 3, s, s]."""
        skipped = []
        for down in self.down:
            x = down(x)
            skipped.append(x)
        for i, up in enumerate(self.up):
            x = up(torch.cat([x, skipped[-1 - i]], dim=1) if i else x)
        return x


# --- the page --------------------------------------------------------------------------------

SIDE = 512  # of what is shown, in pixels


def load(folder: Path) -> tuple[Generator, dict]:
    """The trained generator and the run's flags."""
    try:
        flags = json.loads((folder / "args.json").read_text())
        generator = Generator(flags["size"], flags["width"])
        generator.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True)["generator"])
    except Exception as error:  # missing, damaged, or another program's files
        raise UsageError(f"--model {folder}: no run of colorizer.py ({type(error).__name__})") from None
    return generator, flags


def on_paper(layers: list, size: int) -> torch.Tensor:
    """PIL images, one over the other on white paper, as [1, 3, size, size] in [-1, 1]."""
    from PIL import Image

    paper = Image.new("RGBA", (size, size), "white")
    for layer in layers:
        paper.alpha_composite(layer.convert("RGBA").resize((size, size)))
    pixels = torch.from_numpy(np.array(paper.convert("RGB")))
    return pixels.permute(2, 0, 1).unsqueeze(0) / 127.5 - 1


@torch.no_grad()
def paint(generator: Generator, hint: str, drawing: torch.Tensor, strokes: torch.Tensor) -> torch.Tensor:
    """What the generator makes of a drawing and of strokes on white, all [1, 3, s, s] in [-1, 1]."""
    return generator(torch.cat([find_lines(drawing), hint_in_use(strokes, hint)], dim=1))


def make_page(generator: Generator, flags: dict):
    """A gradio page: a drawing to brush on, a button, and the result."""
    import gradio as gr
    from PIL import Image, ImageDraw

    def press(editor: dict) -> np.ndarray:
        background = [editor["background"]] if editor["background"] else []
        drawing, strokes = (on_paper(layers, flags["size"]) for layers in (background, editor["layers"]))
        y = paint(generator, flags["hint"], drawing, strokes)
        return F.interpolate((y + 1) * 127.5, size=(SIDE, SIDE))[0].permute(1, 2, 0).round().byte().numpy()

    circle = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(circle).ellipse((128, 128, 384, 384), fill="peru")
    with gr.Blocks(title="Colorizer", analytics_enabled=False) as page:
        gr.Markdown("Brush some colours on the drawing, then press *Paint*. Where nothing is brushed, it is a guess.")
        with gr.Row():
            brush = gr.Brush(default_size=36, colors=["#d22", "#e91", "#fd4", "#4a3", "#27c", "#73b", "#642", "#222"])
            canvas = {"canvas_size": (SIDE, SIDE), "fixed_canvas": True, "layers": False, "transforms": ()}
            editor = gr.ImageEditor(circle, type="pil", sources=("upload",), brush=brush, label="Drawing", **canvas)
            result = gr.Image(label="Painted", format="png", interactive=False, elem_id="painted")
        gr.Button("Paint", variant="primary").click(press, editor, result)
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
