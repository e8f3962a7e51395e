# The resources, with the defaults and with each toggle.

mock_provider "aws" {
  source = "./mocks"
}

variables {
  consul  = { enabled = true, url = "https://consul.example.com" }
  package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" } }
}

run "defaults_delete_nothing_of_what_nobody_named_and_remember" {
  variables {
    consul = {}
  }

  expect_failures = [check.something_is_enabled]

  assert {
    condition     = output.effective_config.route53 == null && output.effective_config.chef == null && output.effective_config.consul == null && length(output.effective_config.custom_steps) == 0 && length(output.effective_config.http_steps) == 0
    error_message = "A step is on that nobody asked for."
  }

  assert {
    condition     = output.effective_config.inventory.retention_days == 30 && aws_dynamodb_table.inventory[0].name == "ec2-decommission-inventory" && length(aws_cloudwatch_event_rule.sweep) == 1 && length(output.effective_config.sweep.adopt) == 0
    error_message = "The inventory or the sweep is off, or adopts what nobody recorded."
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 0 && length(aws_kms_key.secrets) == 0 && output.kms_key_arn == null && length(output.effective_config.secrets) == 0 && output.effective_config.result_events == null && output.effective_config.audit == null
    error_message = "Something is made that nobody asked for."
  }

  assert {
    condition     = length(aws_lambda_function.this.vpc_config) == 0 && aws_lambda_function.this.runtime == "python3.13" && tolist(aws_lambda_function.this.architectures) == tolist(["arm64"]) && aws_lambda_function.this.reserved_concurrent_executions == -1
    error_message = "The function is not as described."
  }
}

