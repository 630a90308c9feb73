"""aiokafka gets from the properties what librdkafka makes of them."""

import asyncio
import base64
import json
import ssl
from pathlib import Path

import pytest
import trustme

from stream.access import credentials
from stream.access.credentials import Tokens, faust_options, token_outage
from stream.errors import ConfigError
from stream.kafka_config import PLAINTEXT, KafkaConfig
from tests.tokens import TokenEndpoint

UNSECURED = {"sasl.oauthbearer.config": "principal=eddy lifeSeconds=60 scope=x"}


def oidc(url: str, secret: str = "hunter2") -> dict[str, str]:
    return {
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": url,
        "sasl.oauthbearer.client.id": "eddy",
        "sasl.oauthbearer.client.secret": secret,
    }


def context(**given: str) -> ssl.SSLContext:
    properties = {"security.protocol": "ssl"} | {name.replace("_", "."): value for name, value in given.items()}
    made = faust_options(KafkaConfig(properties))["broker_credentials"].context
    assert isinstance(made, ssl.SSLContext)
    return made


def test_without_a_protocol_faust_gets_no_credentials() -> None:
    """A plain broker is reached as before."""
    assert faust_options(PLAINTEXT) == {}


def test_a_broker_is_verified_unless_a_property_says_otherwise() -> None:
    """The defaults are the safe ones, as librdkafka's are."""
    default, any_name = context(), context(ssl_endpoint_identification_algorithm="none")
    trusting = context(enable_ssl_certificate_verification="false")
    assert (default.check_hostname, default.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert (any_name.check_hostname, any_name.verify_mode) == (False, ssl.CERT_REQUIRED)
    assert (trusting.check_hostname, trusting.verify_mode) == (False, ssl.CERT_NONE)


def test_only_the_given_authority_is_trusted(tmp_path: Path) -> None:
    """With ssl.ca.location the system's authorities are out, as for librdkafka."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    assert len(context(ssl_ca_location=str(tmp_path / "ca.pem")).get_ca_certs()) == 1


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    """OpenSSL's own words would not say which of the files it was."""
    path = tmp_path / "x.pem"
    path.write_text("nothing")
    with pytest.raises(ConfigError, match=r"ssl\.ca\.location: no PEM file"):
        context(ssl_ca_location=str(path))
    with pytest.raises(ConfigError, match=r"x\.pem cannot be used together"):
        context(ssl_certificate_location=str(path), ssl_key_location=str(path))


def test_waiting_times_reach_both_families() -> None:
    """librdkafka gets them as they are, Faust by its own names."""
    config = KafkaConfig({"metadata.max.age.ms": "1000", "connections.max.idle.ms": "2000"})
    assert faust_options(config) == {"consumer_metadata_max_age_ms": 1000, "consumer_connections_max_idle_ms": 2000}


def test_a_token_is_used_until_most_of_its_life_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token for each connection would be a request each; an expired one would be refused."""
    now_s = [1000.0]
    monkeypatch.setattr(credentials.time, "monotonic", lambda: now_s[0])
    tokens, seen = Tokens(UNSECURED), []
    for at_s in (1000.0, 1047.0, 1049.0):
        now_s[0] = at_s
        seen.append(asyncio.run(tokens.token()))
    assert seen[0] == seen[1] != seen[2]
    claims = json.loads(base64.urlsafe_b64decode(seen[0].split(".")[1] + "=="))
    assert (claims["sub"], claims["exp"] - claims["iat"]) == ("eddy", 60)


def test_a_token_endpoint_that_is_out_is_asked_seldom_and_the_token_is_used_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """aiokafka asks for a token with each of its tries to connect, some twenty a second. OSError lets it try again."""
    now_s = [1000.0]
    monkeypatch.setattr(credentials.time, "monotonic", lambda: now_s[0])
    endpoint = TokenEndpoint("hunter2", life_s=60)
    tokens = Tokens(oidc(endpoint.url))
    first = asyncio.run(tokens.token())
    endpoint.out = True
    now_s[0] = 1050.0
    assert asyncio.run(tokens.token()) == first
    now_s[0] = 1060.0
    for _ in range(20):
        with pytest.raises(OSError, match="503"):
            asyncio.run(tokens.token())
    assert endpoint.asked == 3
    endpoint.out, now_s[0] = False, 1062.0
    assert asyncio.run(tokens.token())
    endpoint.close()


def test_only_an_endpoint_that_gives_nobody_a_token_is_an_outage() -> None:
    """A wrong secret stays wrong however long a worker waits. A broken endpoint, or a proxy's page, is no refusal."""
    endpoint, page = TokenEndpoint("hunter2"), TokenEndpoint("hunter2", life_s=60)

    def outage(url: str, secret: str = "hunter2") -> str | None:
        return token_outage(KafkaConfig(oidc(url, secret)))

    assert token_outage(PLAINTEXT) is outage(endpoint.url) is outage(endpoint.url, "hunter3") is None
    endpoint.out = True
    assert outage(endpoint.url) == "the token endpoint answers 503"
    page.body = b"<html>soon</html>"
    assert outage(page.url) == "the token endpoint gives no token (its answer has none)"
    page.close()
    endpoint.close()
    assert "gives no token" in str(outage("http://127.0.0.1:9"))


def test_extensions_are_pairs() -> None:
    """Confluent Cloud wants its cluster and identity pool there."""
    tokens = Tokens({**UNSECURED, "sasl.oauthbearer.extensions": "logicalCluster=lkc-1, identityPoolId=pool-2"})
    assert tokens.extensions() == {"logicalCluster": "lkc-1", "identityPoolId": "pool-2"}
    assert Tokens(UNSECURED).extensions() == {}
