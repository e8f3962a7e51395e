# Each alarm: its metric, its threshold, and the conditions under which it exists.

mock_provider "aws" {
  source = "./mocks"
}

variables {
  consul  = { enabled = true, url = "https://consul.example.com" }
  package = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" } }
  alarms  = { enabled = true }
}

run "alarms_are_off_by_default" {
  command = plan

  variables {
    alarms = {}
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 0 && length(aws_cloudwatch_dashboard.this) == 0 && output.dashboard_name == null
    error_message = "Something is made that nobody asked for."
  }
}

run "each_alarm_looks_at_its_metric" {
  command = plan

  assert {
    condition = {
      for key, alarm in aws_cloudwatch_metric_alarm.this : key => join(" ", [alarm.namespace, alarm.metric_name, alarm.statistic, alarm.comparison_operator, alarm.threshold])
      } == {
      configuration  = "EC2Decommission ConfigurationErrors Sum GreaterThanThreshold 0"
      dead-letters   = "AWS/SQS ApproximateNumberOfMessagesVisible Maximum GreaterThanThreshold 0"
      errors         = "AWS/Lambda Errors Sum GreaterThanThreshold 0"
      oldest-message = "AWS/SQS ApproximateAgeOfOldestMessage Maximum GreaterThanThreshold 3600"
      sweep-brake    = "EC2Decommission SweepBraked Maximum GreaterThanThreshold 0"
      sweep-failed   = "EC2Decommission SweepFailed Minimum GreaterThanThreshold 0"
      throttles      = "AWS/Lambda Throttles Sum GreaterThanThreshold 0"
      undelivered    = "AWS/Events InvocationsFailedToBeSentToDlq Sum GreaterThanThreshold 0"
      unfinished     = "EC2Decommission UnfinishedAge Maximum GreaterThanThreshold 3600"
    }
    error_message = "Alarms: ${jsonencode({ for key, alarm in aws_cloudwatch_metric_alarm.this : key => [alarm.namespace, alarm.metric_name, alarm.statistic, alarm.threshold] })}"
  }

  assert {
    condition = {
      for key, alarm in aws_cloudwatch_metric_alarm.this : key => one([for name, value in alarm.dimensions : "${name} ${value}"])
      } == {
      configuration  = "FunctionName ec2-decommission"
      dead-letters   = "QueueName ec2-decommission-dead-letters"
      errors         = "FunctionName ec2-decommission"
      oldest-message = "QueueName ec2-decommission"
      sweep-brake    = "FunctionName ec2-decommission"
      sweep-failed   = "FunctionName ec2-decommission"
      throttles      = "FunctionName ec2-decommission"
      undelivered    = "RuleName ec2-decommission-instance-state"
      unfinished     = "FunctionName ec2-decommission"
    }
    error_message = "Dimensions: ${jsonencode({ for key, alarm in aws_cloudwatch_metric_alarm.this : key => alarm.dimensions })}"
  }

  assert {
    condition     = alltrue([for key, alarm in aws_cloudwatch_metric_alarm.this : alarm.alarm_name == "ec2-decommission-${key}" && endswith(alarm.alarm_description, "docs/runbook.md#${key}")])
    error_message = "An alarm does not name its page in the runbook."
  }
}

run "a_quiet_fleet_is_no_alarm" {
  command = plan

  assert {
    condition     = alltrue([for alarm in values(aws_cloudwatch_metric_alarm.this) : alarm.treat_missing_data == "notBreaching"])
    error_message = "Missing data: ${jsonencode({ for key, alarm in aws_cloudwatch_metric_alarm.this : key => alarm.treat_missing_data })}"
  }
  assert {
    condition     = [for key in ["sweep-brake", "sweep-failed"] : aws_cloudwatch_metric_alarm.this[key].period * aws_cloudwatch_metric_alarm.this[key].evaluation_periods] == [3900, 7200]
    error_message = "The alarms of the hourly sweep do not last until the next one."
  }
}

run "the_alarms_of_a_rare_sweep_last_until_the_next_one" {
  command = plan

  variables {
    sweep = { schedule_expression = "rate(12 hours)" }
  }

  assert {
    condition     = [for key in ["sweep-brake", "sweep-failed"] : aws_cloudwatch_metric_alarm.this[key].period * aws_cloudwatch_metric_alarm.this[key].evaluation_periods] == [43500, 86400]
    error_message = "${aws_cloudwatch_metric_alarm.this["sweep-brake"].evaluation_periods}, ${aws_cloudwatch_metric_alarm.this["sweep-failed"].period}"
  }
}

run "the_alarms_of_a_sweep_by_the_calendar_look_back_as_far_as_cloudwatch_does" {
  command = plan

  variables {
    sweep = { schedule_expression = "cron(0 3 * * ? *)" }
  }

  assert {
    condition     = [for key in ["sweep-brake", "sweep-failed"] : aws_cloudwatch_metric_alarm.this[key].period * aws_cloudwatch_metric_alarm.this[key].evaluation_periods] == [86400, 86400]
    error_message = "${aws_cloudwatch_metric_alarm.this["sweep-brake"].evaluation_periods}, ${aws_cloudwatch_metric_alarm.this["sweep-failed"].period}"
  }
}

