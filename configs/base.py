"""Every key with its default: the paper's setting (section V-A3). Each experiment starts from this and changes a few.

This file is no experiment of its own: it names no dataset folder.
"""

from ml_collections import ConfigDict

# The keys of config.model in which a named model differs from the defaults below (docs/decisions.md).
PRESETS = {
    "default": {},  # the paper's but for the cascade, which measured better so (docs/results.md)
    "paper": {"cascade": "paper"},  # 31 M parameters with ResNet-50
    "wide": {"dynamic_width": 64, "pool": "flatten", "proposal_attention": True},  # for accuracy beyond the paper
}


def get_config(preset: str = "default") -> ConfigDict:
    """The defaults with the model of a preset; `--config configs/base.py:wide` passes the name."""
    if preset not in PRESETS:
        raise ValueError(f"configs/base.py has no preset {preset!r}; there are {', '.join(PRESETS)}")
    config = ConfigDict()
    config.seed = 0
    config.distributed = False  # pods: join the other processes (jax.distributed finds SLURM, Kubernetes and TPU VMs)
    config.cpu_devices = 0  # virtual devices when there is no accelerator; 0 = one for each core

    config.data = ConfigDict(
        {
            "name": "prw",  # a name in psdiff_jax.data.records.BUILDERS, or module:Class
            "root": "",  # the folder with the user's data
            "prepared_dir": "~/psdiff_data",  # where prepared datasets are kept
            "builder": ConfigDict({}, convert_dict=True),  # options of the builder
            "image_size": (800, 1333),  # (height, width) that photographs are fitted into
            "max_boxes": 64,
            "held_out": 0.0,  # share of the training photographs kept out of training, to choose the search threshold on
            "workers": 0,  # reading processes; 0 = threads
            "threads": 0,  # reading threads; 0 = one a core
            "cache": False,  # keep resized photographs in memory
            "augment": {"flip": True, "scale_jitter": (1.0, 1.0), "color": 0.0},
        }
    )
    config.data.builder.unlock()

    # Keys of the teacher are those of psdiff_jax.teacher.options.TeacherOptions.
    config.teacher = ConfigDict(
        {
            "kind": "trained",  # trained, network, onnx, file
            "file": "",
            "folder": "",
            "backbone": "resnet50",
            "init_from": "",
            "crop_size": (256, 128),
            "steps": 20_000,
            "embedding_dim": 256,
            "people": 16,
            "crops_per_identity": 16,
            "unlabelled": 32,
            "negatives": 1024,
            "learning_rate": 3.5e-4,
            "warmup_steps": 100,
            "schedule": "step",
            "decay_at": (0.4, 0.8),
            "weight_decay": 5e-4,
            "temperature": 0.05,
            "momentum": 0.1,
            "hard_weight": 0.5,
            "flip": True,
            "pad": 0.04,
            "erase": 0.5,
            "jitter": 0.0,
            "pooling": "avg",
            "bfloat16": False,
            "freeze_statistics": False,
            "log_every": 50,
            "checkpoint_every": 500,
            "preprocessing": "imagenet",
            "whiten": False,
        }
    )

    config.model = ConfigDict(
        {
            "backbone": "resnet50",  # a name in psdiff_jax.models.backbones.SPECS
            "backbone_weights": "",  # see psdiff_jax.convert.backbone: .pth/.safetensors/.npz; "teacher" = the teacher's
            "dim": 256,
            "embedding_dim": 256,
            "side": 7,
            "heads": 8,
            "dynamic_width": 8,
            "self_attention": True,
            "dynamic_conv": True,
            "cross_attention": True,
            "cascade": "residual",  # paper, residual, parallel
            "pool": "mean",  # mean, flatten
            "proposal_attention": False,
            "time_dim": 768,
            "towers": 1,
            "num_cdl": 1,
            "sampling_ratio": 2,
            "canonical_size": 224.0,
            "roi_backend": "auto",  # auto, gather, matmul
            "dtype": "bfloat16",
        }
        | PRESETS[preset]
    )

    config.diffusion = ConfigDict({"timesteps": 1000, "box_snr_scale": 2.0, "embedding_snr_scale": 3.0})

    config.noise = ConfigDict(
        {
            "slots": 300,  # N_train
            "random_fraction": 0.25,
            "rollout_probability": 0.5,
            "gt_box_proposals": 1,
            "one_step": False,  # no diffusion: the plain distillation of Table VI, evaluated in one step
        }
    )

    config.matching = ConfigDict(
        {"rule": "simota", "cls": 2.0, "l1": 5.0, "giou": 2.0, "reid": 5.0, "candidates": 5, "centre_radius": 2.5}
    )

    config.train = ConfigDict(
        {
            "steps": 90_000,
            "batch_size": 32,
            "learning_rate": 2.5e-5,
            "weight_decay": 1e-4,
            "warmup": 1_000,
            "schedule": "step",  # step (the paper's: /10 at 70/90 and 84/90), cosine, constant
            "clip_norm": 1.0,
            "backbone_scale": 1.0,  # learning rate of the backbone, relative
            "ema_decay": 0.0,  # 0 = no moving average
            "init_from": "",  # .npz of a whole PSDiff to go on from
            "init_parts": (),  # only these modules of that file (backbone, fpn, cdl); () = all of them
            "frozen": (),  # modules that are not trained
            "log_every": 50,
            "checkpoint_every": 1_000,
            "image_every": 1_000,  # TensorBoard pictures of predictions
            "keep_checkpoints": 2,
        }
    )

    config.sampler = ConfigDict(
        {
            "slots": 300,  # N_test
            "solver": "ddim",  # ddim, dpm (DPM-Solver), dpm++ (DPM-Solver++)
            "eta": 1.0,  # randomness of ddim; the others are deterministic and do not look at it
            "order": 2,  # 1, 2, 3: of dpm and dpm++
            "renewal_threshold": 0.1,
            "time_power": 1.0,  # 1 = evenly spaced times
            "ensemble": False,  # pool the predictions of all steps before NMS
            "nms_threshold": 0.5,
        }
    )

    config.evaluate = ConfigDict(
        {
            "steps": (1, 2, 4, 8),
            "batch_size": 8,
            "query": "pin",  # pin, match
            "detection_threshold": 0.01,
            "search_threshold": 0.5,
            "calibrate": True,  # where data.held_out holds photographs out, the threshold is chosen on them instead
            "protocols": ("whole",),  # see psdiff_jax.evaluation.protocols
            "reranking": (),  # scored beside the plain similarities: cws, cbgm:30,4, cws+cbgm:10,3
            "seeds": (),  # seeds of the sampler, for a mean and standard deviation; () = config.seed
            # the dataset to evaluate on, where it is not the one trained on: name, root and builder as in config.data
            "data": {"name": "", "root": "", "builder": ConfigDict({}, convert_dict=True)},
            "max_detections": 100,  # kept a photograph
            "strips": 2,  # best, median and worst queries in the report, of each
        }
    )
    config.evaluate.data.builder.unlock()
    return config
