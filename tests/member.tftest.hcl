# modules/member: the permissions that a member account grants, and their principals.

mock_provider "aws" {
  mock_resource "aws_sqs_queue" {
    defaults = { arn = "arn:aws:sqs:us-east-1:222222222222:ec2-decommission-member-undelivered", url = "https://sqs.us-east-1.amazonaws.com/222222222222/ec2-decommission-member-undelivered" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::222222222222:role/made-up" }
  }

  mock_resource "aws_cloudwatch_event_rule" {
    defaults = { arn = "arn:aws:events:us-east-1:222222222222:rule/ec2-decommission-member-instance-state" }
  }
}

variables {
  event_bus_arn     = "arn:aws:events:eu-west-1:111111111111:event-bus/ec2-decommission-members"
  function_role_arn = "arn:aws:iam::111111111111:role/ec2-decommission-eu-west-1"
}

run "a_member_lets_the_function_look_and_events_go_to_the_bus" {
  module {
    source = "./modules/member"
  }

  variables {
    external_id              = "shared"
    permissions_boundary_arn = "arn:aws:iam::222222222222:policy/boundary"
    tags                     = { Team = "platform" }
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.reader[0].policy).Statement == [{
      Sid    = "ReadInstances", Effect = "Allow", Resource = "*"
      Action = ["ec2:DescribeAddresses", "ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces"]
    }]
    error_message = aws_iam_role_policy.reader[0].policy
  }

  assert {
    condition = jsondecode(aws_iam_role.reader[0].assume_role_policy).Statement == [{
      Sid       = "TheFunctionReads", Effect = "Allow", Action = "sts:AssumeRole"
      Principal = { AWS = "arn:aws:iam::111111111111:role/ec2-decommission-eu-west-1" }
      Condition = { StringEquals = { "sts:ExternalId" = "shared" } }
    }]
    error_message = aws_iam_role.reader[0].assume_role_policy
  }

  assert {
    condition     = jsondecode(aws_iam_role_policy.forwarder.policy).Statement == [{ Sid = "PutEvents", Effect = "Allow", Action = "events:PutEvents", Resource = var.event_bus_arn }]
    error_message = aws_iam_role_policy.forwarder.policy
  }

  assert {
    condition = jsondecode(aws_iam_role.forwarder.assume_role_policy).Statement[0].Condition == {
      ArnEquals    = { "aws:SourceArn" = "arn:aws:events:us-east-1:222222222222:rule/ec2-decommission-member-instance-state" }
      StringEquals = { "aws:SourceAccount" = "222222222222" }
    }
    error_message = aws_iam_role.forwarder.assume_role_policy
  }

  assert {
    condition = jsondecode(aws_cloudwatch_event_rule.instance_state.event_pattern) == {
      source        = ["aws.ec2"]
      "detail-type" = ["EC2 Instance State-change Notification"]
      account       = ["222222222222"]
      region        = ["us-east-1"]
      detail        = { state = ["running", "terminated"] }
    }
    error_message = aws_cloudwatch_event_rule.instance_state.event_pattern
  }

  assert {
    condition     = aws_cloudwatch_event_target.event_bus.arn == var.event_bus_arn && aws_cloudwatch_event_target.event_bus.dead_letter_config[0].arn == aws_sqs_queue.undelivered.arn && jsondecode(aws_sqs_queue_policy.undelivered.policy).Statement[0].Condition == { ArnEquals = { "aws:SourceArn" = "arn:aws:events:us-east-1:222222222222:rule/ec2-decommission-member-instance-state" } }
    error_message = "Events do not reach the bus, or are lost where they cannot."
  }

  assert {
    condition     = aws_iam_role.forwarder.name == "ec2-decommission-member-us-east-1" && output.role_arn == "arn:aws:iam::222222222222:role/ec2-decommission-member" && output.event_rule_arn == aws_cloudwatch_event_rule.instance_state.arn
    error_message = "A name is wrong."
  }

  assert {
    condition     = alltrue([for resource in concat([aws_cloudwatch_event_rule.instance_state, aws_sqs_queue.undelivered, aws_iam_role.forwarder], aws_iam_role.reader) : resource.tags["Team"] == "platform"]) && alltrue([for role in concat([aws_iam_role.forwarder], aws_iam_role.reader) : role.permissions_boundary == "arn:aws:iam::222222222222:policy/boundary"])
    error_message = "A role has no boundary, or a resource no tags."
  }
}

run "a_further_region_of_the_account_makes_no_reader_and_tells_its_arn" {
  module {
    source = "./modules/member"
  }

  variables {
    create_role = false
    role_name   = "reader"
  }

  assert {
    condition     = length(aws_iam_role.reader) == 0 && length(aws_iam_role_policy.reader) == 0 && output.role_arn == "arn:aws:iam::222222222222:role/reader" && aws_iam_role.forwarder.name == "reader-us-east-1"
    error_message = "The role would be made twice."
  }
}

run "without_an_external_id_none_is_asked_for" {
  module {
    source = "./modules/member"
  }

  variables {
    create_role = true
  }

  assert {
    condition     = !can(jsondecode(aws_iam_role.reader[0].assume_role_policy).Statement[0].Condition)
    error_message = aws_iam_role.reader[0].assume_role_policy
  }
}

run "rejects_what_is_no_bus_no_role_and_no_name" {
  command = plan

  module {
    source = "./modules/member"
  }

  variables {
    event_bus_arn            = "ec2-decommission-members"
    function_role_arn        = "arn:aws:iam::111111111111:user/somebody"
    external_id              = "a b"
    role_name                = "path/reader"
    permissions_boundary_arn = "boundary"
  }

  expect_failures = [var.event_bus_arn, var.function_role_arn, var.external_id, var.role_name, var.permissions_boundary_arn]
}
