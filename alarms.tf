# Each alarm needs a person. Its description links to the page that says what to do.
#
# Missing data does not start an alarm: a quiet fleet writes no datapoints and costs nothing.

locals {
  # If the function does not answer, the message comes back after the visibility timeout. So three tries span two
  # timeouts. The minimum of 40 periods covers the longest function.timeout, so a change of the timeout changes no
  # alarm. CloudWatch looks back at most one day.
  periods_of_three_tries = min(288, max(40, ceil((2 * local.visibility_timeout_seconds + 600) / 300)))
  # Two tries of a message are at most the longest delay apart.
  periods_of_the_longest_delay = min(288, ceil(var.queue.max_retry_delay_seconds / 300) + 1)

  # The time from one sweep to the next, or one day for a cron expression.
  sweep_rate    = try(regex("^rate\\((\\d+) (minute|hour|day)", var.sweep.schedule_expression), ["1", "day"])
  sweep_seconds = tonumber(local.sweep_rate[0]) * { minute = 60, hour = 3600, day = 86400 }[local.sweep_rate[1]]
  # Whole hours that contain at least one sweep.
  sweep_period  = min(86400, ceil(local.sweep_seconds / 3600) * 3600)
  sweep_periods = local.sweep_period > 43200 ? 1 : 2 # CloudWatch looks back at most one day

  queue_alarms = {
    dead-letters = {
      description = "The dead-letter queue contains events that could not be finished or delivered. They are kept until 14 days after the event."
      namespace   = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", statistic = "Maximum"
      dimensions  = { QueueName = aws_sqs_queue.dead_letters.name }
      # One message is one instance that is not cleaned up.
      threshold = 0, period = 300, periods = 1, datapoints = 1, missing = "notBreaching"
    }
    oldest-message = {
      description = "An event has waited for more than ${var.alarms.oldest_message_age_seconds} seconds: the function falls behind, is paused or receives nothing."
      # This metric leaves out messages that were received three times. The alarm `unfinished` covers events that fail.
      namespace  = "AWS/SQS", metric = "ApproximateAgeOfOldestMessage", statistic = "Maximum"
      dimensions = { QueueName = aws_sqs_queue.events.name }
      threshold  = var.alarms.oldest_message_age_seconds, period = 300, periods = 1, datapoints = 1, missing = "notBreaching"
    }
    unfinished = {
      description = "An event older than ${var.alarms.oldest_message_age_seconds} seconds was tried again and failed again: a system that the function needs is down or refuses."
      namespace   = local.metric_namespace, metric = "UnfinishedAge", statistic = "Maximum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      # It ends when the longest delay has passed without such a failure.
      threshold = var.alarms.oldest_message_age_seconds, period = 300, periods = local.periods_of_the_longest_delay, datapoints = 1, missing = "notBreaching"
    }
    undelivered = {
      description = "EventBridge could deliver an event neither to the queue nor to the dead-letter queue: see the queue policies. The event is lost, and the sweep must find the instance."
      namespace   = "AWS/Events", metric = "InvocationsFailedToBeSentToDlq", statistic = "Sum"
      dimensions  = { RuleName = aws_cloudwatch_event_rule.instance_state.name }
      threshold   = 0, period = 300, periods = 1, datapoints = 1, missing = "notBreaching"
    }
  }

  function_alarms = {
    errors = {
      description = "The function itself failed three times (a failing step returns its message and does not count here): a crash, a timeout, or out of memory."
      namespace   = "AWS/Lambda", metric = "Errors", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      # A retry corrects a single failure.
      threshold = 0, period = 300, periods = local.periods_of_three_tries, datapoints = 3, missing = "notBreaching"
    }
    throttles = {
      description = "Lambda throttled the function three times: the account's concurrency is used up, or reserved_concurrent_executions is too low."
      namespace   = "AWS/Lambda", metric = "Throttles", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      threshold   = 0, period = 300, periods = local.periods_of_three_tries, datapoints = 3, missing = "notBreaching"
    }
    configuration = {
      description = "The function is misconfigured or lacks a permission, so retries fail until somebody fixes it. The log names the missing permission and its resource."
      namespace   = local.metric_namespace, metric = "ConfigurationErrors", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      threshold   = 0, period = 300, periods = local.periods_of_the_longest_delay, datapoints = 1, missing = "notBreaching"
    }
  }

  sweep_alarms = {
    sweep-brake = {
      description = "The sweep found more terminated instances than one sweep may decommission, and removed nothing: somebody must check the list."
      namespace   = local.metric_namespace, metric = "SweepBraked", statistic = "Maximum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      # It ends when the next sweep is not braked.
      threshold = 0, period = 300, periods = min(288, ceil(local.sweep_seconds / 300) + 1), datapoints = 1, missing = "notBreaching"
    }
    sweep-failed = {
      description = "One sweep after another has failed: terminations whose event was lost are not found."
      # The minimum of the period: a successful retry makes it 0.
      namespace  = local.metric_namespace, metric = "SweepFailed", statistic = "Minimum"
      dimensions = { FunctionName = aws_lambda_function.this.function_name }
      threshold  = 0, period = local.sweep_period, periods = local.sweep_periods, datapoints = local.sweep_periods, missing = "notBreaching"
    }
  }

  organization_alarms = {
    undelivered-members = {
      description = "EventBridge could deliver an event of a member account neither to the queue nor to the dead-letter queue: see the queue policies. The event is lost, and the sweep must find the instance."
      namespace   = "AWS/Events", metric = "InvocationsFailedToBeSentToDlq", statistic = "Sum"
      dimensions  = { EventBusName = local.event_bus_name, RuleName = local.members_rule_name }
      threshold   = 0, period = 300, periods = 1, datapoints = 1, missing = "notBreaching"
      page        = "undelivered"
    }
  }

  alarms = merge(
    local.queue_alarms,
    local.function_alarms,
    { for key, alarm in local.sweep_alarms : key => alarm if local.sweep_on },
    { for key, alarm in local.organization_alarms : key => alarm if var.organization != null },
  )
  runbook = coalesce(var.alarms.runbook_url, "docs/runbook.md")
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = { for key, alarm in local.alarms : key => alarm if local.alarms_on }

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.description} What to do: ${local.runbook}#${try(each.value.page, each.key)}"
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  period              = each.value.period
  evaluation_periods  = each.value.periods
  datapoints_to_alarm = each.value.datapoints
  treat_missing_data  = each.value.missing
  alarm_actions       = var.alarms.actions
  ok_actions          = var.alarms.actions

  tags = var.tags
}
