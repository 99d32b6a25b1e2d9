"""Options of training."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from psdiff_jax.diffusion.noise import DiffusionOptions
from psdiff_jax.diffusion.samplers import SamplerOptions
from psdiff_jax.errors import InputError
from psdiff_jax.models.psdiff import PSDiffOptions
from psdiff_jax.options import AT_LEAST_1, FRACTION, NOT_NEGATIVE, SEED, Need
from psdiff_jax.training.matcher import MatchOptions
from psdiff_jax.training.optimizer import OptimizerOptions
from psdiff_jax.training.states import NoiseOptions
from psdiff_jax.training.step import Recomputed

Part = Literal["backbone", "fpn", "cdl", "reid_backbone", "readout"]  # the modules of a PSDiff


@dataclass(frozen=True)
class TrainOptions(OptimizerOptions):
    """config.train."""

    batch_size: Annotated[int, AT_LEAST_1, "images per step, over all devices"] = 32
    accumulate: Annotated[
        int, AT_LEAST_1, "parts in which a batch is processed, one after the other; the gradient is the mean of theirs"
    ] = 1
    remat: Annotated[
        tuple[Recomputed, ...], "modules whose activations are computed again in the backward pass, to save memory"
    ] = ()
    shards: Annotated[
        int,
        NOT_NEGATIVE,
        "devices that share one copy of parameters and optimizer state; 0 = all, 1 = each has its own",
    ] = 1
    ema_decay: Annotated[float, FRACTION, "decay of the moving average of the weights; 0 = none"] = 0.0
    init_from: Annotated[str, ".npz of a whole PSDiff to start from"] = ""
    init_parts: Annotated[tuple[Part, ...], "modules taken from that file; () = all"] = ()
    readout_from: Annotated[
        str, ".npz of a run whose row read-out is taken, with the backbone that it reads; '' = none"
    ] = ""
    frozen: Annotated[tuple[Part, ...], "modules that are not trained"] = ()
    views: Annotated[
        int,
        NOT_NEGATIVE,
        "augmented views of a training image whose maps frozen backbones make once and keep on the disk; 0 = at every "
        "step, of ever new ones",
    ] = 0
    views_folder: Annotated[
        str, "folder for those maps, for all runs that need the same; '' = the run's own, deleted when training is done"
    ] = ""
    objective: Annotated[
        Literal["denoising", "readout"], "what is learned: PSDiff, or its row read-out alone, at the ground-truth boxes"
    ] = "denoising"
    closed_form: Annotated[bool, "start the row read-out from ridge regression (`training.closed_form`)"] = False
    log_every: Annotated[int, AT_LEAST_1, "steps between two log lines"] = 50
    checkpoint_every: Annotated[int, AT_LEAST_1, "steps between two checkpoints"] = 1_000
    image_every: Annotated[int, NOT_NEGATIVE, "steps between two TensorBoard images of predictions; 0 = none"] = 1_000
    skip_not_finite: Annotated[
        int, NOT_NEGATIVE, "steps of a run that may be left out for a loss or gradient that is not finite"
    ] = 0
    keep_checkpoints: Annotated[int, AT_LEAST_1, "checkpoints that are kept"] = 2

    def check(self, need: Need) -> None:
        super().check(need)
        need(self.batch_size % self.accumulate == 0, "accumulate", "must divide config.train.batch_size")
        for key in ("views", "remat"):
            need(not getattr(self, key) or self.objective == "denoising", key, "has no effect with objective='readout'")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides a training but its data."""

    seed: Annotated[int, SEED, "of weights, data order and noise"] = 0
    model: PSDiffOptions = field(default_factory=PSDiffOptions)
    diffusion: DiffusionOptions = field(default_factory=DiffusionOptions)
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    matching: MatchOptions = field(default_factory=MatchOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    sampler: SamplerOptions = field(default_factory=SamplerOptions)

    def check(self, need: Need) -> None:
        model, options = self.model, self.train
        trained = {"backbone", "fpn", "cdl"} if options.objective == "denoising" else set()
        if model.readout_rows:
            trained |= {"readout", "reid_backbone" if model.reid_backbone else "backbone"}
        if not trained - set(options.frozen):
            raise InputError(f"config.train.frozen={options.frozen}: leave one of {sorted(trained)} to train")
