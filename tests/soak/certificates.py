"""An authority, and certificates in files that change the way files do."""

import os
import shutil
import subprocess


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]}: {done.stderr.strip()}")


def key_options(key):
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key]


def remove(work):
    shutil.rmtree(work, ignore_errors=True)


class Authority:
    def __init__(self, work):
        self.certificate, self.key = work / "ca.crt", work / "ca.key"
        openssl("req", "-x509", *key_options(self.key), "-days", "30", "-subj", "/CN=soak-ca",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-out", self.certificate)
        self.extensions = work / "node.ext"
        self.extensions.write_text("extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=IP:127.0.0.1\n")

    def issue(self, directory):
        """A new key and certificate, and the authority beside them."""
        directory.mkdir()
        request = directory / "request"
        openssl("req", *key_options(directory / "tls.key"), "-subj", "/CN=relay-soak", "-out", request)
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
                "-days", "2", "-extfile", self.extensions, "-out", directory / "tls.crt")
        shutil.copy(self.certificate, directory / "ca.crt")
        request.unlink()


class Mounted:
    """Three files as a node sees them, changed in a different way each time."""

    NAMES = ("tls.crt", "tls.key", "ca.crt")

    def __init__(self, authority, at):
        self.authority, self.at = authority, at
        self.generation = 0
        at.mkdir()
        for name in self.NAMES:
            (at / name).symlink_to(f"..data/{name}")
        self.swap(self.fresh())

    def options(self):
        return [f"--tls-cert={self.at}/tls.crt", f"--tls-key={self.at}/tls.key", f"--tls-ca={self.at}/ca.crt"]

    def fresh(self):
        self.generation += 1
        directory = self.at / f"..{self.generation}"
        self.authority.issue(directory)
        return directory

    def swap(self, directory):
        """As Kubernetes does: a new directory, and one link."""
        link = self.at / "..next"
        link.symlink_to(directory.name)
        old = (self.at / "..data").resolve() if (self.at / "..data").exists() else None
        os.replace(link, self.at / "..data")
        if old and old != directory:
            shutil.rmtree(old, ignore_errors=True)

    def renew(self):
        new = self.fresh()
        present = (self.at / "..data").resolve()
        how = self.generation % 3
        if how == 0:
            self.swap(new)
            return
        for name in self.NAMES:
            if how == 1:  # rewritten where it is
                (present / name).write_bytes((new / name).read_bytes())
            else:  # renamed over
                os.replace(new / name, present / name)
        shutil.rmtree(new)

    def break_it(self):
        """A key that belongs to another certificate: nothing of the set may be used."""
        new = self.fresh()
        present = (self.at / "..data").resolve()
        (present / "tls.key").write_bytes((new / "tls.key").read_bytes())
        shutil.rmtree(new)