run "defaults_lose_no_event_and_leave_nothing_in_clear_text" {
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
    error_message = "Something is kept forever."
  }

  assert {
    condition     = [for index in aws_dynamodb_table.inventory[0].global_secondary_index : [index.name, index.hash_key, index.range_key, index.projection_type]] == [["sweep", "sweep", "instance_id", "ALL"]]
    error_message = "The sweep cannot list what it has to look at."
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

run "each_queue_admits_the_modules_rules_only_and_nothing_in_clear_text" {
  assert {
    condition = jsondecode(aws_sqs_queue_policy.events.policy).Statement == [
      {
        Sid       = "AdmitTheRules"
        Effect    = "Allow"
        Principal = { Service = "events.amazonaws.com" }
        Action    = "sqs:SendMessage"
        Resource  = "arn:aws:sqs:eu-west-1:123456789012:ec2-decommission"
        Condition = { ArnEquals = { "aws:SourceArn" = ["arn:aws:events:eu-west-1:123456789012:rule/ec2-decommission-instance-state", "arn:aws:events:eu-west-1:123456789012:rule/ec2-decommission-sweep"] } }
      },
      {
        Sid       = "RefuseClearText"
        Effect    = "Deny"
        Principal = "*"
        Action    = "sqs:*"
        Resource  = "arn:aws:sqs:eu-west-1:123456789012:ec2-decommission"
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
    ] && aws_sqs_queue_policy.dead_letters.policy == replace(aws_sqs_queue_policy.events.policy, ":ec2-decommission\"", ":ec2-decommission-dead-letters\"")
    error_message = aws_sqs_queue_policy.events.policy
  }

  assert {
    condition     = jsondecode(aws_sqs_queue.events.redrive_policy) == { deadLetterTargetArn = aws_sqs_queue.dead_letters.arn, maxReceiveCount = 30 } && jsondecode(aws_sqs_queue_redrive_allow_policy.dead_letters.redrive_allow_policy) == { redrivePermission = "byQueue", sourceQueueArns = [aws_sqs_queue.events.arn] }
    error_message = "What cannot be finished does not become a dead letter, or another queue's becomes one here."
  }

  assert {
    condition     = aws_cloudwatch_event_target.instance_state.arn == aws_sqs_queue.events.arn && aws_cloudwatch_event_target.instance_state.dead_letter_config[0].arn == aws_sqs_queue.dead_letters.arn && aws_cloudwatch_event_target.sweep[0].arn == aws_sqs_queue.events.arn
    error_message = "The rules do not lead to the queue."
  }
}

run "outputs_are_those_of_the_contract" {
  variables {
    alarms = { enabled = true }
  }

  assert {
    condition     = output.function_name == "ec2-decommission" && output.role_name == "ec2-decommission-eu-west-1" && output.queue_url == aws_sqs_queue.events.url && output.queue_arn == aws_sqs_queue.events.arn && output.dead_letter_queue_url == aws_sqs_queue.dead_letters.url && output.log_group_name == "/aws/lambda/ec2-decommission" && output.event_rule_arn == aws_cloudwatch_event_rule.instance_state.arn && output.inventory_table_name == "ec2-decommission-inventory" && output.event_source_mapping_uuid == aws_lambda_event_source_mapping.events.uuid
    error_message = "An output is wrong."
  }

  assert {
    condition     = output.inventory_table_arn == aws_dynamodb_table.inventory[0].arn && output.log_group_arn == aws_cloudwatch_log_group.function.arn && output.alarm_arns["dead-letters"] == aws_cloudwatch_metric_alarm.this["dead-letters"].arn
    error_message = "An ARN is not told."
  }
}

# Its keys are exactly those that lambda/src/ec2_decommission/config.py reads.
run "the_function_reads_what_it_is_told" {
  variables {
    route53 = {
      enabled      = true
      zone_ids     = ["Z1"]
      zones        = [{ id = "Z2", role_arn = "arn:aws:iam::333333333333:role/dns", external_id = "x-1" }]
      record_names = ["{tag:Name}.example.internal"]
      keep_names   = ["db.*"]
      external_dns = { txt_prefix = "%%{record_type}-xdns." }
    }
    chef    = { enabled = true, server_url = "https://chef.example.com", client_name = "c" }
    secrets = { chef_client_key = { path = "a-path-in-vault" } }
    audit   = { bucket = "audit" }
    package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, bundle_included = true }

    kms_key_arn   = "arn:aws:kms:eu-west-1:123456789012:key/0f1e"
    result_events = { enabled = true }
  }

  assert {
    condition = jsondecode(aws_lambda_function.this.environment[0].variables["DECOMMISSION_CONFIG"]) == {
      name            = "ec2-decommission"
      account_id      = "123456789012"
      region          = "eu-west-1"
      dry_run         = false
      instance_filter = { include_tags = {}, exclude_tags = {} }
      route53 = {
        zones               = [{ id = "Z1" }, { id = "Z2", role_arn = "arn:aws:iam::333333333333:role/dns", external_id = "x-1" }]
        record_names        = ["{tag:Name}.example.internal"]
        external_dns        = { txt_prefix = "%%{record_type}-xdns.", txt_suffix = null, wildcard_replacement = null }
        keep_names          = ["db.*"]
        requests_per_second = 2.5
      }
      chef = {
        server_url       = "https://chef.example.com", client_name = "c", node_name = null, delete_client = true
        signing_protocol = "1.3", request_timeout_seconds = 10, max_concurrency = 8
      }
      consul = {
        url             = "https://consul.example.com", datacenters = [], node_name = null, lock_prefixes = []
        deregister_node = false, request_timeout_seconds = 10
      }
      inventory = { table_name = "ec2-decommission-inventory", retention_days = 30 }
      sweep     = { max_instances = 50, max_fraction = 0.25, adopt = [] }
      queue = {
        url               = "https://sqs.eu-west-1.amazonaws.com/123456789012/ec2-decommission", visibility_timeout_seconds = 725
        max_receive_count = 30, retry_delay_seconds = 60, max_retry_delay_seconds = 3600
      }
      result_events      = { event_bus_name = "default" }
      audit              = { bucket = "audit", prefix = "ec2-decommission/" }
      secrets            = ["chef_client_key"]
      encryption_context = { FunctionName = "ec2-decommission" }
      custom_steps       = {}
      settings_file      = false
    }
    error_message = aws_lambda_function.this.environment[0].variables["DECOMMISSION_CONFIG"]
  }

  assert {
    condition     = !strcontains(jsonencode(output.effective_config), "a-path-in-vault") && tolist(output.effective_config.secrets) == tolist(["chef_client_key"]) && join(",", output.effective_config.route53.zone_ids) == "Z1,Z2"
    error_message = "The outputs reveal more about the secrets than their names."
  }
}

run "everything_off_is_harmless" {
  variables {
    route53   = { enabled = false, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    chef      = { enabled = false, server_url = "https://chef.example.com", client_name = "c" }
    consul    = { enabled = false, url = "https://consul.example.internal:8501" }
    inventory = { enabled = false }
    sweep     = { enabled = false }
    alarms    = { enabled = false, actions = ["arn:aws:sns:eu-west-1:123456789012:t"] }
    dashboard = { enabled = false }
    custom_steps = {
      mine = { source_dir = "lambda/src/ec2_decommission", enabled = false }
    }
    http_steps = {
      off = { enabled = false, url = "https://a.example.com", find = { items = "@", id = "id" }, prove = { field = "i", equals = "{instance_id}" }, remove = { path = "/{id}" } }
    }
  }

  expect_failures = [check.something_is_enabled]

  assert {
    condition     = aws_cloudwatch_event_rule.instance_state.state == "DISABLED" && length(aws_cloudwatch_event_rule.sweep) == 0 && length(aws_cloudwatch_event_target.sweep) == 0
    error_message = "Events would be taken."
  }

  assert {
    condition     = length(aws_dynamodb_table.inventory) == 0 && length(aws_kms_key.secrets) == 0 && length(aws_cloudwatch_metric_alarm.this) == 0 && length(aws_cloudwatch_dashboard.this) == 0 && length(aws_lambda_layer_version.bundle) == 0
    error_message = "Something is made that costs."
  }

  assert {
    condition     = output.inventory_table_name == null && output.inventory_table_arn == null && output.kms_key_arn == null && output.sweep_rule_arn == null && output.dashboard_name == null && length(output.alarm_arns) == 0
    error_message = "An output is set for something that does not exist."
  }

  # An operator's call would run no step.
  assert {
    condition     = alltrue([for step in ["route53", "chef", "consul", "inventory", "sweep"] : local.config[step] == null]) && length(local.config.custom_steps) == 0 && local.settings == null
    error_message = "The function would do something."
  }
}

run "paused_takes_no_event_and_starts_no_sweep" {
  variables {
    paused = true
  }

  assert {
    condition     = aws_lambda_event_source_mapping.events.enabled == false && aws_cloudwatch_event_rule.sweep[0].state == "DISABLED" && output.effective_config.paused
    error_message = "Something still acts."
  }

  # Events wait in the queue.
  assert {
    condition     = aws_cloudwatch_event_rule.instance_state.state == "ENABLED"
    error_message = "Events are lost meanwhile."
  }
}

run "without_the_inventory_there_is_no_sweep_and_no_need_of_running" {
  variables {
    inventory = { enabled = false }
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
  variables {
    # "deregister", "retention" and "max_instance" are not attributes: Terraform drops them silently.
    consul    = { enabled = true, url = "http://consul.example.com:8500", deregister = true }
    inventory = { retention = 1 }
    sweep     = { max_instance = 10000 }
  }

  assert {
    condition     = output.effective_config.consul.deregister_node == false && output.effective_config.inventory.retention_days == 30 && output.effective_config.sweep.max_instances == 50
    error_message = "A default is not safe."
  }
}

run "each_invocation_has_its_share_of_the_requests_to_route53_and_one_try_has_no_wait" {
  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["x.{tag:Name}.example.internal"], max_requests_per_second = 2 }
    queue   = { max_concurrency = 6, max_receive_count = 1 }
  }

  assert {
    condition     = output.effective_config.route53.requests_per_second == 0.333 && output.effective_config.route53.max_requests_per_second == 2
    error_message = "Six invocations at once would have more than 2 requests a second, or less."
  }

  assert {
    condition     = output.effective_config.queue.longest_outage_seconds == 0
    error_message = "The waits add up to ${output.effective_config.queue.longest_outage_seconds} seconds."
  }
}

run "tags_reach_everything_that_takes_tags" {
  variables {
    tags         = { Team = "platform" }
    alarms       = { enabled = true }
    organization = { members = { "222222222222" = {} } }
    package      = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, bundle_included = true }
  }

  assert {
    condition = alltrue([
      for resource in concat(
        [aws_cloudwatch_event_rule.instance_state, aws_sqs_queue.events, aws_sqs_queue.dead_letters, aws_lambda_event_source_mapping.events, aws_lambda_function.this, aws_cloudwatch_log_group.function],
        aws_iam_role.function, aws_cloudwatch_event_rule.sweep, aws_dynamodb_table.inventory, values(aws_cloudwatch_metric_alarm.this),
        aws_cloudwatch_event_bus.members, aws_cloudwatch_event_rule.members,
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
