"""What can go wrong between this agent and a broker."""

from __future__ import annotations

from agent.core.errors import DeepECGError


class MqttError(DeepECGError):
    """The broker did not take a message. ``reason`` is from a closed list, for metrics."""

    reason = "error"


class NotConnectedError(MqttError):
    """There is no connection at the moment."""

    reason = "not_connected"


class ConnectionLostError(MqttError):
    """The connection went away before the acknowledgement came: the broker may or may not have the message."""

    reason = "connection_lost"


class PublishTimeoutError(MqttError):
    """No acknowledgement in time; the connection is given up, and a new one made."""

    reason = "timeout"


class PublishRefusedError(MqttError):
    """The broker refuses this message (its ACL, a quota, a bad topic): others may still pass."""

    reason = "refused"


class BrokerRefusesError(MqttError):
    """The broker's CONNACK says no: a wrong password, a server that is full."""

    reason = "refused"


class ProtocolRefusedError(BrokerRefusesError):
    """The broker's CONNACK says that it does not speak our version of MQTT."""


class HungUpError(MqttError):
    """The broker closed the connection instead of answering CONNECT."""

    reason = "connection_lost"


class NoAnswerError(MqttError):
    """The broker took the connection, and has not answered CONNECT in time."""

    reason = "timeout"
