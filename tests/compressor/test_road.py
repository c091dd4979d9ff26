"""The whole road through the command line, as a user types it, on the embedded digits."""

import json
from pathlib import Path

import onnx
import pytest
from command_line import compress
from torch import nn

from compressor import checkpoint
from compressor.costs.staircase import Staircase, staircase_to_json
from compressor.methods.fbs import layers
from compressor.methods.fbs_op import num_winners
from compressor.pipeline.steps import profile_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("road")
    train = ("train", "--arch", "digitsnet", "--data", "digits", "--epochs", 4, "--batch-size", 64, "--precision", "32")
    assert compress(*train, "-o", folder / "dense.pt") == 0
    prune = ("prune", folder / "dense.pt", "--method", "fbs", "--density", 0.5, "--data", "digits", "--epochs", 3)
    assert compress(*prune, "--batch-size", 64, "--precision", "32", "-o", folder / "fbs.pt") == 0
    assert compress("export", folder / "dense.pt", "-o", folder / "dense.onnx", "--no-measure") == 0
    export = ("export", folder / "fbs.pt", "--method", "fbs", "--density", 0.5, "--no-measure")
    assert compress(*export, "-o", folder / "fbs.onnx") == 0
    return folder


def test_the_file_says_what_it_is(folder: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "fbs.onnx").metadata_props}
    assert metadata["compress.method"] == "fbs"
    assert float(metadata["compress.density"]) == 0.5
    assert metadata["compress.trained"] == "true"
    assert 0.5 < float(metadata["compress.accuracy"]) <= 1.0
    assert json.loads(metadata["compress.preprocessing"])["size"] == [1, 8, 8]


@pytest.mark.parametrize("name", ["dense", "fbs"])
def test_the_file_is_the_network_on_real_images(folder: Path, name: str) -> None:
    words = ("verify", folder / f"{name}.pt", folder / f"{name}.onnx", "--data", "digits", "--images", 16)
    assert compress(*words, "--json", folder / f"{name}.json") == 0
    report = json.loads((folder / f"{name}.json").read_text())
    assert report["passed"]
    assert report["relative_error"] <= 1e-4
    assert {row["batch"] for row in report["comparisons"]} == {1}


def test_winners_in_blocks_go_all_the_way(folder: Path, tmp_path: Path) -> None:
    prune = ("prune", folder / "dense.pt", "--method", "fbs", "--density", 0.5, "--data", "digits", "--epochs", 2)
    words = ("--set", "winner_block=12", "--batch-size", 64, "--precision", "32", "-o", tmp_path / "blocks.pt")
    assert compress(*prune, *words) == 0
    saved = checkpoint.load(tmp_path / "blocks.pt")
    blocks = layers(checkpoint.rebuild(saved))
    for layer in blocks.values():
        assert layer.options.winner_block == 12
        assert layer.winners == num_winners(0.5, layer.full_width, 12)
    assert any(layer.full_width % 12 for layer in blocks.values())

    export = ("export", tmp_path / "blocks.pt", "--data", "digits", "--no-measure", "-o", tmp_path / "blocks.onnx")
    assert compress(*export) == 0
    nodes = [node for node in onnx.load(tmp_path / "blocks.onnx").graph.node if node.op_type == "FBSConv"]
    assert [{a.name: a.i for a in node.attribute}["winner_block"] for node in nodes] == [12] * len(blocks)
    verify = ("verify", tmp_path / "blocks.pt", tmp_path / "blocks.onnx", "--data", "digits", "--images", 16)
    assert compress(*verify, "--json", tmp_path / "report.json") == 0
    assert json.loads((tmp_path / "report.json").read_text())["passed"]


