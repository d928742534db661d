"""A tiny step of every stage that uses a network, on any device, with what it computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from tests.shared import start_run
from tests.textures import textures
from workflow_scripts.classifier.ensemble import embed as member_outputs
from workflow_scripts.diffusion.process import GaussianProcess, schedule_betas
from workflow_scripts.diffusion.sampler import Condition, kept_timesteps, reverse_steps, to_grey
from workflow_scripts.diffusion.snapshots import denoising_errors
from workflow_scripts.diffusion.training import Labels, Trainer, TrainingViews, unet_of
from workflow_scripts.finetuning.explanation import explained_stage, heat_maps, positive_probability
from workflow_scripts.networks.backbone import Classifier, create_backbone, normalise, save_weights
from workflow_scripts.networks.cross_validation import CrossValidation, cross_validate
from workflow_scripts.pretraining.loop import make_encoder, pretrain
from workflow_scripts.pretraining.mix import ViewUnion
from workflow_scripts.privacy.copy_encoder import CopyTraining, copy_features
from workflow_scripts.runtime.device import to_device, to_numpy
from workflow_scripts.runtime.processes import Processes
from workflow_scripts.study.config.diffusion import DiffusionRecipe
from workflow_scripts.study.config.finetuning import FinetuningRecipe
from workflow_scripts.study.config.pretraining import PretrainingAugmentation, PretrainingRecipe
from workflow_scripts.synthesis.features import embed, load_encoder, load_inception

Results = dict[str, np.ndarray]
BACKBONE = "test_resnet"
DIFFUSION = {
    "channel_multipliers": [1, 1], "base_channels": 32, "residual_blocks": 1, "attention_resolutions": [4], "heads": 2,
    "timesteps": 50, "batch_size": 4, "precision": "float32",
}  # fmt: skip


def values(state: Mapping[str, torch.Tensor]) -> Results:
    """A state dictionary's tensors of floats."""
    return {name: to_numpy(value) for name, value in state.items() if value.is_floating_point()}


def finetuning(folder: Path, device: torch.device, **changes: str) -> Results:
    """An epoch of fine-tuning of two batches, and the prediction of the fold."""
    views, labels = textures(12, 16, seed=1), np.arange(12) % 2
    recipe = FinetuningRecipe(epochs=1, batch_size=4)
    task = CrossValidation(to_device(views, device), {0: labels}, np.arange(12) % 3, recipe, 0, **changes)
    (fold,) = cross_validate({0: Classifier(create_backbone(BACKBONE), 0)}, task, start_run(folder, device.type))
    return {"losses": fold.losses, "probabilities": fold.probabilities}


def pretraining(folder: Path, device: torch.device, **changes: object) -> Results:
    """Two steps of pretraining."""
    size = 96 if "augmentation" in changes else 16  # markers are masked on views of 96 pixels and more
    stores = [textures(6, size, seed=1), textures(6, size, seed=2, coarse=True)]
    views = ViewUnion(stores, [np.arange(6)] * 2, [np.zeros(6), np.ones(6)])
    recipe = PretrainingRecipe(steps=2, batch_size=4, projection=[16, 8], **changes)  # type: ignore[arg-type]
    encoder = make_encoder(create_backbone(BACKBONE), 2, views, recipe)
    pretrain(encoder, views, recipe, start_run(folder, device.type))
    return values(encoder.state_dict())


def trainer(device: torch.device, classes: int = 0, compiles: bool = False, **changes: object) -> Trainer:
    """A trainer of a tiny diffusion model."""
    labels = Labels(np.arange(8) % classes, classes) if classes else None
    recipe = DiffusionRecipe(**{**DIFFUSION, **changes})
    views = TrainingViews(textures(8, 8, seed=1), np.arange(8), labels)
    return Trainer(views, recipe, device, Processes(), compiles)


def diffusion(_folder: Path, device: torch.device, classes: int = 0, **changes: object) -> Results:
    """A step of diffusion training, what a report and a checkpoint read, and the checkpoint again."""
    model = trainer(device, classes, **changes)
    model.step(0)
    means = model.means(1, whole_report=True)
    model.load(model.state())
    reported = np.array([means[name] for name in ("mse", "vb", "grad_norm")])
    return {"means": reported, **values(model.unet.state_dict())}


