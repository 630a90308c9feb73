"""The properties of a broker with TLS, SASL and ACLs, for bench/apache_kafka.py."""

from pathlib import Path
from typing import NamedTuple

SECURED_PROPERTIES = """listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},\
TLS://127.0.0.1:{tls},SASL://127.0.0.1:{sasl},NOTLS://127.0.0.1:{notls}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},TLS://127.0.0.1:{tls},SASL://127.0.0.1:{sasl},NOTLS://127.0.0.1:{notls}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,SASL:SASL_SSL,NOTLS:SASL_PLAINTEXT
ssl.keystore.type=PEM
ssl.keystore.location={server}
ssl.truststore.type=PEM
ssl.truststore.location={authority}
ssl.principal.mapping.rules=RULE:^.*CN=([^,]+).*$/$1/
listener.name.tls.ssl.client.auth=required
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.notls.sasl.enabled.mechanisms=PLAIN
{plain}
{jaas}.scram-sha-256.sasl.jaas.config={scram}
{jaas}.scram-sha-512.sasl.jaas.config={scram}
{jaas}.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required \
unsecuredLoginStringClaim_sub="broker";
{jaas}.oauthbearer.sasl.server.callback.handler.class=\
org.apache.kafka.common.security.oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler
listener.name.sasl.oauthbearer.connections.max.reauth.ms=3600000
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
"""ANONYMOUS is who comes by the plain listener: the broker itself and the tests' own clients. With
connections.max.reauth.ms the broker closes a connection when its token has expired."""

SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"


class Secured(NamedTuple):
    """What a broker needs for listeners with TLS and SASL. Nobody has a right on them until an ACL gives it.

    server     PEM file with the broker's private key (PKCS 8) and its certificate
    authority  PEM file of the authority that signed it and the clients' certificates
    passwords  user -> password, for SASL PLAIN; SCRAM users are created with an AdminClient
    """

    server: Path
    authority: Path
    passwords: dict[str, str]

    def properties(self, **ports: int) -> str:
        """Lines for server.properties; they replace those of PROPERTIES with the same name."""
        users = " ".join(f'user_{name}="{password}"' for name, password in self.passwords.items())
        plain = "\n".join(
            f"listener.name.{listener}.plain.sasl.jaas.config={PLAIN} {users};" for listener in ("sasl", "notls")
        )
        return SECURED_PROPERTIES.format(
            server=self.server, authority=self.authority, plain=plain, jaas="listener.name.sasl", scram=SCRAM, **ports
        )
