"""schemathesis on /openapi.json: a server with keys, every check, the same cases each time."""

import os
import pathlib
import subprocess
import sys
import threading

PROGRAM = os.environ["BITNET_PROGRAM"]
folder = pathlib.Path.cwd()
keys = folder / "keys.json"
keys.unlink(missing_ok=True)


def key(role):
    command = [PROGRAM, "keys", "add", "--file", str(keys), "--name", role, "--role", role]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]


# The description of a server does not know its model: the hooks put that in, and lengths that its context has room for.
# Switched off are the stateful phase, whose links the description does not have, and for the administrator everything
# that takes the model away (see below). 25 examples of each operation, the same each time, keep the gate short.
(folder / "schemathesis.toml").write_text(
    """[generation]
deterministic = true
max-examples = 25
[phases.stateful]
enabled = false
# What an order asks may be well formed, and the model in no state for it; the hooks look at the reason.
[[operations]]
include-path-regex = "^/v1/models/(load|swap|.*/rollback)$"
checks.positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 422, "5xx"]
"""
)
HOOKS = pathlib.Path(__file__).with_name("schemathesis_hooks.py")


def run(role, *options):
    """Runs it on a server of its own, with a key of this role."""
    secret = key(role)
    # It tries bad keys with every operation, and is to be told 401 each time.
    flags = ["--port", "0", "--keys-file", str(keys), "--refused-credentials-per-minute", "0"]
    flags += ["--pooling", "last", "--served-model-name", "stories"]
    server = subprocess.Popen([PROGRAM, "serve", *flags], stderr=subprocess.PIPE, text=True)
    try:
        for line in server.stderr:
            if line.startswith("serving "):
                url = "http://" + line.split(" on http://")[1].split(": ")[0]
                break
        else:
            sys.exit("the server did not start")
        # A pipe that nobody empties would stop it.
        threading.Thread(target=server.stderr.read, daemon=True).start()
        program = str(pathlib.Path(sys.executable).with_name("schemathesis"))
        command = [program, "run", f"{url}/openapi.json", "--checks", "all", "--workers", "1"]
        command += ["--header", f"Authorization: Bearer {secret}", *options]
        return subprocess.run(command, env=os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)}).returncode
    finally:
        server.kill()
        server.wait()


# Everything with a key for inference: management is refused, as described.
everything = run("infer")
# Management with a key for it, but for what takes the model away: then the others have nothing to answer.
management = [f"--include-operation-id={name}" for name in ("loadModel", "swapModel", "rollBackModel")]
sys.exit(everything or run("admin", *management))
