"""`python3 cli` from a checkout, or `python3 .terraform/modules/<call>/cli` from a root module."""

import sys

sys.dont_write_bytecode = True  # leaves the checkout clean
if sys.version_info < (3, 11):  # noqa: UP036  # older Pythons get a clear message
    sys.exit("Error: ec2-decommission needs Python 3.11 or later; this is Python " + sys.version.split()[0])
try:
    from ec2_decommission_cli.main import main
except ModuleNotFoundError as error:
    if error.name not in ("boto3", "botocore"):
        raise
    sys.exit(f"Error: ec2-decommission needs boto3: {sys.executable} -m pip install boto3")
sys.exit(main())
