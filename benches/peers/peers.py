"""The peers: how each is told to be one half of a pair.

A source takes connections on a unix socket and makes one over TCP for each, a
target does the reverse.  Between them TLS 1.3 with AES-128-GCM, both sides showing
a certificate, or nothing at all (`side.tls` is false).  Buffers are 64 KiB where a
peer lets one choose.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
SUITE = "TLS_AES_128_GCM_SHA256"
BUFFER = 65536
NAMES = {"source": "kubevirt.io:system:client:virt-handler", "target": "kubevirt.io:system:node:virt-handler"}


@dataclass
class Side:
    """One half of a pair."""

    role: str  # source or target
    unix: str  # where it listens (source) or connects to (target)
    port: int  # the other way round
    tls: bool
    certificates: Path
    config: Path  # a file that the peer may write its configuration to

    @property
    def is_source(self):
        return self.role == "source"

    @property
    def certificate(self):
        return f"{self.certificates}/{self.role}.crt"

    @property
    def key(self):
        return f"{self.certificates}/{self.role}.key"

    @property
    def authority(self):
        return f"{self.certificates}/ca.crt"

    def configure(self, text):
        self.config.write_text(text)
        return str(self.config)


def make_certificates(directory):
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    directory.mkdir()
    openssl("req", "-x509", *new_key, "-days", "2", "-subj", "/CN=benchmark authority",
            "-keyout", f"{directory}/ca.key", "-out", f"{directory}/ca.crt")
    (directory / "leaf.conf").write_text("basicConstraints = critical, CA:FALSE\n"
                                         "extendedKeyUsage = serverAuth, clientAuth\n"
                                         f"subjectAltName = IP:{HOST}, DNS:localhost\n")
    for role, name in NAMES.items():
        leaf = directory / role
        openssl("req", *new_key, "-subj", f"/CN={name}", "-keyout", f"{leaf}.key", "-out", f"{leaf}.csr")
        openssl("x509", "-req", "-days", "2", "-in", f"{leaf}.csr", "-out", f"{leaf}.crt", "-CAcreateserial",
                "-CA", f"{directory}/ca.crt", "-CAkey", f"{directory}/ca.key", "-extfile", f"{directory}/leaf.conf")
        # HAProxy wants both in one file.
        bundle = Path(f"{leaf}.crt").read_text() + Path(f"{leaf}.key").read_text()
        Path(f"{leaf}.pem").write_text(bundle)
    # For the peers that cannot be told the suite themselves.
    (directory / "openssl.conf").write_text(
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = tls\n"
        f"[tls]\nMinProtocol = TLSv1.3\nCiphersuites = {SUITE}\n")


class Peer:
    name = ""
    has_plain = True
    has_tls = True

    def installed(self):
        """The program, or None."""
        return shutil.which(self.name)

    def command(self, side):
        raise NotImplementedError


class Relay(Peer):
    def __init__(self, name, program):
        self.name, self.program = name, str(program)

    def installed(self):
        return self.program if os.access(self.program, os.X_OK) else None

    def command(self, side):
        unix, tcp = f"unix:{side.unix}", f"{'tls' if side.tls else 'tcp'}:{HOST}:{side.port}"
        listen, connect = (unix, tcp) if side.is_source else (tcp, unix)
        tls = ["--tls-cert", side.certificate, "--tls-key", side.key, "--tls-ca", side.authority,
               "--peer", f"cn:{NAMES['target' if side.is_source else 'source']}"]
        return [self.program, "forward", "--listen", listen, "--connect", connect, *(tls if side.tls else [])]


class Uring(Relay):
    """The prototype in benches/uring."""

    has_tls = False


class Haproxy(Peer):
    name = "haproxy"

    def command(self, side):
        tls = (f"ssl crt {side.certificates}/{side.role}.pem ca-file {side.authority} verify required "
               f"ssl-min-ver TLSv1.3 ciphersuites {SUITE}") if side.tls else ""
        unix, tcp = f"unix@{side.unix}", f"{HOST}:{side.port} {tls}"
        bind, server = (unix, tcp) if side.is_source else (tcp, unix)
        return ["haproxy", "-db", "-q", "-f", side.configure(f"""
global
    maxconn 1000
    tune.bufsize {BUFFER}
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    {"" if side.tls else "option splice-auto"}
listen pair
    bind {bind}
    server other {server}
""")]


class Nginx(Peer):
    name = "nginx"

    def command(self, side):
        verify = f"{side.certificates}/{side.role}"
        if side.is_source:
            listen, connect = f"unix:{side.unix}", f"{HOST}:{side.port}"
            tls = f"""proxy_ssl on;
        proxy_ssl_certificate {verify}.crt;
        proxy_ssl_certificate_key {verify}.key;
        proxy_ssl_trusted_certificate {side.authority};
        proxy_ssl_verify on;
        proxy_ssl_name localhost;
        proxy_ssl_protocols TLSv1.3;
        proxy_ssl_conf_command Ciphersuites {SUITE};"""
        else:
            listen, connect = f"{HOST}:{side.port}{' ssl' if side.tls else ''}", f"unix:{side.unix}"
            tls = f"""ssl_certificate {verify}.crt;
        ssl_certificate_key {verify}.key;
        ssl_client_certificate {side.authority};
        ssl_verify_client on;
        ssl_protocols TLSv1.3;
        ssl_conf_command Ciphersuites {SUITE};"""
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # Debian's is not built in
        return ["nginx", "-e", "stderr", "-c", side.configure(f"""
{f"load_module {module};" if module.exists() else ""}
daemon off;
user root;
worker_processes auto;
pid {side.config}.pid;
events {{ worker_connections 1000; }}
stream {{
    server {{
        listen {listen};
        proxy_pass {connect};
        proxy_buffer_size {BUFFER};
        {tls if side.tls else ""}
    }}
}}
""")]


class Stunnel(Peer):
    name = "stunnel"
    has_plain = False

    def command(self, side):
        listen, connect = side.unix, f"{HOST}:{side.port}"
        if not side.is_source:
            listen, connect = connect, listen
        return ["stunnel", side.configure(f"""
foreground = yes
pid =
debug = err
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[pair]
client = {"yes" if side.is_source else "no"}
accept = {listen}
connect = {connect}
cert = {side.certificate}
key = {side.key}
CAfile = {side.authority}
verifyChain = yes
requireCert = yes
sslVersion = TLSv1.3
ciphersuites = {SUITE}
""")]


class Socat(Peer):
    name = "socat"

    def command(self, side):
        tls = f"cert={side.certificate},key={side.key},cafile={side.authority},verify=1" if side.tls else ""
        if side.is_source:
            front = f"UNIX-LISTEN:{side.unix},fork,backlog=64"
            back = f"{'OPENSSL' if side.tls else 'TCP'}:{HOST}:{side.port},nodelay,{tls}"
        else:
            front = (f"{'OPENSSL' if side.tls else 'TCP'}-LISTEN:{side.port},bind={HOST},"
                     f"fork,reuseaddr,backlog=64,nodelay,{tls}")
            back = f"UNIX-CONNECT:{side.unix}"
        return ["env", f"OPENSSL_CONF={side.certificates}/openssl.conf",
                "socat", "-b", str(BUFFER), front.rstrip(","), back.rstrip(",")]
