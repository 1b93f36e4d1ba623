"""sentence-transformers' trainers, made to stop and go on at any step and to tell where they stand."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoderTrainer, SentenceTransformerTrainer
from sentence_transformers.base.trainer import BaseTrainer
from torch import nn
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from models.training.errors import Interrupted, TrainingError
from models.training.machine import Machine
from models.training.run import ROOM, Run, write_whole
from models.training.settings import TrainingSettings
from models.training.watch import Watch

LOSS_FILE = "loss.safetensors"
STATE_FILE = "trainer_state.json"


UNTOLD = frozenset({"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"})


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a training went through."""

    curve: list[dict[str, float]]
    seconds: float
    steps: int
    best: int | None
    """The step whose weights were kept, where there was something to judge them by."""

    def told(self, machine: str) -> str:
        kept = f"; the weights of step {self.best:,} were kept" if self.best else ""
        return f"{self.steps:,} steps in {self.seconds / 60:.1f} minutes on {machine}{kept}."


class _WholeCheckpoints(BaseTrainer):
    """Keeps what the loss has learned beside the model, which the library forgets, and leaves cards to us."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: it would spend a while on examples for a card that nobody gets."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = output_dir or str(self.args.output_dir)
        self.model.save_pretrained(folder, create_model_card=False)
        save_file(self._learned_by_loss(), Path(folder) / LOSS_FILE)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except (RuntimeError, SafetensorError) as error:  # what the libraries say of a full disk, which is no OSError
            reason = str(error).splitlines()[0]
            raise TrainingError(f"A checkpoint can't be written to {self.args.output_dir}: {reason}. {ROOM}") from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint)
        self._loss.load_state_dict(load_file(Path(resume_from_checkpoint) / LOSS_FILE), strict=False)

    @property
    def _loss(self) -> nn.Module:
        return cast(nn.Module, self.loss)

    def _learned_by_loss(self) -> dict[str, torch.Tensor]:
        return {name: value.detach() for name, value in self._loss.named_parameters(recurse=False)}


class EncoderTrainer(_WholeCheckpoints, SentenceTransformerTrainer):
    """Trains a bi-encoder."""


class RerankerTrainer(_WholeCheckpoints, CrossEncoderTrainer):
    """Trains a cross-encoder."""


class Pace(TrainerCallback):
    """Decides after each step whether to judge, to save or to stop, and tells the watcher."""

    def __init__(self, run: Run, settings: TrainingSettings, watch: Watch) -> None:
        self._clock = run.folder / "seconds.json"
        self._spent = json.loads(self._clock.read_text()) if self._clock.exists() else 0.0
        self._began = monotonic()
        self._settings = settings
        self._watch = watch
        self._limit = settings.minutes * 60 or float("inf")
        self.asked_to_stop = False
        self.interrupted = False

    @property
    def seconds(self) -> float:
        """How long it has taken, the time before an interruption included."""
        return float(self._spent + monotonic() - self._began)

    @property
    def over(self) -> bool:
        """Whether there is no time left."""
        return self.seconds > self._limit

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._watch.advance("training", state.global_step, state.max_steps)
        if state.epoch == int(state.epoch) or state.global_step == state.max_steps:
            return  # the end of an epoch judges and saves by itself
        self.interrupted = self.asked_to_stop
        settings, step = self._settings, state.global_step
        judges = bool(settings.held_out and settings.evaluate_every) and step % settings.evaluate_every == 0
        saves = judges or self.interrupted or step % settings.checkpoint_every == 0
        control.should_evaluate |= judges
        control.should_save |= saves
        control.should_log |= saves
        control.should_training_stop |= self.interrupted or self.over

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.interrupted:  # saved already, and nothing ended
            control.should_evaluate = control.should_save = False

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        name = args.metric_for_best_model
        self._watch.say(f"step {state.global_step}: {name.removeprefix('eval_')} {more['metrics'][name]:.4f}")

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        write_whole(self._clock, json.dumps(self.seconds))

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **more: Any) -> None:
        logs = more.get("logs") or {}
        if "loss" in logs:
            self._watch.say(f"step {state.global_step} of {state.max_steps}: loss {logs['loss']:.4f}")


def arguments(run: Run, settings: TrainingSettings, machine: Machine, metric: str | None) -> dict[str, Any]:
    """What both trainers are told alike; without a metric there is nothing held out to judge by."""
    rhythm = "epoch" if metric else "no"
    return {
        "output_dir": str(run.folder / "checkpoints"),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.steps,
        "lr_scheduler_type": "cosine",
        "bf16": machine.bfloat16,
        "use_cpu": machine.on_cpu,
        "seed": settings.seed,
        "logging_steps": 10,
        "logging_first_step": True,
        "eval_strategy": rhythm,
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "load_best_model_at_end": metric is not None,
        "metric_for_best_model": metric,
        "greater_is_better": True if metric else None,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": not machine.on_cpu,
    }


def on_one_device(arguments: Any) -> Any:
    """Keeps the trainer from spreading a batch over all GPUs: these losses know one."""
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def fit(trainer: BaseTrainer, run: Run, settings: TrainingSettings, watch: Watch) -> Fitted:
    """Trains to the end from wherever the run stands; leaves the best weights in the model."""
    pace = Pace(run, settings, watch)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(pace)
    checkpoint = last_checkpoint(run.folder / "checkpoints")
    if checkpoint:
        watch.say(f"Going on from step {checkpoint.name.rpartition('-')[2]}.")
    with _polite(pace):
        if checkpoint and (pace.over or _is_last(checkpoint)):
            _conclude(trainer, checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    state = trainer.state
    if pace.interrupted:
        place = f"Stopped after step {state.global_step} of {state.max_steps}"
        raise Interrupted(f"{place}. Run the same command again to go on from there.")
    return Fitted(_curve(state.log_history), pace.seconds, state.global_step, state.best_global_step)


def _is_last(checkpoint: Path) -> bool:
    """Whether all was trained, and what came after was interrupted: the library would train one step more."""
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    return bool(state.global_step >= state.max_steps)


def _conclude(trainer: BaseTrainer, checkpoint: Path) -> None:
    """Leaves in the model what a checkpoint holds, or the best before, as at the end of a training."""
    state = trainer.state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
    trainer._load_from_checkpoint(str(checkpoint))
    metric = trainer.args.metric_for_best_model
    if metric is None:
        return
    judged = any(metric in entry and entry["step"] == state.global_step for entry in state.log_history)
    value = None if judged else trainer.evaluate()[metric]
    if value is not None and (state.best_metric is None or value > state.best_metric):
        state.best_global_step = state.global_step
    elif state.best_model_checkpoint:
        trainer._load_from_checkpoint(state.best_model_checkpoint)


def _curve(history: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """One row a step that anything is known of."""
    rows: dict[float, dict[str, float]] = {}
    for entry in history:
        if "train_runtime" not in entry:
            kept = {name.removeprefix("eval_"): value for name, value in entry.items() if name not in UNTOLD}
            rows.setdefault(entry["step"], {"step": entry["step"]}).update(kept)
    return list(rows.values())


def last_checkpoint(folder: Path) -> Path | None:
    """The newest that was written to its end."""
    steps = {int(each.name.rpartition("-")[2]): each for each in folder.glob("checkpoint-*") if _is_whole(each)}
    return steps[max(steps)] if steps else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        return "global_step" in json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


@contextmanager
def _polite(pace: Pace) -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM wait for the end of a step; asked twice, gives up at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: Any) -> None:
        if pace.asked_to_stop:
            raise KeyboardInterrupt
        pace.asked_to_stop = True

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
