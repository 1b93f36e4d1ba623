"""What a training works with, set up the same way for all kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

import torch
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.trainer import BaseTrainer

from models.training.backbone import Base
from models.training.card import Account, Report, write_card
from models.training.judge import Metrics
from models.training.machine import Machine
from models.training.run import Plan, Run
from models.training.settings import RunSettings, TrainingSettings
from models.training.trainer import Fitted, arguments, fit
from models.training.watch import Watch

Settings = TypeVar("Settings", bound=RunSettings)
Trained = TypeVar("Trained", bound=TrainingSettings)

What = Literal["encoder", "head", "reranker"]


@dataclass(frozen=True, slots=True)
class Bench(Generic[Settings]):
    """A run, the model it starts from, the machine it has, and whoever watches."""

    run: Run
    base: Base
    machine: Machine
    settings: Settings
    watch: Watch

    @classmethod
    def set_up(
        cls,
        what: What,
        pairs: Path,
        output: Path,
        settings: Settings,
        watch: Watch,
        others: Mapping[str, str] = MappingProxyType({}),
    ) -> Bench[Settings]:
        """Finds the base and the machine, and refuses what can't end well before any work is done.

        Other models that have a part in it are given with their fingerprints, by that part and their names.
        """
        machine = Machine.find(settings.device, settings.threads)
        base = Base.find(settings, "reranker" if what == "reranker" else "encoder")
        plan = Plan.of(f"train {what}", [pairs], {base.name: base.fingerprint, **others}, settings)
        run = Run(output, plan)
        torch.manual_seed(settings.seed)
        return cls(run, base, machine, settings, watch)

    def judge_base(self, judge: BaseEvaluator | None, model: Any) -> Metrics:
        """What the base model is worth before any training."""
        if judge is None:
            return {}
        self.watch.say("Judging the base model by the held-out queries.")
        found: Metrics = self.run.once("before", lambda: judge(model))
        return found

    def arguments(self: Bench[Trained], judge: BaseEvaluator | None) -> dict[str, Any]:
        """What the trainer is told whichever its kind."""
        metric = f"eval_{judge.primary_metric}" if judge else None
        return arguments(self.run, self.settings, self.machine, metric)

    def fit(self: Bench[Trained], trainer: BaseTrainer) -> Fitted:
        """Trains until done, stopped, or out of time."""
        return fit(trainer, self.run, self.settings, self.watch)

    def finish(self, write: Callable[[Path], Metrics], account: Account, before: Metrics, fitted: Fitted) -> Report:
        """Has the model written and judged as written, gives it its card, and puts it in its place."""

        def complete(folder: Path) -> Report:
            report = Report(
                self.run.output, self.run.plan, self.machine.describe(), account, before, write(folder), fitted
            )
            write_card(folder, report)
            return report

        return self.run.finish(complete)
