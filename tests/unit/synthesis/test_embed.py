"""Embedding networks, with weights that the test makes in the original layouts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from workflow_scripts.core.errors import UserError
from workflow_scripts.runtime import run as run_module
from workflow_scripts.runtime.work import Clock, Interrupted
from workflow_scripts.synthesis import embed
from workflow_scripts.synthesis.features import embed as embed_views
from workflow_scripts.synthesis.features import load_encoder, load_inception, resize_like_tensorflow
from workflow_scripts.synthesis.inception import fid_inception

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout that torch-fidelity and pytorch-fid publish."""
    torch.manual_seed(0)
    network = fid_inception()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    file = tmp_path_factory.mktemp("weights") / "some name.pth"
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    save_file(timm.create_model("resnet18", num_classes=0).state_dict(), file)
    return file


@pytest.fixture
def views(tmp_path: Path) -> list[Path]:
    generator = np.random.default_rng(0)
    files = []
    for name, count in (("labelled", 5), ("synthetic", 3)):
        files.append(tmp_path / f"{name}.npy")
        np.save(files[-1], generator.integers(0, 256, (count, 40, 40)).astype(np.uint8))
    return files


def run_embed(network: str, weights: Path, views: list[Path], *more: str) -> list[np.ndarray]:
    outputs = [file.with_name(f"{file.stem}_{network}.npy") for file in views]
    embed.main(embed.parser().parse_args([
        "--network", network, "--weights", str(weights), "--views", *map(str, views), "--output-features", *map(str, outputs),
        "--device", "cpu", "--work-dir", str(views[0].with_name("work")), *more,
    ]))  # fmt: skip
    return [np.load(file) for file in outputs]


@pytest.mark.parametrize(("network", "width"), [("inception", 2048), ("encoder", 512)])
def test_features_do_not_depend_on_the_batch(
    network: str, width: int, views: list[Path], request: pytest.FixtureRequest
) -> None:
    weights = request.getfixturevalue(network)
    large, small = run_embed(network, weights, views), run_embed(network, weights, views, "--batch-size", "2")
    for first, again, count in zip(large, small, (5, 3), strict=True):
        assert first.shape == (count, width)
        assert first.dtype == np.float32
        np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-5)
    assert np.abs(large[0][0] - large[0][1]).max() > 1e-3


def test_inception_is_resized_and_normalised_as_clean_fid_does(inception: Path, views: list[Path]) -> None:
    from PIL import Image

    stored = np.load(views[0])
    network = fid_inception()
    network.load_state_dict(torch.load(inception, weights_only=True))
    network.fc = torch.nn.Identity()
    resized = np.stack(
        [np.asarray(Image.fromarray(v.astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)) for v in stored]
    )
    images = (torch.from_numpy(resized.clip(0, 255))[:, None].expand(-1, 3, -1, -1) - 128) / 128
    with torch.inference_mode():
        expected = network.eval()(images).numpy()
    np.testing.assert_allclose(load_inception(inception, CPU)(stored), expected, rtol=1e-4, atol=1e-5)


def test_inception_is_torch_fidelitys_network(inception: Path) -> None:
    fidelity = pytest.importorskip("torch_fidelity", reason="torch-fidelity is in the group bench")
    theirs = fidelity.FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=str(inception))
    # Of the network's own size, so that neither side's resizing plays a part.
    views = np.random.default_rng(0).integers(0, 256, (2, 299, 299)).astype(np.uint8)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(views)[:, None].repeat(1, 3, 1, 1))[0].numpy()
    np.testing.assert_allclose(load_inception(inception, CPU)(views), expected, rtol=1e-4, atol=1e-5)


def test_encoder_sees_what_fine_tuning_sees(encoder: Path, views: list[Path]) -> None:
    import timm
    from safetensors.torch import load_file

    stored = np.load(views[0])
    model = timm.create_model("resnet18", num_classes=0)
    model.load_state_dict(load_file(encoder))
    images = (torch.from_numpy(stored).float() / 255 - 0.5) / 0.25
    with torch.inference_mode():
        expected = model.eval()(torch.stack([images] * 3, dim=1)).numpy()
    np.testing.assert_allclose(load_encoder("resnet18", encoder, CPU)(stored), expected, rtol=1e-4, atol=1e-5)


