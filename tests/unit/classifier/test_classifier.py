"""The classifier to use: a small experiment is trained, packed and used on new frames."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pydicom
import pytest
import torch
from highdicom.sr import srread
from PIL import Image
from pydicom.data import get_testdata_file
from safetensors.numpy import load_file, save_file
from sklearn.neighbors import NearestNeighbors

from tests.shared import REPOSITORY
from tests.textures import textures
from tests.ultrasound import write_ultrasound
from workflow_scripts.classifier import pack_classifier as classifier
from workflow_scripts.classifier import predict
from workflow_scripts.classifier.card import classifier_card
from workflow_scripts.classifier.ensemble import INPUT, OUTPUTS, Ensemble, export_onnx, load_ensemble
from workflow_scripts.classifier.novelty import neighbour_distances, percentiles, unit_length
from workflow_scripts.core.errors import UserError
from workflow_scripts.core.files import read_csv, read_json, read_rows, sha256, write_csv, write_json, write_npy
from workflow_scripts.data.profiles import letterbox, resize
from workflow_scripts.finetuning import finetune
from workflow_scripts.finetuning.calibration import fit_temperature, logit, pool, sigmoid
from workflow_scripts.networks.backbone import Classifier, create_backbone, load_classifier, save_weights
from workflow_scripts.runtime import cli

CLASSES = ("fine", "coarse")
SIZE, SEEDS, FOLDS, PATIENTS = 64, (0, 1), (0, 1), 20
PROFILES = {"whole": {"kind": "none"}}


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    yield
    torch.use_deterministic_algorithms(False)


def train(folder: Path) -> Path:
    """Views of 20 patients, one of eight with the wrong label, and networks of two seeds and two folds."""
    coarse = np.arange(PATIENTS * 2) % 4 >= 2
    views = np.where(coarse[:, None, None], textures(len(coarse), SIZE, 1, coarse=True), textures(len(coarse), SIZE, 2))
    patients = [f"P{i // 2:02d}" for i in range(len(coarse))]
    wrong = np.arange(len(coarse)) % 8 == 0
    index = pd.DataFrame({"view_id": [f"V{i:02d}" for i in range(len(coarse))], "patient_id": patients})
    index["label"] = np.where(coarse ^ wrong, CLASSES[1], CLASSES[0])
    write_npy(views, folder / "views.npy")
    write_csv(index, folder / "index.csv")
    policy = index[["view_id"]].assign(label=np.where(coarse, CLASSES[1], CLASSES[0]), keep=1)
    policy.loc[:3, "keep"] = 0
    write_csv(policy, folder / "labels.csv")
    for seed in SEEDS:
        fold = (np.arange(len(coarse)) // 4 + np.arange(len(coarse)) // 2 * seed) % 2
        write_csv(index[["view_id", "patient_id"]].assign(fold=fold), folder / f"folds{seed}.csv")
        arguments = finetune.parser().parse_args(
            f"--views {folder}/views.npy --index {folder}/index.csv --labels {folder}/labels.csv"
            f" --folds {folder}/folds{seed}.csv --seed {seed} --classes fine coarse --backbone test_resnet"
            f" --output-predictions {folder}/seed{seed}.csv --output-weights {folder}/seed{seed}_fold0.safetensors"
            f" {folder}/seed{seed}_fold1.safetensors --output-training {folder}/training{seed}.csv"
            f" --work-dir {folder}/work{seed} --device cpu --epochs 4"
            " --batch-size 10 --backbone-lr 0.001 --head-lr 0.01 --augmentation.markers 0"
            # With these networks noise lies far from the textures, and the tests read what is said of it.
            " --batch-norm running".split()
        )
        finetune.main(arguments)
    return folder


def build(experiment: Path, output: Path, *more: str, weights=None, predictions=None, profiles=PROFILES) -> Path:
    """Run the stage."""
    weights = weights or [experiment / f"seed{seed}_fold{fold}.safetensors" for fold in FOLDS for seed in SEEDS]
    predictions = predictions or [experiment / f"seed{seed}.csv" for seed in SEEDS]
    words = [
        "--experiment",
        "scratch-flipped",
        "--views",
        experiment / "views.npy",
        "--index",
        experiment / "index.csv",
    ]
    words += ["--profiles", json.dumps(profiles), "--size", SIZE, "--classes", *CLASSES, "--output-folder", output]
    words += ["--device", "cpu", "--weights", *weights, "--predictions", *predictions, *more]
    classifier.main(classifier.parser().parse_args([str(word) for word in words]))
    return output


def use(*words) -> None:
    """Run predict as from the command line."""
    cli.run(predict.main, predict.parser(), [str(word) for word in words])


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return train(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def model(experiment, tmp_path_factory):
    return build(experiment, tmp_path_factory.mktemp("built") / "model", "--origin", "PHANTOM")


@pytest.fixture
def frames(tmp_path):
    """A folder with a wide PNG, a DICOM file without suffix, and what is no frame."""
    folder = tmp_path / "frames"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(np.hstack([textures(1, 64, 5)[0], textures(1, 64, 6)[0]])).save(folder / "b.png")
    Image.fromarray(textures(1, 48, 7, coarse=True)[0]).save(folder / "a.bmp")
    shutil.copy(get_testdata_file("examples_palette.dcm"), folder / "deep" / "1.2.840.7")
    (folder / "notes.txt").write_text("no frame")
    (folder / ".hidden.png").write_text("no frame")
    return folder


def test_the_ensemble_is_its_members(experiment, model):
    views = torch.from_numpy(np.load(experiment / "views.npy"))
    ensemble = load_ensemble(model / "ensemble.safetensors")
    facts = read_json(model / "classifier.json")
    assert [(member["seed"], member["fold"]) for member in facts["members"]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    logits = []
    with torch.inference_mode():
        probability, members, embeddings = ensemble(views)
        for number, member in enumerate(facts["members"]):
            path = experiment / f"seed{member['seed']}_fold{member['fold']}.safetensors"
            assert sha256(path) == member["sha256"]
            network, _ = load_classifier(path)
            images = ((views[:, None].float() / 255 - 0.5) / 0.25).expand(-1, 3, -1, -1)
            torch.testing.assert_close(embeddings[:, number], network.backbone(images))
            logits.append(network(images) @ torch.tensor([-1.0, 1.0]))
    expected = torch.stack(logits, dim=1).numpy() / facts["temperature"]
    np.testing.assert_allclose(members, sigmoid(expected), atol=1e-5)
    np.testing.assert_allclose(probability, sigmoid(expected.mean(axis=1)), atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_onnx_equals_torch(experiment, model, count):
    views = np.load(experiment / "views.npy")[:count]
    session = onnxruntime.InferenceSession(model / "classifier.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    with torch.inference_mode():
        expected = load_ensemble(model / "ensemble.safetensors")(torch.from_numpy(views))
    for given, wanted in zip(session.run(None, {INPUT: views}), expected, strict=True):
        assert given.shape == wanted.shape
        np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-4)


def test_the_temperature_is_that_of_the_seeds_mean_logit(experiment, model):
    tables = [read_csv(experiment / f"seed{seed}.csv") for seed in SEEDS]
    pooled = pool(np.stack([table["probability"] for table in tables], axis=1))
    np.testing.assert_allclose(logit(pooled), np.mean([logit(table["probability"]) for table in tables], axis=0))
    facts = read_json(model / "classifier.json")
    truth = tables[0]["label_original"] == "coarse"
    assert facts["temperature"] == pytest.approx(fit_temperature(pooled, truth.to_numpy()))
    assert facts["calibration"]["before"]["brier"] == pytest.approx(np.mean((pooled - truth) ** 2))
    assert facts["performance"]["original"]["accuracy"] == pytest.approx(np.mean((pooled > 0.5) == truth))
    assert (facts["performance"]["original"]["views"], facts["performance"]["policy"]["views"]) == (40, 36)


def test_the_same_networks_give_the_same_bytes(experiment, model, tmp_path):
    again = build(experiment, tmp_path / "again", "--origin", "PHANTOM")
    names = ["README.md", "classifier.json", "classifier.onnx", "ensemble.safetensors", "reference.safetensors"]
    assert sorted(path.name for path in model.iterdir()) == names
    for name in names:
        assert (again / name).read_bytes() == (model / name).read_bytes(), name
    facts = read_json(model / "classifier.json")
    assert facts["files"] == {name: sha256(model / name) for name in names[2:]}


def test_nothing_of_the_machine_or_of_patients_is_inside(experiment, model):
    graph = onnx.load(model / "classifier.onnx")
    assert not any(tensor.external_data for tensor in graph.graph.initializer)
    assert {entry.key: entry.value for entry in graph.metadata_props} == {
        "classes": "fine, coarse", "origin": "PHANTOM", "use": "Research software, not a medical device",
    }  # fmt: skip
    # The words of each file without its numbers, in which any letters occur by chance.
    for tensor in graph.graph.initializer:
        tensor.ClearField("raw_data")
    words = {"classifier.onnx": graph.SerializeToString()}
    for name in ("ensemble.safetensors", "reference.safetensors"):
        content = (model / name).read_bytes()
        words[name] = content[8 : 8 + int.from_bytes(content[:8], "little")]
    words |= {name: (model / name).read_bytes() for name in ("README.md", "classifier.json")}
    secrets = [str(REPOSITORY), str(experiment), sys.prefix, socket.gethostname(), "stack_trace", r"[PV]\d\d"]
    for name, content in words.items():
        assert [secret for secret in secrets if re.search(rb"\b" + secret.encode() + rb"\b", content)] == [], name


def test_the_card_tells_what_a_reader_must_know(model):
    card, facts = (model / "README.md").read_text(), read_json(model / "classifier.json")
    assert card.startswith("# Classifier of ultrasound views: fine or coarse (PHANTOM)\n\n> **PHANTOM**")
    for text in ("not a medical device", "4 networks (test_resnet", "| patients | 20 |", f"{facts['temperature']:.3f}"):
        assert text in card
    scored = facts["performance"]["original"]
    assert f"{scored['accuracy']:.3f} (95 % interval {scored['accuracy_low']:.3f} to" in card
    assert not re.search(r"\bnan\b|None|[{}]", card)
    assert "phantom" not in classifier_card({**facts, "origin": ""}).lower()


def test_familiar_views_are_near_and_others_far(experiment, model):
    loaded = predict.load_model(model, 1)
    noise = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE), dtype=np.uint8)
    familiar = np.concatenate([textures(10, SIZE, 11), textures(10, SIZE, 12, coarse=True)])
    distances = [
        np.array([row["distance_percentile"] for row in predict.predict(loaded, [predict.Cropped("", "", v) for v in views])])
        for views in (familiar, noise)
    ]  # fmt: skip
    assert 20 < distances[0].mean() < 80
    assert distances[1].min() > np.median(distances[0])
    assert distances[1].mean() > 90


def test_left_out_views_are_measured_against_views_of_the_other_folds(experiment, model):
    reference = load_file(model / "reference.safetensors")
    fold = read_csv(experiment / "folds1.csv")["fold"].to_numpy()
    network, _ = load_classifier(experiment / "seed1_fold0.safetensors")
    images = torch.from_numpy(np.load(experiment / "views.npy"))[:, None].float() / 255
    with torch.inference_mode():
        features = network.backbone(((images - 0.5) / 0.25).expand(-1, 3, -1, -1)).numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(reference["member2.embeddings"], features[fold != 0], atol=1e-5)
    nearest = NearestNeighbors(n_neighbors=10).fit(features[fold != 0]).kneighbors(features[fold == 0])[0][:, -1]
    np.testing.assert_allclose(reference["member2.distances"], np.sort(nearest), atol=1e-4)


def test_distances_to_neighbours_and_their_percentiles():
    random = np.random.default_rng(3)
    training, queries = unit_length(random.normal(size=(30, 5))), unit_length(random.normal(size=(4, 5)))
    expected = np.sort(np.linalg.norm(queries[:, None] - training, axis=2), axis=1)
    for neighbours, column in ((1, 0), (10, 9), (30, 29), (50, 29)):
        np.testing.assert_allclose(neighbour_distances(queries, training, neighbours), expected[:, column], atol=1e-6)
    assert unit_length(np.array([[0.0, 0.0], [3.0, 4.0]])).tolist() == [[0, 0], pytest.approx([0.6, 0.8])]
    left_out = np.array([1.0, 2.0, 3.0, 4.0])
    assert percentiles(np.array([0.5, 1.0, 3.5, 9.0]), left_out).tolist() == [0, 0, 75, 100]


def test_predict_reads_files_and_folders_and_names_what_is_bad(model, frames, tmp_path, capsys):
    broken = tmp_path / "broken.png"
    broken.write_bytes((frames / "b.png").read_bytes()[:200])
    with pytest.raises(SystemExit) as end:
        use(
            "--model",
            model,
            "--output",
            tmp_path / "out.csv",
            frames,
            broken,
            tmp_path / "absent.png",
            frames / "b.png",
        )
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert printed.err.count("not a medical device") == 1
    assert "error: 2 of 6 files could not be predicted" in printed.err
    assert f"{broken}: the file is damaged or truncated" in printed.err
    assert f"{tmp_path / 'absent.png'}: does not exist" in printed.err
    assert printed.out.splitlines()[0].split() == [*predict.COLUMNS, "origin"]

    rows = read_rows(tmp_path / "out.csv")
    expected = [frames / "a.bmp", frames / "b.png", frames / "deep" / "1.2.840.7", frames / "b.png"]
    assert [row["file"] for row in rows] == [str(path) for path in expected]
    assert {(row["view"], row["origin"]) for row in rows} == {("full", "PHANTOM")}
    view = resize(letterbox(np.asarray(Image.open(frames / "b.png"))), SIZE)
    with torch.inference_mode():
        probability, members, _ = load_ensemble(model / "ensemble.safetensors")(torch.from_numpy(view.copy())[None])
    probability, members = probability.item(), members[0].numpy()
    for row in (rows[1], rows[3]):
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-4)
        assert float(row["lowest"]) == pytest.approx(members.min(), abs=1e-4)
        assert float(row["highest"]) == pytest.approx(members.max(), abs=1e-4)
        assert float(row["agreement"]) == np.mean((members > 0.5) == (probability > 0.5))
        assert row["prediction"] == CLASSES[probability > 0.5]
        assert 0 <= float(row["distance_percentile"]) <= 100
        assert row["unlike_training"] == str(int(float(row["distance_percentile"]) > predict.FAR))


def test_predict_needs_no_torch_and_is_silent_about_success(model, frames):
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from workflow_scripts.classifier.predict import main, parser, run\n"
        "run(main, parser())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--model", model, frames / "a.bmp"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert "error" not in done.stderr


def test_overlays_show_every_view_with_its_stamp(model, frames, tmp_path):
    use(
        "--model",
        model,
        "--overlays",
        tmp_path / "heat",
        "--output",
        tmp_path / "out.csv",
        frames / "a.bmp",
        frames / "b.png",
    )
    names = [row["overlay"] for row in read_rows(tmp_path / "out.csv")]
    assert names == ["0001_a_full.png", "0002_b_full.png"]
    for name in names:
        with Image.open(tmp_path / "heat" / name) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        assert (np.ptp(pixels, axis=2) > 60).mean() > 0.05  # the grey view alone has no colour

    row = dict(zip(predict.COLUMNS, ("a.bmp", "full", 0, "coarse", 0.8, 0.6, 0.9, 1.0, 12.0), strict=True))
    view, heat = predict.Cropped("a.bmp", "full", np.zeros((8, 8), np.uint8)), np.zeros((8, 8))
    for origin in ("PHANTOM", ""):
        figure = predict.overlay_figure(view, row, heat, {"classes": CLASSES, "origin": origin})
        texts = [text.get_text() for text in figure.texts]
        assert ("PHANTOM" in texts) == bool(origin)
        assert figure.get_supxlabel() == predict.NOTICE
        assert figure.get_suptitle().startswith("p(coarse) = 0.80")
    unlike = predict.overlay_figure(view, {**row, "unlike_training": 1}, heat, {"classes": CLASSES, "origin": ""})
    assert unlike.get_suptitle().startswith("UNLIKE THE TRAINING VIEWS")


def test_a_folder_gives_a_table_a_json_and_dicom_objects_for_dicom_frames(model, frames, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    write_ultrasound(frames / "noise.dcm", noise, 1)
    write_ultrasound(frames / "unfiled.dcm", textures(1, 64, 9)[0], 2, StudyInstanceUID=None)
    with pytest.raises(SystemExit):
        use("--model", model, "--dicom", tmp_path / "pacs", "--json", tmp_path / "out.json", frames)
    printed = capsys.readouterr()
    assert "not all could be filed" in printed.err
    assert printed.err.index("do not rely on their probabilities") < printed.err.index("not all could be filed")
    told = read_json(tmp_path / "out.json")
    assert [Path(row["file"]).name for row in told["views"]] == [
        "a.bmp",
        "b.png",
        "1.2.840.7",
        "noise.dcm",
        "unfiled.dcm",
    ]
    assert (told["origin"], told["classes"], told["notice"]) == ("PHANTOM", list(CLASSES), predict.NOTICE)
    assert [Path(text.partition(":")[0]).name for text in told["failed"]] == ["unfiled.dcm"]
    assert told["views"][3]["unlike_training"] == 1
    made = {path.name: pydicom.dcmread(path) for path in sorted((tmp_path / "pacs").iterdir())}
    assert list(made) == [
        "0001_1.2.840_report.dcm",
        "0002_noise_report.dcm",
        "0003_1.2.840_full.dcm",
        "0004_noise_full.dcm",
    ]
    report = srread(tmp_path / "pacs" / "0002_noise_report.dcm")
    (group,) = report.content.get_image_measurement_groups()
    assert group.finding_type.value == "UNLIKE"
    assert group.get_measurements()[0].value == pytest.approx(told["views"][3]["probability"], rel=1e-5)
    heat = made["0004_noise_full.dcm"].pixel_array.astype(int)
    assert heat.shape[2] == 3
    assert (np.ptp(heat, axis=2) > 60).mean() > 0.02


def test_several_crop_profiles_must_be_chosen_from(capsys):
    profiles = {"whole": {"kind": "none"}, "scanner": {"kind": "dicom_regions"}}
    assert predict.chosen_profile(profiles, "scanner") == profiles["scanner"]
    assert predict.chosen_profile(PROFILES, "") == PROFILES["whole"]
    with pytest.raises(UserError, match="--profile: whole, scanner"):
        predict.chosen_profile(profiles, "")
    with pytest.raises(UserError, match="no crop profile 'scaner'.*whole, scanner"):
        predict.chosen_profile(profiles, "scaner")


def test_predict_refuses_another_folder_and_a_changed_file(model, frames, tmp_path):
    with pytest.raises(UserError, match=r"holds no classifier\.json"):
        predict.load_model(frames, 1)
    changed = tmp_path / "changed"
    shutil.copytree(model, changed)
    with (changed / "classifier.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError, match=r"classifier\.onnx is not the file"):
        predict.load_model(changed, 1)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert predict.find_files([empty]) == ([], [f"{empty}: this folder holds no picture and no DICOM file"])


def test_networks_that_do_not_belong_together_are_refused(experiment, tmp_path):
    all_of_them = [experiment / f"seed{seed}_fold{fold}.safetensors" for seed in SEEDS for fold in FOLDS]
    with pytest.raises(UserError, match="both need them all"):
        build(experiment, tmp_path / "m", weights=all_of_them[:3])
    split, swapped = read_csv(experiment / "seed0.csv"), read_csv(experiment / "seed1.csv")
    split.loc[2, "fold"] = 1 - split.loc[3, "fold"]
    write_csv(split, tmp_path / "split.csv")
    with pytest.raises(UserError, match="patient P01 is in more than one fold of seed 0"):
        build(experiment, tmp_path / "m", predictions=[tmp_path / "split.csv", experiment / "seed1.csv"])
    write_csv(swapped.assign(probability=1 - swapped["probability"]), tmp_path / "swapped.csv")
    with pytest.raises(UserError, match="--weights and --predictions are of different runs"):
        build(experiment, tmp_path / "m", predictions=[experiment / "seed0.csv", tmp_path / "swapped.csv"])
    other = tmp_path / "other"
    shutil.copytree(experiment, other)
    index = read_csv(other / "index.csv")
    write_csv(index.assign(label="fine"), other / "index.csv")
    with pytest.raises(UserError, match="trained with other --index"):
        build(other, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_labels_that_differ_between_seeds_are_no_one_truth(experiment, tmp_path):
    table = read_csv(experiment / "seed1.csv")
    table.loc[0, "label_policy"] = "coarse" if table.loc[0, "label_policy"] == "fine" else "fine"
    write_csv(table, tmp_path / "nested.csv")
    with pytest.raises(UserError, match="use --truth original"):
        build(
            experiment,
            tmp_path / "m",
            "--truth",
            "policy",
            predictions=[experiment / "seed0.csv", tmp_path / "nested.csv"],
        )


def test_what_onnx_cannot_hold_and_what_is_no_ensemble_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("workflow_scripts.classifier.ensemble.LARGEST_ONNX", 1000)
    ensemble = Ensemble([Classifier(create_backbone("test_resnet"), 0)], 1.0)
    with pytest.raises(UserError, match="fewer seeds or a smaller backbone"):
        export_onnx(ensemble, SIZE, {}, tmp_path / "a.onnx")
    save_weights(ensemble.members[0].state_dict(), {"backbone": "test_resnet"}, tmp_path / "single.safetensors")
    with pytest.raises(UserError, match="is not an ensemble"):
        load_ensemble(tmp_path / "single.safetensors")


ODD = ["=cmd().png", "line\nbreak.png", "\x1b[2J.png", "$x_1^2$ `a` <b>.png", "n" * 240 + ".png"]


def test_odd_names_of_files_end_no_batch_and_do_nothing(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [name.encode() for name in ODD] + [b"latin \xe9.png"]
    for number, name in enumerate(names):
        Image.fromarray(textures(1, 48, number)[0]).save(tmp_path / "frame.png")
        (tmp_path / "frame.png").rename(os.fsdecode(name))
    (tmp_path / "damaged\x1b[2J.png").write_bytes(b"")
    with pytest.raises(SystemExit):
        use("--model", model, "--overlays", "heat", "--output", "out.csv", *sorted(tmp_path.glob("*.png")), ODD[0])
    printed = capsys.readouterr()
    assert "error: 1 of 8 files could not be predicted" in printed.err
    assert "\x1b" not in printed.out + printed.err
    assert len(printed.out.splitlines()) == 8
    rows = read_rows(tmp_path / "out.csv")
    assert [row["file"] for row in rows if row["file"].startswith("'")] == ["'=cmd().png"]
    assert {row["overlay"] for row in rows} == {file.name for file in (tmp_path / "heat").iterdir()}
    assert len(rows) == 7


def stranger(model: Path, folder: Path, **changes) -> Path:
    """A copy of a classifier whose description was changed."""
    shutil.copytree(model, folder)
    write_json({**read_json(model / "classifier.json"), **changes}, folder / "classifier.json")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_profiles": {"a": {"kind": "boxes", "boxes": [[0, 0, 9, 9]], "views": ["../../outside"]}}},
        {"crop_profiles": {"a": {"kind": "boxes", "boxes": [[0, 0, 9, 9]], "views": ["/outside"]}}},
        {"crop_profiles": {}},
        {"classes": ["$x$ $", "b"]},
        {"origin": "\x1b[2J"},
        {"size": 10**6},
        {"size": 32},
        {"novelty": {"neighbours": 0, "embedding": 1}},
        {"files": {}},
    ],
)
def test_a_description_that_a_stranger_changed_is_refused(model, tmp_path, changes):
    with pytest.raises(UserError, match=r"describes no classifier|is a file of another kind"):
        predict.load_model(stranger(model, tmp_path / "model", **changes), 1)


def test_another_reference_is_refused(model, tmp_path):
    folder = stranger(model, tmp_path / "model")
    save_file({"member0.embeddings": np.zeros((3, 2), np.float32)}, folder / "reference.safetensors")
    facts = read_json(folder / "classifier.json")
    facts["files"]["reference.safetensors"] = sha256(folder / "reference.safetensors")
    write_json(facts, folder / "classifier.json")
    with pytest.raises(UserError, match="is a file of another kind"):
        predict.load_model(folder, 1)
