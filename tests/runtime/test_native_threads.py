"""Threads, sessions side by side, and memory in the steady state."""

import threading

import native_reference as reference
import numpy as np
import pytest
from native_reference import make_input, make_layer

# Large enough that the work is split; few winners, so that the weights are packed.
LAYERS = {
    "3x3": {"channels": 48, "outputs": 96, "winners": 41, "size": (20, 20), "live": 30},
    "large planes": {"channels": 16, "outputs": 72, "winners": 57, "size": (40, 40), "live": 11},
    "all win": {"channels": 48, "outputs": 80, "winners": 80, "size": (20, 20), "live": 48},
    "few pixels": {"channels": 256, "outputs": 256, "winners": 200, "size": (2, 2), "live": 200},
    "1x1": {"channels": 128, "outputs": 512, "winners": 100, "size": (24, 24), "live": 90, "kernel": (1, 1)},
}


def prepared(name, batch=1):
    settings = dict(LAYERS[name])
    size, live = settings.pop("size"), settings.pop("live")
    rng = np.random.default_rng(len(name))
    layer = make_layer(rng, **settings)
    x, index = make_input(rng, live=live, channels=settings["channels"], size=size, batch=batch)
    return reference.fbs_model(layer), {"X": x, "I": index}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("isa", reference.isa_names())
def test_the_number_of_threads_changes_no_bit(name, isa):
    model, feeds = prepared(name)
    expected = reference.open_session(model, isa, 1).run(None, feeds)
    for threads in (2, 3, 5):
        for got, want in zip(reference.open_session(model, isa, threads).run(None, feeds), expected, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("isa", reference.isa_names())
def test_the_number_of_threads_changes_no_bit_of_winners_that_lie_together(lanes, isa):
    rng = np.random.default_rng(lanes)
    for vectors in (2, 3, 6):
        outputs = 3 * lanes * ((vectors + 1) // 2)
        layer = make_layer(rng, channels=240, outputs=outputs, winners=vectors * lanes)
        reference.let_win_together(rng, layer, lanes)
        x, index = make_input(rng, live=201, channels=240, size=(4, 4))
        model, feeds = reference.fbs_model(layer), {"X": x, "I": index}
        expected, _ = reference.open_session(model, isa, 1).run(None, feeds)
        for threads in (2, 3, 5):
            np.testing.assert_array_equal(reference.open_session(model, isa, threads).run(None, feeds)[0], expected)


def test_one_session_serves_eight_threads():
    model, feeds = prepared("3x3", batch=2)
    session = reference.open_session(model, threads=2)
    single = {name: value[:1] for name, value in feeds.items()}
    expected = {id(case): session.run(None, case) for case in (feeds, single)}
    wrong = []

    def work(case):
        for _ in range(15):
            got = session.run(None, case)
            if not all(map(np.array_equal, got, expected[id(case)])):
                wrong.append(case)

    workers = [threading.Thread(target=work, args=(case,)) for case in (feeds, single) * 4]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_sessions_of_different_instruction_sets_live_in_one_process():
    model, feeds = prepared("3x3")
    sessions = {isa: reference.open_session(model, isa) for isa in reference.isa_names()}
    results = {isa: session.run(None, feeds) for isa, session in sessions.items()}
    for y, j in results.values():
        np.testing.assert_array_equal(j, results["generic"][1])
        np.testing.assert_allclose(y, results["generic"][0], atol=2e-5 * np.abs(y).max())
    # Code with fused multiply-adds rounds its own way, which shows that the sessions do not share their kernels.
    if len(results) > 1:
        assert len({y.tobytes() for y, _ in results.values()}) > 1


def test_a_steady_state_allocates_nothing():
    for name in LAYERS:
        model, feeds = prepared(name)
        session = reference.open_session(model, threads=2)
        assert reference.allocated_after_the_first(session, feeds) == 0
