from pathlib import Path

import pytest

from compressor import methods, recipes
from compressor.errors import CompressorError
from compressor.methods.gate_decorator import GateDecorator
from compressor.recipes import Recipe
from compressor.train import TrainSettings


@pytest.mark.parametrize("name", recipes.names())
def test_a_shipped_recipe_is_usable(name: str) -> None:
    recipe = recipes.get(name)
    assert name == recipe.method or name.startswith(f"{recipe.method}-")
    method = methods.get(recipe.method)(**recipe.settings)
    assert all(getattr(method, field) == value for field, value in recipe.settings.items())
    settings = recipe.train_settings()
    assert all(getattr(settings, field) == value for field, value in recipe.training.items())
    assert settings.epochs >= 1


def test_the_papers_numbers() -> None:
    """Section 2 of the specification."""
    resnet, vgg = recipes.get("gate-decorator"), recipes.get("gate-decorator-vgg16")
    assert resnet.settings == {**vgg.settings, "prune_fraction": 0.002}
    assert vgg.settings["prune_fraction"] == 0.005
    # The recipe says what the method's defaults are: the released ResNet-56 run.
    assert GateDecorator(**resnet.settings) == GateDecorator()
    method = GateDecorator()
    assert (method.ticks_per_tock, method.tock_epochs, method.l1, method.tick_lr) == (10, 10, 1e-3, 1e-3)
    assert (method.tock_lr_min, method.tock_lr_max, method.tick_images) == (1e-3, 1e-2, 0)
    tuning = resnet.train_settings()
    assert (tuning.epochs, tuning.batch_size, tuning.weight_decay) == (40, 128, 5e-4)
    assert (tuning.schedule, tuning.lowest_lr, tuning.peak_lr) == ("triangular", 1e-3, 1e-2)
    assert (tuning.momentum, tuning.nesterov, tuning.clip_norm) == (0.9, False, None)
    released = recipes.get("gate-decorator-released")
    assert released.settings == {**resnet.settings, "threshold": "released"}
    assert released.training == {**resnet.training, "momentum": 0.0}


def test_numbers_are_replaced_by_name() -> None:
    recipe = recipes.get("gate-decorator").changed({"l1": 1, "batch_size": 64, "momentum": 0.5})
    assert recipe.settings["l1"] == 1
    assert recipe.training["batch_size"] == 64
    assert recipe.settings["momentum"] == 0.5, "a name of both is the method's"
    both = recipe.changed({"training.momentum": 0.0, "training.weight_decay": 0})
    assert (both.settings["momentum"], both.training["momentum"], both.training["weight_decay"]) == (0.5, 0.0, 0)
    assert recipe.train_settings() == TrainSettings(**{**recipes.get("gate-decorator").training, "batch_size": 64})
    assert recipes.get("gate-decorator").settings["l1"] == 1e-3


WRONG = {
    "[settings]\nl2 = 1.0": r"gate-decorator has no setting l2; it has: prune_fraction, .*l1",
    "[training]\nepoch = 3": "training has no field epoch; it has: epochs",
    "[training]\nseed = 3": "training has no field seed",
    "[settings]\nl1 = 'much'\nfirst_tock = 1": "l1='much' is not a float; first_tock=1 is not a bool",
    "[training]\nschedule = 'linear'": "schedule='linear'; choose from: cosine, triangular, constant",
    "speed = 3": "unknown speed; a recipe has method",
    "[settings": "is not TOML",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_key_is_one_clear_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'method = "gate-decorator"\n{text}\n')
    with pytest.raises(CompressorError, match=WRONG[text]) as caught:
        recipes.get(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("", 'method = "NAME"'), ('method = "gates"', "unknown method 'gates'; choose from: .*gate-decorator")],
)
def test_a_recipe_names_its_method(text: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(CompressorError, match=hint):
        recipes.get(str(tmp_path / "mine.toml"))


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(CompressorError, match=r"no recipe 'cheap'; give a \.toml file or one of: gate-decorator, "):
        recipes.get("cheap")
    with pytest.raises(CompressorError, match="training has no field l1"):
        recipes.get("slimming").changed({"training.l1": 1.0})
    with pytest.raises(CompressorError, match="l2"):
        recipes.get("slimming").changed({"l2": 1.0})


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('method = "l1"\n[settings]\nreaders = false\n[training]\nclip_norm = 5.0\nepochs = 3\n')
    assert recipes.get(str(path)) == Recipe("l1", {"readers": False}, {"clip_norm": 5.0, "epochs": 3})
