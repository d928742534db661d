"""Backbones and the four key layouts they start from; files are made here in the original layouts."""

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from tests.shared import SHARED
from workflow_scripts.core.errors import UserError
from workflow_scripts.networks.backbone import (
    Classifier,
    create_backbone,
    feature_count,
    load_backbone,
    load_classifier,
    load_initialisation,
    normalise,
    read_parameters,
    read_weights,
    require_forward,
    save_weights,
    seed_weights,
    to_unit,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbone():
    """One ResNet-18 for all tests, since drawing its weights takes longest."""
    return create_backbone("resnet18").eval()


@pytest.fixture(scope="module")
def small():
    """A small network with the keys of ResNet-18's first blocks, and its classifier."""
    network = ResNet(BasicBlock, (1, 1, 1, 1), channels=(8, 8, 8, 8), num_classes=3)
    network.default_cfg = {"classifier": "fc"}
    return network


@pytest.fixture(scope="module")
def original():
    """A torchvision ResNet-18 with running statistics of its own."""
    with seed_weights(5, "a stranger's network"):
        network = torchvision.models.resnet18()
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.add_(torch.rand_like(buffer)) if "var" in name else buffer.normal_()
    return network.eval()


@pytest.fixture(scope="module")
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def features(network, image):
    """What the original gives before its classifier."""
    with torch.no_grad():
        return nn.Sequential(*list(network.children())[:-1])(image).flatten(1)


def load(backbone, layout, path, image):
    """The features of the backbone after loading, and after nothing of the test before is left in it."""
    with torch.no_grad():
        for value in backbone.state_dict().values():
            value.zero_()
        load_initialisation(backbone, layout, path, seed=0)
        return backbone(image)


def refuse(network, layout, path):
    """What the loader says to weights that a network without classifier cannot take."""
    backbone = copy.deepcopy(network)
    backbone.reset_classifier(0)
    with pytest.raises(UserError, match=path.name) as error:
        load_initialisation(backbone, layout, path, seed=0)
    return str(error.value)


def uscl_keys(network):
    """The keys of USCL's network: the children of a ResNet by number, and two projection layers."""
    state = {
        f"features.{key}": value for key, value in nn.Sequential(*list(network.children())[:-1]).state_dict().items()
    }
    return state | {"l1.weight": torch.zeros(512, 512), "l2.bias": torch.zeros(256), "fc.weight": torch.zeros(3, 512)}


def test_torchvision_layout_gives_the_original_features(backbone, original, image, tmp_path):
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    found = load(backbone, "torchvision", tmp_path / "resnet18.pth", image)
    torch.testing.assert_close(found, features(original, image))


@pytest.mark.parametrize(
    "wrap", [dict, lambda s: {"epoch": 3, "state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
def test_uscl_layout_gives_the_original_features(backbone, original, image, tmp_path, wrap):
    torch.save(wrap(uscl_keys(original)), tmp_path / "best_model.pth")
    found = load(backbone, "uscl", tmp_path / "best_model.pth", image)
    torch.testing.assert_close(found, features(original, image))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_layout_drops_the_classifier(tmp_path, suffix):
    image = torch.rand(1, 3, 32, 32)
    whole = timm.create_model("test_resnet", num_classes=7).eval()
    file = tmp_path / f"whole{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(whole.state_dict(), file)
    with torch.no_grad():
        expected = whole.forward_head(whole.forward_features(image), pre_logits=True)
    backbone = create_backbone("test_resnet").eval()
    torch.testing.assert_close(load(backbone, "timm", file, image), expected)


@pytest.mark.parametrize("kind", ["MAE", "DINO"])
def test_checkpoints_of_self_supervised_methods_start_a_transformer(tmp_path, kind):
    """MAE's model holds a decoder, DINO's teacher a prefix; both were made at another size."""
    made = timm.create_model("test_vit", num_classes=0, img_size=96).eval()
    state = dict(made.state_dict())
    if kind == "MAE":
        more = {
            "mask_token": torch.zeros(1, 1, 64),
            "decoder_embed.weight": torch.zeros(4, 64),
            "decoder_pred.bias": torch.ones(3),
        }
        torch.save({"model": {**state, **more}, "epoch": torch.tensor(3)}, tmp_path / "made.pth")
    else:
        prefixed = {f"backbone.{key}": value for key, value in state.items()} | {"dino_head.mlp.weight": torch.zeros(2)}
        torch.save({"teacher": prefixed}, tmp_path / "made.pth")
    backbone = create_backbone("test_vit").eval()
    load_initialisation(backbone, "original", tmp_path / "made.pth", seed=0)
    own = backbone.state_dict()
    assert own["pos_embed"].shape != state["pos_embed"].shape
    assert all(torch.equal(own[key], value) for key, value in state.items() if key != "pos_embed")
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        similarity = torch.cosine_similarity(backbone(image), made(image))
    assert float(similarity) > 0.9
    state["blocks.0.stranger"] = torch.zeros(1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match="stranger"):
        load_initialisation(backbone, "original", tmp_path / "other.pth", seed=0)


def test_beits_pretraining_starts_the_network_that_is_fine_tuned(tmp_path):
    """Its authors' checkpoint has one table of relative positions for all blocks, and a norm before pooling."""
    from timm.models.beit import Beit

    sizes = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "use_abs_pos_emb": False,
             "init_values": 0.1, "num_classes": 0}  # fmt: skip
    made = Beit(use_shared_rel_pos_bias=True, use_fc_norm=False, **sizes).eval()
    network = Beit(use_rel_pos_bias=True, **sizes).eval()
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.3)
    beside = {"mask_token": torch.zeros(1, 1, 32), "lm_head.weight": torch.zeros(8, 32), "lm_head.bias": torch.zeros(8)}
    torch.save({"model": {**made.state_dict(), **beside}}, tmp_path / "beit_pretrained.pth")
    load_initialisation(network, "original", tmp_path / "beit_pretrained.pth", seed=0)
    assert torch.equal(network.fc_norm.weight, made.norm.weight)
    made.norm = nn.Identity()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network.forward_features(image), made.forward_features(image))


def test_dinov2s_registers_and_gated_layers_get_timms_names(tmp_path):
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    made, network = (VisionTransformer(img_size=28, patch_size=14, embed_dim=32, depth=1, num_heads=2, num_classes=0,
                                       init_values=1e-5, reg_tokens=4, no_embed_class=True, mlp_layer=SwiGLUPacked)
                     for _ in range(2))  # fmt: skip
    state = made.state_dict()
    of_class = torch.full((1, 1, 32), 0.5)
    authors = {
        **{key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value for key, value in state.items()},
        "pos_embed": torch.cat([of_class, state["pos_embed"]], dim=1), "cls_token": state["cls_token"] - of_class,
        "register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 32),
    }  # fmt: skip
    del authors["reg_token"]
    torch.save(authors, tmp_path / "dinov2_reg4.pth")
    load_initialisation(network, "original", tmp_path / "dinov2_reg4.pth", seed=0)
    assert network.state_dict().keys() == state.keys()
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, state[key])


