"""The AWS CLI, version 2, in a folder for PATH, with the strict AWS as its endpoint.

Each start of the CLI takes more than a second, most of it to load modules. So one process of the CLI loads them and
forks for every command.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import botocore.loaders

from testbed import tools
from testbed.processes import Part, Server

_SERVER = """
import json, os, signal, socket, sys, traceback
import awscli.clidriver
driver = awscli.clidriver.create_clidriver()
for service in sys.argv[2:]:
    driver.session.get_service_model(service)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
while True:
    connection, _ = listening.accept()
    if os.fork():
        connection.close()
        continue
    words, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    for number, file in enumerate(files):
        os.dup2(file, number)
    try:
        code = driver.main(json.loads(words))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        code = 255
    sys.stderr.flush()
    connection.send(bytes([code]))
    os._exit(0)
"""
_CLIENT = """#!{python} -IS
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
words = ["--endpoint-url", {endpoint!r}, *sys.argv[1:]]
socket.send_fds(connection, [json.dumps(words).encode()], [0, 1, 2])
sys.exit((connection.recv(1) or b"\\xff")[0])
"""
_PROGRAM = '#!/bin/sh\nexec {program} --endpoint-url {endpoint} "$@"\n'
_SERVICES = ("cloudtrail", "dynamodb", "ec2", "lambda", "logs", "route53", "sqs")


class AwsCli(Part):
    """`folder` contains the command `aws`. `environment` is that of `StrictAws.environ`."""

    def __init__(self, environment: Mapping[str, str], *, run_directory: Path | None = None) -> None:
        super().__init__("aws-cli", run_directory)
        self.folder = self.run_directory / "bin"
        self._environment = environment
        self._server: Server | None = None

    def _start(self) -> None:
        self.folder.mkdir()
        program, endpoint = shutil.which("aws"), self._environment["AWS_ENDPOINT_URL"]
        if program and _version(program).startswith("aws-cli/2."):
            text = _PROGRAM.format(program=shlex.quote(program), endpoint=shlex.quote(endpoint))
        else:
            address = str(self.run_directory / "socket")
            self._serve(address)
            text = _CLIENT.format(python=sys.executable, address=address, endpoint=endpoint)
        (self.folder / "aws").write_text(text)
        (self.folder / "aws").chmod(0o755)

    def _serve(self, address: str) -> None:
        tree = tools.aws_cli_tree()
        # Debian's CLI may be older than the message move tasks: it gets a newer description of SQS.
        models = self.run_directory / "models"
        folder = models / "sqs" / "2012-11-05"
        folder.mkdir(parents=True)
        model = botocore.loaders.create_loader().load_service_model("sqs", "service-2")
        (folder / "service-2.json").write_text(json.dumps(model))
        environment = {
            **self._environment,
            "AWS_DATA_PATH": str(models),
            "HOME": str(self.run_directory),
            "PYTHONPATH": str(tree.root / "usr" / "lib" / "python3" / "dist-packages"),
        }
        self._server = Server(
            "aws-cli",
            ["/usr/bin/python3", "-c", _SERVER, address, *_SERVICES],
            run_directory=self.run_directory,
            environment=environment,
            ready=Path(address).exists,
        ).start()

    def _stop(self) -> None:
        if self._server is not None:
            self._server.stop()


def _version(program: str) -> str:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=60)
    return answer.stdout
