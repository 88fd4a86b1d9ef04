"""A classification problem with the shape of speech: frames in utterances, of speakers, with rare and frequent classes.

An utterance is a sequence of segments, each of one class and a few frames long. Classes are points in a space of
few dimensions, three of them close to each other as the states of a phone are, drawn with probabilities 1 / rank
(Zipf). A frame's point is that of its class, smoothed over its neighbours (coarticulation), plus noise that is
correlated in time. Features are a fixed non-linear function of the point and of the speaker, plus an offset of the
utterance and white noise, so that a linear classifier does worse than a network. The inputs are nine neighbouring
frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CLASSES, CONTEXT, FEATURES = 1973, 9, 40
_POINT, _SPEAKER, _HIDDEN = 16, 8, 64


@dataclass(frozen=True)
class Frames:
    inputs: Tensor
    labels: Tensor
    utterances: NDArray[np.int64]


def speech(frames: int, held_out: int, seed: int) -> tuple[Frames, Frames]:
    """About so many frames to train on and to hold out: whole utterances, of speakers of their own."""
    rng = np.random.default_rng([seed, 1973])
    world = _World(rng)
    parts: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
    counts = [0]
    while counts[-1] < frames + held_out:
        parts.append(world.utterance(rng))
        counts.append(counts[-1] + len(parts[-1][1]))
    inputs = np.concatenate([x for x, _ in parts])
    labels = np.concatenate([y for _, y in parts])
    utterances = np.repeat(np.arange(len(parts)), np.diff(counts))
    cut = counts[int(np.searchsorted(counts, frames))]
    mean, deviation = inputs[:cut].mean(0), inputs[:cut].std(0)
    inputs = (inputs - mean) / deviation
    return _frames(inputs, labels, utterances, 0, cut), _frames(
        inputs, labels, utterances, cut, len(labels)
    )


class _World:
    """What all utterances share."""

    def __init__(self, rng: np.random.Generator) -> None:
        prior = 1 / np.arange(1, CLASSES + 1)
        self._prior = prior / prior.sum()
        phones = rng.standard_normal((CLASSES // 3 + 1, _POINT))
        states = np.repeat(phones, 3, axis=0)[:CLASSES]
        states += 0.5 * rng.standard_normal(states.shape)
        self._points = states[rng.permutation(CLASSES)]
        inner = _POINT + _SPEAKER
        self._first = 1.5 * rng.standard_normal((inner, _HIDDEN)) / np.sqrt(inner)
        self._second = 2 * rng.standard_normal((_HIDDEN, FEATURES)) / np.sqrt(_HIDDEN)

    def utterance(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Inputs and labels of 60 to 800 frames."""
        length = int(np.clip(rng.gamma(4, 75), 60, 800))
        labels = np.repeat(rng.choice(CLASSES, length, p=self._prior), rng.integers(2, 6, length))[
            :length
        ]
        points = _smoothed(self._points[labels])
        noise = rng.standard_normal(points.shape)
        for t in range(1, length):
            noise[t] = 0.8 * noise[t - 1] + 0.6 * noise[t]
        speaker = np.tile(0.5 * rng.standard_normal(_SPEAKER), (length, 1))
        hidden = np.tanh(np.hstack([points + 0.5 * noise, speaker]) @ self._first)
        features = hidden @ self._second + 0.2 * rng.standard_normal(FEATURES)
        features += 0.15 * rng.standard_normal(features.shape)
        side = CONTEXT // 2
        padded = np.pad(features, ((side, side), (0, 0)), mode="edge")
        context = [padded[i : i + length] for i in range(CONTEXT)]
        return np.hstack(context).astype(np.float32), labels


def _smoothed(points: NDArray[np.float64]) -> NDArray[np.float64]:
    padded = np.pad(points, ((1, 1), (0, 0)), mode="edge")
    return (padded[:-2] + 2 * points + padded[2:]) / 4


def _frames(
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    utterances: NDArray[np.int64],
    begin: int,
    end: int,
) -> Frames:
    here = slice(begin, end)
    return Frames(torch.from_numpy(inputs[here]), torch.from_numpy(labels[here]), utterances[here])