def test_wrong_weights_are_refused(inception: Path, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_inception(tmp_path / "none.pt", CPU)
    with pytest.raises(UserError, match="does not exist"):
        load_encoder("resnet18", tmp_path / "none.safetensors", CPU)
    with pytest.raises(UserError, match="does not hold the weights of the FID Inception network"):
        load_inception(encoder, CPU)
    (tmp_path / "cut.pth").write_bytes(inception.read_bytes()[:1000])
    with pytest.raises(UserError, match="does not hold the weights of the FID Inception network"):
        load_inception(tmp_path / "cut.pth", CPU)
    network = torch.load(inception, weights_only=True)
    torch.save(
        {key: value for key, value in network.items() if key != "Mixed_7c.branch_pool.bn.bias"}, tmp_path / "less.pth"
    )
    with pytest.raises(UserError, match="does not hold the weights of the FID Inception network"):
        load_inception(tmp_path / "less.pth", CPU)
    with pytest.raises(UserError, match="does not fit the backbone"):
        load_encoder("resnet10t", encoder, CPU)
    with pytest.raises(UserError, match="does not fit the backbone"):
        load_encoder("resnet18", inception, CPU)
    with pytest.raises(UserError, match="backbone 'resnet1818'"):
        load_encoder("resnet1818", encoder, CPU)


def test_an_interrupted_embedding_goes_on(
    encoder: Path,
    views: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(embed, "BATCHES", 2)
    more = ("--batch-size", "1")  # three blocks of the first store, two of the second
    whole = run_embed("encoder", encoder, views, *more)
    outputs = [file.with_name(f"{file.stem}_encoder.npy") for file in views]
    for file in outputs:
        file.unlink()

    class OverSoon(Clock):
        asked = 0

        def is_over(self) -> bool:
            self.asked += 1
            return self.asked == 2

    for blocks in (2, 4):
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "Clock", OverSoon)
            with pytest.raises(Interrupted, match=f"block {blocks} of 5"):
                run_embed("encoder", encoder, views, *more)
        assert not any(file.exists() for file in outputs)
    for again, first in zip(run_embed("encoder", encoder, views, *more), whole, strict=True):
        np.testing.assert_array_equal(again, first)
    assert "continuing" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_stage_refuses_what_is_no_store(encoder: Path, views: list[Path]) -> None:
    np.save(views[1], np.zeros((3, 40, 40), np.float32))
    with pytest.raises(UserError, match="is not a view store"):
        run_embed("encoder", encoder, views)
    with pytest.raises(UserError, match="2 stores"):
        embed.main(embed.parser().parse_args([
            "--network", "encoder", "--weights", str(encoder), "--views", *map(str, views), "--output-features", "one.npy",
            "--work-dir", "work",
        ]))  # fmt: skip


def test_timm_network_has_its_own_size_and_normalisation_and_may_bring_a_classifier(
    views: list[Path], tmp_path: Path
) -> None:
    import timm

    model = timm.create_model("test_resnet", num_classes=10).eval()
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    more = ("--backbone", "test_resnet")
    features = run_embed("timm", tmp_path / "timm.safetensors", views, *more)[0]
    settings = timm.data.resolve_model_data_config(model)
    images = torch.from_numpy(np.load(views[0])).float()[:, None] / 255
    images = torch.nn.functional.interpolate(images, settings["input_size"][1:], mode="bicubic", antialias=True)
    mean, std = (torch.tensor(settings[key])[:, None, None] for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model.forward_head(
            model.forward_features((images.clamp(0, 1).expand(-1, 3, -1, -1) - mean) / std), pre_logits=True
        )
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)
    for other, plain in zip(
        run_embed("timm", tmp_path / "timm.safetensors", views, *more, "--batch-size", "2"),
        run_embed("timm", tmp_path / "timm.safetensors", views, *more),
        strict=True,
    ):
        np.testing.assert_allclose(other, plain, rtol=1e-4, atol=1e-5)
    (tmp_path / "timm.safetensors.sha256").write_text(f"{'0' * 64}  timm.safetensors\n")
    with pytest.raises(UserError, match="has the SHA-256 .*, but .* records 0000"):
        run_embed("timm", tmp_path / "timm.safetensors", views, *more)
    with pytest.raises(UserError, match="'resnet1818' is not a timm model"):
        run_embed("timm", tmp_path / "timm.safetensors", views, "--backbone", "resnet1818")


def test_damaged_weights_are_noticed(encoder: Path, views: list[Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(encoder)
    weights["conv1.weight"][0] = float("nan")
    save_file(weights, tmp_path / "nan.safetensors")
    with pytest.raises(UserError, match=r"conv1.weight are not finite"):
        run_embed("encoder", tmp_path / "nan.safetensors", views)


def test_features_that_are_not_finite_are_refused() -> None:
    def network(batch: np.ndarray) -> np.ndarray:
        return np.where(batch.max(axis=(1, 2)) > 250, np.nan, 1.0)[:, None] * np.ones((1, 3), np.float32)

    views = np.zeros((7, 4, 4), np.uint8)
    views[5, 0, 0] = 255
    with pytest.raises(UserError, match="NaN or infinity for view 5"):
        list(embed_views(views, network, 2, 2))


def test_the_legacy_resize_is_tensorflows(inception: Path) -> None:
    """Output pixel i lies at i * 40 / 299 between the input's pixels, whose corners, not centres, are aligned."""
    views = np.random.default_rng(0).integers(0, 256, (2, 40, 40)).astype(np.uint8)
    images = torch.from_numpy(views).float()[:, None]
    found = resize_like_tensorflow(images, 299).numpy()
    place = np.arange(299) * 40 / 299
    for row, column in ((0, 0), (7, 290), (150, 3), (298, 298)):
        (y, dy), (x, dx) = ((int(place[i]), place[i] % 1) for i in (row, column))
        corner = views[:, [y, y, min(y + 1, 39), min(y + 1, 39)], [x, min(x + 1, 39), x, min(x + 1, 39)]]
        weights = [(1 - dy) * (1 - dx), (1 - dy) * dx, dy * (1 - dx), dy * dx]
        np.testing.assert_allclose(found[:, 0, row, column], corner @ np.array(weights), atol=1e-2)
    clean, legacy = (load_inception(inception, CPU, mode)(views) for mode in ("clean", "legacy_tensorflow"))
    assert np.abs(clean - legacy).max() > 1e-3 * np.abs(clean).max()


def test_the_legacy_resize_is_torch_fidelitys() -> None:
    reason = "torch-fidelity is in the group bench"
    theirs = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow", reason=reason)
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 255
    expected = theirs.interpolate_bilinear_2d_like_tensorflow1x(images, (299, 299), align_corners=False)
    torch.testing.assert_close(resize_like_tensorflow(images, 299), expected, atol=1e-2, rtol=0)
