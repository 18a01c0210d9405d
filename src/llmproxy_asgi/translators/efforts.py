"""The ladder of reasoning efforts: budgets put on it, and rungs that a model does not have."""

from llmproxy_asgi.capabilities import EFFORTS, Effort

_BUDGETS: tuple[tuple[int, Effort], ...] = (
    (1, "none"),
    (1_024, "minimal"),
    (4_096, "low"),
    (16_384, "medium"),
    (32_768, "high"),
)


def effort_of_budget(tokens: int) -> Effort | None:
    """Return the effort that a thinking budget corresponds to; None where the model decides."""
    if tokens < 0:
        return None
    return next((effort for limit, effort in _BUDGETS if tokens < limit), "xhigh")


def nearest_effort(wanted: Effort, offered: tuple[Effort, ...]) -> Effort | None:
    """Return the offered level nearest below the wanted one, else the lowest; None: there is no control at all."""
    if not offered:
        return None
    ranked = sorted(offered, key=EFFORTS.index)
    below = [effort for effort in ranked if EFFORTS.index(effort) <= EFFORTS.index(wanted)]
    return below[-1] if below else ranked[0]