@pytest.mark.parametrize("never", ["removed", "kept"])
def test_channels_that_never_win_are_not_in_the_file(
    folder: Path, tmp_path: Path, never: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", folder / "fbs.pt", "--data", "digits", "--no-measure", "-o", tmp_path / "lean.onnx")
    assert compress(*words, *(["--keep-never"] if never == "kept" else [])) == 0
    assert "never won and" in capsys.readouterr().err
    files = [
        {w.name: w.dims for w in onnx.load(f).graph.initializer} for f in (folder / "fbs.onnx", tmp_path / "lean.onnx")
    ]
    widths = [sum(dims[0] for name, dims in file.items() if name.endswith(".shift")) for file in files]
    assert (widths[0] == widths[1]) == (never == "kept")
    assert compress("verify", folder / "fbs.pt", tmp_path / "lean.onnx", "--data", "digits", "--images", 16) == 0


def types_of(file: Path, role: str) -> set[int]:
    """Of the FBS layers' inputs that are called so."""
    graph = onnx.load(file).graph
    names = {name for node in graph.node if node.op_type.startswith("FBSConv") for name in node.input}
    return {weight.data_type for weight in graph.initializer if weight.name in names and weight.name.endswith(role)}


def test_numbers_of_16_bits_go_all_the_way(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    float_, half = {onnx.TensorProto.FLOAT}, {onnx.TensorProto.FLOAT16}
    predictors, weights = ".saliency_weight", ".weight"
    assert types_of(folder / "fbs.onnx", predictors) == types_of(folder / "fbs.onnx", weights) == float_
    words = ("export", folder / "fbs.pt", "--data", "digits", "--no-measure")
    for option, kernels in (("--half-predictors", float_), ("--half-weights", half)):
        file = tmp_path / f"{option}.onnx"
        assert compress(*words, option, "-o", file) == 0
        said = capsys.readouterr().err
        assert "predictors in float16" in said
        assert ("weights in float16" in said) == (option == "--half-weights")
        assert types_of(file, predictors) == half
        assert types_of(file, weights) == kernels
        assert compress("verify", folder / "fbs.pt", file, "--data", "digits", "--images", 16) == 0
    assert compress(*words, "--half-predictors", "--int8", "-o", tmp_path / "half_int8.onnx") == 0
    assert types_of(tmp_path / "half_int8.onnx", predictors) == half

    capsys.readouterr()
    for refused, why in (
        (("export", folder / "dense.pt", "--half-predictors"), "--half-predictors rounds what FBS layers are made of"),
        (("export", folder / "dense.pt", "--half-weights"), "dense.pt has no FBS layers; leave it out and add --int8"),
        ((*words, "--half-predictors", "--target", "tensorrt"), "for target onnx"),
        ((*words, "--half-weights", "--target", "tensorrt"), "--half-weights is for target onnx"),
        ((*words, "--half-weights", "--int8"), "add --half-predictors instead"),
    ):
        assert compress(*refused, "-o", tmp_path / "x.onnx") == 1
        assert why in capsys.readouterr().err
        assert not (tmp_path / "x.onnx").exists()


def test_numbers_of_8_bits_go_all_the_way(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictors, weights, file = ".saliency_weight", ".weight", tmp_path / "bytes.onnx"
    words = ("export", folder / "fbs.pt", "--data", "digits", "--no-measure")
    assert compress(*words, "--byte-weights", "-o", file) == 0
    said = capsys.readouterr().err
    assert "predictors in int8" in said
    assert "weights in int8" in said
    assert types_of(file, weights) == {onnx.TensorProto.INT8}
    # The image has one channel, and its predictor one number for each output: with steps it would be larger.
    assert types_of(file, predictors) == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT}
    about = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert about["compress.predictors"] == about["compress.weights"] == "int8"
    assert file.stat().st_size < 0.4 * (folder / "fbs.onnx").stat().st_size
    assert compress("verify", folder / "fbs.pt", file, "--data", "digits", "--images", 16) == 0


@pytest.mark.parametrize(
    ("others", "why"),
    [
        (("--half-weights",), "leave --half-weights out"),
        (("--half-predictors",), "leave --half-predictors out"),
        (("--half-predictors", "--half-weights"), "leave --half-weights and --half-predictors out"),
        (("--int8",), "--byte-weights: with --int8 weights have 8 bits already"),
        (("--target", "tensorrt"), "--byte-weights is for target onnx"),
    ],
)
def test_what_does_not_go_with_bytes(
    folder: Path, tmp_path: Path, others: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("export", folder / "fbs.pt", "--data", "digits", "--no-measure", "--byte-weights")
    assert compress(*words, *others, "-o", tmp_path / "x.onnx") == 1
    assert why in capsys.readouterr().err
    assert compress("export", folder / "dense.pt", "--byte-weights", "-o", tmp_path / "x.onnx") == 1
    assert "--byte-weights rounds what FBS layers are made of" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.parametrize("option", ["--pad", "--no-pad"])
def test_widths_are_filled_up_to_what_the_runtime_likes(
    folder: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prune = ("prune", folder / "dense.pt", "--method", "l1", "--budget", "macs=0.45x", "--align", "off", "--epochs", 0)
    assert compress(*prune, "--data", "digits", "-o", tmp_path / "slim.pt") == 0
    assert compress("export", tmp_path / "slim.pt", option, "--no-measure", "-o", tmp_path / "slim.onnx") == 0
    assert ("filled up" in capsys.readouterr().err) == (option == "--pad")
    nodes = [node for node in onnx.load(tmp_path / "slim.onnx").graph.node if node.op_type == "Conv"]
    weights = {w.name: w.dims for w in onnx.load(tmp_path / "slim.onnx").graph.initializer}
    assert all(weights[node.input[1]][0] % 4 == 0 for node in nodes) == (option == "--pad")
    assert compress("verify", tmp_path / "slim.pt", tmp_path / "slim.onnx", "--data", "digits", "--images", 16) == 0
    assert compress("export", tmp_path / "slim.pt", option, "--sparse", "sometimes", "-o", tmp_path / "x.onnx") == 1
    assert "unknown choice 'sometimes'" in capsys.readouterr().err
    assert not (tmp_path / "x.onnx").exists()


def test_another_networks_file_is_told_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compress("verify", folder / "fbs.pt", folder / "dense.onnx") == 1
    assert "NOT equal" in capsys.readouterr().out
    assert compress("verify", folder / "dense.pt", folder / "fbs.onnx") == 1
    assert "fbs.onnx has FBS layers and" in capsys.readouterr().err
    ordered = tmp_path / "ordered.onnx"
    assert compress("export", folder / "fbs.pt", "--data", "digits", "--no-measure", "-o", ordered) == 0
    model = onnx.load(ordered)
    (entry,) = (entry for entry in model.metadata_props if entry.key == "compress.winners")
    entry.value = json.dumps({"images": 1, "order": {"nowhere": [0]}})
    onnx.save(model, ordered)
    capsys.readouterr()
    assert compress("verify", folder / "fbs.pt", ordered) == 1
    assert "ordered.onnx was not exported from" in capsys.readouterr().err


def test_inspect_counts_what_the_layers_skip(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("dense.onnx", "fbs.onnx", "dense.pt", "fbs.pt"):
        assert compress("inspect", folder / file, "--json", folder / "inspect.json") == 0
    assert "classifier" in capsys.readouterr().out
    macs = {}
    for file in ("fbs.onnx", "fbs.pt"):
        assert compress("inspect", folder / file, "--json", folder / "inspect.json") == 0
        report = json.loads((folder / "inspect.json").read_text())
        macs[file] = report.get("macs") or report["cost"]["macs"]
    assert macs["fbs.onnx"] == pytest.approx(macs["fbs.pt"], rel=0.01)


def test_bench_lays_the_files_side_by_side(folder: Path) -> None:
    words = ("bench", folder / "dense.onnx", folder / "fbs.onnx", f"{folder / 'fbs.onnx'}@stock")
    short = ("--runs", 1, "--rounds", 2, "--min-time", 0)
    assert compress(*words, *short, "--json", folder / "bench.json") == 0
    report = json.loads((folder / "bench.json").read_text())
    assert len(report["results"]) == 3
    assert report["results"][2]["isa"] is None


def test_training_goes_on_from_a_checkpoint_and_its_validation_split(folder: Path, tmp_path: Path) -> None:
    train = ("train", "--arch", "digitsnet", "--data", "digits", "--epochs", 1, "--batch-size", 64, "--lr", 0.01)
    output = tmp_path / "more.pt"
    assert compress(*train, "--precision", "32", "--seed", 5, "--start", folder / "dense.pt", "-o", output) == 0
    before, after = checkpoint.load(folder / "dense.pt"), checkpoint.load(output)
    assert before.record["split_seed"] == after.record["split_seed"] == 0
    assert after.record["val_top1"] > before.record["val_top1"] - 0.1


def test_a_dense_checkpoint_needs_data_to_become_fbs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "nothing.onnx"
    assert compress("export", folder / "dense.pt", "--method", "fbs", "--density", 0.5, "-o", output) == 1
    assert "--data" in capsys.readouterr().err
    assert not output.exists()


def test_an_untrained_architecture_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "untrained.onnx"
    words = ("export", "digitsnet", "--untrained", "--method", "fbs", "--density", 0.25, "--no-measure")
    assert compress(*words, "-o", output) == 0
    assert "untrained" in capsys.readouterr().err
    metadata = {entry.key: entry.value for entry in onnx.load(output).metadata_props}
    assert metadata["compress.trained"] == "false"
    assert compress("verify", "digitsnet", output, "--untrained") == 0


@pytest.fixture(scope="module")
def slim(folder: Path) -> Path:
    prune = ("prune", folder / "dense.pt", "--method", "l1", "--budget", "macs=0.5x", "--data", "digits")
    tuning = ("--epochs", 1, "--batch-size", 64, "--precision", "32", "--align", 16)
    assert compress(*prune, *tuning, "-o", folder / "slim.pt") == 0
    return folder / "slim.pt"


def test_channels_are_gone_for_good_and_the_budget_is_met(slim: Path) -> None:
    assert compress("inspect", slim, "--json", slim.with_suffix(".json")) == 0
    report = json.loads(slim.with_suffix(".json").read_text())
    assert report["coverage"]["kept_macs"] == pytest.approx(0.5 * report["coverage"]["macs"], rel=0.02)
    assert report["cost"]["macs"] == pytest.approx(report["coverage"]["kept_macs"])
    assert all(layer["out_channels"] % 16 == 0 for layer in report["cost"]["layers"] if layer["kind"] == "conv")


def test_a_slim_network_is_exported_as_standard_ops_and_equal(slim: Path) -> None:
    file = slim.with_suffix(".onnx")
    assert compress("export", slim, "-o", file, "--no-measure") == 0
    assert {node.domain for node in onnx.load(file).graph.node} == {""}
    assert compress("verify", slim, file, "--data", "digits", "--images", 8) == 0


def test_a_saved_plan_is_replayed(slim: Path, folder: Path) -> None:
    words = ("prune", folder / "dense.pt", "--method", "l1", "--plan", slim.with_suffix(".plan.json"))
    again = folder / "again.pt"
    assert compress(*words, "--data", "digits", "--epochs", 0, "-o", again) == 0
    assert again.with_suffix(".plan.json").read_text() == slim.with_suffix(".plan.json").read_text()


def test_fbs_goes_on_top_of_a_slim_network(slim: Path, folder: Path) -> None:
    words = ("prune", slim, "--method", "fbs", "--density", 0.5, "--data", "digits", "--epochs", 1)
    both = folder / "both.pt"
    assert compress(*words, "--batch-size", 64, "--precision", "32", "-o", both) == 0
    assert compress("export", both, "-o", both.with_suffix(".onnx"), "--no-measure") == 0


def test_widths_get_finer_where_the_budget_needs_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    profile, output = profile_path(), tmp_path / "slim.pt"
    profile.parent.mkdir()
    profile.write_text(staircase_to_json(Staircase("a processor", 1, (64, 128), (1.0, 2.0), 64)))
    words = ("prune", folder / "dense.pt", "--method", "l1", "--data", "digits", "--epochs", 0, "-o", output)
    assert compress(*words, "--budget", "macs=0.25x", "--align", profile) == 1
    assert "closest reachable is 0.37" in capsys.readouterr().err
    assert compress(*words, "--budget", "macs=0.25x") == 0
    assert "multiples of 32; multiples of 64, best here, cannot" in capsys.readouterr().err
    widths = [m.out_channels for m in checkpoint.rebuild(checkpoint.load(output)).modules() if isinstance(m, nn.Conv2d)]
    assert widths
    assert all(width % 32 == 0 for width in widths)
    assert any(width % 64 for width in widths)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--budget", "macs=0.001x", "--align", 16), "closest reachable"),
        (("--budget", "macs=0.00001x"), "closest reachable"),
        (("--budget", "macs=0.5x", "--require-speedup", 1000), "--require-speedup"),
        (("--budget", "macs=0.5x", "--exclude", "nolayer.*"), "nolayer"),
        ((), "--budget"),
    ],
)
def test_what_a_slim_network_cannot_be(
    folder: Path, tmp_path: Path, options: tuple[str, ...], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("prune", folder / "dense.pt", "--method", "l1", "--data", "digits", "--epochs", 0)
    assert compress(*words, *options, "-o", tmp_path / "no.pt") == 1
    assert hint in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_fast_enough_is_not_written(folder: Path, tmp_path: Path) -> None:
    assert compress("export", folder / "fbs.pt", "-o", tmp_path / "no.onnx", "--require-speedup", 1000) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", [("fbs", "--density", 0.5), ("l1", "--budget", "macs=0.5x")])
def test_a_fine_tuning_imitates_the_dense_network(folder: Path, tmp_path: Path, method: tuple[object, ...]) -> None:
    words = ("prune", folder / "dense.pt", "--method", *method, "--data", "digits", "--epochs", 2, "--batch-size", 64)
    teacher = ("--distill", folder / "dense.pt", "--distill-weight", 0.5)
    assert compress(*words, *teacher, "--precision", "32", "-o", tmp_path / "taught.pt") == 0
    record = checkpoint.load(tmp_path / "taught.pt").record
    assert record["distillation"] == {"teacher": str(folder / "dense.pt"), "weight": 0.5, "temperature": 4.0}


def test_a_teacher_that_saw_the_validation_images_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("train", "--arch", "digitsnet", "--data", "digits", "--epochs", 1, "--seed", 5, "--precision", "32")
    assert compress(*train, "-o", tmp_path / "other.pt") == 0
    words = ("prune", folder / "dense.pt", "--method", "fbs", "--density", 0.5, "--data", "digits")
    assert compress(*words, "--distill", tmp_path / "other.pt", "-o", tmp_path / "fbs.pt") == 1
    assert "held out other validation images" in capsys.readouterr().err
    assert not (tmp_path / "fbs.pt").exists()


def test_a_dense_network_has_no_speed_up_to_require(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress("export", folder / "dense.pt", "--require-speedup", 1.2, "-o", tmp_path / "dense.onnx") == 1
    assert "leave --require-speedup out" in capsys.readouterr().err
    assert not (tmp_path / "dense.onnx").exists()


@pytest.mark.parametrize("setting", ["training.peak_lr=-2", "training.momentum=1.5", "training.batch_size=0"])
def test_numbers_of_the_training_are_checked_before_any_work(
    setting: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("prune", folder / "dense.pt", "--method", "gate-decorator", "--budget", "macs=0.5x", "--data", "digits")
    assert compress(*words, "--set", setting, "-o", tmp_path / "slim.pt") == 1
    assert f"training cannot be run with {setting.removeprefix('training.')}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
