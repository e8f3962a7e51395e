# Rejected input of queue, function, inventory, sweep, log group and alarms.

run "rejects_batch_size_of_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { batch_size = 0 }
  }

  expect_failures = [var.queue]
}

run "rejects_batch_size_above_10000" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { batch_size = 10001 }
  }

  expect_failures = [var.queue]
}

run "rejects_half_a_message" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { batch_size = 1.5 }
  }

  expect_failures = [var.queue]
}

run "rejects_window_above_300" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { batch_window_seconds = 301 }
  }

  expect_failures = [var.queue]
}

run "rejects_batch_above_10_without_window" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { batch_size = 11, batch_window_seconds = 0 }
  }

  expect_failures = [var.queue]
}

run "rejects_concurrency_of_one" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { max_concurrency = 1 }
  }

  expect_failures = [var.queue]
}

run "rejects_concurrency_above_1000" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { max_concurrency = 1001 }
  }

  expect_failures = [var.queue]
}

run "rejects_no_receive" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { max_receive_count = 0 }
  }

  expect_failures = [var.queue]
}

run "rejects_receive_count_above_1000" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { max_receive_count = 1001 }
  }

  expect_failures = [var.queue]
}

run "rejects_retry_delay_of_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { retry_delay_seconds = 0 }
  }

  expect_failures = [var.queue]
}

run "rejects_retry_delay_above_900" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { retry_delay_seconds = 901 }
  }

  expect_failures = [var.queue]
}

run "rejects_longest_delay_below_the_first" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { retry_delay_seconds = 60, max_retry_delay_seconds = 59 }
  }

  expect_failures = [var.queue]
}

run "rejects_longest_delay_above_36000" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { max_retry_delay_seconds = 36001 }
  }

  expect_failures = [var.queue]
}

run "rejects_visibility_below_six_times_the_timeout" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { visibility_timeout_seconds = 719 }
  }

  expect_failures = [var.queue]
}

run "rejects_visibility_above_12_hours" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { visibility_timeout_seconds = 43201 }
  }

  expect_failures = [var.queue]
}

run "rejects_retention_below_an_hour" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { message_retention_seconds = 3599 }
  }

  expect_failures = [var.queue]
}

run "rejects_retention_above_14_days" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { message_retention_seconds = 1209601 }
  }

  expect_failures = [var.queue]
}

run "rejects_retries_that_outlive_the_message" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue = { message_retention_seconds = 86400 }
  }

  expect_failures = [var.queue]
}

run "rejects_more_concurrency_than_reserved" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    queue    = { max_concurrency = 5 }
    function = { reserved_concurrent_executions = 4 }
  }

  expect_failures = [var.queue]
}

run "rejects_unknown_runtime" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { runtime = "python3.8" }
  }

  expect_failures = [var.function]
}

run "rejects_runtime_of_another_language" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { runtime = "nodejs22.x" }
  }

  expect_failures = [var.function]
}

run "rejects_unknown_architecture" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { architecture = "aarch64" }
  }

  expect_failures = [var.function]
}

run "rejects_memory_below_128" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { memory_size = 127 }
  }

  expect_failures = [var.function]
}

run "rejects_memory_above_10240" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { memory_size = 10241 }
  }

  expect_failures = [var.function]
}

run "rejects_timeout_below_30" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { timeout = 29 }
  }

  expect_failures = [var.function]
}

run "rejects_timeout_above_900" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { timeout = 901 }
  }

  expect_failures = [var.function]
}

run "rejects_log_level_in_small_letters" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { log_level = "info" }
  }

  expect_failures = [var.function]
}

run "rejects_reserved_concurrency_of_one" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { reserved_concurrent_executions = 1 }
  }

  expect_failures = [var.function]
}

run "rejects_unknown_tracing_mode" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    function = { tracing_mode = "On" }
  }

  expect_failures = [var.function]
}

run "rejects_retention_of_no_day" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    inventory = { retention_days = 0 }
  }

  expect_failures = [var.inventory]
}

run "rejects_retention_above_ten_years" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    inventory = { retention_days = 3651 }
  }

  expect_failures = [var.inventory]
}

run "rejects_inventory_that_forgets_before_the_queue" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    inventory = { retention_days = 13 }
  }

  expect_failures = [var.inventory]
}

run "rejects_rate_in_the_wrong_number" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { schedule_expression = "rate(1 hours)" }
  }

  expect_failures = [var.sweep]
}

run "rejects_crontab_line" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { schedule_expression = "0 3 * * *" }
  }

  expect_failures = [var.sweep]
}

run "rejects_cron_with_five_fields" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { schedule_expression = "cron(0 3 * * *)" }
  }

  expect_failures = [var.sweep]
}

run "rejects_sweep_of_no_instance" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { max_instances = 0 }
  }

  expect_failures = [var.sweep]
}

run "rejects_sweep_above_10000" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { max_instances = 10001 }
  }

  expect_failures = [var.sweep]
}

run "rejects_fraction_of_zero" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { max_fraction = 0 }
  }

  expect_failures = [var.sweep]
}

run "rejects_fraction_in_percent" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { max_fraction = 25 }
  }

  expect_failures = [var.sweep]
}

run "rejects_adoption_from_a_system_without_ec2_ids" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    route53 = { enabled = true, zone_ids = ["Z1"], record_names = ["{tag:Name}.example.internal"] }
    sweep   = { adopt = ["route53"] }
  }

  expect_failures = [var.sweep]
}

run "rejects_adoption_from_chef_while_its_step_is_off" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { adopt = ["chef"] }
  }

  expect_failures = [var.sweep]
}

run "rejects_adoption_from_consul_while_its_step_is_off" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef    = { enabled = true, server_url = "https://chef.example.com", client_name = "decommission" }
    secrets = { chef_client_key = { path = "chef" } }
    sweep   = { adopt = ["chef", "consul"] }
  }

  expect_failures = [var.sweep]
}

run "rejects_adoption_with_a_filter_by_tags" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    chef    = { enabled = true, server_url = "https://chef.example.com", client_name = "decommission" }
    secrets = { chef_client_key = { path = "chef" } }
    sweep   = { adopt = ["chef"] }

    instance_filter = { exclude_tags = { keep = ["yes"] } }
  }

  expect_failures = [var.sweep]
}

run "rejects_log_retention_that_cloudwatch_does_not_know" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    log_group = { retention_in_days = 31 }
  }

  expect_failures = [var.log_group]
}

run "rejects_log_key_without_arn" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    log_group = { kms_key_arn = "alias/logs" }
  }

  expect_failures = [var.log_group]
}

run "rejects_alarm_action_that_is_no_arn" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    alarms = { actions = ["ops@example.com"] }
  }

  expect_failures = [var.alarms]
}

run "rejects_six_alarm_actions" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    alarms = { actions = [for n in range(6) : "arn:aws:sns:eu-west-1:123456789012:t${n}"] }
  }

  expect_failures = [var.alarms]
}

run "rejects_alarm_age_below_a_minute" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    alarms = { oldest_message_age_seconds = 59 }
  }

  expect_failures = [var.alarms]
}

run "rejects_cron_with_both_days" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { schedule_expression = "cron(0 3 * * * *)" }
  }

  expect_failures = [var.sweep]
}

run "rejects_cron_with_no_day" {
  command = plan

  module {
    source = "./tests/variables"
  }

  variables {
    sweep = { schedule_expression = "cron(0 3 ? * ? *)" }
  }

  expect_failures = [var.sweep]
}
