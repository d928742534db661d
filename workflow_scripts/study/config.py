"""The validated config of a study: every mistake reported at once, with file and line, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.errors import UserError
from workflow_scripts.study.label_sets import OUT_OF_FOLD
from workflow_scripts.study.schema import config_schema, with_defaults

# What a table row may name as `init` besides initialisations and pretraining runs.
BASELINES = ("majority", "texture")
SYNTHETIC_SETS = ("synthetic", "filtered")
LABELLED_SET = "labelled"
TABLES = ("table1", "table1_protocols", "table2", "table3", "table4")

Path_ = tuple[str | int, ...]


def load_config(merged: Mapping[str, Any], files: Sequence[Path]) -> dict[str, Any]:
    """Validate a merged config and fill in the defaults.

    `files` are the config files it was merged from, the last one winning; they only serve to find line numbers.
    Raises `UserError` that lists every problem.
    """
    from jsonschema import Draft202012Validator

    schema = config_schema()
    problems = [p for error in Draft202012Validator(schema).iter_errors(dict(merged)) for p in _explain(error)]
    if not problems:
        config = with_defaults(merged, schema)
        problems = list(_inconsistencies(config))
        if not problems:
            return config
    lines = _Lines(files)
    raise UserError(
        "the config has mistakes:\n" + "\n".join(f"  {lines.where(path)}: {text}" for path, text in problems)
    )


def _explain(error: Any, prefix: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """What a schema error means, with the path of the key that is wrong; each unknown key is a problem of its own."""
    path = (*prefix, *error.absolute_path)
    if error.validator == "additionalProperties" and error.schema["additionalProperties"] is False:
        known = sorted(error.schema.get("properties", {}))
        for key in error.instance:
            if key not in known:
                yield (*path, key), f"unknown key {key!r}; known here: {', '.join(known)}"
        return
    text = str(error.message)
    if isinstance(error.instance, str) and error.validator == "type" and error.validator_value in ("number", "integer"):
        text += " (YAML reads 1e-5 as text; write 1.0e-5)"
    yield path, text


def _inconsistencies(config: Mapping[str, Any]) -> Iterable[tuple[Path_, str]]:
    """Problems that a JSON Schema cannot see: names that point nowhere, and combinations that cannot be."""
    from jsonschema import Draft202012Validator

    data, runs, initialisations = config["data"], config["pretraining"]["runs"], config["initialisations"]
    starts = {*initialisations, *runs}
    if data["target_organ"] not in data["organs"]:
        yield (
            ("data", "target_organ"),
            f"{data['target_organ']!r} is not one of data.organs ({', '.join(data['organs'])})",
        )
    for name in (LABELLED_SET, *SYNTHETIC_SETS):
        if name in data["organs"]:
            yield ("data", "organs"), f"{name!r} names a set of views and cannot name an organ"
    for name, profile in data["crop_profiles"].items():
        if profile["kind"] == "boxes" and len(profile["boxes"]) != len(profile["views"]):
            yield (
                ("data", "crop_profiles", name),
                f"{len(profile['boxes'])} boxes but {len(profile['views'])} view names",
            )
    for name in initialisations:
        if name in runs:
            yield ("pretraining", "runs", name), f"{name!r} is also an initialisation; give one of them another name"
        if name in BASELINES:
            yield ("initialisations", name), f"{name!r} is the name of a baseline; choose another"
    sets = {LABELLED_SET, *data["organs"], *SYNTHETIC_SETS}
    for name, run in runs.items():
        where: Path_ = ("pretraining", "runs", name)
        if name in BASELINES:
            yield where, f"{name!r} is the name of a baseline; choose another"
        for unknown in sorted(set(run["sets"]) - sets):
            yield (*where, "sets"), f"no set {unknown!r}; there are {', '.join(sorted(sets))}"
        for stranger in sorted(set(run["weights"]) - set(run["sets"])):
            yield (*where, "weights", stranger), f"{stranger!r} is none of the run's sets: {', '.join(run['sets'])}"
        if run["init"] not in initialisations:
            yield (*where, "init"), f"no initialisation {run['init']!r}; there are {', '.join(initialisations)}"
        recipe_schema = config_schema()["$defs"]["pretraining_recipe"]
        for error in Draft202012Validator(recipe_schema).iter_errors(run["recipe"]):
            yield from _explain(error, (*where, "recipe"))
        if run["recipe"].get("loss_con") is False and len(organs_of(run["sets"], config)) < 2:
            yield (*where, "recipe", "loss_con"), "without L_con only L_sup is left, and it needs two organs"
    for i, name in enumerate(config["audit"]["initialisations"]):
        if name not in starts:
            yield (
                ("audit", "initialisations", i),
                f"no initialisation or pretraining run {name!r}; there are {_list(starts)}",
            )
    for table in TABLES:
        names = set()
        for i, row in enumerate(config["tables"][table]["rows"]):
            where = ("tables", table, "rows", i)
            if row["init"] not in {*starts, *BASELINES}:
                yield (
                    (*where, "init"),
                    f"no initialisation or pretraining run {row['init']!r}; there are {_list(starts)}",
                )
            if row["init"] in BASELINES and row["variant"]:
                yield (*where, "variant"), f"the baseline {row['init']!r} has no fine-tuning recipe to change"
            if row.get("labels", config["finetuning"]["labels"]) == "reviewed" and not config["audit"]["decisions"]:
                yield (*where, "labels"), "the policy `reviewed` needs audit.decisions, a clinician's decisions.csv"
            if row.get("labels", "").endswith("_nested") and config["audit"]["vote"]["method"] in OUT_OF_FOLD:
                yield (
                    (*where, "labels"),
                    "nested labels need a method that scores the training itself: votes, mean_loss or aum",
                )
            if row["name"] in names:
                yield (*where, "name"), f"two rows are named {row['name']!r}"
            names.add(row["name"])
    packed = config["classifier"]["init"]
    if packed and packed not in starts:
        yield ("classifier", "init"), f"no initialisation or pretraining run {packed!r}; there are {_list(starts)}"
    leak = config["tables"]["leak"]
    if leak and leak not in starts:
        yield ("tables", "leak"), f"no initialisation or pretraining run {leak!r}; there are {_list(starts)}"
    explained = config["figures"]["explained"]
    if explained and explained not in starts:
        yield ("figures", "explained"), f"no initialisation or pretraining run {explained!r}; there are {_list(starts)}"
    network = config["embedding"]["network"]
    if network.startswith("timm:") and not config["embedding"]["timm"]["file"]:
        yield ("embedding", "network"), f"{network!r} needs its weights: name a safetensors file in embedding.timm.file"
    if network.startswith("encoder:"):
        name = network.removeprefix("encoder:")
        if name not in runs:
            yield ("embedding", "network"), f"no pretraining run {name!r}; there are {_list(runs)}"
        elif set(runs[name]["sets"]) & set(SYNTHETIC_SETS):
            yield (
                ("embedding", "network"),
                f"{name!r} is trained on synthetic views, so it cannot judge them; name a run on real sets",
            )
    if config["manifold"]["recipe"]["filter_rule"] == "calibrated" and not config["diffusion"]["holdout_patients"]:
        yield (
            ("manifold", "recipe", "filter_rule"),
            "calibrated radii need patients that the generator never saw, and diffusion.holdout_patients is 0; raise it,"
            " or set filter_rule: neighbours",
        )
    if config["diffusion"]["model"] and config["holdout"] == "per_fold":
        yield (
            ("diffusion", "model"),
            "a ready model has seen every fold's patients; holdout: per_fold must train its own",
        )
    selecting = config["diffusion"]["select"]
    if selecting != "last" and not config["diffusion"]["model"] and not config["diffusion"]["holdout_patients"]:
        yield (
            ("diffusion", "select"),
            f"{selecting!r} judges checkpoints by held-out patients, and diffusion.holdout_patients is 0; raise it or "
            "say last",
        )
    if config["split_by"] == "view" and config["holdout"] == "per_fold":
        yield (
            ("split_by",),
            "folds of views share patients, so holdout: per_fold has no patients to leave out; choose one of the two",
        )
    repeats = config["pretraining"]["seeds"]
    if repeats > 1 and config["holdout"] == "per_fold":
        yield (
            ("pretraining", "seeds"),
            f"{repeats}, but with holdout: per_fold every seed and fold has a pretraining of its own; leave it at 1",
        )
    elif idle := sorted(set(range(repeats)) - {seed % repeats for seed in config["seeds"]}):
        yield (
            ("pretraining", "seeds"),
            f"no fine-tuning seed starts from pretraining number {_list(map(str, idle))}: seed s starts from number s "
            f"modulo {repeats}, and seeds are {_list(map(str, config['seeds']))}",
        )
    if config["synthesis"]["shards"] > config["synthesis"]["images"]:
        yield (
            ("synthesis", "shards"),
            f"{config['synthesis']['shards']} shards of {config['synthesis']['images']} images",
        )


def organs_of(sets: Iterable[str], config: Mapping[str, Any]) -> list[str]:
    """The organs that appear in a mix of sets, in the order of data.organs."""
    data = config["data"]
    present = {name if name in data["organs"] else data["target_organ"] for name in sets}
    return [organ for organ in data["organs"] if organ in present]


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


class _Lines:
    """Finds the file and line of a config key."""

    def __init__(self, files: Sequence[Path]) -> None:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self.roots = [(f, yaml.compose(f.read_text(encoding="utf-8"), Loader=loader)) for f in files if f.exists()]

    def where(self, path: Path_) -> str:
        """`config.yaml line 12, data.size`: the deepest part of the path that a file holds, in the last file that does."""
        import yaml

        key = ".".join(map(str, path)) or "top level"
        best = (-1, "")
        for file, root in self.roots:
            node, depth, line = root, 0, 1
            for part in path:
                if isinstance(node, yaml.MappingNode):
                    pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
                    if pair is None:
                        break
                    line, node = pair[0].start_mark.line + 1, pair[1]
                elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                    node = node.value[part]
                    line = node.start_mark.line + 1
                else:
                    break
                depth += 1
            if depth >= best[0]:
                best = (depth, f"{file} line {line}")
        return f"{best[1]}, {key}" if best[1] else key
