# What each toggle adds to the function's role, and nothing else.

# The real provider, with nobody to ask: a plan reaches no network, and checks more than a mock does.
provider "aws" {
  region                      = "eu-west-1"
  access_key                  = "test"
  secret_key                  = "test"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = true
}

variables {
  inventory = { enabled = false }
  # A plan cannot tell yet whether the code that it would build is the code that runs: see checks.tf.
  package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" } }
}

run "everything_off_leaves_the_function_its_queue_its_logs_and_a_look_at_instances" {
  command = plan

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["ReadInstances", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }

  assert {
    condition     = toset(data.aws_iam_policy_document.function.statement[*].sid) == toset(keys(local.function_statements))
    error_message = "The policy document is not made of the statements."
  }

  assert {
    condition     = toset(flatten(values(local.function_statements)[*].actions)) == toset(["ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces", "logs:CreateLogStream", "logs:PutLogEvents", "sqs:ChangeMessageVisibility", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"])
    error_message = "Actions: ${jsonencode(flatten(values(local.function_statements)[*].actions))}"
  }
}

run "route53_adds_its_zones_only" {
  command = plan

  variables {
    route53 = { enabled = true, zone_ids = ["Z1", "Z2"], record_names = ["{tag:Name}.example.internal"] }
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["ReadAndChangeRecords", "ReadInstances", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }

  assert {
    condition     = local.function_statements["ReadAndChangeRecords"].resources == ["arn:aws:route53:::hostedzone/Z1", "arn:aws:route53:::hostedzone/Z2"]
    error_message = "Resources: ${jsonencode(local.function_statements["ReadAndChangeRecords"].resources)}"
  }

  assert {
    condition     = toset(local.function_statements["ReadAndChangeRecords"].actions) == toset(["route53:ChangeResourceRecordSets", "route53:GetHostedZone", "route53:ListResourceRecordSets"])
    error_message = "Actions: ${jsonencode(local.function_statements["ReadAndChangeRecords"].actions)}"
  }
}

run "chef_and_its_secret_add_the_key_only" {
  command = plan

  variables {
    chef        = { enabled = true, server_url = "https://chef.example.com", client_name = "decommission" }
    secrets     = { chef_client_key = { path = "decommission/chef" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["OpenSecrets", "ReadInstances", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }

  assert {
    condition     = local.function_statements["OpenSecrets"].resources == ["arn:aws:kms:eu-west-1:123456789012:key/0f1e"] && local.function_statements["OpenSecrets"].actions == ["kms:Decrypt"]
    error_message = "The function may do more with keys than open with the given one."
  }

  assert {
    condition     = local.function_statements["OpenSecrets"].conditions[0].variable == "kms:EncryptionContext:FunctionName" && local.function_statements["OpenSecrets"].conditions[0].values == ["ec2-decommission"]
    error_message = "The function may open bundles of other functions."
  }
}

run "consul_without_a_token_adds_nothing" {
  command = plan

  variables {
    consul = { enabled = true, url = "https://consul.example.internal:8501" }
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["ReadInstances", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }
}

run "the_inventory_alone_adds_no_query_and_no_sending" {
  command = plan

  variables {
    inventory = { enabled = true }
    sweep     = { enabled = false }
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["ReadInstances", "RememberInstances", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }

  assert {
    condition     = toset(local.function_statements["RememberInstances"].actions) == toset(["dynamodb:BatchGetItem", "dynamodb:UpdateItem"])
    error_message = "Actions: ${jsonencode(local.function_statements["RememberInstances"].actions)}"
  }
}

run "the_sweep_adds_the_query_and_the_sending" {
  command = plan

  variables {
    inventory = { enabled = true }
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["ListLivingInstances", "ReadInstances", "RememberInstances", "SendWhatTheSweepFound", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }
}

run "a_vpc_adds_interfaces_for_lambda_and_not_for_the_code" {
  command = plan

  variables {
    vpc_config = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["AttachToVpc", "CodeMayNotAttachToVpc", "ReadInstances", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }

  assert {
    condition     = local.function_statements["CodeMayNotAttachToVpc"].effect == "Deny" && local.function_statements["CodeMayNotAttachToVpc"].conditions[0].variable == "lambda:SourceFunctionArn"
    error_message = "The function's code may make network interfaces."
  }
}

run "tracing_adds_the_traces" {
  command = plan

  variables {
    function = { tracing_mode = "Active" }
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["ReadInstances", "TakeEvents", "WriteLogs", "WriteTraces"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }
}

run "a_custom_step_adds_what_it_asks_for" {
  command = plan

  variables {
    custom_steps = {
      dns_mirror = {
        source_dir = "lambda/src/ec2_decommission"
        iam_statements = [{
          actions    = ["sns:Publish"]
          resources  = ["arn:aws:sns:eu-west-1:123456789012:t"]
          conditions = [{ test = "StringEquals", variable = "aws:ResourceTag/Team", values = ["web"] }]
        }]
      }
    }
  }

  assert {
    condition     = tolist(local.function_statements["CustomStepDnsMirror00"].actions) == tolist(["sns:Publish"]) && local.function_statements["CustomStepDnsMirror00"].conditions[0].variable == "aws:ResourceTag/Team" && length(local.function_statements) == 4
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }
}

run "a_custom_step_that_is_off_adds_nothing" {
  command = plan

  variables {
    custom_steps = {
      dns_mirror = {
        source_dir     = "lambda/src/ec2_decommission"
        enabled        = false
        iam_statements = [{ actions = ["sns:Publish"], resources = ["*"] }]
      }
    }
  }

  assert {
    condition     = length(local.function_statements) == 3
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }
}

run "only_what_aws_cannot_narrow_is_a_star" {
  command = plan

  variables {
    inventory   = { enabled = true }
    vpc_config  = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
    function    = { tracing_mode = "Active" }
    route53     = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    secrets     = { consul_token = { path = "decommission/consul" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  assert {
    condition = alltrue([
      for sid in ["ReadInstances", "AttachToVpc", "CodeMayNotAttachToVpc", "WriteTraces"] : local.function_statements[sid].resources == ["*"]
    ])
    error_message = "A statement of this list names resources now: take it off the list."
  }

  assert {
    condition     = local.function_statements["ReadAndChangeRecords"].resources == ["arn:aws:route53:::hostedzone/Z1"] && local.function_statements["OpenSecrets"].resources == ["arn:aws:kms:eu-west-1:123456789012:key/0f1e"]
    error_message = "A statement that AWS can narrow stands open."
  }
}

run "the_boundary_and_the_tags_reach_the_role" {
  command = plan

  variables {
    permissions_boundary_arn = "arn:aws:iam::123456789012:policy/boundary"
    tags                     = { Team = "platform" }
  }

  assert {
    condition     = aws_iam_role.function.permissions_boundary == "arn:aws:iam::123456789012:policy/boundary" && aws_iam_role.function.tags["Team"] == "platform"
    error_message = "The role has no boundary or no tags."
  }
}

run "rejects_a_policy_that_iam_would_refuse" {
  command = plan

  variables {
    route53 = { enabled = true, zone_ids = [for n in range(200) : "Z0123456789ABCDEF${n}"], record_names = ["{tag:Name}.example.internal"] }
  }

  expect_failures = [aws_iam_role_policy.function]
}

# Names that end in digits are no hindrance.
run "statements_of_custom_steps_keep_apart" {
  command = plan

  variables {
    custom_steps = {
      a  = { source_dir = "lambda/src/ec2_decommission", iam_statements = [for n in range(30) : { actions = ["sns:Publish"], resources = ["arn:aws:sns:eu-west-1:123456789012:topic-${n}"] }] }
      a1 = { source_dir = "lambda/src/ec2_decommission", iam_statements = [for n in range(11) : { actions = ["sns:Publish"], resources = ["arn:aws:sns:eu-west-1:123456789012:other-${n}"] }] }
    }
  }

  assert {
    condition     = length(local.function_statements) == 3 + 41 && alltrue([for sid in keys(local.function_statements) : can(regex("^[A-Za-z0-9]+$", sid))])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }
}

run "a_step_that_is_off_adds_nothing_though_it_is_described" {
  command = plan

  variables {
    route53 = { enabled = false, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    chef    = { enabled = false, server_url = "https://chef.example.com", client_name = "decommission" }
    consul  = { enabled = false, url = "https://consul.example.internal:8501", deregister_node = true }
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["ReadInstances", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }

  assert {
    condition     = local.config.route53 == null && local.config.chef == null && local.config.consul == null && length(local.features) == 0
    error_message = "The function is told of a step that is off."
  }
}

run "alarms_and_the_dashboard_add_nothing" {
  command = plan

  variables {
    alarms    = { enabled = true }
    dashboard = { enabled = true }
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["ReadInstances", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }
}

run "a_secret_of_a_custom_step_adds_the_key_only" {
  command = plan

  variables {
    custom_steps = { dns_mirror = { source_dir = "lambda/src/ec2_decommission", secrets = { token = { path = "decommission/mirror" } } } }
    kms_key_arn  = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  assert {
    condition     = toset(keys(local.function_statements)) == toset(["OpenSecrets", "ReadInstances", "TakeEvents", "WriteLogs"])
    error_message = "Statements: ${jsonencode(keys(local.function_statements))}"
  }
}
