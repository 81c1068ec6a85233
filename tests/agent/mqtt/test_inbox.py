"""The queue between the client and whoever takes its messages."""

from __future__ import annotations

from agent.mqtt.inbox import Inbox, Message
from agent.ops.metrics import Metrics


async def test_the_inbox_drops_qos_0_and_holds_qos_1() -> None:
    metrics = Metrics()
    inbox = Inbox(2, 2, metrics, "mqtt")
    for i in range(4):
        for qos in (0, 1):
            inbox.put(Message("t", b"", qos, False, False, "", 0.0, 1, i))
        assert inbox.full is (i >= 2)
    got = [await inbox.get() for _ in range(6)]
    assert [m.mid for m in got if m.qos == 0] == [0, 1]
    assert [m.mid for m in got if m.qos == 1] == [0, 1, 2, 3]
    await inbox.drained()
    dropped = metrics.registry.get_sample_value(
        "deepecg_messages_dropped_total", {"transport": "mqtt", "reason": "overflow"}
    )
    assert dropped == 2.0
