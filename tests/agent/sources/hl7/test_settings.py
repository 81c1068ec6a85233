"""What a site may configure of HL7 in, and what it may not."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from pydantic import ValidationError

from agent.core.hl7.acknowledgement import Header, header_of
from agent.core.hl7.message import parse
from agent.sources.hl7.settings import Grant, HL7SourceSettings, Peer, Sender, load_dialects

HEADER: Header = header_of(parse(b"MSH|^~\\&|GW^x|MAIN|||1||ORU^R01|1|P|2.6\r"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"grants": [{"beds": ["*"]}]},
        {"grants": []},
        {"default_zone": "Mars/Olympus"},
        {"senders": [{"dialect": "klingon"}]},
        {"ecg_scale": {"klingon": 1.0}},
        {"ecg_scale": {"mindray": 0.0}},
        {"beds": {"lookup": {"x": "no-bed"}}},
        {"beds": {"text_pattern": "(.*)"}},
        {"unknown": 1},
    ],
)
def test_settings_refuse_what_cannot_be_meant(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HL7SourceSettings.model_validate(wrong)


def test_a_sites_scale_replaces_the_unverified_one() -> None:
    dialects = {d.name: d for d in HL7SourceSettings(ecg_scale={"mindray": 0.0025}).dialects()}
    assert (dialects["mindray"].dimensionless_mv, dialects["mindray"].dimensionless_verified) == (0.0025, True)
    assert not dialects["mindray_w01"].dimensionless_verified


def peer(address: str, *names: str) -> Peer:
    return Peer(ip_address(address), names)


@pytest.mark.parametrize(
    ("grant", "sender", "fits"),
    [
        ({"address": "10.0.0.0/8"}, peer("10.1.2.3"), True),
        ({"address": "10.0.0.0/8"}, peer("11.1.2.3"), False),
        ({"address": "10.0.0.0/8"}, peer("::1"), False),
        ({"address": "::1"}, peer("::1"), True),
        ({"address": "10.0.0.0/8"}, Peer(None), False),
        ({"certificate": "gw"}, peer("10.1.2.3", "other", "gw"), True),
        ({"certificate": "gw"}, peer("10.1.2.3"), False),
        ({"application": "GW", "facility": "MAIN"}, peer("10.1.2.3"), True),
        ({"application": "GW", "facility": "ELSEWHERE"}, peer("10.1.2.3"), False),
        ({"application": "GW", "certificate": "gw"}, peer("10.1.2.3"), False),
    ],
)
def test_every_condition_of_a_grant_must_hold(grant: dict[str, str], sender: Peer, fits: bool) -> None:
    settings = HL7SourceSettings.model_validate({"grants": [{**grant, "beds": ["main/icu/*", "main/or/1"]}]})
    assert settings.may_speak(sender, HEADER, "main/icu/7") == fits
    assert settings.may_speak(sender, HEADER, "main/or/1") == fits
    assert not settings.may_speak(sender, HEADER, "main/or/11")
    assert not settings.may_speak(sender, HEADER, "MAIN/ICU/7")


def test_by_default_only_this_machine_may_speak() -> None:
    settings = HL7SourceSettings()
    assert settings.may_speak(peer("127.0.0.1"), HEADER, "a/b/c")
    assert settings.may_speak(peer("::1"), HEADER, "a/b/c")
    assert not settings.may_speak(peer("10.0.0.1"), HEADER, "a/b/c")


def test_an_ipv4_address_inside_ipv6_is_the_ipv4_address() -> None:
    assert Peer.from_socket_name(("::ffff:10.0.0.1", 1, 0, 0)).address == ip_address("10.0.0.1")
    assert Peer.from_socket_name(("fe80::1%eth0", 1, 0, 2)).address == ip_address("fe80::1")
    assert Peer.from_socket_name("").address is None


def test_the_first_sender_that_fits_names_the_dialect() -> None:
    settings = HL7SourceSettings(
        senders=(Sender(application="GW", facility="X", dialect="wcm"), Sender(application="GW", dialect="ge")),
    )
    assert settings.dialect_of(peer("10.0.0.1"), HEADER) == "ge"
    assert HL7SourceSettings().dialect_of(peer("10.0.0.1"), HEADER) is None


def test_the_beds_of_a_sender_are_those_of_every_grant_that_fits() -> None:
    grants = [{"address": "10.0.0.0/8", "beds": ["a/*"]}, {"application": "GW", "beds": ["b/*", "c/d/e"]}]
    settings = HL7SourceSettings.model_validate({"grants": grants})
    assert settings.beds_of(peer("10.0.0.1"), HEADER) == ("a/*", "b/*", "c/d/e")
    assert settings.beds_of(peer("192.0.2.1"), HEADER) == ("b/*", "c/d/e")
    assert HL7SourceSettings().beds_of(peer("10.0.0.1"), HEADER) == ()


def test_a_grant_without_a_sender_is_for_nobody() -> None:
    with pytest.raises(ValidationError, match="names no sender"):
        Grant(beds=("*",))


def test_every_data_file_loads() -> None:
    assert {d.name for d in load_dialects()} == {"ge", "philips", "mindray", "mindray_w01", "capsule", "wcm", "ihe"}
