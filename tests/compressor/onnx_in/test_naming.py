import pytest

from compressor.onnx_in.naming import Names

SCOPES = {"pkg.torch.onnx.name_scopes": "['', 'layer1', 'layer1.0', 'layer1.0.relu', 'relu_2']"}


@pytest.mark.parametrize(
    ("about", "name"),
    [
        ({"op": "Conv", "node": "node_Conv_3", "weight": "layer1.0.conv1.weight"}, "layer1.0.conv1"),
        ({"op": "Relu", "node": "node_relu_2", "notes": SCOPES}, "layer1.0.relu"),
        ({"op": "Conv", "node": "/layer1/layer1.0/conv1/Conv", "weight": "onnx::Conv_12"}, "layer1.0.conv1"),
        ({"op": "Conv", "node": "/features/features.2/conv/conv.0/conv.0.0/Conv"}, "features.2.conv.0.0"),
        ({"op": "Relu", "node": "layer1.0/Relu_2"}, "layer1.0"),
        ({"op": "Conv", "node": "Conv_7"}, "Conv_7"),
        ({"op": "Conv", "node": ""}, "conv"),
        ({"op": "Conv", "node": "a:b c/Conv"}, "a.b_c"),
        ({"op": "Conv", "node": "/forward/half/Conv"}, "forward_.half_"),
    ],
)
def test_a_layer_keeps_the_name_it_had(about: dict[str, object], name: str) -> None:
    assert Names().layer(**about) == name  # type: ignore[arg-type]


def test_no_two_layers_share_a_path_and_none_lies_under_another() -> None:
    names = Names()
    taken = [names.layer(op="Relu", node=node) for node in ("a/b/Relu", "a/b/Relu", "a/b/c/Relu", "a/Relu")]
    assert taken == ["a.b", "a.b_2", "a.b_3.c", "a_2"]
    for one in taken:
        assert not any(other.startswith(f"{one}.") for other in taken)
