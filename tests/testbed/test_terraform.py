"""A small stack goes through its life on the strict AWS: applied, invoked, fed by events, destroyed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.aws import StrictAws
from testbed.lambda_service import EventSourcePoller, LambdaService
from testbed.terraform import Stack, TerraformError

pytestmark = pytest.mark.servers

MAIN = """
terraform {
  required_providers { aws = { source = "hashicorp/aws" } }
}

provider "aws" {}

variable "name" { type = string }

resource "aws_sqs_queue" "events" {
  name                       = var.name
  visibility_timeout_seconds = 60
}

resource "aws_sqs_queue_policy" "events" {
  queue_url = aws_sqs_queue.events.url
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "events.amazonaws.com" }
      Action    = "sqs:SendMessage"
      Resource  = aws_sqs_queue.events.arn
      Condition = { ArnEquals = { "aws:SourceArn" = aws_cloudwatch_event_rule.terminated.arn } }
    }]
  })
}

resource "aws_cloudwatch_event_rule" "terminated" {
  name = var.name
  event_pattern = jsonencode({
    source        = ["aws.ec2"]
    "detail-type" = ["EC2 Instance State-change Notification"]
    detail        = { state = ["terminated"] }
  })
}

resource "aws_cloudwatch_event_target" "queue" {
  rule = aws_cloudwatch_event_rule.terminated.name
  arn  = aws_sqs_queue.events.arn
}

resource "aws_cloudwatch_log_group" "function" {
  name = "/aws/lambda/${var.name}"
}

resource "aws_iam_role" "function" {
  name = var.name
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = { Service = "lambda.amazonaws.com" }, Action = "sts:AssumeRole" }]
  })
}

resource "aws_iam_role_policy" "function" {
  role = aws_iam_role.function.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Effect   = "Allow"
        Action   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
        Resource = aws_sqs_queue.events.arn
      },
      {
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = "${aws_cloudwatch_log_group.function.arn}:*"
      },
    ]
  })
}

resource "aws_lambda_function" "function" {
  function_name    = var.name
  role             = aws_iam_role.function.arn
  handler          = "code.handle"
  runtime          = "python3.13"
  architectures    = ["arm64"]
  timeout          = 20
  filename         = "${path.module}/code.zip"
  source_code_hash = filebase64sha256("${path.module}/code.zip")
  environment { variables = { GREETING = "hello" } }
  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.function.name
  }
  depends_on = [aws_iam_role_policy.function]
}

resource "aws_lambda_event_source_mapping" "queue" {
  event_source_arn        = aws_sqs_queue.events.arn
  function_name           = aws_lambda_function.function.arn
  batch_size              = 5
  function_response_types = ["ReportBatchItemFailures"]
  scaling_config { maximum_concurrency = 2 }
}

output "queue_url" { value = aws_sqs_queue.events.url }
output "settings" { value = { a = [1, 2] } }
"""

CODE = """
import os, json, boto3
def handle(event, context):
    if event.get("try"):
        try:
            boto3.client("ec2").describe_instances()
        except Exception as error:
            return str(error)
    print(os.environ["GREETING"])
    return {"batchItemFailures": [], "seen": [json.loads(r["body"])["detail"] for r in event.get("Records", [])]}
"""


@pytest.fixture
def aws() -> Iterator[StrictAws]:
    with StrictAws() as started:
        yield started


def source(directory: Path) -> Path:
    directory.mkdir()
    (directory / "main.tf").write_text(MAIN)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("code.py", (1980, 1, 1, 0, 0, 0)), CODE)
    (directory / "code.zip").write_bytes(buffer.getvalue())
    return directory


def test_life_of_a_stack(aws: StrictAws, tmp_path: Path) -> None:
    root = source(tmp_path / "root")
    before = sorted(path.name for path in root.iterdir())
    lines: list[str] = []
    stack = Stack(root, aws, tmp_path / "run", variables={"name": "small"}, progress=lines.append)
    stack.apply()
    assert any("Apply complete" in line for line in lines)
    assert stack.plan() == "empty"
    assert stack.outputs() == {"queue_url": f"{aws.endpoint}/123456789012/small", "settings": {"a": [1, 2]}}

    with LambdaService(aws) as service:
        answer = aws.client("lambda").invoke(FunctionName="small", Payload=b"{}", LogType="Tail")
        assert json.loads(answer["Payload"].read()) == {"batchItemFailures": [], "seen": []}
        denied = aws.client("lambda").invoke(FunctionName="small", Payload=b'{"try": true}')
        assert "not authorized to perform: ec2:DescribeInstances" in denied["Payload"].read().decode()

        instance = aws.launch("web-1")
        aws.terminate(instance.id)
        batches = EventSourcePoller(service).drain()
        assert [batch.invocation.result["seen"] for batch in batches] == [
            [{"instance-id": instance.id, "state": "terminated"}]
        ]
        assert batches[0].invocation.logs == ["hello"]
        assert batches[0].invocation.log_error is None
        assert EventSourcePoller(service).messages("small") == []
    written = aws.client("logs").filter_log_events(logGroupName="/aws/lambda/small")["events"]
    assert "hello" in [event["message"] for event in written]

    stack.variables["name"] = "other"
    assert stack.plan() == "changes"
    stack.variables["name"] = "small"
    stack.destroy()
    assert stack.resources() == []
    assert aws.client("lambda").list_functions()["Functions"] == []
    assert "QueueUrls" not in aws.client("sqs").list_queues()
    assert aws.client("iam").list_roles()["Roles"] == []
    assert sorted(path.name for path in root.iterdir()) == [".terraform.lock.hcl", *before]


def test_an_error_names_the_log(aws: StrictAws, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "main.tf").write_text('output "a" { value = nowhere }')
    stack = Stack(root, aws, tmp_path / "run")
    with pytest.raises(TerraformError, match=r"terraform apply failed.*terraform-apply\.log") as raised:
        stack.apply()
    assert "nowhere" in str(raised.value)
