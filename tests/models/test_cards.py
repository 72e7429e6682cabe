"""Several GPUs on one machine, simulated: processes take different ones, share when there are too few, and free them by ending."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from fgg.models import cards
from fgg.models.device import resolve
from fgg.pipeline import before_snakemake, environment

ROOT = Path(__file__).parents[2]
# A process that chooses among simulated cards, says its choice, and lives until its input ends.
CODE = """
import sys
from fgg.models import cards
cards.identities = lambda: sys.argv[1].split(",")
print(cards.choose(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The runtime folder of this test; this process has taken nothing, before and after."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(cards._Taken, "process", None)
    monkeypatch.setattr(cards._Taken, "card", 0)
    monkeypatch.setattr(cards._Taken, "token", None)
    return tmp_path


@pytest.fixture
def start(place):
    """Two functions: names of cards -> a process that chooses one; a process -> its choice."""
    running = []

    def begin(names: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, names],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        running.append(process)
        return process

    def chosen(process: subprocess.Popen) -> int:
        return int(process.stdout.readline())

    yield begin, chosen
    for process in running:
        process.kill()
        process.communicate()


FOUR = "GPU-a,GPU-b,GPU-c,GPU-d"


def test_four_processes_at_once_take_four_cards_and_a_fifth_shares(start):
    begin, chosen = start
    four = [begin(FOUR) for _ in range(4)]
    assert sorted(chosen(each) for each in four) == [0, 1, 2, 3]
    fifth = begin(FOUR)
    number = chosen(fifth)
    sixth = begin(FOUR)
    assert chosen(sixth) != number, "the least used card is shared"
    said = fifth.communicate("")[1]
    owner = next(each for each in four if f"process {each.pid}" in said)
    assert f"all 4 GPUs are in use; this process shares GPU {number} with process {owner.pid}." in said
    assert "--resources=gpu=4" in said


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_the_card_of_a_killed_process_is_free(start, sent):
    begin, chosen = start
    first, second = begin("GPU-a,GPU-b"), begin("GPU-a,GPU-b")
    numbers = [chosen(first), chosen(second)]
    assert sorted(numbers) == [0, 1]
    first.send_signal(sent)
    first.wait()
    third = begin("GPU-a,GPU-b")
    assert chosen(third) == numbers[0]
    assert third.communicate("")[1] == ""


def test_cards_are_told_apart_by_identity_and_not_by_number(start):
    """A process that sees cards c and d only, as its numbers 0 and 1, and one that sees all of them."""
    begin, chosen = start
    some = begin("MIG-c,GPU-d")
    assert chosen(some) == 0
    every = begin("GPU-a,MIG-c")
    assert chosen(every) == 0
    other = begin("MIG-c,GPU-a,GPU-e")
    assert chosen(other) == 2


def test_files_of_processes_that_are_gone_do_not_count(place, monkeypatch):
    folder = cards.runtime_folder()
    (folder / "GPU-a.0").write_text("999999999")
    (folder / "GPU-a.1").write_text(str(os.getpid()))
    monkeypatch.setattr(cards, "identities", lambda: ["GPU-a", "GPU-b"])
    assert cards.choose() == 0
    assert (folder / "GPU-a.0").read_text() == str(os.getpid())


def test_a_process_keeps_its_card_and_a_fork_takes_its_own(place, monkeypatch):
    monkeypatch.setattr(cards, "identities", lambda: ["GPU-a", "GPU-b"])
    assert [cards.choose(), cards.choose()] == [0, 0]
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, str(cards.choose()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    # The fork has inherited the open token of card 0, which stays taken.
    assert os.read(reading, 9) == b"1"


def test_a_program_that_is_started_does_not_inherit_the_token(place, monkeypatch):
    monkeypatch.setattr(cards, "identities", lambda: ["GPU-a", "GPU-b"])
    cards.choose()
    assert not os.get_inheritable(cards._Taken.token.fileno())


def test_one_card_needs_no_token(place, monkeypatch):
    monkeypatch.setattr(cards, "identities", lambda: ["GPU-a"])
    assert cards.choose() == 0
    assert cards._Taken.token is None and not list(place.iterdir())


@pytest.mark.parametrize("fault", ["file", "no locks", "another user"])
def test_without_tokens_the_process_decides_and_says_so(place, monkeypatch, capsys, fault):
    monkeypatch.setattr(cards, "identities", lambda: ["GPU-a", "GPU-b", "GPU-c"])
    if fault == "file":
        (place / "fgg-gpus").write_text("")
    elif fault == "no locks":

        def refuse(*_):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(cards.fcntl, "flock", refuse)
    else:
        monkeypatch.setattr(cards.os, "getuid", lambda: os.geteuid() + 1)
    assert cards.choose() == os.getpid() % 3
    said = capsys.readouterr().err
    assert said.startswith("note: no token for a GPU can be taken (") and f"takes GPU {os.getpid() % 3} of 3" in said


def test_a_job_on_the_cpu_takes_none(place, monkeypatch):
    monkeypatch.setattr(cards, "choose", lambda: pytest.fail("a card is chosen"))
    assert resolve("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve("auto") == torch.device("cpu")


def test_the_chosen_card_becomes_the_device(place, monkeypatch):
    used = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(cards, "choose", lambda: 2)
    assert resolve("auto") == resolve("cuda") == torch.device("cuda", 2)
    assert used == [2, 2]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, 3),
        ("", 0),
        ("-1", 0),
        ("0", 1),
        ("2,0", 2),
        ("GPU-1,MIG-2", 2),
        ("0,-1,1", 1),
        ("0,0", 1),
        (" 1 , 2 ", 2),
    ],
)
def test_cards_are_counted_without_cuda(tmp_path, monkeypatch, visible, expected):
    for name in ("nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert environment.cards(tmp_path) == expected


@pytest.mark.parametrize(
    ("options", "present", "expected"),
    [
        ({}, 4, "note: this machine has 4 GPUs"),
        ({"resources": {"gpu": 4}}, 2, "note: --resources=gpu=4, but this machine has 2"),
        ({"resources": {"gpu": 4}}, 4, None),
        ({"resources": {"gpu": 1}}, 4, None),
        ({}, 1, None),
        ({}, 0, None),
        ({"executor": "slurm"}, 4, None),
        ({"dryrun": True}, 4, None),
    ],
    ids=str,
)
def test_a_number_that_does_not_fit_is_told_before_jobs_run(monkeypatch, options, present, expected):
    monkeypatch.setattr(before_snakemake, "cards", lambda: present)
    said = before_snakemake._about_gpus(Namespace(**{"resources": {}, "executor": None, "dryrun": False, **options}))
    assert said is None if expected is None else said.startswith(expected)
