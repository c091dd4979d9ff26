"""What the native ops refuse, and that they say what came and what is allowed."""

import native_reference as reference
import numpy as np
import pytest
from native_reference import make_input, make_layer
from onnx import TensorProto


def layer(**changes):
    return make_layer(np.random.default_rng(0), channels=4, outputs=6, winners=3, **changes)


def with_constant(name, shape, fill=0, dtype=np.float32):
    changed = layer(post_shift=True)
    changed.constants[name] = np.full(shape, fill, dtype)
    return changed


def x_and_index(**changes):
    return make_input(np.random.default_rng(1), **({"live": 3, "channels": 4, "batch": 2} | changes))


def with_bytes(**changes):
    """The layer on bytes, some constants changed, or None: left out."""
    narrow, _ = reference.in_bytes(layer())
    constants = narrow.constants | changes
    return narrow.changed(constants={name: value for name, value in constants.items() if value is not None})


STEPS = np.ones(6, np.float32)

LOADING = {
    "winners 0": (layer(), {"winners": 0}, r"winners is 0; W of shape \[6, 4, 3, 3\] allows 1 to 6"),
    "winners negative": (layer(), {"winners": -(2**40)}, "allows 1 to 6"),
    "winners above K": (layer(), {"winners": 7}, "winners is 7"),
    "winners absent": (layer(), {"winners": None}, "attribute winners is missing"),
    "group 2": (layer(), {"group": 2}, "group is 2; only 1 is supported"),
    "one stride": (layer(), {"strides": [1]}, r"strides is \[1\]; it needs 2 values from 1"),
    "stride 0": (layer(), {"strides": [1, 0]}, r"strides is \[1, 0\]"),
    "stride huge": (layer(), {"strides": [2**62, 1]}, "to 4096"),
    "pad negative": (layer(), {"pads": [0, 0, -1, 0]}, r"pads is \[0, 0, -1, 0\]; it needs 4 values from 0"),
    "two pads": (layer(), {"pads": [1, 1]}, r"pads is \[1, 1\]"),
    "dilation 0": (layer(), {"dilations": [0, 1]}, r"dilations is \[0, 1\]"),
    "normalize 2": (layer(), {"normalize": 2}, "normalize is 2; it must be 0 or 1"),
    "blocks of 0": (layer(), {"winner_block": 0}, "winner_block is 0; it must be 1 or more"),
    "slope not a number": (layer(), {"saliency_slope": float("nan")}, "saliency_slope is NaN"),
    "clamp upside down": (layer(), {"lower": 1.0, "upper": 0.0}, "lower must not be above upper"),
    "clamp not a number": (layer(), {"lower": float("nan")}, "lower must not be above upper"),
    "W of rank 3": (with_constant("W", (6, 4, 3)), {}, r"W has shape \[6, 4, 3\]; it must be \[K, C, kh, kw\]"),
    "W empty": (with_constant("W", (6, 4, 0, 3)), {}, "every size must be 1 or more"),
    "B of another size": (with_constant("B", (5,)), {}, r"B has shape \[5\]; with W of shape .* must be \[6\]"),
    "A transposed": (with_constant("A", (6, 4)), {}, r"A has shape \[6, 4\]; .* must be \[4, 6\]"),
    "A in 16 bits, transposed": (with_constant("A", (6, 4), dtype=np.float16), {}, r"A has shape \[6, 4\]"),
    "A in 16 bits, infinite": (
        with_constant("A", (4, 6), np.inf, np.float16),
        {},
        "A holds values that are not finite",
    ),
    "W in 16 bits, not a number": (
        with_constant("W", (6, 4, 3, 3), np.nan, np.float16),
        {},
        "W holds values that are not finite",
    ),
    "W in 8 bits without steps": (with_bytes(P=None), {}, "W is int8 and P is missing or no constant"),
    "A in 8 bits without steps": (with_bytes(Q=None), {}, "A is int8 and Q is missing or no constant"),
    "steps of floats": (with_constant("P", (6,), 1), {}, "W is not int8 and P is there; it must be absent"),
    "steps of another size": (with_bytes(P=STEPS[:5]), {}, r"P has shape \[5\]; it must be \[6\]"),
    "a step of 0": (with_bytes(Q=STEPS * 0), {}, r"Q\[0\] is 0.0*; it must be positive, normal and finite"),
    "a step too small for the shift": (
        with_bytes(P=STEPS * np.float32(1e-37), B=STEPS * 100),
        {},
        r"P\[0\] is too small for B\[0\]; B / P must be within",
    ),
    "a step that is not a number": (with_bytes(P=STEPS * np.nan), {}, r"P\[0\] is -?nan"),
    "W in 64 bits": (with_constant("W", (6, 4, 3, 3), dtype=np.float64), {}, "W has element type 11"),
    "A in 64 bits": (with_constant("A", (4, 6), dtype=np.float64), {}, "A has element type 11; it must be float"),
    "R of rank 2": (with_constant("R", (6, 1)), {}, r"R has shape \[6, 1\]"),
    "D of another size": (with_constant("D", (7,)), {}, r"D has shape \[7\]"),
    "E as long as the outputs": (with_constant("E", (6,)), {}, r"E has shape \[6\]; .* must be \[4\]"),
}


