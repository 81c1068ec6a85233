#!/usr/bin/env bash
# What: amqtt 0.12.1 (broker) forgets a QoS 1 message that a persistent session left unacknowledged.
# Bedside: an agent that crashed between receipt and PUBACK of an alert never sees it again: QoS 1 is at most once here.
# One would guess: back with its session, the client gets the message again, marked as a duplicate.
# What happens: "session present", the messages queued meanwhile, the new ones, but not the one that was in flight.
# Source: MQTT 3.1.1 [MQTT-4.4.0-1] and section 4.3.2 (QoS 1: at least once). The client is authenticated, since amqtt
#   does not keep the sessions of anonymous ones.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q amqtt==0.12.1 paho-mqtt==2.2.0
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import asyncio
import logging
import os
import socket
import threading
import time

import paho.mqtt.client as mqtt
from amqtt.broker import Broker
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher


class Client:
    """A paho client that keeps what happens to it."""

    def __init__(self, name, port, clean=True, manual_ack=False, user=None):
        self.messages, self.events = [], []
        self.paho = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=name, clean_session=clean, manual_ack=manual_ack
        )
        if user:
            self.paho.username_pw_set(*user)
        self.paho.on_connect = lambda c, u, flags, code, p: self.events.append(("connected", flags.session_present))
        self.paho.on_disconnect = lambda c, u, flags, code, p: self.events.append(("disconnected", str(code)))
        self.paho.on_subscribe = lambda c, u, mid, codes, p: self.events.append(("subscribed", str(codes[0])))
        self.paho.on_publish = lambda c, u, mid, code, p: self.events.append(("acknowledged", mid))
        self.paho.on_message = lambda c, u, m: self.messages.append((m.topic, m.payload.decode(), m.qos, m.retain))
        self.paho.connect("127.0.0.1", port)
        self.paho.loop_start()
        self.until(lambda: self.events)

    def until(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.events} {self.messages}")
            time.sleep(0.02)

    def subscribe(self, topic, qos=1):
        before = len(self.events)
        self.paho.subscribe(topic, qos)
        self.until(lambda: len(self.events) > before)
        return self.events[-1]

    def publish(self, topic, text, qos=1, retain=False):
        sent = self.paho.publish(topic, text, qos, retain)
        self.until(lambda: ("acknowledged", sent.mid) in self.events)

    def texts(self):
        return [text for _, text, _, _ in self.messages]

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()


logging.disable(logging.CRITICAL)
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
with open("users", "w") as f:
    f.write("ward:" + PasswordHash((Argon2Hasher(),)).hash("invented") + "\n")
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


async def start():
    await Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
            "plugins": {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": os.path.abspath("users")}},
        }
    ).start()


asyncio.run_coroutine_threadsafe(start(), loop).result(20)
user = ("ward", "invented")
print("amqtt 0.12.1, paho-mqtt 2.2.0")
gateway = Client("gateway", port, user=user)
agent = Client("agent", port, clean=False, manual_ack=True, user=user)
agent.subscribe("alert/#")
gateway.publish("alert/7", "first")
agent.until(lambda: agent.texts() == ["first"])
agent.close()  # never acknowledged
gateway.publish("alert/7", "second")
agent = Client("agent", port, clean=False, user=user)
agent.until(lambda: "second" in agent.texts())
gateway.publish("alert/7", "third")
agent.until(lambda: "third" in agent.texts())
print("guess: first (again), second, third")
print("seen:", agent.events[0], agent.texts())
assert agent.events[0] == ("connected", True)
assert agent.texts() == ["second", "third"]
os._exit(0)
PY