def sampling(_folder: Path, device: torch.device, sampler: str, guidance: float = 0.0) -> Results:
    """A few images by a sampler."""
    condition = Condition(2, guidance) if guidance else None
    unet = unet_of(DiffusionRecipe(**DIFFUSION), 8, 3 if guidance else None).to(device).eval()
    process = GaussianProcess(schedule_betas("cosine", 50), kept_timesteps(50, 5, sampler), device)
    state = to_device(np.random.default_rng(0).standard_normal((3, 1, 8, 8), dtype=np.float32), device)
    for _, following in reverse_steps(unet, process, state, 0, range(3), 0, sampler, condition):
        state = following
    return {"images": to_grey(state).astype(np.float64)}


def denoising(_folder: Path, device: torch.device) -> Results:
    """Denoising errors of real views."""
    unet = unet_of(DiffusionRecipe(**DIFFUSION), 8, 3).to(device).eval()
    process = GaussianProcess(schedule_betas("cosine", 50), device=device)
    return {"errors": next(denoising_errors(unet, process, textures(3, 8, seed=1), 3, 0))}


def embedding(folder: Path, device: torch.device, network: str) -> Results:
    """Features of an embedding network."""
    if network == "inception":
        from workflow_scripts.synthesis.inception import fid_inception

        torch.manual_seed(0)
        torch.save(fid_inception().state_dict(), folder / "weights.pth")
        function = load_inception(folder / "weights.pth", device)
    else:
        save_weights(create_backbone(BACKBONE).state_dict(), {}, folder / "weights.safetensors")
        function = load_encoder(BACKBONE, folder / "weights.safetensors", device)
    return {"features": next(embed(textures(1, 16, seed=1), function, 1))}


def copies(_folder: Path, device: torch.device) -> Results:
    """A step of the copy encoder, and its features."""
    training = CopyTraining(textures(6, 16, seed=1), np.arange(6), 4, 0, device)
    training.step(0)
    return {"features": copy_features(training.network, textures(3, 16, seed=2), device)}


def classifier(_folder: Path, device: torch.device) -> Results:
    """Embeddings and logits of a member of the packed classifier."""
    views = to_device(textures(3, 32, seed=1), device)
    features, logits = member_outputs(Classifier(create_backbone(BACKBONE), 0).to(device).eval(), views)
    return {"features": to_numpy(features), "logits": to_numpy(logits)}


def explanation(_folder: Path, device: torch.device) -> Results:
    """Grad-CAM++ and probabilities."""
    model = Classifier(create_backbone(BACKBONE), 0).to(device)
    images = normalise(to_device(textures(3, 32, seed=1), device))
    maps = heat_maps(model, explained_stage(model.backbone, images.shape[-1]), images, target=1)
    return {"maps": maps, "probabilities": positive_probability(model, images)}


RELEASED = PretrainingAugmentation(views="released")
STAGES: dict[str, Callable[[Path, torch.device], Results]] = {
    "fine-tuning": finetuning,
    "fine-tuning, losses of clean views": lambda *where: finetuning(*where, record="evaluation"),
    "pretraining": pretraining,
    "pretraining, chunks": lambda *where: pretraining(*where, chunk=2),
    "pretraining, checkpointed": lambda *where: pretraining(*where, activation_checkpointing=True),
    "pretraining, released views": lambda *where: pretraining(*where, augmentation=RELEASED),
    "diffusion": diffusion,
    "diffusion, conditional": lambda *where: diffusion(*where, classes=2),
    "diffusion, augmented": lambda *where: diffusion(*where, augment="small_data"),
    "diffusion, accumulated": lambda *where: diffusion(*where, accumulate=2),
    "diffusion, bf16": lambda *where: diffusion(*where, precision="bf16"),
    "diffusion, fp16": lambda *where: diffusion(*where, precision="fp16"),
    "ancestral sampling": lambda *where: sampling(*where, "ancestral"),
    "guided sampling": lambda *where: sampling(*where, "ancestral", guidance=2.0),
    "DDIM": lambda *where: sampling(*where, "ddim"),
    "DPM-Solver++": lambda *where: sampling(*where, "dpmsolver++"),
    "SDE-DPM-Solver++": lambda *where: sampling(*where, "sde_dpm_solver"),
    "denoising errors": denoising,
    "encoder's features": lambda *where: embedding(*where, "encoder"),
    "Inception's features": lambda *where: embedding(*where, "inception"),
    "copy encoder": copies,
    "Grad-CAM++": explanation,
    "packed classifier": classifier,
}