@pytest.mark.parametrize("case", LOADING)
def test_a_layer_is_refused_when_it_is_loaded(case):
    built, attributes, message = LOADING[case]
    with pytest.raises(Exception, match=f"FBSConv: .*{message}"):
        reference.open_session(reference.fbs_model(built, **attributes))


@pytest.mark.parametrize("name", ["W", "B", "A", "R"])
def test_weights_must_be_constant(name):
    model = reference.fbs_model(layer(), computed=[name])
    with pytest.raises(Exception, match=f"FBSConv: input {name} is not a constant"):
        reference.open_session(model)


@pytest.mark.parametrize("name", ["P", "Q"])
def test_steps_must_be_constant(name):
    with pytest.raises(Exception, match=f"FBSConv: . is int8 and {name} is missing or no constant"):
        reference.open_session(reference.fbs_model(with_bytes(), computed=[name]))


@pytest.mark.parametrize("name", ["D", "E"])
def test_the_optional_shifts_must_be_constant_too(name):
    built = layer(post_shift=True, left_out=True)
    session = reference.open_session(reference.fbs_model(built, computed=[name]))
    x, index = x_and_index()
    with pytest.raises(Exception, match=f"FBSConv: input {name} is not a constant"):
        session.run(None, {"X": x, "I": index, name: built.constants[name]})


def test_element_types_are_checked_by_onnx_runtime():
    for types in ({"X": TensorProto.DOUBLE}, {"I": TensorProto.INT32}):
        with pytest.raises(Exception, match="FBSConv"):
            reference.open_session(reference.fbs_model(layer(), types=types))


def changed_index(value, at=(1, 2)):
    index = np.array([[0, 1, 2], [0, 2, 3]])
    index[at] = value
    return index


X = np.zeros((2, 5, 5, 3), np.float32)
RUNNING = {
    "X narrower than I": (X[..., :2], changed_index(3), r"I has shape \[2, 3\]; X needs \[2, 2\]"),
    "X with more channels than W": (np.zeros((1, 5, 5, 5), np.float32), np.arange(5)[None], "Cx from 1 to C = 4"),
    "X without channels": (X[..., :0], changed_index(3)[:, :0], "Cx from 1 to C = 4"),
    "X without height": (X[:, :0], changed_index(3), "H and W of 1 or more"),
    "rows for other samples": (X, np.array([[0, 1, 2]] * 3), r"I has shape \[3, 3\]; X needs \[2, 3\], or one row"),
    "no rows": (X, changed_index(3)[:0], r"I has shape \[0, 3\]"),
    "index negative": (X, changed_index(-1, (0, 0)), r"I\[0, 0\] is -1; channels go from 0 to 3"),
    "index beyond C": (X, changed_index(4), r"I\[1, 2\] is 4; channels go from 0 to 3"),
    "index huge": (X, changed_index(2**40), r"I\[1, 2\] is 1099511627776"),
    "index repeated": (X, changed_index(2), r"I\[1, 2\] is 2 after 2; each row must be ascending"),
    "index descending": (X, changed_index(0), r"I\[1, 2\] is 0 after 2"),
}


@pytest.mark.parametrize("case", RUNNING)
def test_an_input_is_refused_when_it_comes(case):
    x, index, message = RUNNING[case]
    session = reference.open_session(reference.fbs_model(layer()))
    with pytest.raises(Exception, match=f"FBSConv: .*{message}"):
        session.run(None, {"X": x, "I": index})
    x, index = x_and_index()
    session.run(None, {"X": x, "I": index})  # and goes on with good ones


