"""A diffusion model as a Diffusers folder: `DDPMPipeline.from_pretrained` loads it, and so does the sampler here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.utils import logging as diffusers_logging

from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_json
from workflow_scripts.diffusion.process import linear_range, schedule_betas
from workflow_scripts.diffusion.unet import IMAGE_CHANNELS, OUTPUT_CHANNELS

MARKER = "model_index.json"
MOST_TIMESTEPS = 100_000
LARGEST_SIDE = 1024  # of views, as data.size
BETA_SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
# The keys of a scheduler's config that describe the process of process.py.
SCHEDULER_MUST_BE = {
    "prediction_type": "epsilon",
    "variance_type": "learned_range",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "rescale_betas_zero_snr": False,
}


def refuse_foreign_folder(path: Path) -> None:
    """Raise UserError if writing a model to `path` would replace something that is not a model."""
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / MARKER).is_file()):
        raise UserError(f"{path} exists and is not a diffusion model; name another --output-model or move it away")


def save_pipeline(unet: UNet2DModel, timesteps: int, schedule: str, path: Path) -> None:
    """Write network and schedule (`cosine` or `linear`) as a `DDPMPipeline` folder, weights as safetensors."""
    beta_start, beta_end = linear_range(timesteps) if schedule == "linear" else (0.0001, 0.02)
    scheduler = DDPMScheduler(
        num_train_timesteps=timesteps,
        beta_schedule=BETA_SCHEDULES[schedule],
        beta_start=beta_start,
        beta_end=beta_end,
        # The default, `leading`, would sample other timesteps than those that sample_shard keeps.
        timestep_spacing="linspace",
        **SCHEDULER_MUST_BE,
    )
    DDPMPipeline(unet, scheduler).save_pretrained(path)


def load_pipeline(path: Path) -> tuple[UNet2DModel, np.ndarray]:
    """The network (in evaluation mode, on CPU) and the float64 (T,) betas of a model folder.

    UserError if the folder does not hold one, or its model is not grey, of learned-range variance, and unconditional or
    conditioned on classes that it names.
    """
    if not (path / MARKER).is_file():
        raise UserError(f"{path} is not a Diffusers folder (it has no {MARKER})")
    diffusers_logging.set_verbosity(diffusers_logging.CRITICAL)  # errors are reported below
    try:
        scheduler = read_json(path / "scheduler" / "scheduler_config.json")
        unet, loading = UNet2DModel.from_pretrained(
            path / "unet", local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False,
            output_loading_info=True,
        )  # fmt: skip
    except Exception as error:  # a damaged config or file makes Diffusers fail in any way
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise UserError(
            f"{path} does not load as a DDPMPipeline with a UNet2DModel; its files may be truncated or of another "
            f"architecture: {reason}"
        ) from error
    if not isinstance(scheduler, dict):
        raise UserError(f"{path}: scheduler/scheduler_config.json is not a scheduler's config")
    for problem, keys in (("lack", loading["missing_keys"]), ("have more than", loading["unexpected_keys"])):
        if keys:  # Diffusers would fill gaps at random
            raise UserError(
                f"{path}: the weights {problem} what unet/config.json describes ({len(keys)} tensors, the first: "
                f"{sorted(keys)[0]}); they are of another architecture"
            )
    for key, value in SCHEDULER_MUST_BE.items():
        # A model folder may leave a key out; then its DDPMScheduler has the library's default.
        given = scheduler.get(key, getattr(DDPMScheduler().config, key))
        if given != value:
            raise UserError(f"{path}: the scheduler has {key} {given!r}; models are sampled here with {value!r} only")
    channels = (unet.config.in_channels, unet.config.out_channels)
    if channels != (IMAGE_CHANNELS, OUTPUT_CHANNELS):
        raise UserError(
            f"{path}: the network maps {channels[0]} channels to {channels[1]}; needed: {IMAGE_CHANNELS} (grey) to "
            f"{OUTPUT_CHANNELS} (noise and learned variance)"
        )
    if unet.class_embedding is not None and unet.config.num_class_embeds != len(class_names(path)) + 1:
        raise UserError(
            f"{path}: the network is conditioned on {unet.config.num_class_embeds} classes, but parameters.json names "
            f"{len(class_names(path))} (and one more means none); only conditional models trained here are sampled"
        )
    side = unet.config.sample_size
    if type(side) is not int or not 1 <= side <= LARGEST_SIDE:
        raise UserError(
            f"{path}: sample_size in unet/config.json must be one number of at most {LARGEST_SIDE}, not {side!r}"
        )
    unet.eval()
    _try(unet, path)
    return unet, _scheduler_betas(scheduler, path)


def _try(unet: UNet2DModel, path: Path) -> None:
    """Raise `UserError` where the network cannot compute a view; only shapes are computed, which costs nothing."""
    side, device = unet.config.sample_size, torch.device("meta")
    state = {name: value.to(device) for name, value in (*unet.named_parameters(), *unet.named_buffers())}
    labels = None if unet.class_embedding is None else torch.zeros(1, dtype=torch.long, device=device)
    inputs = torch.zeros(1, IMAGE_CHANNELS, side, side, device=device), torch.zeros(1, device=device), labels
    try:
        with torch.no_grad():
            shape = tuple(torch.func.functional_call(unet, state, inputs).sample.shape)
        reason = f"it gives {shape}"
    except Exception as error:  # as many kinds as there are mistakes in a config
        shape, reason = (), " ".join(str(error).split())[:200]
    if shape != (1, OUTPUT_CHANNELS, side, side):
        raise UserError(
            f"{path}: the network of unet/config.json cannot compute a view of {side} x {side} pixels: {reason}"
        )


def class_names(path: Path) -> list[str]:
    """The classes that a model can be asked for, in the order of its labels; none if it is unconditional."""
    file = path / "parameters.json"
    parameters = read_json(file) if file.is_file() else {}
    classes = (parameters.get("classes") or []) if isinstance(parameters, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{file} does not hold the parameters of a model: `classes` must be a list of names")
    return classes


def _scheduler_betas(scheduler: Mapping[str, Any], path: Path) -> np.ndarray:
    defaults = DDPMScheduler().config
    schedule, timesteps, start, end, trained = (
        scheduler.get(key, getattr(defaults, key))
        for key in ("beta_schedule", "num_train_timesteps", "beta_start", "beta_end", "trained_betas")
    )
    if trained is None and schedule not in BETA_SCHEDULES.values():
        raise UserError(f"{path}: beta_schedule {schedule!r} is not supported (squaredcos_cap_v2 and linear are)")
    try:
        if trained is not None:
            betas = np.asarray(trained, dtype=np.float64)
        elif not 1 <= timesteps <= MOST_TIMESTEPS:
            raise ValueError(f"num_train_timesteps {timesteps}")
        elif schedule == "linear":
            betas = np.linspace(start, end, timesteps, dtype=np.float64)
        else:
            betas = schedule_betas("cosine", timesteps)
        if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
            raise ValueError("betas must lie between 0 and 1")
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: scheduler/scheduler_config.json describes no process ({error})") from error
    return betas