def test_missing_batch_counts_are_no_error(small, tmp_path):
    state = {k: v for k, v in small.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    backbone = copy.deepcopy(small)
    backbone.reset_classifier(0)
    load_initialisation(backbone, "torchvision", tmp_path / "old.pth", seed=0)


@pytest.mark.parametrize("layout", ["torchvision", "uscl", "timm"])
@pytest.mark.parametrize("mistake", ["extra key", "missing key", "other shape", "not finite"])
def test_misfits_are_named(small, tmp_path, layout, mistake):
    state = uscl_keys(small) if layout == "uscl" else dict(small.state_dict())
    key = "features.4.0.conv1.weight" if layout == "uscl" else "layer1.0.conv1.weight"
    if mistake == "extra key":
        state["stem.weight"] = torch.zeros(1)
    elif mistake == "missing key":
        del state[key]
    elif mistake == "other shape":
        state[key] = torch.zeros(8, 64, 1, 1)
    else:
        state[key] = torch.full((8, 64, 3, 3), torch.nan)
    torch.save(state, tmp_path / "wrong.pth")
    named = {"extra key": "stem.weight", "not finite": key}.get(mistake, "layer1.0.conv1.weight")
    assert named in refuse(small, layout, tmp_path / "wrong.pth")


ODD = {
    "nested": lambda value: torch.nested.nested_tensor([value[0], value[1]]),
    "sparse": lambda value: value.to_sparse(),
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "complex": lambda value: value.to(torch.complex64),
    "strided over itself": lambda value: torch.zeros(1).expand(40_000_000_000),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:.*(quantize|Quantize|TypedStorage)")
def test_odd_tensors_are_refused_before_they_are_computed_with(small, tmp_path, kind):
    state = dict(small.state_dict())
    state["conv1.weight"] = ODD[kind](state["conv1.weight"])
    torch.save(state, tmp_path / "odd.pth")
    said = refuse(small, "torchvision", tmp_path / "odd.pth")
    # torch itself refuses nested tensors.
    assert ("cannot be read as weights" if kind == "nested" else f"conv1.weight ({kind})") in said


def test_names_of_a_file_stay_one_line(small, tmp_path):
    state = {**small.state_dict(), "k" * 10**5: torch.zeros(1), "a\nb\x1b[31m": torch.zeros(1)}
    torch.save(state, tmp_path / "odd.pth")
    said = refuse(small, "torchvision", tmp_path / "odd.pth")
    assert len(said) < 1000
    assert said.isprintable()


def test_weights_that_single_precision_cannot_hold_are_refused(small, tmp_path):
    state = dict(small.state_dict())
    state["conv1.weight"] = torch.full_like(state["conv1.weight"], 1e300, dtype=torch.float64)
    torch.save(state, tmp_path / "large.pth")
    assert "weights conv1.weight are not finite" in refuse(small, "torchvision", tmp_path / "large.pth")


def test_integers_are_no_weights(small, tmp_path):
    state = {name: value.to(torch.int64) for name, value in small.state_dict().items()}
    torch.save(state, tmp_path / "whole.pth")
    assert "has integers for weights: conv1.weight, " in refuse(small, "torchvision", tmp_path / "whole.pth")


def test_another_layout_is_an_error(small, tmp_path):
    torch.save(uscl_keys(small), tmp_path / "uscl.pth")
    assert "features.0.weight" in refuse(small, "torchvision", tmp_path / "uscl.pth")
    torch.save(small.state_dict(), tmp_path / "torchvision.pth")
    assert "not in the file" in refuse(small, "uscl", tmp_path / "torchvision.pth")


class Opened:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize(
    "kind", ["truncated", "pickled", "pickled by torch", "text", "truncated safetensors", "no tensors"]
)
def test_damaged_and_pickled_files_are_refused(small, tmp_path, kind):
    trace = tmp_path / "executed"
    file = tmp_path / ("weights.safetensors" if "safetensors" in kind else "weights.pth")
    if kind == "truncated":
        buffer = io.BytesIO()
        torch.save(small.state_dict(), buffer)
        file.write_bytes(buffer.getvalue()[:20_000])
    elif kind == "pickled":
        file.write_bytes(pickle.dumps({"conv1.weight": Opened(trace)}, protocol=2))
    elif kind == "pickled by torch":
        torch.save({"conv1.weight": Opened(trace)}, file)
    elif kind == "text":
        file.write_text("<html>not found</html>")
    elif kind == "no tensors":
        torch.save({"epoch": 3}, file)
    else:
        save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file)
        file.write_bytes(file.read_bytes()[:-10])
    assert "state dictionary" in refuse(small, "timm", file)
    assert not trace.exists()


def test_files_and_layouts_must_go_together(tmp_path):
    backbone = create_backbone("test_resnet")
    with pytest.raises(UserError, match="do not exist"):
        load_initialisation(backbone, "timm", tmp_path / "absent.pth", 0)
    with pytest.raises(UserError, match="needs a file"):
        load_initialisation(backbone, "timm", None, 0)
    with pytest.raises(UserError, match="takes no weights"):
        load_initialisation(backbone, "scratch", tmp_path / "absent.pth", 0)
    with pytest.raises(UserError, match="layout 'keras' is not one of scratch"):
        load_initialisation(backbone, "keras", tmp_path / "absent.pth", 0)
    with pytest.raises(UserError, match=r"'test_resne' is not a timm model .*test_resnet"):
        create_backbone("test_resne")


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_scratch_is_a_function_of_the_seed_and_leaves_the_generator_alone():
    def scratch(seed):
        torch.rand(3)
        backbone = create_backbone("test_resnet", seed)
        load_initialisation(backbone, "scratch", None, seed)
        return backbone

    torch.manual_seed(3)
    before = torch.get_rng_state()
    create_backbone("test_resnet", 0)
    Classifier(create_backbone("test_resnet", 0), 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(scratch(0), scratch(0))
    assert not same(scratch(0), scratch(1))


def test_scratch_is_kaiming_normal(backbone):
    load_initialisation(backbone, "scratch", None, seed=0)
    convolution = backbone.layer3[0].conv2.weight
    assert float(convolution.detach().std()) == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    # timm would start residual blocks at 0, torchvision does not.
    assert bool((backbone.layer1[0].bn2.weight == 1).all())


@pytest.mark.parametrize(
    ("layout", "first", "second"), [("scratch", 0.0252, 0.0417), ("scratch_fan_in", 0.1166, 0.0589)]
)
def test_fan_in_and_fan_out_differ_where_channels_change(backbone, layout, first, second):
    """The first convolution, 3 to 64 channels, and that of layer 2, 64 to 128: sqrt(2 / fan)."""
    load_initialisation(backbone, layout, None, seed=0)
    assert float(backbone.conv1.weight.detach().std()) == pytest.approx(first, rel=0.02)
    assert float(backbone.layer2[0].conv1.weight.detach().std()) == pytest.approx(second, rel=0.02)


def test_the_released_head_is_kaiming_with_biases_of_zero(backbone):
    head = Classifier(backbone, 1, "kaiming").head
    assert float(head.weight.detach().std()) == pytest.approx((2 / 512) ** 0.5, rel=0.1)
    assert not head.bias.any()


def test_head_is_a_function_of_the_seed():
    backbone = create_backbone("test_resnet")
    assert torch.equal(Classifier(backbone, 1).head.weight, Classifier(backbone, 1).head.weight)
    assert not torch.equal(Classifier(backbone, 1).head.weight, Classifier(backbone, 2).head.weight)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_any_timm_network_will_do(name):
    network = create_backbone(name).eval()
    size = network.default_cfg["input_size"][-1] if "vit" in name else 32
    views = torch.zeros(2, size, size, dtype=torch.uint8)
    assert network(normalise(views)).shape == (2, feature_count(network))
    assert Classifier(network, 0).eval()(normalise(views)).shape == (2, 2)


@pytest.mark.parametrize("side", [40, 256])
@pytest.mark.parametrize(
    "name", ["test_vit", "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224"]
)
def test_transformers_take_views_of_any_size(name, side):
    with torch.device("meta"):
        network = create_backbone(name)
        assert network.eval()(torch.zeros(2, 3, side, side)).shape == (2, feature_count(network))


def test_a_vision_transformer_has_its_usual_weights_and_at_its_own_size_its_usual_features():
    network = create_backbone("test_vit").eval()
    plain = timm.create_model("test_vit", num_classes=0).eval()
    plain.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(image), plain(image))
        assert network(image[..., :100, :100]).shape == (1, feature_count(network))


def test_a_size_that_does_not_suit_is_said_before_anything_runs():
    require_forward("test_vit", 100)
    # Its attention has a bias per pair of 7 x 7 places, and timm makes it for no other grid.
    with pytest.raises(UserError, match=r"'efficientformer_l1' cannot take views of 256 pixels .*data\.size .*\(224\)"):
        require_forward("efficientformer_l1", 256)


@pytest.mark.parametrize("name", ["test_vit_relpos", "test_maxvit", "pit_ti_224", "levit_128s"])
def test_networks_of_a_fixed_size_are_made_for_the_views(name):
    side = 96
    require_forward(name, side)
    with torch.device("meta"):
        assert create_backbone(name, side=side).eval()(torch.zeros(2, 3, side, side)).shape[0] == 2
        with pytest.raises((AssertionError, RuntimeError)):
            create_backbone(name).eval()(torch.zeros(2, 3, side, side))


@pytest.mark.parametrize("side", [None, 96, 160])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_vit_relpos"])
def test_the_side_changes_no_network_that_takes_it_anyway(name, side):
    if name == "test_vit_relpos" and side == 96:
        side = 160  # its own
    assert same(create_backbone(name, 3), create_backbone(name, 3, side=side))


def test_a_network_made_for_the_views_comes_back_with_its_weights(tmp_path):
    model = Classifier(create_backbone("test_vit_relpos", 4, side=96), 4).eval()
    file = tmp_path / "seed0_fold0.safetensors"
    save_weights(model.state_dict(), {"backbone": "test_vit_relpos", "size": 96}, file)
    found, _ = load_classifier(file)
    views = torch.randint(0, 256, (2, 96, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.no_grad():
        assert torch.equal(found(normalise(views)), model(normalise(views)))


def test_weights_made_at_another_size_are_fitted_by_the_layout_original(tmp_path):
    """BEiT's relative positions: a table of (2 x 14 - 1)^2 + 3 offsets at 224 pixels, (2 x 6 - 1)^2 + 3 at 96."""
    from timm.models.beit import Beit

    sizes = {"patch_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "use_abs_pos_emb": False}
    made, network = (Beit(img_size=side, num_classes=classes, use_rel_pos_bias=True, init_values=0.1, **sizes)
                     for side, classes in ((224, 5), (96, 0)))  # fmt: skip
    nn.init.normal_(made.blocks[0].attn.relative_position_bias_table)
    torch.save({"model": made.state_dict()}, tmp_path / "beit.pth")
    with pytest.raises(UserError, match=r"relative_position_bias_table .*layout original"):
        load_initialisation(network, "timm", without_head(tmp_path / "beit.pth"), seed=0)
    load_initialisation(network, "original", tmp_path / "beit.pth", seed=0)
    table = network.blocks[0].attn.relative_position_bias_table
    assert table.shape == (11 * 11 + 3, 2)
    assert torch.equal(table[-3:], made.blocks[0].attn.relative_position_bias_table[-3:])
    assert torch.equal(network.blocks[0].mlp.fc1.weight, made.blocks[0].mlp.fc1.weight)


def without_head(path: Path) -> Path:
    state = {key: value for key, value in torch.load(path)["model"].items() if not key.startswith("head.")}
    torch.save(state, path.with_name("encoder.pth"))
    return path.with_name("encoder.pth")


def test_normalisation():
    views = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    assert to_unit(views).shape == (1, 1, 16, 16)
    networks_input = normalise(views)
    assert networks_input.shape == (1, 3, 16, 16)
    expected = (np.arange(256).reshape(16, 16) / 255 - 0.5) / 0.25
    for channel in networks_input[0]:
        np.testing.assert_allclose(channel.numpy(), expected, atol=1e-6)


IMAGENET = [0.485, 0.456, 0.406, 0.229, 0.224, 0.225]


@pytest.mark.parametrize("normalisation", [[0.2, 0.1], IMAGENET])
def test_a_network_gets_the_input_that_its_weights_expect(normalisation, tmp_path):
    plain, own = create_backbone("test_resnet", 3).eval(), create_backbone("test_resnet", 3, normalisation).eval()
    assert own.state_dict().keys() == plain.state_dict().keys()
    views = torch.randint(0, 256, (2, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean, std = (torch.tensor(part).expand(3)[:, None, None] for part in np.split(np.float32(normalisation), 2))
    with torch.no_grad():
        expected = plain((to_unit(views).expand(-1, 3, -1, -1) - mean) / std)
        torch.testing.assert_close(copy.deepcopy(own)(normalise(views)), expected)
        assert not torch.allclose(plain(normalise(views)), expected)
    # A saved classifier knows it.
    model = Classifier(own, 0).eval()
    parameters = {"backbone": "test_resnet", "normalisation": normalisation}
    save_weights(model.state_dict(), parameters, tmp_path / "seed0_fold0.safetensors")
    found, _ = load_classifier(tmp_path / "seed0_fold0.safetensors")
    assert torch.equal(found(normalise(views)), model(normalise(views)))


@pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason=f"no ImageNet weights at {SHARED / 'weights'}")
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv2_100"])
def test_real_imagenet_weights_load_and_are_given_their_own_normalisation(name):
    cfg = timm.get_pretrained_cfg(name)
    network = create_backbone(name, normalisation=[*cfg.mean, *cfg.std])
    load_initialisation(network, "timm", SHARED / "weights" / f"{name}_imagenet.safetensors", seed=0)
    plain = load_backbone(name, SHARED / "weights" / f"{name}_imagenet.safetensors")
    views = torch.randint(0, 256, (2, 96, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mean, std = (torch.tensor(part)[:, None, None] for part in (cfg.mean, cfg.std))
    with torch.no_grad():
        own = network.eval()(normalise(views))
        expected = plain((to_unit(views).expand(-1, 3, -1, -1) - mean) / std)
    torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


def test_saved_classifier_comes_back(tmp_path):
    model = Classifier(create_backbone("test_resnet", 4), 4)
    file = tmp_path / "seed0_fold0.safetensors"
    save_weights(model.state_dict(), {"backbone": "test_resnet", "seed": 0, "title": "Hodenähnlich"}, file)
    found, parameters = load_classifier(file)
    assert same(found, model)
    assert not found.training
    assert parameters == read_parameters(file) == {"backbone": "test_resnet", "seed": 0, "title": "Hodenähnlich"}
    save_file(model.state_dict(), file)
    with pytest.raises(UserError, match="names no backbone"):
        load_classifier(file)


def test_a_pretrained_backbone_comes_back_in_eval_mode(tmp_path):
    backbone = create_backbone("test_resnet", 4)
    save_weights(backbone.state_dict(), {}, tmp_path / "backbone.safetensors")
    found = load_backbone("test_resnet", tmp_path / "backbone.safetensors")
    assert same(found, backbone)
    assert not any(module.training for module in found.modules())
    with pytest.raises(UserError, match="does not fit the backbone"):
        load_backbone("resnet18", tmp_path / "backbone.safetensors")


def test_changed_weights_are_noticed(tmp_path):
    file = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    (tmp_path / "w.safetensors.sha256").write_text("0" * 64 + "  w.safetensors\n")
    with pytest.raises(UserError, match="has changed since"):
        read_weights(file)
