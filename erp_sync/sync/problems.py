"""What is wrong with a sent order, one problem a field: each step of a flow sets and clears its own."""

from __future__ import annotations

from erp_sync.models import Problem

ERP_ORDER = "ERP order"
ERP_ORDERS = "ERP orders"
"""The ERP has the order more than once."""
OTHER_TOTAL = "its total is"
"""In the advice of an order that the ERP has with another total."""
SHOP_ORDER = "shop order"
SHOP_STATUS = "shop status"
NFE_KEY = "NF-e key"
CANCELLATION = "cancellation"


def with_problem(problems: tuple[Problem, ...], field: str, problem: Problem | None) -> tuple[Problem, ...]:
    """The same, but for what `field` says. None: it is all right."""
    others = tuple(other for other in problems if other.field != field)
    return others if problem is None else (*others, problem)


def problem_of(problems: tuple[Problem, ...], field: str) -> Problem | None:
    return next((problem for problem in problems if problem.field == field), None)
