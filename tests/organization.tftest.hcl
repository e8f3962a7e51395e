# Members: the event bus, its policy and rule, the roles that the function can assume, and its members setting.

mock_provider "aws" {
  source = "./mocks"
}

# These tests build nothing (see `python`), so another file stands in for the zip.
override_resource {
  target = terraform_data.bundle
  values = { output = { zip = "LICENSE" } }
}

variables {
  consul  = { enabled = true, url = "https://consul.example.com" }
  package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, python = "true" }
}

run "without_an_organization_there_is_no_bus_and_only_the_own_place_is_heard" {
  assert {
    condition     = output.event_bus_arn == null && output.members_rule_arn == null && length(aws_cloudwatch_event_bus_policy.members) == 0
    error_message = "There is a bus that nobody asked for."
  }

  assert {
    condition = jsondecode(aws_cloudwatch_event_rule.instance_state.event_pattern) == {
      source        = ["aws.ec2"]
      "detail-type" = ["EC2 Instance State-change Notification"]
      account       = ["123456789012"]
      region        = ["eu-west-1"]
      detail        = { state = ["running", "terminated"] }
    }
    error_message = aws_cloudwatch_event_rule.instance_state.event_pattern
  }

  assert {
    condition     = local.config.settings_file == false && output.effective_config.organization == null
    error_message = "The function would read settings that are not there."
  }
}

run "members_are_admitted_by_account_heard_by_a_rule_and_asked_by_their_role" {
  variables {
    organization = {
      members = {
        "222222222222" = { regions = ["eu-west-1", "us-east-1"] }
        "333333333333" = {}
        "123456789012" = { regions = ["us-east-1"] }
      }
      external_id = "shared"
    }
  }

  assert {
    condition = jsondecode(aws_cloudwatch_event_bus_policy.members[0].policy).Statement == [{
      Sid       = "AdmitTheMembers"
      Effect    = "Allow"
      Principal = { AWS = ["arn:aws:iam::123456789012:root", "arn:aws:iam::222222222222:root", "arn:aws:iam::333333333333:root"] }
      Action    = "events:PutEvents"
      Resource  = "arn:aws:events:eu-west-1:123456789012:event-bus/ec2-decommission-members"
      Condition = { StringEquals = { "events:source" = "aws.ec2", "events:detail-type" = "EC2 Instance State-change Notification" } }
    }]
    error_message = aws_cloudwatch_event_bus_policy.members[0].policy
  }

  assert {
    condition = jsondecode(aws_cloudwatch_event_rule.members[0].event_pattern) == {
      source        = ["aws.ec2"]
      "detail-type" = ["EC2 Instance State-change Notification"]
      account       = ["123456789012", "222222222222", "333333333333"]
      detail        = { state = ["running", "terminated"] }
    }
    error_message = aws_cloudwatch_event_rule.members[0].event_pattern
  }

  assert {
    condition     = aws_cloudwatch_event_target.members[0].arn == aws_sqs_queue.events.arn && aws_cloudwatch_event_target.members[0].event_bus_name == "ec2-decommission-members" && aws_cloudwatch_event_target.members[0].dead_letter_config[0].arn == aws_sqs_queue.dead_letters.arn
    error_message = "The members' events do not reach the queue."
  }

  assert {
    condition = alltrue([for policy in values(local.queue_policies) : jsondecode(policy).Statement[0].Condition.ArnEquals["aws:SourceArn"] == [
      "arn:aws:events:eu-west-1:123456789012:rule/ec2-decommission-instance-state",
      "arn:aws:events:eu-west-1:123456789012:rule/ec2-decommission-sweep",
      "arn:aws:events:eu-west-1:123456789012:rule/ec2-decommission-members/ec2-decommission-members",
    ]])
    error_message = jsonencode(local.queue_policies)
  }

  # In its own account, the function uses its own permissions.
  assert {
    condition     = one([for s in jsondecode(output.function_policy_json).Statement : s.Resource if s.Sid == "AssumeMemberRoles"]) == ["arn:aws:iam::222222222222:role/ec2-decommission-member", "arn:aws:iam::333333333333:role/ec2-decommission-member"]
    error_message = output.function_policy_json
  }

  assert {
    condition = jsondecode(jsonencode(local.settings.organization)) == {
      role_name   = "ec2-decommission-member"
      external_id = "shared"
      members     = { "222222222222" = ["eu-west-1", "us-east-1"], "333333333333" = ["eu-west-1"], "123456789012" = ["us-east-1"] }
    }
    error_message = jsonencode(local.settings)
  }

  assert {
    condition     = local.config.settings_file && !strcontains(aws_lambda_function.this.environment[0].variables["DECOMMISSION_CONFIG"], "222222222222")
    error_message = "The members are in the environment, which is too small for them."
  }

  assert {
    condition     = output.event_bus_arn == aws_cloudwatch_event_bus.members[0].arn && output.effective_config.organization.members["333333333333"] == tolist(["eu-west-1"])
    error_message = "Members cannot be told where to send."
  }
}

