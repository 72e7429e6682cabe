"""Progress: what a log and a terminal get to see."""

import io

import pytest
import torch
from terminals import Clock, Terminal

from fgg import progress as module
from fgg.progress import Progress, batches, duration, progress


def test_a_log_gets_whole_lines_and_not_too_many():
    out, clock = io.StringIO(), Clock()
    with Progress([], 1000, "attribution", stream=out, clock=clock) as bar:
        for _ in range(100):
            clock.now += 1
            bar.update(10)
    lines = out.getvalue().splitlines()
    assert "\r" not in out.getvalue()
    assert lines[0] == "attribution: 150 of 1000 images (15 %), 10 images/s, 1:25 min left"
    assert len(lines) == 1 + 99 // 15, "a line every 15 s, and the last"
    assert lines[-1] == "attribution: 1000 images in 1:40 min, 10 images/s"


def test_a_long_job_says_less_often():
    out, clock = io.StringIO(), Clock()
    with Progress([], 100_000, "training", stream=out, clock=clock) as bar:
        for _ in range(36_000):
            clock.now += 1
            bar.update(2)
    lines = out.getvalue().splitlines()
    assert 100 < len(lines) < 300 and lines[-1].endswith("in 10:00 h, 2 images/s")


def test_a_quick_loop_says_one_line():
    out = io.StringIO()
    assert list(Progress("abc", 3, "training", "epoch", stream=out, clock=Clock())) == ["a", "b", "c"]
    assert out.getvalue() == "training: 3 epochs in 0.0 s\n", "no time has passed, so there is no rate"


def test_downloads_count_megabytes():
    out, clock = io.StringIO(), Clock()
    with Progress([], 80_000_000, "weights", "byte", stream=out, clock=clock) as bar:
        clock.now += 20
        bar.update(20_000_000)
        clock.now += 60
        bar.update(60_000_000)
    assert out.getvalue().splitlines() == [
        "weights: 20.0 of 80.0 MB (25 %), 1.0 MB/s, 1:00 min left",
        "weights: 80.0 MB in 1:20 min, 1.0 MB/s",
    ]


def test_a_total_that_is_told_later():
    out, clock = io.StringIO(), Clock()
    with Progress([], 0, "weights", "byte", stream=out, clock=clock) as bar:
        clock.now += 20
        bar.update(20_000_000)
        bar.total = 40_000_000
        clock.now += 20
        bar.update(10_000_000)
        bar.update(10_000_000)
    assert out.getvalue().splitlines() == [
        "weights: 20.0 MB, 1.0 MB/s",
        "weights: 30.0 of 40.0 MB (75 %), 0.8 MB/s, 13 s left",
        "weights: 40.0 MB in 40 s, 1.0 MB/s",
    ]
    terminal = Terminal()
    with Progress([], 0, "weights", "byte", stream=terminal) as bar:
        bar.update(5_000_000)
        bar.total = 20_000_000
    assert "5.00M/20.0M" in terminal.getvalue()


def test_a_failed_loop_does_not_claim_to_be_done():
    out = io.StringIO()
    with pytest.raises(RuntimeError), Progress([], 5, "training", stream=out, clock=Clock()):
        raise RuntimeError
    assert out.getvalue() == ""


def test_a_terminal_gets_a_bar_with_rate_and_remaining_time():
    out = Terminal()
    with Progress([], 10, "responses", stream=out) as bar:
        bar.update(4)
        bar._bar.refresh()
    assert "responses:" in out.getvalue() and "4/10" in out.getvalue() and "images/s" in out.getvalue()
    assert out.getvalue().count("\n") == 1, "one line that is redrawn"


def test_batches_cover_everything_once(capsys):
    assert [list(range(10))[part] for part in batches(10, 4, "x")] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert capsys.readouterr().err.startswith("x: 10 images in ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.4, "59 s"), (59.97, "1:00 min"), (185, "3:05 min"), (3599.6, "1:00 h"), (7440, "2:04 h")],
)  # fmt: skip
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_training_reports_images_and_leaves_no_bar_of_sae_lens(capfd, monkeypatch):
    from sae_lens.training import sae_trainer

    from fgg.models import training
    from fgg.saes import build_sae

    monkeypatch.setattr(module, "SECONDS", 0.0)
    theirs = sae_trainer.tqdm
    rows = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    settings = {"architecture": "topk", "k": 2, "l1": 1.0, "expansion": 2, "tokens": 640, "batch_size": 64,
                "learning_rate": 1e-3, "normalize": "expected_average_only_in"}  # fmt: skip
    build_sae.train(rows, settings, 0)
    said = capfd.readouterr().err
    assert "SAE training: 640 tokens in " in said
    assert "\r" not in said and "Training SAE" not in said
    assert sae_trainer.tqdm is theirs

    settings = {"epochs": 2, "batch_size": 4, "patch_drop": 0.0, "drop_path": 0.0, "learning_rate": 1e-3, "weight_decay": 0.1,
                "warmup": 0.1, "full_epochs": 1, "label_smoothing": 0.1, "flips": False, "shift": 0, "contrast": 0}  # fmt: skip
    kwargs = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    training.train("vit_tiny_patch16_224", kwargs, torch.randn(9, 3, 16, 16), torch.arange(9) % 2, 2, settings, 0)
    said = capfd.readouterr().err
    assert "training: 16 images in " in said and "training: 4 of 16 images (25 %), " in said


def test_progress_keeps_its_stream(capsys):
    with progress([], 1, "x") as bar:
        bar.update()
    assert capsys.readouterr().out == ""
