"""Applies a Terraform root module, such as an example of this repository, to the testbed's AWS.

Terraform runs in the root module's directory, so that relative module sources work. State, plugins and logs go to the
run directory. Terraform writes only its lock file, which git ignores, next to the source.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from testbed import tools
from testbed.aws import StrictAws

Progress = Callable[[str], None]

# Variables that are not passed to Terraform, because they would change its behavior or target.
_DROPPED = ("TF_", "AWS_")
_TAIL_LINES = 30


class TerraformError(RuntimeError):
    """A Terraform command failed. The message contains its last lines and the path of its log."""


class Stack:
    """A root module with its own state.

    `variables` become TF_VAR_ variables, as JSON unless they are strings. `environment` is added to this process's
    environment (without AWS_ and TF_ variables) and to the variables for the testbed's AWS.
    """

    def __init__(
        self,
        source_dir: Path,
        aws: StrictAws,
        run_dir: Path,
        *,
        variables: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        progress: Progress | None = None,
        command_timeout: float = 900,
    ) -> None:
        self.source = source_dir.resolve()
        self.run_dir = run_dir.resolve()
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.state = self.run_dir / "terraform.tfstate"
        self.variables = dict(variables or {})
        self.environment = dict(environment or {})
        self._aws = aws
        self._progress = progress
        self._timeout = command_timeout
        self._initialized = False

    # ------------------------------------------------------------ commands

    def init(self) -> None:
        """Runs `terraform init`. The other commands call it if needed."""
        # -upgrade ignores the lock file of an earlier run with other plugins.
        arguments = ["init", "-backend=false", "-upgrade"]
        if mirror := tools.terraform_mirror():
            arguments.append(f"-plugin-dir={mirror}")
        self._run(arguments, "init")
        self._initialized = True

    def apply(self, plan: Path | None = None) -> None:
        """Applies the configuration or a saved plan. A saved plan keeps its state next to the source."""
        if plan is None:
            self._with_state(["apply", "-auto-approve"], "apply")
            return
        if not self._initialized:
            self.init()
        self.state = self.source / "terraform.tfstate"
        self._run(["apply", "-lock=false", str(plan)], "apply")

    def destroy(self) -> None:
        """Destroys all resources."""
        self._with_state(["destroy", "-auto-approve"], "destroy")

    def plan(self) -> Literal["empty", "changes"]:
        """Whether the plan has changes. The log contains the plan."""
        status = self._with_state(["plan", "-detailed-exitcode"], "plan", good=(0, 2))
        return "changes" if status == 2 else "empty"

    def validate(self) -> None:
        """Validates the source. Raises TerraformError if it is invalid."""
        if not self._initialized:
            self.init()
        self._capture(["validate"])

    def save_plan(self, plan: Path) -> None:
        """Saves a plan for `apply`, on this machine or another."""
        if not self._initialized:
            self.init()
        self._run(["plan", "-lock=false", f"-out={plan}"], "plan")

    def outputs(self) -> dict[str, Any]:
        """The root module's outputs, by name."""
        listed = json.loads(self._capture(["output", "-json", f"-state={self.state}"]))
        return {name: output["value"] for name, output in listed.items()}

    def resources(self) -> list[str]:
        """The addresses of all resources in the state."""
        if not self.state.exists():
            return []
        return self._capture(["state", "list", f"-state={self.state}"]).split()

    @property
    def logs(self) -> Path:
        """The directory of the commands' logs."""
        return self.run_dir

    # ------------------------------------------------------------ running

    def _with_state(self, arguments: list[str], name: str, good: Sequence[int] = (0,)) -> int:
        if not self._initialized:
            self.init()
        return self._run([*arguments, "-lock=false", f"-state={self.state}"], name, good)

    def _run(self, arguments: list[str], name: str, good: Sequence[int] = (0,)) -> int:
        log_path = self.run_dir / f"terraform-{name}.log"
        command = self._command([arguments[0], "-input=false", *arguments[1:]])
        with (
            log_path.open("w") as log,
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=self._environment(),
            ) as process,
        ):
            assert process.stdout is not None
            # On SIGTERM, Terraform still writes the state.
            too_long = threading.Timer(self._timeout, process.terminate)
            too_long.daemon = True
            too_long.start()
            try:
                for line in process.stdout:
                    log.write(line)
                    log.flush()
                    if self._progress is not None and line.strip():
                        self._progress(line.rstrip())
                status = process.wait()
            except BaseException:
                process.terminate()
                process.wait(60)
                raise
            finally:
                expired = too_long.finished.is_set()
                too_long.cancel()
        if expired:
            raise TerraformError(f"terraform {name} took over {self._timeout:g} seconds; log: {log_path}")
        if status not in good:
            tail = "\n".join(log_path.read_text().splitlines()[-_TAIL_LINES:])
            raise TerraformError(f"terraform {name} failed (status {status}); log: {log_path}\n{tail}")
        return status

    def _capture(self, arguments: list[str]) -> str:
        done = subprocess.run(
            self._command(arguments), capture_output=True, text=True, check=False, env=self._environment()
        )
        if done.returncode != 0:
            raise TerraformError(f"terraform {arguments[0]} failed (status {done.returncode}):\n{done.stderr}")
        return done.stdout

    def _command(self, arguments: list[str]) -> list[str]:
        return [str(tools.terraform_binary()), f"-chdir={self.source}", *arguments]

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(_DROPPED)}
        return {
            **inherited,
            **self._aws.environ(),
            "TF_DATA_DIR": str(self.run_dir / "terraform-data"),
            "TF_IN_AUTOMATION": "1",
            "TF_CLI_ARGS": "-no-color",
            "CHECKPOINT_DISABLE": "1",
            "BUILD_CACHE": str(tools.CACHE / "build"),  # the build's environment, created once for all stacks
            **self._plugin_cache(),
            **{f"TF_VAR_{name}": _as_variable(value) for name, value in self.variables.items()},
            **self.environment,
        }

    def _plugin_cache(self) -> dict[str, str]:
        """Enables a plugin cache, so that each provider is downloaded once for all stacks."""
        if tools.terraform_mirror() is not None:
            return {}
        cache = tools.CACHE / "terraform-plugins"
        cache.mkdir(parents=True, exist_ok=True)
        return {"TF_PLUGIN_CACHE_DIR": str(cache), "TF_PLUGIN_CACHE_MAY_BREAK_DEPENDENCY_LOCK_FILE": "1"}


def _as_variable(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
