# ARNs that are known only after an apply, with a provider that makes everything up.
mock_provider "aws" {
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws-cn:logs:cn-north-1:123456789012:log-group:/aws/lambda/ec2-decommission" }
  }

  mock_resource "aws_dynamodb_table" {
    defaults = { arn = "arn:aws-cn:dynamodb:cn-north-1:123456789012:table/ec2-decommission-inventory" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws-cn:iam::123456789012:role/ec2-decommission-cn-north-1" }
  }

  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws-cn:kms:cn-north-1:123456789012:key/0f1e", key_id = "0f1e" }
  }

  mock_resource "aws_lambda_function" {
    defaults = { arn = "arn:aws-cn:lambda:cn-north-1:123456789012:function:ec2-decommission", code_sha256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=" }
  }

  mock_resource "aws_cloudwatch_event_rule" {
    defaults = { arn = "arn:aws-cn:events:cn-north-1:123456789012:rule/made-up" }
  }

  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
}

override_data {
  target = data.aws_partition.this
  values = { partition = "aws-cn" }
}

override_data {
  target = data.aws_region.this
  values = { id = "cn-north-1" }
}

override_resource {
  target = aws_sqs_queue.events
  values = { arn = "arn:aws-cn:sqs:cn-north-1:123456789012:ec2-decommission", url = "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/ec2-decommission" }
}

override_resource {
  target = aws_sqs_queue.dead_letters
  values = { arn = "arn:aws-cn:sqs:cn-north-1:123456789012:ec2-decommission-dead-letters", url = "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/ec2-decommission-dead-letters" }
}

variables {
  package = {
    type        = "s3"
    s3          = { bucket = "artifacts", key = "ec2-decommission.zip" }
    code_sha256 = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
  }
  vpc_config = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
  route53    = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
}

run "every_statement_names_what_is_the_modules_own_in_its_partition" {
  command = apply

  assert {
    condition     = local.function_statements["TakeEvents"].resources == ["arn:aws-cn:sqs:cn-north-1:123456789012:ec2-decommission"] && local.function_statements["SendWhatTheSweepFound"].resources == ["arn:aws-cn:sqs:cn-north-1:123456789012:ec2-decommission"]
    error_message = "The function reaches more queues than its own."
  }

  assert {
    condition     = local.function_statements["WriteLogs"].resources == ["arn:aws-cn:logs:cn-north-1:123456789012:log-group:/aws/lambda/ec2-decommission:*"]
    error_message = "The function writes to more than its own log group."
  }

  assert {
    condition     = local.function_statements["RememberInstances"].resources == ["arn:aws-cn:dynamodb:cn-north-1:123456789012:table/ec2-decommission-inventory"] && local.function_statements["ListLivingInstances"].resources == ["arn:aws-cn:dynamodb:cn-north-1:123456789012:table/ec2-decommission-inventory/index/living"]
    error_message = "The function reaches more tables than its own."
  }

  assert {
    condition     = local.function_statements["ReadAndChangeRecords"].resources == ["arn:aws-cn:route53:::hostedzone/Z1"]
    error_message = "The zone's ARN is not of this partition."
  }

  assert {
    condition     = local.function_statements["CodeMayNotAttachToVpc"].conditions[0].values == ["arn:aws-cn:lambda:cn-north-1:123456789012:function:ec2-decommission"]
    error_message = "The guard does not name the function."
  }
}

run "each_queue_admits_the_modules_rules_only_and_nothing_in_clear_text" {
  command = apply

  assert {
    condition = alltrue(flatten([
      for document in values(data.aws_iam_policy_document.queue) : [
        for statement in document.statement : (
          statement.sid == "AdmitTheRules"
          ? tolist(statement.actions) == tolist(["sqs:SendMessage"]) && one(statement.condition).variable == "aws:SourceArn" && length(one(statement.condition).values) == 2
          : statement.sid == "RefuseClearText" && statement.effect == "Deny" && one(statement.condition).variable == "aws:SecureTransport"
        )
      ]
    ]))
    error_message = "A queue admits somebody else."
  }

  assert {
    condition     = jsondecode(aws_sqs_queue.events.redrive_policy).deadLetterTargetArn == aws_sqs_queue.dead_letters.arn && jsondecode(aws_sqs_queue.events.redrive_policy).maxReceiveCount == 30
    error_message = "What cannot be finished does not become a dead letter."
  }

  assert {
    condition     = aws_cloudwatch_event_target.instance_state.arn == aws_sqs_queue.events.arn && aws_cloudwatch_event_target.instance_state.dead_letter_config[0].arn == aws_sqs_queue.dead_letters.arn && aws_cloudwatch_event_target.sweep[0].arn == aws_sqs_queue.events.arn
    error_message = "The rules do not lead to the queue."
  }
}

run "outputs_are_those_of_the_contract" {
  command = apply

  assert {
    condition     = output.function_name == "ec2-decommission" && output.role_name == "ec2-decommission-cn-north-1" && output.queue_url == aws_sqs_queue.events.url && output.queue_arn == aws_sqs_queue.events.arn && output.dead_letter_queue_url == aws_sqs_queue.dead_letters.url && output.log_group_name == "/aws/lambda/ec2-decommission" && output.event_rule_arn == aws_cloudwatch_event_rule.instance_state.arn && output.inventory_table_name == "ec2-decommission-inventory"
    error_message = "An output is wrong."
  }

  assert {
    condition     = jsondecode(aws_lambda_function.this.environment[0].variables["DECOMMISSION_CONFIG"]).queue.url == aws_sqs_queue.events.url
    error_message = "The function does not know its queue."
  }
}

run "the_code_that_runs_is_the_code_that_was_meant" {
  command = apply

  assert {
    condition     = aws_lambda_function.this.code_sha256 == local.expected_code_sha256
    error_message = "The check has nothing to hold the function's code against."
  }
}

# As after an update that failed, or one by somebody else.
run "other_code_than_was_meant_is_told" {
  command = apply

  variables {
    package = {
      type        = "s3"
      s3          = { bucket = "artifacts", key = "ec2-decommission.zip" }
      code_sha256 = "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
    }
  }

  expect_failures = [check.deployed_code]
}
