"""Detectors of PyTorch with a ResNet-50 and random weights, of the same size: what is installed of them.

torchvision's Faster R-CNN, or else transformers' DETR and RT-DETR. They find no embeddings: a person-search model does
all that they do, and more.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from benchmarks.psdiff import PEOPLE, Setting
from benchmarks.timing import Contestant, Ready

LEARNING_RATE = 1e-5


def contestants(setting: Setting, compiled: bool) -> Iterator[Contestant]:
    """Inference and training of each detector. compiled: inference under `torch.compile`, too."""
    for name, make in detectors().items():
        ways = {"eager": False, "torch.compile": True} if compiled else {"eager": False}
        for way, with_compiler in ways.items():
            call = partial(inference, setting, make, with_compiler)
            yield Contestant("inference", f"{name}, {way}", setting.images, call)
        yield Contestant("training", f"{name}, eager", setting.images, partial(training, setting, make))


def detectors() -> dict[str, Callable[[Setting], Any]]:
    """{name: function of a setting that makes the detector's adapter}; {} without PyTorch."""
    has = {name for name in ("torch", "torchvision", "transformers") if importlib.util.find_spec(name)}
    if {"torch", "torchvision"} <= has:
        return {"Faster R-CNN R50-FPN (torchvision)": FasterRCNN}
    if {"torch", "transformers"} <= has:
        return {"DETR R50 (transformers)": DETR, "RT-DETR R50 (transformers)": RTDETR}
    return {}


class Adapter:
    """A detector with inputs: `predict` and `loss`, without arguments."""

    def __init__(self, network: Any, setting: Setting):
        import torch

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        # bfloat16 by autocast on a GPU; this CPU's PyTorch is faster in float32 unless it has the instructions.
        half = setting.config.model.dtype == "bfloat16" and self.device == "cuda"
        self.cast = partial(torch.autocast, self.device, torch.bfloat16, enabled=half)
        self.network = network.to(self.device, memory_format=torch.channels_last)
        batch, (height, width) = setting.batch(), setting.size
        images = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).to(self.device).float() / 255
        self.images = images.contiguous(memory_format=torch.channels_last)
        boxes = batch["boxes"][:, :PEOPLE]
        boxes = np.concatenate([boxes[..., :2], np.maximum(boxes[..., 2:], boxes[..., :2] + 1)], -1)
        self.boxes = torch.from_numpy(boxes).to(self.device)
        self.scale = torch.tensor([width, height, width, height], device=self.device)

    def predict(self) -> Any:
        return self.network(pixel_values=self.images)

    def loss(self) -> Any:
        import torch

        corner, end = self.boxes.split(2, -1)
        boxes = torch.cat([(corner + end) / 2, end - corner], -1) / self.scale
        labels = [{"class_labels": torch.zeros(len(b), dtype=torch.long, device=b.device), "boxes": b} for b in boxes]
        return self.network(pixel_values=self.images, labels=labels).loss


class DETR(Adapter):
    """Carion et al. 2020: R50, six layers each way, 100 queries."""

    backbone: Mapping[str, Any] = {}  # other sizes than the paper's
    transformer: Mapping[str, Any] = {}

    def __init__(self, setting: Setting):
        transformers: Any = importlib.import_module("transformers")
        config = transformers.DetrConfig(
            backbone_config=transformers.ResNetConfig(out_features=["stage4"], **self.backbone),
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            num_labels=1,
            **self.transformer,
        )
        super().__init__(transformers.DetrForObjectDetection(config), setting)


class RTDETR(Adapter):
    """Zhao et al. 2024: R50-vd, three levels, 300 queries; images padded to what its strides divide."""

    def __init__(self, setting: Setting):
        import torch

        transformers: Any = importlib.import_module("transformers")
        super().__init__(transformers.RTDetrForObjectDetection(transformers.RTDetrConfig(num_labels=1)), setting)
        missing = [-side % 32 for side in setting.size]
        padded = torch.nn.functional.pad(self.images, (0, missing[1], 0, missing[0]))
        self.images = padded.contiguous(memory_format=torch.channels_last)
        height, width = padded.shape[2:]
        self.scale = torch.tensor([width, height, width, height], device=self.device)


class FasterRCNN(Adapter):
    """Ren et al. 2015 with a feature pyramid."""

    def __init__(self, setting: Setting):
        models: Any = importlib.import_module("torchvision.models.detection")
        low, high = min(setting.size), max(setting.size)
        network = models.fasterrcnn_resnet50_fpn(
            weights=None, weights_backbone=None, num_classes=2, min_size=low, max_size=high, trainable_backbone_layers=5
        )
        super().__init__(network, setting)

    def predict(self) -> Any:
        return self.network(list(self.images))

    def loss(self) -> Any:
        import torch

        labels = [{"boxes": b, "labels": torch.ones(len(b), dtype=torch.long, device=b.device)} for b in self.boxes]
        return sum(self.network(list(self.images), labels).values())


def inference(setting: Setting, make: Callable[[Setting], Adapter], compiled: bool) -> Ready:
    import torch

    adapter = make(setting)
    adapter.network.eval()
    if compiled:
        adapter.network = torch.compile(adapter.network)

    def run() -> None:
        with torch.inference_mode(), adapter.cast():
            adapter.predict()
        finish(adapter.device)

    return with_peak(run, adapter.device, first=compiled)


def training(setting: Setting, make: Callable[[Setting], Adapter]) -> Ready:
    import torch

    adapter = make(setting)
    adapter.network.train()
    optimizer = torch.optim.AdamW(adapter.network.parameters(), LEARNING_RATE)

    def run() -> None:
        optimizer.zero_grad()
        with adapter.cast():
            loss = adapter.loss()
        loss.backward()
        optimizer.step()
        finish(adapter.device)

    return with_peak(run, adapter.device)


def finish(device: str) -> None:
    """Waits for a GPU."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def with_peak(run: Callable[[], None], device: str, first: bool = False) -> Ready:
    """On a GPU the peak is the allocator's, of a first run; `first`: that run compiles, and is timed."""
    import torch

    started, peak = time.perf_counter(), None
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    if first or device == "cuda":
        run()
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    return Ready(run, time.perf_counter() - started if first else None, peak)
