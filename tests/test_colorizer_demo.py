"""The colorizer's page: the same network and hints as in training, images of all kinds, and a stroke in a browser."""

import inspect
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from gen import colorizer
from gen import colorizer_demo as demo
from gen.colorizer_demo import Args, UsageError, load, make_page, on_paper, paint, serve

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def run_dir(tmp_path):
    """What a run of colorizer.py leaves, with large random weights, so that it does not paint grey on grey."""
    torch.manual_seed(0)
    args = colorizer.Args(width=4)
    generator = colorizer.Generator(args.size, args.width)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(3)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps({"size": 64, "width": 4, "hint": "holes"}))
    torch.save({"generator": generator.state_dict()}, folder / "model.pt")
    return folder


@pytest.mark.parametrize("name", ["Generator", "normalize", "find_lines", "blur", "hint_in_use"])
def test_what_is_copied_from_training_is_the_same_word_for_word(name):
    assert inspect.getsource(getattr(demo, name)) == inspect.getsource(getattr(colorizer, name))
    assert (demo.BLUR, demo.VISIBLE) == (colorizer.BLUR, colorizer.VISIBLE)


def test_trainings_weights_paint_the_same_image_here(run_dir):
    generator, flags = load(run_dir)
    trained = colorizer.Generator(64, 4)
    trained.load_state_dict(torch.load(run_dir / "model.pt", weights_only=True)["generator"])
    torch.manual_seed(1)
    drawing, strokes = (torch.rand(1, 3, 64, 64) * 2 - 1 for _ in range(2))
    painted = paint(generator, flags["hint"], drawing, strokes)
    expected = colorizer.paint(trained, colorizer.find_lines(drawing), strokes, "holes")
    assert painted.std() > 0.1 and torch.allclose(painted, expected, atol=1e-5)
    assert not torch.allclose(paint(generator, flags["hint"], drawing, torch.ones_like(strokes)), painted, atol=0.01)


def test_images_of_all_kinds_become_squares_on_white():
    half = Image.new("RGBA", (100, 60), (255, 0, 0, 0))
    half.paste((255, 0, 0, 255), (0, 0, 50, 60))
    x = on_paper([half], 64)
    assert x.shape == (1, 3, 64, 64) and x[0, :, 30, 5].tolist() == [1, -1, -1] and (x[0, :, 30, 60] == 1).all()
    assert (on_paper([half, Image.new("RGB", (512, 512))], 64) == -1).all() and (on_paper([], 64) == 1).all()
    for mode in ("L", "1", "P", "CMYK"):
        assert on_paper([Image.new(mode, (20, 30))], 64).shape == (1, 3, 64, 64)


def test_the_page_is_for_this_machine_only(run_dir, monkeypatch):
    settings = {}
    monkeypatch.setattr("gradio.Blocks.launch", lambda page, **given: settings.update(given))
    serve(Args(model=run_dir))
    assert settings == {"server_name": "127.0.0.1"}


def test_a_folder_that_cannot_be_used_is_named(run_dir, tmp_path):
    with pytest.raises(UsageError, match="--model"):
        serve(Args(model=tmp_path / "nowhere"))
    for changed in ({"width": 8}, {"size": 128}):
        flags = {"size": 64, "width": 4, "hint": "holes"} | changed
        (run_dir / "args.json").write_text(json.dumps(flags))
        with pytest.raises(UsageError, match="--model"):
            load(run_dir)
    (run_dir / "model.pt").write_bytes(b"no model")
    with pytest.raises(UsageError, match="--model"):
        load(run_dir)


@pytest.mark.timeout(600)  # a browser that draws without a GPU takes its time on a busy machine
@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: Debian's chromium")
def test_a_stroke_of_colour_changes_what_the_page_paints(run_dir, tmp_path, monkeypatch):
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    shipped, calls = demo.paint, []
    monkeypatch.setattr(demo, "paint", lambda *given: calls.append((given[3], shipped(*given))) or calls[-1][1])
    app = make_page(*load(run_dir))
    _, url, _ = app.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True)
    assert url.startswith("http://127.0.0.1:")
    results = []
    try:
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1300, "height": 900})
            page.set_default_timeout(120_000)
            page.goto(url)
            canvas, result, source = page.locator("canvas").first, page.locator("#painted img"), ""
            canvas.wait_for()
            page.wait_for_timeout(1500)  # it answers a little after it is there
            for _ in range(2):
                page.get_by_role("button", name="Paint", exact=True).click()
                if source:
                    sync_api.expect(result).not_to_have_attribute("src", source, timeout=120_000)
                source = result.get_attribute("src")
                results.append(np.asarray(Image.open(io.BytesIO(page.request.get(source).body())), float))
                box = canvas.bounding_box()
                page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.4)
                page.mouse.down()
                page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.4, steps=10)
                page.mouse.up()
                page.wait_for_timeout(500)
            browser.close()
    finally:
        app.close()
    assert results[0].shape == (512, 512, 3) and np.abs(results[0] - results[1]).max() > 5
    strokes, painted = (((x[0] + 1) * 127.5) for x in calls[1])
    big = painted.permute(1, 2, 0).repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
    assert np.abs(results[1] - big).max() < 1
    assert (calls[0][0] == 1).all()  # white paper before the stroke
    red = (strokes[0] > 200) & (strokes[2] < 100)  # the brush's first colour
    y, x = red.nonzero().float().mean(0).tolist()
    assert 0.02 < red.float().mean() < 0.2 and (y, x) == pytest.approx((0.4 * 64, 0.5 * 64), abs=3)
