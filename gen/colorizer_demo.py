# /// script
# requires-python = ">=3.11"
# dependencies = ["gradio>=6", "numpy", "opencv-python-headless", "pillow", "pydantic>=2", "torch>=2.4", "tyro>=0.9"]
# ///
"""Page to try what gen/colorizer.py has trained: brush a few strokes of colour on line art, and see it painted.

    python gen/colorizer.py --run-dir runs/colorizer
    python gen/colorizer_demo.py --model runs/colorizer

It serves http://localhost:PORT to this machine only. Upload a photograph, a drawing or line art: lines are found as in
training. Strokes on white paper become the hint as in colorizer.py's evaluation: blurred and, if the model was trained
with holes, faded towards white. The page starts with a circle. The network runs on the CPU.

Frans 2017, the post on deepcolor (kvfrans.com), whose page this one follows.
Isola et al. 2017, "Image-to-image translation with conditional adversarial networks" (arXiv 1611.07004).
"""

import json
import socket
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn


@dataclass(config={"allow_inf_nan": False})
class Args:
    model: Path
    """folder of a run of gen/colorizer.py, with args.json and model.pt"""
    port: Annotated[int, Field(ge=1, le=65535)] = 7860
    """the page is http://localhost:PORT"""


# --- as in gen/colorizer.py ------------------------------------------------------------------

NUM_HOLES, HOLE, BLUR = 30, 50 / 256, 100 / 256  # squares to white out; their side and the blur's as shares of ours


def find_lines(images: torch.Tensor) -> torch.Tensor:
    """Line art [n, 1, s, s] of uint8 [n, 3, s, s]: 0 where a pixel is darker than the mean around it, else 255."""
    import cv2

    block = max(3, images.shape[-1] * 9 // 256 | 1)  # 9 at 256 pixels; must be odd
    lines = []
    for image in images.permute(0, 2, 3, 1).numpy():
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        lines.append(cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, block, 2))
    return torch.from_numpy(np.stack(lines)).unsqueeze(1)


def share_left(size: int) -> float:
    """Share of an image that the squares leave on average."""
    hole, pixel = round(HOLE * size), torch.arange(size)
    last = size - hole  # corners are 0 ... last
    covered = (pixel.clamp(max=last) - (pixel - hole + 1).clamp(min=0) + 1) / (last + 1)  # P(a square covers this row)
    return ((1 - covered[:, None] * covered) ** NUM_HOLES).mean().item()


