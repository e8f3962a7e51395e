# What is made, with the defaults and with each toggle.

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
  # A plan cannot tell yet whether the code that it would build is the code that runs: see checks.tf.
  package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" } }
}

run "defaults_delete_nothing_and_remember" {
  command = plan

  assert {
    condition     = output.effective_config.route53 == null && output.effective_config.chef == null && output.effective_config.consul == null && length(output.effective_config.custom_steps) == 0
    error_message = "A step is on that nobody asked for."
  }

  assert {
    condition     = output.effective_config.inventory.retention_days == 30 && aws_dynamodb_table.inventory[0].name == "ec2-decommission-inventory" && length(aws_cloudwatch_event_rule.sweep) == 1
    error_message = "The inventory or the sweep is off."
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 0 && length(aws_kms_key.secrets) == 0 && output.kms_key_arn == null && length(output.effective_config.secrets) == 0
    error_message = "Something is made that nobody asked for."
  }

  assert {
    condition     = length(aws_lambda_function.this.vpc_config) == 0 && aws_lambda_function.this.runtime == "python3.13" && tolist(aws_lambda_function.this.architectures) == tolist(["arm64"]) && aws_lambda_function.this.reserved_concurrent_executions == -1
    error_message = "The function is not as described."
  }
}

run "defaults_lose_no_event_and_leave_nothing_in_clear_text" {
  command = plan

  assert {
    condition = jsondecode(aws_cloudwatch_event_rule.instance_state.event_pattern) == {
      source        = ["aws.ec2"]
      "detail-type" = ["EC2 Instance State-change Notification"]
      detail        = { state = ["running", "terminated"] }
    }
    error_message = aws_cloudwatch_event_rule.instance_state.event_pattern
  }

  assert {
    condition     = aws_cloudwatch_event_target.instance_state.retry_policy[0].maximum_retry_attempts == 185 && aws_cloudwatch_event_target.instance_state.retry_policy[0].maximum_event_age_in_seconds == 86400
    error_message = "The rule gives up early."
  }

  assert {
    condition     = toset(aws_lambda_event_source_mapping.events.function_response_types) == toset(["ReportBatchItemFailures"]) && aws_lambda_event_source_mapping.events.scaling_config[0].maximum_concurrency == 2
    error_message = "A failing message takes its batch with it, or nothing limits the concurrency."
  }

  assert {
    condition     = aws_sqs_queue.events.visibility_timeout_seconds >= 6 * aws_lambda_function.this.timeout
    error_message = "A message comes back while the function still works on it."
  }

  assert {
    condition     = aws_sqs_queue.events.sqs_managed_sse_enabled && aws_sqs_queue.dead_letters.sqs_managed_sse_enabled && aws_dynamodb_table.inventory[0].server_side_encryption[0].enabled && aws_dynamodb_table.inventory[0].point_in_time_recovery[0].enabled
    error_message = "Something lies in clear text, or cannot be restored."
  }

  assert {
    condition     = aws_cloudwatch_log_group.function.retention_in_days == 30 && aws_dynamodb_table.inventory[0].ttl[0].attribute_name == "expires_at"
    error_message = "Something is kept for ever."
  }

  assert {
    condition     = jsondecode(aws_cloudwatch_event_target.sweep[0].input) == { source = "ec2-decommission", "detail-type" = "EC2 Decommission Sweep", detail = {} } && aws_cloudwatch_event_rule.sweep[0].schedule_expression == "rate(1 hour)"
    error_message = "The function would not know the sweep's event."
  }

  assert {
    condition     = output.effective_config.queue.longest_outage_seconds == 86580
    error_message = "The waits add up to ${output.effective_config.queue.longest_outage_seconds} seconds."
  }

  assert {
    condition     = aws_sqs_queue.events.message_retention_seconds == 1209600 && aws_sqs_queue.dead_letters.message_retention_seconds == 1209600
    error_message = "Messages are dropped before their 14 days."
  }
}

run "one_try_has_no_wait" {
  command = plan

  variables {
    queue = { max_receive_count = 1 }
  }

  assert {
    condition     = output.effective_config.queue.longest_outage_seconds == 0
    error_message = "The waits add up to ${output.effective_config.queue.longest_outage_seconds} seconds."
  }
}