def test_means_that_do_not_fit_are_refused():
    x, index = x_and_index()
    feeds = {"X": x, "I": index}
    session = reference.open_session(reference.fbs_model(layer(), means="U"))
    batch, *_, live = x.shape
    with pytest.raises(Exception, match=rf"FBSConv: U has shape \[{live}, 1\]; with X .* be \[{batch}, {live}\]"):
        session.run(None, feeds | {"U": np.zeros((live, 1), np.float32)})


def test_a_plane_smaller_than_the_kernel_is_refused():
    session = reference.open_session(reference.fbs_model(layer(pads=(0, 0, 0, 0))))
    x, index = x_and_index(size=(2, 5))
    with pytest.raises(Exception, match=r"FBSConv: X has shape \[2, 2, 5, 3\], smaller than the kernel"):
        session.run(None, {"X": x, "I": index})


@pytest.mark.parametrize(
    ("x", "index", "message"),
    [
        (np.zeros((1, 2, 2, 9), np.float32), np.arange(9)[None], r"k up to channels = 8"),
        (np.zeros((1, 2, 2, 2), np.float32), np.array([[0, 8]]), r"I\[0, 1\] is 8; channels go from 0 to 7"),
        (np.zeros((1, 2, 2, 2), np.float32), np.array([[3, 3]]), "each row must be ascending"),
        (np.zeros((1, 2, 2, 2), np.float32), np.array([[0], [1]]), r"X needs \[1, 2\]"),
    ],
)
def test_unpack_refuses(x, index, message):
    session = reference.open_session(reference.unpack_model(8))
    with pytest.raises(Exception, match=f"Unpack: .*{message}"):
        session.run(None, {"X": x, "I": index})


def test_unpack_add_refuses_planes_that_do_not_fit():
    session = reference.open_session(reference.unpack_add_model(8))
    x, index = np.zeros((1, 2, 3, 2), np.float32), np.array([[0, 7]])
    message = r"UnpackAdd: Z has shape \[1, 2, 2, 8\]; with X of shape .* it must be \[1, 2, 3, 8\]"
    with pytest.raises(Exception, match=message):
        session.run(None, {"X": x, "I": index, "Z": np.zeros((1, 2, 2, 8), np.float32)})
    with pytest.raises(Exception, match=r"UnpackAdd: I\[0, 1\] is 8; channels go from 0 to 7"):
        session.run(None, {"X": x, "I": np.array([[0, 8]]), "Z": np.zeros((1, 2, 3, 8), np.float32)})


@pytest.mark.parametrize(
    ("z", "places", "message"),
    [
        (
            np.zeros((1, 2, 2, 2)),
            [[0, 1]],
            r"Z has shape \[1, 2, 2, 2\]; packed, with X of shape \[1, 2, 3, 2\] it must",
        ),
        (np.zeros((1, 2, 3, 9)), [[*range(9)]], r"with up to channels = 8"),
        (np.zeros((1, 2, 3, 2)), [[0, 8]], r"K\[0, 1\] is 8; channels go from 0 to 7"),
        (np.zeros((1, 2, 3, 2)), [[0]], r"K has shape \[1, 1\]; Z needs \[1, 2\]"),
    ],
)
def test_unpack_add_refuses_packed_planes_that_do_not_fit(z, places, message):
    session = reference.open_session(reference.unpack_add_model(8, packed=True))
    feeds = {"X": np.zeros((1, 2, 3, 2), np.float32), "I": np.array([[0, 7]])}
    with pytest.raises(Exception, match=f"UnpackAdd: .*{message}"):
        session.run(None, feeds | {"Z": z.astype(np.float32), "K": np.array(places)})


@pytest.mark.parametrize("channels", [0, -1, 2**40])
def test_unpack_refuses_a_number_of_channels(channels):
    x, index = np.zeros((1, 2, 2, 0), np.float32), np.zeros((1, 0), np.int64)
    with pytest.raises(Exception, match=f"Unpack: channels is {channels}; it must be from 1"):
        reference.open_session(reference.unpack_model(channels)).run(None, {"X": x, "I": index})


def test_an_unknown_instruction_set_is_refused_with_those_there_are():
    names = ", ".join(reference.isa_names())
    with pytest.raises(Exception, match=f"compress: unknown instruction set 'sse9'; choose from: {names}"):
        reference.open_session(reference.unpack_model(8), "sse9")


def test_a_way_that_is_none_is_refused():
    with pytest.raises(Exception, match=r"compress\.way is 'stored'; choose from: packed, winograd, matrix, all"):
        reference.open_session(reference.unpack_model(8), way="stored")
