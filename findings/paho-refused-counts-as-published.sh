#!/usr/bin/env bash
# What: paho-mqtt 2.2.0 with MQTT 5: a message that the broker refuses counts as published: wait_for_publish() returns
#   without an exception, is_published() is True, rc is 0.
# Bedside: an alert that the broker refused (not authorized, quota exceeded) looks delivered to code that waits for it in
#   this way; only the reason code in the on_publish callback tells, and there it is "is_failure".
# One would guess: is_published() is False or wait_for_publish() raises, since the broker did not take the message.
# What happens: any PUBACK is success.
# Source: MQTT 5 section 3.4.2.1, PUBACK reason codes (0x80 and above: the message is not accepted).
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


print("paho-mqtt 2.2.0; guess: refused messages are not 'published'")
for code, words in ((0x10, "No matching subscribers"), (0x87, "Not authorized"), (0x97, "Quota exceeded")):
    told, ready = [], threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="gateway", protocol=mqtt.MQTTv5)
    client.on_connect = lambda c, u, f, r, p: ready.set()
    client.on_publish = lambda c, u, mid, reason, p: told.append((str(reason), reason.is_failure))
    client.connect("127.0.0.1", broker(b"", [], puback=code))
    client.loop_start()
    assert ready.wait(20)
    sent = client.publish("alert/7", "asystole", 1)
    sent.wait_for_publish(20)
    until(lambda: told)
    print(f"PUBACK {code:#x}: rc {int(sent.rc)}, is_published() {sent.is_published()}, on_publish was told {told[0]}")
    assert sent.rc == 0 and sent.is_published() and told == [(words, code >= 0x80)]
    client.disconnect()
    client.loop_stop()
PY
