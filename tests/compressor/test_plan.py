from dataclasses import dataclass

import pytest

from compressor.errors import PlanError
from compressor.plan import PruningPlan, check_plan, plan_from_json, plan_to_json


@dataclass(frozen=True)
class Group:
    name: str
    size: int
    frozen: str | None = None


@dataclass(frozen=True)
class Graph:
    groups: tuple[Group, ...]


GRAPH = Graph((Group("a", 4), Group("b", 3, "network output"), Group("c", 2)))


def test_json_round_trip() -> None:
    plan = PruningPlan({"a": (0, 3), "c": (1,)}, {"a": 4, "c": 2})
    assert plan_from_json(plan_to_json(plan)) == plan
    check_plan(plan, GRAPH)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 1}', '{"format": 1, "groups": {"a": {"keep": "x"}}}', '{"format": 9}']
)
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="plan"):
        plan_from_json(text)


def test_all_problems_are_listed() -> None:
    plan = PruningPlan(
        {"a": (3, 0), "b": (0,), "c": (), "d": (0,)},
        {"a": 4, "b": 3, "c": 3, "d": 1},
    )
    with pytest.raises(PlanError) as error:
        check_plan(plan, GRAPH)
    for part in (
        "'a' must be ascending",
        "'b' is frozen: network output",
        "'c' had 3",
        "'c' would be left",
        "no group 'd'",
    ):
        assert part in str(error.value)


def test_a_removable_group_may_go() -> None:
    check_plan(PruningPlan({"c": ()}, {"c": 2}), GRAPH, removable=["c"])
