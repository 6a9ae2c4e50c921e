"""Training that is interrupted, divided among workers, or stopped early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.activity.model import ActivityModel
from pipeline.training.fit import FitOptions, Fitting, Share, fit, spec_of
from pipeline.training.sequences import LabelledSequence
from tests.conftest import REPOSITORY

FRAME = ("frame",)
SMALL = FitOptions(hidden_dim=8, members=1, epochs=6, batch_size=8, input_dropout=0.2, dropout=0.2, max_steps=12)


def sequences(n: int = 40, seed: int = 0) -> list[LabelledSequence]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 20, n)
    return [
        LabelledSequence((rng.normal(0, 1, (t, 8)) + i % 3).astype(np.float16), np.full(t, i % 3))
        for i, t in enumerate(lengths)
    ]


def weights(model: ActivityModel) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def interrupt_after(last: int) -> Callable[[int, float], None]:
    def stop(epoch: int, _: float) -> None:
        if epoch == last:
            raise KeyboardInterrupt

    return stop


def test_other_data_of_the_same_size_begin_anew(tmp_path: Path) -> None:
    """Drawn more often, or of other inputs: neither goes on from the other's state."""
    first = sequences()
    often = [replace(each, draws=2) for each in first]
    others = [replace(each, inputs=each.inputs + np.float16(1)) for each in first]
    for number, data in enumerate((first, often, others)):
        epochs: list[int] = []
        fit(
            data,
            FRAME,
            3,
            replace(SMALL, epochs=2),
            lambda epoch, _, to=epochs: to.append(epoch),
            checkpoint=tmp_path / "x",
        )
        assert epochs == [1, 2], number


@pytest.mark.parametrize("head", ["lstm", "transformer"])
@pytest.mark.parametrize("last", [1, 4])
def test_taken_up_again_it_ends_with_the_same_weights(tmp_path: Path, head: str, last: int) -> None:
    """Also with dropout and crops: what is drawn follows from the epoch. Without the checkpoint, or with a generator
    that runs on through the epochs, the weights differ."""
    options = replace(SMALL, head=head)
    whole = fit(sequences(), FRAME, 3, options)
    checkpoint = tmp_path / "split"
    with pytest.raises(KeyboardInterrupt):
        fit(sequences(), FRAME, 3, options, interrupt_after(last), checkpoint=checkpoint)
    epochs: list[int] = []
    again = fit(sequences(), FRAME, 3, options, lambda epoch, _: epochs.append(epoch), checkpoint=checkpoint)
    assert epochs == list(range(last + 1, 7))
    assert torch.equal(weights(whole), weights(again))
    # What is finished is not trained again.
    fit(sequences(), FRAME, 3, options, interrupt_after(7), checkpoint=checkpoint)


def test_another_run_does_not_take_it_up(tmp_path: Path) -> None:
    checkpoint = tmp_path / "split"
    fit(sequences(), FRAME, 3, SMALL, checkpoint=checkpoint)
    for data, options in ((sequences(41), SMALL), (sequences(), replace(SMALL, seed=1))):
        epochs: list[int] = []
        fit(data, FRAME, 3, options, lambda epoch, _, seen=epochs: seen.append(epoch), checkpoint=checkpoint)  # type: ignore[misc]
        assert len(epochs) == 6


_KILLED = """
import sys
from pathlib import Path
from tests.training.test_fit import FRAME, SMALL, sequences, fit
def told(epoch, _):
    print(epoch, flush=True)
    sys.stdin.readline()
fit(sequences(), FRAME, 3, SMALL, told, checkpoint=Path(sys.argv[1]))
"""


def test_killed_it_goes_on(tmp_path: Path) -> None:
    """A real process and a real SIGKILL, in the midst of the fourth epoch or just before it."""
    checkpoint = tmp_path / "split"
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(checkpoint)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    assert process.stdin is not None
    assert process.stdout is not None
    while process.stdout.readline().strip() != b"3":
        process.stdin.write(b"\n")
        process.stdin.flush()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    epochs: list[int] = []
    again = fit(sequences(), FRAME, 3, SMALL, lambda epoch, _: epochs.append(epoch), checkpoint=checkpoint)
    assert epochs == [4, 5, 6]
    assert torch.equal(weights(again), weights(fit(sequences(), FRAME, 3, SMALL)))


def test_two_shares_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of two workers, averaged, are those of one that takes the whole batch (but for dropout)."""
    options = replace(SMALL, epochs=1, input_dropout=0.0, dropout=0.0, batch_size=7)
    spec = spec_of(sequences(), FRAME, 3, options)
    cpu = torch.device("cpu")
    # Clipping would make all gradients of one length.
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: None)
    gradients = []
    for shares in ([Share()], [Share(0, 2), Share(1, 2)]):
        parts = []
        for share in shares:
            fitting = Fitting(sequences(6), (), spec, options, share, device=cpu)
            # One batch, one step: what is left behind are its gradients.
            fitting.run_epoch()
            parts.append(torch.cat([p.grad.flatten() for p in fitting.model.parameters() if p.grad is not None]))
        gradients.append(sum(parts) / len(parts))
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-3, rtol=2e-2)


def test_it_stops_when_held_out_sequences_no_longer_gain() -> None:
    """Validation labels are those of the training set at first, then nonsense: the best is an early epoch."""
    rng = np.random.default_rng(3)
    nonsense = [LabelledSequence(s.inputs, np.full(len(s.label_ids), rng.integers(3))) for s in sequences(40, 1)]
    options = replace(SMALL, epochs=200, patience=2, learning_rate=1e-2)
    epochs: list[int] = []
    fitted = fit(sequences(), FRAME, 3, options, lambda epoch, _: epochs.append(epoch), nonsense)
    assert len(epochs) < 100
    # The best was kept, not the last.
    fitting = Fitting(sequences(), nonsense, spec_of(sequences(), FRAME, 3, options), options)
    for _ in range(epochs[-1] - 3):
        fitting.run_epoch()
    assert torch.equal(weights(fitted), weights(fitting.model.cpu()))


def test_of_several_networks_the_last_sees_motion_alone() -> None:
    """Trained from the same seeds, the others differ if the picture is another; that one does not."""
    drawn = sequences()
    elsewhere = [replace(each, inputs=np.concatenate([each.inputs[::-1, :4], each.inputs[:, 4:]], 1)) for each in drawn]
    models = [fit(of, ("crop", "crop_change"), 3, replace(SMALL, members=3, epochs=1)) for of in (drawn, elsewhere)]
    assert models[0].spec.views == ("all", "all", "motion")
    same = [
        all(torch.equal(a, b) for a, b in zip(*(m.members[n].parameters() for m in models), strict=True))
        for n in range(3)
    ]
    assert same == [False, False, True]
