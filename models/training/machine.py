"""Where models are trained: device, threads and number format."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from models.torch_device import find_device, prefers_bfloat16
from models.torch_loading import loading


@dataclass(frozen=True, slots=True)
class Machine:
    """A device and what it is good at."""

    device: str
    bfloat16: bool

    @classmethod
    def find(cls, device: str, threads: int) -> Machine:
        """The device of that name, or the best there is for training."""
        if threads:
            torch.set_num_threads(threads)
        wanted = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        found = find_device(wanted)
        return cls(str(found), prefers_bfloat16(found))

    @property
    def on_cpu(self) -> bool:
        return self.device == "cpu"

    @property
    def attention(self) -> dict[str, Any]:
        """How to open a model for training: single precision, and on a CPU the attention that is fastest there."""
        return {"attn_implementation": "eager" if self.on_cpu else "sdpa", "dtype": torch.float32}

    def open_frozen(self, folder: Path) -> SentenceTransformer:
        """An encoder that is only asked, in half precision where that is several times faster."""
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        with loading(str(folder), folder):
            model = SentenceTransformer(str(folder), device=self.device, model_kwargs={"dtype": dtype})
        return model.eval()

    def faster(self) -> torch.autocast:
        """A context in which a model in single precision computes in half."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.bfloat16)

    def describe(self) -> str:
        """For the model card."""
        format_ = "bfloat16" if self.bfloat16 else "float32"
        if self.on_cpu:
            return f"{torch.get_num_threads()} CPU threads ({platform.machine()}, {os.cpu_count()} cores), {format_}"
        return f"{torch.cuda.get_device_name(self.device)}, {format_}"