run "everything_off_is_harmless" {
  command = plan

  variables {
    route53   = { enabled = false, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    chef      = { enabled = false, server_url = "https://chef.example.com", client_name = "c" }
    consul    = { enabled = false, url = "https://consul.example.internal:8501" }
    inventory = { enabled = false }
    sweep     = { enabled = false }
    alarms    = { enabled = false }
    dashboard = { enabled = false }
    custom_steps = {
      mine = { source_dir = "lambda/src/ec2_decommission", enabled = false }
    }
  }

  assert {
    condition     = aws_cloudwatch_event_rule.instance_state.state == "DISABLED" && length(aws_cloudwatch_event_rule.sweep) == 0 && length(aws_cloudwatch_event_target.sweep) == 0
    error_message = "Events would be taken."
  }

  assert {
    condition     = length(aws_dynamodb_table.inventory) == 0 && length(aws_kms_key.secrets) == 0 && length(aws_cloudwatch_metric_alarm.this) == 0 && length(aws_cloudwatch_dashboard.this) == 0
    error_message = "Something is made that costs."
  }

  assert {
    condition     = output.inventory_table_name == null && output.kms_key_arn == null && output.sweep_rule_arn == null && output.dashboard_name == null
    error_message = "An output tells of what is not there."
  }

  # An operator's call would run no step.
  assert {
    condition     = alltrue([for step in ["route53", "chef", "consul", "inventory", "sweep"] : local.config[step] == null]) && length(local.config.custom_steps) == 0
    error_message = "The function would do something."
  }
}

run "adoption_is_off_until_it_is_asked_for" {
  command = plan

  assert {
    condition     = length(output.effective_config.sweep.adopt) == 0
    error_message = "Instances that nobody recorded would be adopted."
  }
}

run "what_is_adopted_from_is_told" {
  command = plan

  variables {
    chef    = { enabled = true, server_url = "https://chef.example.com", client_name = "decommission" }
    consul  = { enabled = true, url = "https://consul.example.internal:8501" }
    secrets = { chef_client_key = { path = "chef" } }
    sweep   = { adopt = ["chef", "consul"] }

    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555"
  }

  assert {
    condition     = join(",", output.effective_config.sweep.adopt) == "chef,consul" && join(",", local.config.sweep.adopt) == "chef,consul"
    error_message = jsonencode(output.effective_config.sweep)
  }
}

run "without_the_inventory_there_is_no_sweep_and_no_need_of_running" {
  command = plan

  variables {
    inventory = { enabled = false }
    route53   = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
  }

  assert {
    condition     = length(aws_cloudwatch_event_rule.sweep) == 0 && output.effective_config.sweep == null && output.effective_config.inventory == null
    error_message = "The sweep is on without what it reads."
  }

  assert {
    condition     = aws_cloudwatch_event_rule.instance_state.state == "ENABLED" && jsondecode(aws_cloudwatch_event_rule.instance_state.event_pattern).detail.state == ["terminated"]
    error_message = aws_cloudwatch_event_rule.instance_state.event_pattern
  }
}

run "a_misspelt_attribute_leaves_the_safe_default" {
  command = plan

  variables {
    # "deregister", "retention" and "max_instance" are not attributes: Terraform drops them in silence.
    consul    = { enabled = true, url = "http://consul:8500", deregister = true }
    inventory = { retention = 1 }
    sweep     = { max_instance = 10000 }
  }

  assert {
    condition     = output.effective_config.consul.deregister_node == false && output.effective_config.inventory.retention_days == 30 && output.effective_config.sweep.max_instances == 50
    error_message = "A default is not safe."
  }
}

run "names_of_every_allowed_form_are_taken" {
  command = plan

  variables {
    name = "a_b-C1"
    route53 = {
      enabled  = true
      zone_ids = ["Z1"]
      record_names = [
        "{tag:Name}.example.internal", "*.{hostname}.example.internal.", "{private_dns_name}", "{tag:Fqdn}",
        "ip-{private_ip_dashed}.{region}.{account_id}.example.internal", "{instance_id}.example.internal",
        "{tag:aws:autoscaling:groupName}-{instance_id}.example.internal", "_x.example.internal",
      ]
    }
  }

  assert {
    condition     = length(output.effective_config.route53.record_names) == 8 && aws_lambda_function.this.function_name == "a_b-C1" && aws_iam_role.function.name == "a_b-C1-eu-west-1"
    error_message = "A name was lost."
  }

  assert {
    condition     = output.effective_config.route53.requests_per_second == 2.5 && output.effective_config.route53.max_requests_per_second == 5
    error_message = "Two invocations at once have more than 5 requests a second to Route 53, or less."
  }
}

run "each_invocation_has_its_share_of_the_requests_to_route53" {
  command = plan

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["x.{tag:Name}.example.internal"], max_requests_per_second = 2 }
    queue   = { max_concurrency = 6 }
  }

  assert {
    condition     = output.effective_config.route53.requests_per_second == 0.333 && output.effective_config.route53.max_requests_per_second == 2
    error_message = "Six invocations at once would have more than 2 requests a second, or less."
  }
}

run "secrets_pass_by_name_only" {
  command = plan

  variables {
    chef        = { enabled = true, server_url = "https://chef.example.com", client_name = "c" }
    secrets     = { chef_client_key = { path = "a-path-in-vault" } }
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
  }

  assert {
    condition     = tolist(output.effective_config.secrets) == tolist(["chef_client_key"]) && !strcontains(jsonencode(local.config.chef), "a-path-in-vault") && output.kms_key_arn == "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    error_message = "The function is told more than the secrets' names."
  }
}

run "the_vpc_reaches_the_function" {
  command = plan

  variables {
    vpc_config = { subnet_ids = ["subnet-1", "subnet-2"], security_group_ids = ["sg-1"] }
  }

  assert {
    condition     = toset(aws_lambda_function.this.vpc_config[0].subnet_ids) == toset(["subnet-1", "subnet-2"])
    error_message = "The function is not in the VPC."
  }
}

run "tags_reach_everything_that_takes_tags" {
  command = plan

  variables {
    tags   = { Team = "platform" }
    alarms = { enabled = true }
  }

  assert {
    condition = alltrue([
      for resource in concat(
        [aws_cloudwatch_event_rule.instance_state, aws_sqs_queue.events, aws_sqs_queue.dead_letters, aws_lambda_event_source_mapping.events, aws_lambda_function.this, aws_cloudwatch_log_group.function, aws_iam_role.function],
        aws_cloudwatch_event_rule.sweep, aws_dynamodb_table.inventory, values(aws_cloudwatch_metric_alarm.this)
      ) : resource.tags["Team"] == "platform"
    ])
    error_message = "A resource has no tags."
  }
}

run "rejects_environment_above_4096_bytes" {
  command = plan

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = [for n in range(150) : "{tag:Name}.number-${n}.example.internal"] }
  }

  expect_failures = [aws_lambda_function.this]
}