def blur(x: torch.Tensor) -> torch.Tensor:
    """Mean over a box around each pixel, mirrored at the border: x [n, 3, s, s]."""
    box = round(BLUR * x.shape[-1])
    x = F.pad(x, (box // 2, box - 1 - box // 2) * 2, mode="reflect")
    return F.avg_pool2d(F.avg_pool2d(x, (box, 1), stride=1), (1, box), stride=1)


def hint_in_use(x: torch.Tensor, hint: str) -> torch.Tensor:
    """The hint from what a person painted, x [n, 3, s, s] in [-1, 1]: no squares, but as pale as they make it."""
    if hint == "none":
        return x[:, :0]
    left = share_left(x.shape[-1]) if hint == "holes" else 1.0
    return blur(left * x + (1 - left))


class Generator(nn.Module):
    """U-Net: strided convolutions down to one pixel, transposed ones back up. All images are in [-1, 1]."""

    def __init__(self, size: int, width: int, inputs: int, skip: bool):
        super().__init__()
        levels = size.bit_length() - 1
        widths = [inputs] + [width * min(2**i, 8) for i in range(levels)]  # pix2pix: 64 128 256 512 512 ...
        self.skip, self.down, self.up = skip, nn.ModuleList(), nn.ModuleList()
        for i in range(levels):
            layers = [nn.Conv2d(widths[i], widths[i + 1], 4, stride=2, padding=1)]
            if 0 < i < levels - 1:  # neither the first layer nor the last pixel is normalized
                layers.append(nn.GroupNorm(max(1, widths[i + 1] // 16), widths[i + 1]))
            self.down.append(nn.Sequential(*layers, nn.LeakyReLU(0.2)))
        for i in reversed(range(levels)):
            before = widths[i + 1] * (2 if skip and i < levels - 1 else 1)
            if i:
                layers = [nn.ConvTranspose2d(before, widths[i], 4, stride=2, padding=1)]
                layers += [nn.GroupNorm(max(1, widths[i] // 16), widths[i]), nn.ReLU()]
            else:
                layers = [nn.ConvTranspose2d(before, 3, 4, stride=2, padding=1), nn.Tanh()]
            self.up.append(nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Lines and hint [n, 1 or 4, s, s] -> painted image [n, 3, s, s]."""
        skipped = []
        for down in self.down:
            x = down(x)
            skipped.append(x)
        for i, up in enumerate(self.up):
            x = up(torch.cat([x, skipped[-1 - i]], 1) if self.skip and i else x)
        return x.float()


# --- the page --------------------------------------------------------------------------------

SIDE = 512  # of what is shown, in pixels


def load(folder: Path) -> tuple[Generator, dict]:
    """The trained generator and the run's flags."""
    try:
        flags = json.loads((folder / "args.json").read_text())
        generator = Generator(flags["size"], flags["width"], 4, flags["skip"])
        generator.load_state_dict(torch.load(folder / "model.pt", map_location="cpu", weights_only=True)["generator"])
    except Exception as error:  # missing, damaged, or another program's files
        raise UsageError(f"--model {folder}: no run of colorizer.py with a hint ({type(error).__name__})") from None
    return generator, flags


def to_square(image, size: int) -> torch.Tensor:
    """A PIL image, on white where it is transparent, as uint8 [1, 3, size, size]."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return torch.from_numpy(np.array(ImageOps.fit(image, (size, size)))).permute(2, 0, 1).unsqueeze(0)


@torch.no_grad()
def paint(generator: Generator, hint: str, lines: torch.Tensor, strokes: torch.Tensor) -> torch.Tensor:
    """uint8 lines [1, 1, s, s] and strokes on white [1, 3, s, s] -> uint8 [1, 3, s, s]."""
    seen = torch.cat([lines / 127.5 - 1, hint_in_use(strokes / 127.5 - 1, hint)], 1)
    return ((generator(seen) + 1) * 127.5).round().byte()


def enlarge(x: torch.Tensor) -> np.ndarray:
    """uint8 [1, 1 or 3, s, s] -> [512, 512, 3]."""
    big = F.interpolate(x.expand(-1, 3, -1, -1).float(), size=(SIDE, SIDE))
    return big[0].permute(1, 2, 0).byte().numpy()


def make_page(generator: Generator, flags: dict):
    """A gradio page: lines to brush on, two buttons, and the result."""
    import gradio as gr
    from PIL import Image, ImageDraw

    size = flags["size"]

    def show(image) -> tuple[dict, np.ndarray]:
        lines = find_lines(to_square(image, size))
        return {"background": enlarge(lines), "layers": [], "composite": None}, lines.numpy()

    def upload(path: str) -> tuple[dict, np.ndarray]:
        try:
            return show(Image.open(path))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise gr.Error(f"no image that can be read: {error}") from None

    def press(editor: dict, lines: np.ndarray) -> np.ndarray:
        strokes = Image.new("RGBA", (SIDE, SIDE))
        for layer in editor["layers"]:
            strokes.alpha_composite(layer.convert("RGBA").resize((SIDE, SIDE)))
        return enlarge(paint(generator, flags["hint"], torch.from_numpy(lines), to_square(strokes, size)))

    sheet = Image.new("RGB", (SIDE, SIDE), "white")
    ImageDraw.Draw(sheet).ellipse((128, 128, 384, 384), fill="peru")
    first, first_lines = show(sheet)
    with gr.Blocks(title="Colorizer", analytics_enabled=False) as page:
        gr.Markdown(
            "Brush some colours on the lines, then press *Paint*. They may be rough; white paper stays a guess."
        )
        lines = gr.State(first_lines)
        with gr.Row():
            brush = gr.Brush(default_size=36, colors=["#d22", "#e91", "#fd4", "#4a3", "#27c", "#73b", "#642", "#222"])
            canvas = {"canvas_size": (SIDE, SIDE), "fixed_canvas": True, "layers": False, "transforms": ()}
            editor = gr.ImageEditor(first, type="pil", sources=(), brush=brush, label="Lines and colours", **canvas)
            result = gr.Image(label="Painted", format="png", interactive=False, elem_id="painted")
        with gr.Row():
            gr.Button("Paint", variant="primary").click(press, [editor, lines], result)
            button = gr.UploadButton("Your own image", file_types=["image"])
            button.upload(upload, button, [editor, lines])
    return page


def serve(args: Args):
    """Serve the page to this machine only, until Ctrl-C."""
    generator, flags = load(args.model)
    try:
        socket.create_server(("127.0.0.1", args.port)).close()
    except OSError as error:
        raise UsageError(f"--port {args.port}: {error.strerror}; take another one") from None
    print(f"http://localhost:{args.port} (Ctrl-C ends it)", flush=True)
    make_page(generator, flags).launch(server_name="127.0.0.1", server_port=args.port, quiet=True)


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
