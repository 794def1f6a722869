"""Fetches npm packages without dependencies, as a list names them (name, version, integrity), into a directory."""

import base64
import hashlib
import io
import pathlib
import sys
import tarfile
import urllib.request

listed, into = sys.argv[1], pathlib.Path(sys.argv[2])
for line in pathlib.Path(listed).read_text().splitlines():
    name, version, integrity = line.split()
    url = f"https://registry.npmjs.org/{name}/-/{name}-{version}.tgz"
    with urllib.request.urlopen(url, timeout=120) as answer:
        packed = answer.read()
    found = "sha512-" + base64.b64encode(hashlib.sha512(packed).digest()).decode()
    if found != integrity:
        sys.exit(f"{url} is not what {listed} names: {found}")
    with tarfile.open(fileobj=io.BytesIO(packed)) as package:
        for member in package.getmembers():
            # Everything in such an archive is below package/.
            member.name = str(pathlib.PurePosixPath(*pathlib.PurePosixPath(member.name).parts[1:]))
            if ".." in member.name or member.name.startswith("/"):
                sys.exit(f"{url} reaches out of its directory: {member.name}")
            package.extract(member, into / name)
