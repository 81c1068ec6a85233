#!/usr/bin/env bash
# What: paho-mqtt 2.2.0 with MQTT 5 reads what the broker allows in its CONNACK, and keeps to none of it: Receive Maximum,
#   Maximum Packet Size, Maximum QoS, Retain Available.
# Bedside: after a reconnect the gateway sends its backlog of alerts; a strict broker may answer with DISCONNECT 0x93
#   (receive maximum exceeded) or 0x95 (packet too large), and the same backlog goes out again.
# One would guess: the client queues at the receive maximum, and publish() refuses what the broker cannot take.
# What happens: publish() answers success and all goes out: 10 unacknowledged of 2 allowed, 500 bytes of 64 allowed,
#   QoS 1 where 0 is the maximum, retained where that is not available. max_inflight_messages_set has to be called by hand.
# Source: MQTT 5 [MQTT-3.3.4-7], sections 3.2.2.3.6 (Maximum Packet Size), 3.2.2.3.4 (Maximum QoS), 3.2.2.3.5 (Retain).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q paho-mqtt==2.2.0
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import socket
import struct
import threading
import time

import paho.mqtt.client as mqtt


def packet(c):
    """One MQTT packet from the socket: its first byte and its body (short packets only)."""
    head = c.recv(1)
    if not head:
        raise EOFError
    size, shift = 0, 0
    while True:
        (byte,) = c.recv(1)
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    body = b""
    while len(body) < size:
        body += c.recv(size - len(body))
    return head[0], body


def broker(properties, seen, puback=None):
    """A listener of a few lines that answers CONNECT with these CONNACK properties and notes each PUBLISH."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        c, _ = listener.accept()
        packet(c)
        c.sendall(bytes([0x20, 3 + len(properties), 0, 0, len(properties)]) + properties)
        try:
            while True:
                head, body = packet(c)
                if head >> 4 == 3:
                    seen.append((head, len(body)))
                    if puback is not None:
                        at = 2 + struct.unpack(">H", body[:2])[0]
                        c.sendall(bytes([0x40, 4]) + body[at : at + 2] + bytes([puback, 0]))
                elif head >> 4 == 14:
                    return
        except (EOFError, OSError):
            return

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


def until(condition):
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    assert condition()


def trial(name, properties, count, payload=b"x", qos=1, retain=False):
    seen, ready = [], threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="gateway", protocol=mqtt.MQTTv5)
    client.on_connect = lambda c, u, f, r, p: (print("  CONNACK:", p), ready.set())
    client.connect("127.0.0.1", broker(properties, seen))
    client.loop_start()
    assert ready.wait(20)
    codes = {int(client.publish("alert/7", payload, qos, retain).rc) for _ in range(count)}
    until(lambda: len(seen) == count)
    print(f"{name}: publish() returned {codes}; on the wire (first byte, size): {seen}")
    client.disconnect()
    client.loop_stop()
    assert codes == {0}
    return seen


print("paho-mqtt 2.2.0; guess: each limit is kept or the call is refused")
assert len(trial("receive maximum 2, nothing acknowledged", b"\x21\x00\x02", 10)) == 10
assert trial("maximum packet size 64", b"\x27\x00\x00\x00\x40", 1, b"x" * 500)[0][1] > 500
assert trial("maximum QoS 0", b"\x24\x00", 1)[0][0] & 6 == 2
assert trial("no retained messages", b"\x25\x00", 1, retain=True)[0][0] & 1 == 1
PY
