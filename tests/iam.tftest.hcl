# The exact permissions that each toggle adds to the function's role.

mock_provider "aws" {
  source = "./mocks"
}

variables {
  inventory = { enabled = false }
  consul    = { enabled = true, url = "https://consul.example.com" }
  package   = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" } }
}

run "without_inventory_and_zones_the_function_has_its_queue_its_logs_and_a_look_at_instances" {
  assert {
    condition = { for s in jsondecode(output.function_policy_json).Statement : s.Sid => [s.Action, s.Resource] } == {
      ReadInstances = [["ec2:DescribeAddresses", "ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces"], ["*"]]
      TakeEvents    = [["sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"], ["arn:aws:sqs:eu-west-1:123456789012:ec2-decommission"]]
      WriteLogs     = [["logs:CreateLogStream", "logs:PutLogEvents"], ["arn:aws:logs:eu-west-1:123456789012:log-group:/aws/lambda/ec2-decommission:*"]]
    }
    error_message = output.function_policy_json
  }

  assert {
    condition     = aws_iam_role_policy.function[0].policy == output.function_policy_json && jsondecode(aws_iam_role.function[0].assume_role_policy).Statement[0].Principal == { Service = "lambda.amazonaws.com" }
    error_message = "The role does not have the policy, or somebody else may assume it."
  }
}

run "inventory_and_sweep_add_the_table_its_index_and_the_sending" {
  variables {
    inventory = { enabled = true }
  }

  assert {
    condition = { for s in jsondecode(output.function_policy_json).Statement : s.Sid => [s.Action, s.Resource] if !contains(["ReadInstances", "TakeEvents", "WriteLogs"], s.Sid) } == {
      ListWhatToSweep       = [["dynamodb:Query"], ["arn:aws:dynamodb:eu-west-1:123456789012:table/ec2-decommission-inventory/index/sweep"]]
      RememberInstances     = [["dynamodb:BatchGetItem", "dynamodb:UpdateItem"], ["arn:aws:dynamodb:eu-west-1:123456789012:table/ec2-decommission-inventory"]]
      SendWhatTheSweepFound = [["sqs:SendMessage"], ["arn:aws:sqs:eu-west-1:123456789012:ec2-decommission"]]
    }
    error_message = output.function_policy_json
  }
}

run "the_inventory_alone_adds_no_query_and_no_sending" {
  variables {
    inventory = { enabled = true }
    sweep     = { enabled = false }
  }

  assert {
    condition     = [for s in jsondecode(output.function_policy_json).Statement : s.Sid] == ["WriteLogs", "TakeEvents", "ReadInstances", "RememberInstances"]
    error_message = output.function_policy_json
  }
}

# A stolen role cannot change NS, MX, TXT or CAA records.
run "route53_adds_its_zones_and_the_types_and_actions_that_the_step_uses" {
  variables {
    inventory = {} # avoids a warning
    sweep     = { enabled = false }
    route53   = { enabled = true, zone_ids = ["Z1"], zones = [{ id = "Z2" }, { id = "Z3", role_arn = "arn:aws:iam::333333333333:role/dns" }, { id = "Z4", role_arn = "arn:aws:iam::333333333333:role/dns" }], record_names = ["{tag:Name}.example.internal"] }
  }

  assert {
    condition = { for s in jsondecode(output.function_policy_json).Statement : s.Sid => [s.Action, s.Resource] if strcontains(s.Sid, "Records") || strcontains(s.Sid, "Roles") } == {
      ReadRecords     = [["route53:GetHostedZone", "route53:ListResourceRecordSets"], ["arn:aws:route53:::hostedzone/Z1", "arn:aws:route53:::hostedzone/Z2"]]
      ChangeRecords   = [["route53:ChangeResourceRecordSets"], ["arn:aws:route53:::hostedzone/Z1", "arn:aws:route53:::hostedzone/Z2"]]
      AssumeZoneRoles = [["sts:AssumeRole"], ["arn:aws:iam::333333333333:role/dns"]]
    }
    error_message = output.function_policy_json
  }

  assert {
    condition = one([for s in jsondecode(output.function_policy_json).Statement : s.Condition if s.Sid == "ChangeRecords"]) == {
      "ForAllValues:StringEquals" = {
        "route53:ChangeResourceRecordSetsActions"     = ["CREATE", "DELETE"]
        "route53:ChangeResourceRecordSetsRecordTypes" = ["A", "AAAA", "CNAME", "PTR"]
      }
    }
    error_message = output.function_policy_json
  }
}

run "zones_with_roles_alone_add_no_right_of_the_functions_own" {
  variables {
    inventory = {}
    sweep     = { enabled = false }
    route53   = { enabled = true, zones = [{ id = "Z3", role_arn = "arn:aws:iam::333333333333:role/dns" }], record_names = ["{tag:Name}.example.internal"] }
  }

  assert {
    condition     = [for s in jsondecode(output.function_policy_json).Statement : s.Sid] == ["WriteLogs", "TakeEvents", "ReadInstances", "AssumeZoneRoles", "RememberInstances"]
    error_message = output.function_policy_json
  }
}

