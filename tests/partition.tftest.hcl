# A partition other than aws.

mock_provider "aws" {
  source = "./mocks"
}

run "names_in_another_partition_are_those_of_the_partition" {
  override_resource {
    target = aws_sqs_queue.events
    values = { arn = "arn:aws-cn:sqs:cn-north-1:123456789012:ec2-decommission", url = "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/ec2-decommission" }
  }

  override_resource {
    target = aws_sqs_queue.dead_letters
    values = { arn = "arn:aws-cn:sqs:cn-north-1:123456789012:ec2-decommission-dead-letters", url = "https://sqs.cn-north-1.amazonaws.com.cn/123456789012/ec2-decommission-dead-letters" }
  }

  variables {
    route53      = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    vpc_config   = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
    organization = { members = { "222222222222" = {} } }
    dashboard    = { enabled = true }
    package      = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, bundle_included = true }
  }

  assert {
    condition     = length(regexall("arn:aws:|eu-west-1", "${output.function_policy_json} ${aws_cloudwatch_event_bus_policy.members[0].policy} ${aws_cloudwatch_event_rule.instance_state.event_pattern} ${aws_cloudwatch_dashboard.this[0].dashboard_body}")) == 0 && aws_iam_role.function[0].name == "ec2-decommission-cn-north-1"
    error_message = output.function_policy_json
  }
}
