"""How times are taken: two sides alternate, so that disturbances affect both, and the median counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def side_by_side(
    first: Callable[[], int], second: Callable[[], int], seconds: float, device: torch.device, rounds: int = 5
) -> tuple[float, float]:
    """Median rates of two functions that alternate, so that disturbances affect both."""
    rates: tuple[list[float], list[float]] = ([], [])
    for function in (first, second):
        function()
    for _ in range(rounds):
        for own, function in zip(rates, (first, second), strict=True):
            own.append(rate(function, seconds / rounds, device))
    return statistics.median(rates[0]), statistics.median(rates[1])


def rate(function: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Images per second of a function that returns the number of images it processed."""
    function()
    synchronize(device)
    done, start = 0, time.perf_counter()
    while not done or time.perf_counter() - start < seconds:
        done += function()
        synchronize(device)
    return done / (time.perf_counter() - start)


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """The duration of one call in seconds, and its return value."""
    synchronize(device)
    start = time.perf_counter()
    value = function()
    synchronize(device)
    return time.perf_counter() - start, value


def in_turn(functions: dict[str, Callable[[], Any]], device: torch.device, rounds: int) -> dict[str, float]:
    """Shortest time of each function in seconds, over rounds in which all take their turn after a first one."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(1 + rounds):
        for name, function in functions.items():
            seconds, _ = timed(function, device)
            if round_number:
                times[name].append(seconds)
    return {name: min(own) for name, own in times.items()}


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, which works asynchronously."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