run "secrets_add_the_key_and_only_for_this_function" {
  variables {
    secrets     = { consul_token = { path = "decommission/consul" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    package     = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, bundle_included = true }
  }

  assert {
    condition = [for s in jsondecode(output.function_policy_json).Statement : s if !contains(["ReadInstances", "TakeEvents", "WriteLogs"], s.Sid)] == [{
      Sid       = "OpenSecrets"
      Effect    = "Allow"
      Action    = ["kms:Decrypt"]
      Resource  = ["arn:aws:kms:eu-west-1:123456789012:key/0f1e"]
      Condition = { StringEquals = { "kms:EncryptionContext:FunctionName" = "ec2-decommission" } }
    }]
    error_message = output.function_policy_json
  }
}

run "a_vpc_adds_interfaces_for_lambda_and_not_for_the_code" {
  variables {
    vpc_config = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"], ipv6_allowed_for_dual_stack = true }
  }

  assert {
    condition     = one([for s in jsondecode(output.function_policy_json).Statement : s.Condition if s.Effect == "Deny"]) == { ArnEquals = { "lambda:SourceFunctionArn" = "arn:aws:lambda:eu-west-1:123456789012:function:ec2-decommission" } }
    error_message = "The function's code may make network interfaces."
  }

  assert {
    condition     = aws_lambda_function.this.vpc_config[0].ipv6_allowed_for_dual_stack && toset(aws_lambda_function.this.vpc_config[0].subnet_ids) == toset(["subnet-1"])
    error_message = "The function is not in the VPC."
  }
}

run "results_audit_and_keys_of_the_users_own_add_their_rights" {
  variables {
    inventory     = { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/table" }
    queue         = { kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/queue" }
    function      = { environment_kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/environment", tracing_mode = "Active" }
    audit         = { bucket = "audit", prefix = "ec2/removed", kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/audit" }
    result_events = { enabled = true, event_bus_name = "results" }
  }

  assert {
    condition = { for s in jsondecode(output.function_policy_json).Statement : s.Sid => [s.Action, s.Resource] if strcontains(s.Sid, "Key") || contains(["OpenTheEnvironment", "SendResults", "KeepAndRestore", "ListWhatIsKept", "WriteTraces"], s.Sid) } == {
      UseTheKeyOfTheQueue     = [["kms:Decrypt", "kms:GenerateDataKey"], ["arn:aws:kms:eu-west-1:123456789012:key/queue"]]
      UseTheKeyOfTheInventory = [["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"], ["arn:aws:kms:eu-west-1:123456789012:key/table"]]
      UseTheKeyOfTheAudit     = [["kms:Decrypt", "kms:GenerateDataKey"], ["arn:aws:kms:eu-west-1:123456789012:key/audit"]]
      OpenTheEnvironment      = [["kms:Decrypt"], ["arn:aws:kms:eu-west-1:123456789012:key/environment"]]
      SendResults             = [["events:PutEvents"], ["arn:aws:events:eu-west-1:123456789012:event-bus/results"]]
      KeepAndRestore          = [["s3:GetObject", "s3:PutObject"], ["arn:aws:s3:::audit/ec2/removed/*"]]
      ListWhatIsKept          = [["s3:ListBucket"], ["arn:aws:s3:::audit"]]
      WriteTraces             = [["xray:PutTelemetryRecords", "xray:PutTraceSegments"], ["*"]]
    }
    error_message = output.function_policy_json
  }

  assert {
    condition     = one([for s in jsondecode(output.function_policy_json).Statement : s.Condition if s.Sid == "ListWhatIsKept"]) == { StringLike = { "s3:prefix" = "ec2/removed/*" } }
    error_message = "The function may list more of the bucket than its prefix."
  }

  assert {
    condition     = aws_sqs_queue.events.kms_master_key_id == "arn:aws:kms:eu-west-1:123456789012:key/queue" && aws_sqs_queue.dead_letters.kms_master_key_id == "arn:aws:kms:eu-west-1:123456789012:key/queue" && aws_dynamodb_table.inventory[0].server_side_encryption[0].kms_key_arn == "arn:aws:kms:eu-west-1:123456789012:key/table" && aws_lambda_function.this.kms_key_arn == "arn:aws:kms:eu-west-1:123456789012:key/environment"
    error_message = "Something is encrypted with another key."
  }

  assert {
    condition     = local.config.audit == { bucket = "audit", prefix = "ec2/removed/" } && local.config.result_events == { event_bus_name = "results" }
    error_message = "The function does not know where to write."
  }
}

run "custom_steps_add_what_they_ask_for_each_under_a_name_of_its_own" {
  variables {
    custom_steps = {
      dns_mirror = {
        source_dir = "lambda/src/ec2_decommission"
        iam_statements = [{
          actions   = ["sns:Publish"]
          resources = ["arn:aws:sns:eu-west-1:123456789012:t"]
          conditions = [
            { test = "StringEquals", variable = "aws:ResourceTag/Team", values = ["web"] },
            { test = "StringEquals", variable = "aws:ResourceTag/Team", values = ["api"] },
            { test = "StringLike", variable = "aws:ResourceTag/Env", values = ["p*"] },
          ]
        }]
      }
      a   = { source_dir = "lambda/src/ec2_decommission", iam_statements = [for n in range(11) : { actions = ["sns:Publish"], resources = ["arn:aws:sns:eu-west-1:123456789012:topic-${n}"] }] }
      a1  = { source_dir = "lambda/src/ec2_decommission", iam_statements = [for n in range(2) : { actions = ["sns:Publish"], resources = ["arn:aws:sns:eu-west-1:123456789012:other-${n}"] }] }
      off = { source_dir = "lambda/src/ec2_decommission", enabled = false, iam_statements = [{ actions = ["sns:Publish"], resources = ["*"] }] }
    }
  }

  assert {
    condition = one([for s in jsondecode(output.function_policy_json).Statement : s if s.Sid == "CustomStepDnsMirror00"]) == {
      Sid       = "CustomStepDnsMirror00"
      Effect    = "Allow"
      Action    = ["sns:Publish"]
      Resource  = ["arn:aws:sns:eu-west-1:123456789012:t"]
      Condition = { StringEquals = { "aws:ResourceTag/Team" = ["web", "api"] }, StringLike = { "aws:ResourceTag/Env" = ["p*"] } }
    }
    error_message = output.function_policy_json
  }

  assert {
    condition     = length(distinct([for s in jsondecode(output.function_policy_json).Statement : s.Sid if can(regex("^[A-Za-z0-9]+$", s.Sid))])) == 3 + 14
    error_message = output.function_policy_json
  }
}

run "steps_that_are_off_alarms_and_the_dashboard_add_nothing" {
  variables {
    route53   = { enabled = false, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    chef      = { enabled = false, server_url = "https://chef.example.com", client_name = "decommission" }
    alarms    = { enabled = true }
    dashboard = { enabled = true }
  }

  assert {
    condition     = [for s in jsondecode(output.function_policy_json).Statement : s.Sid] == ["WriteLogs", "TakeEvents", "ReadInstances"]
    error_message = output.function_policy_json
  }
}

run "path_boundary_and_tags_reach_the_role" {
  variables {
    function                 = { role_path = "/service/" }
    permissions_boundary_arn = "arn:aws:iam::123456789012:policy/boundary"
    tags                     = { Team = "platform" }
  }

  assert {
    condition     = aws_iam_role.function[0].name == "ec2-decommission-eu-west-1" && aws_iam_role.function[0].path == "/service/" && aws_iam_role.function[0].permissions_boundary == "arn:aws:iam::123456789012:policy/boundary" && aws_iam_role.function[0].tags["Team"] == "platform"
    error_message = "The role has no path, no boundary or no tags."
  }
}

run "with_a_role_of_ones_own_no_role_and_no_policy_is_made_and_the_policy_is_told" {
  variables {
    function = { role_arn = "arn:aws:iam::123456789012:role/team/own" }
  }

  assert {
    condition     = length(aws_iam_role.function) == 0 && length(aws_iam_role_policy.function) == 0 && aws_lambda_function.this.role == "arn:aws:iam::123456789012:role/team/own"
    error_message = "A role is made, or the function has another one."
  }

  assert {
    condition     = output.role_arn == "arn:aws:iam::123456789012:role/team/own" && output.role_name == "own" && length(jsondecode(output.function_policy_json).Statement) == 3
    error_message = "Who brings a role is not told what it needs."
  }
}

# The length is an upper bound that is known at the first plan.
run "the_longest_policy_is_longer_than_this_one" {
  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    secrets = { consul_token = { path = "decommission/consul" } }
    package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, bundle_included = true }

    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    inventory   = {}
  }

  assert {
    condition     = local.policy_characters > length(output.function_policy_json) && local.policy_characters < 4000
    error_message = "${local.policy_characters} characters at most, ${length(output.function_policy_json)} now."
  }
}

run "rejects_a_policy_that_iam_would_refuse" {
  command = plan

  variables {
    inventory = {}
    route53   = { enabled = true, zone_ids = [for n in range(110) : "Z0123456789ABCDEF${n}"], record_names = ["{tag:Name}.example.internal"] }
  }

  expect_failures = [aws_iam_role_policy.function]
}