run "an_organization_is_admitted_by_its_id" {
  variables {
    organization = { members = { "222222222222" = {} }, organization_id = "o-a1b2c3d4e5", role_name = "reader" }
    inventory    = { enabled = false }
  }

  assert {
    condition = jsondecode(aws_cloudwatch_event_bus_policy.members[0].policy).Statement[0].Principal == { AWS = ["*"] } && jsondecode(aws_cloudwatch_event_bus_policy.members[0].policy).Statement[0].Condition == {
      StringEquals = { "aws:PrincipalOrgID" = "o-a1b2c3d4e5", "events:source" = "aws.ec2", "events:detail-type" = "EC2 Instance State-change Notification" }
    }
    error_message = aws_cloudwatch_event_bus_policy.members[0].policy
  }

  assert {
    condition     = one([for s in jsondecode(output.function_policy_json).Statement : s.Resource if s.Sid == "AssumeMemberRoles"]) == ["arn:aws:iam::222222222222:role/reader"]
    error_message = output.function_policy_json
  }

  # This also applies without the inventory and its sweep.
  assert {
    condition     = contains([for s in jsondecode(output.function_policy_json).Statement : s.Sid], "SendWhatTheSweepFound")
    error_message = output.function_policy_json
  }
}

run "two_hundred_members_fit_without_an_organization_id" {
  variables {
    organization = { members = { for n in range(200) : format("%012d", n) => { regions = ["eu-west-1", "us-east-1", "us-west-2", "ap-southeast-1"] } } }
  }

  assert {
    condition     = length(aws_cloudwatch_event_bus_policy.members[0].policy) <= 10240 && length(aws_cloudwatch_event_rule.members[0].event_pattern) <= 2048 && !can(jsondecode(aws_cloudwatch_event_rule.members[0].event_pattern).account)
    error_message = "The bus policy has ${length(aws_cloudwatch_event_bus_policy.members[0].policy)} characters, the pattern ${length(aws_cloudwatch_event_rule.members[0].event_pattern)}."
  }

  assert {
    condition     = one([for s in jsondecode(output.function_policy_json).Statement : length(s.Condition.StringEquals["aws:ResourceAccount"]) if s.Sid == "AssumeMemberRoles" && s.Resource == ["arn:aws:iam::*:role/ec2-decommission-member"]]) == 200 && local.policy_characters <= 10240
    error_message = output.function_policy_json
  }
}

run "a_hundred_members_fit_into_the_pattern" {
  variables {
    organization = { members = { for n in range(100) : format("%012d", n) => {} } }
  }

  assert {
    condition     = length(aws_cloudwatch_event_rule.members[0].event_pattern) <= 2048 && length(jsondecode(aws_cloudwatch_event_rule.members[0].event_pattern).account) == 100
    error_message = "The pattern has ${length(aws_cloudwatch_event_rule.members[0].event_pattern)} characters."
  }
}

run "five_hundred_accounts_with_four_regions_fit" {
  variables {
    organization = {
      members         = { for n in range(500) : format("%012d", n) => { regions = ["eu-west-1", "us-east-1", "us-west-2", "ap-southeast-1"] } }
      organization_id = "o-a1b2c3d4e5"
    }
  }

  assert {
    condition     = one([for s in jsondecode(output.function_policy_json).Statement : s.Condition if s.Sid == "AssumeMemberRoles"]) == { StringEquals = { "aws:ResourceOrgID" = ["o-a1b2c3d4e5"] } } && local.policy_characters < 4000 && local.environment_bytes < 2000
    error_message = "The policy has up to ${local.policy_characters} characters, the environment ${local.environment_bytes} bytes."
  }

  assert {
    condition     = length(jsondecode(jsonencode(local.build_specs.bundle)).settings.organization.members) == 500
    error_message = "The settings do not reach the build."
  }

  assert {
    condition     = aws_lambda_function.this.memory_size == 3152
    error_message = "The function has ${aws_lambda_function.this.memory_size} MiB for 2,001 places."
  }
}