# A function that fails as a whole is retried after the visibility timeout, so its errors are never in adjacent periods.
run "three_tries_that_fail_fit_into_what_the_alarm_looks_at" {
  command = plan

  variables {
    function = { timeout = 900 }
  }

  assert {
    condition = alltrue([
      for key in ["errors", "throttles"] : aws_cloudwatch_metric_alarm.this[key].datapoints_to_alarm == 3 &&
      aws_cloudwatch_metric_alarm.this[key].evaluation_periods * aws_cloudwatch_metric_alarm.this[key].period >= 2 * aws_sqs_queue.events.visibility_timeout_seconds
    ])
    error_message = "Three tries lie further apart than the alarm looks back."
  }
}

# A permanent failure is retried after the longest delay. The alarm must not end in between.
run "an_alarm_lasts_from_one_try_to_the_next" {
  command = plan

  assert {
    condition = alltrue([
      for key in ["configuration", "unfinished"] : aws_cloudwatch_metric_alarm.this[key].datapoints_to_alarm == 1 &&
      aws_cloudwatch_metric_alarm.this[key].evaluation_periods * aws_cloudwatch_metric_alarm.this[key].period > 3600
    ])
    error_message = "The alarm would be over before the next try."
  }
}

# https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html#API_PutMetricAlarm_RequestParameters
run "the_longest_delays_stay_within_what_cloudwatch_takes" {
  command = plan

  variables {
    function = { timeout = 900 }
    queue    = { visibility_timeout_seconds = 43200, max_receive_count = 5, max_retry_delay_seconds = 36000 }
  }

  assert {
    condition     = alltrue([for alarm in values(aws_cloudwatch_metric_alarm.this) : alarm.evaluation_periods * alarm.period <= 86400 && alarm.datapoints_to_alarm <= alarm.evaluation_periods])
    error_message = "CloudWatch looks back over a day at most."
  }
}

run "without_the_sweep_there_is_no_alarm_for_it" {
  command = plan

  variables {
    sweep = { enabled = false }
  }

  assert {
    condition     = toset(keys(aws_cloudwatch_metric_alarm.this)) == toset(["configuration", "dead-letters", "errors", "oldest-message", "throttles", "undelivered", "unfinished"])
    error_message = "Alarms: ${jsonencode(keys(aws_cloudwatch_metric_alarm.this))}"
  }
}

# A new function.timeout changes only the function and the queue.
run "another_timeout_changes_no_alarm" {
  command = plan

  variables {
    function = { timeout = 30 }
  }

  assert {
    condition     = toset([for key in ["errors", "throttles"] : aws_cloudwatch_metric_alarm.this[key].evaluation_periods]) == toset([40])
    error_message = "The periods follow the timeout."
  }
}

run "members_events_are_watched_on_their_bus_and_the_runbook_is_where_the_user_keeps_it" {
  command = plan

  variables {
    organization = { members = { "222222222222" = {} } }
    package      = { type = "s3", s3 = { bucket = "artifacts", key = "package.zip", object_version = "1" }, bundle_included = true }
    alarms       = { enabled = true, runbook_url = "https://wiki.example.com/runbook" }
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["undelivered-members"].dimensions == tomap({ EventBusName = "ec2-decommission-members", RuleName = "ec2-decommission-members" }) && endswith(aws_cloudwatch_metric_alarm.this["undelivered-members"].alarm_description, " https://wiki.example.com/runbook#undelivered")
    error_message = "Events of members are lost in silence."
  }

  assert {
    condition     = endswith(aws_cloudwatch_metric_alarm.this["dead-letters"].alarm_description, " https://wiki.example.com/runbook#dead-letters")
    error_message = aws_cloudwatch_metric_alarm.this["dead-letters"].alarm_description
  }
}

run "without_the_inventory_there_is_no_alarm_for_the_sweep_that_needs_it" {
  command = plan

  variables {
    inventory = { enabled = false }
  }

  assert {
    condition     = !contains(keys(aws_cloudwatch_metric_alarm.this), "sweep-brake") && !contains(keys(aws_cloudwatch_metric_alarm.this), "sweep-failed")
    error_message = "Alarms: ${jsonencode(keys(aws_cloudwatch_metric_alarm.this))}"
  }
}

run "alarms_reach_their_actions_when_they_ring_and_when_they_are_over" {
  command = plan

  variables {
    alarms = { enabled = true, actions = ["arn:aws:sns:eu-west-1:123456789012:on-call"] }
  }

  assert {
    condition     = alltrue([for alarm in values(aws_cloudwatch_metric_alarm.this) : tolist(alarm.alarm_actions) == tolist(["arn:aws:sns:eu-west-1:123456789012:on-call"]) && tolist(alarm.ok_actions) == tolist(["arn:aws:sns:eu-west-1:123456789012:on-call"])])
    error_message = "An alarm rings where nobody hears it."
  }
}

run "the_age_from_which_an_event_is_late_is_the_users" {
  command = plan

  variables {
    alarms = { enabled = true, oldest_message_age_seconds = 7200 }
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.this["oldest-message"].threshold == 7200 && aws_cloudwatch_metric_alarm.this["unfinished"].threshold == 7200
    error_message = "An alarm rings by another age."
  }
}
