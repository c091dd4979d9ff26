import pytest

from compressor.errors import MethodError
from compressor.methods.fbs import FBS
from compressor.pipeline.method_settings import make_method


def test_settings_reach_the_method() -> None:
    method = make_method("fbs", {"density": 1, "final_epochs": 3, "form": "released"})
    assert isinstance(method, FBS)
    assert (method.density, method.final_epochs, method.form) == (1, 3, "released")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"final_epochs": "abc"}, "final_epochs='abc' is not a int"),
        ({"normalize": 1, "l1": True}, "normalize=1 is not a bool; l1=True is not a float"),
        ({"nope": 1}, "has no setting nope; its settings are: density, "),
    ],
)
def test_settings_that_do_not_fit_are_named(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(MethodError, match=expected):
        make_method("fbs", settings)
