# Each alarm says that a person is needed, and its description names the page that says what to do.
#
# What is missing is no alarm by itself: a quiet fleet gives no datapoint. `missing = "ignore"` keeps the state until
# the next datapoint, where only that can say that it is over.

locals {
  # A message that the function did not answer for comes back after the visibility timeout: three tries lie two of
  # them apart. CloudWatch looks back over at most a day.
  periods_of_three_tries = min(288, max(12, ceil((2 * local.visibility_timeout_seconds + 600) / 300)))
  # Between two tries of a message lies at most the longest delay.
  periods_of_the_longest_delay = min(288, ceil(var.queue.max_retry_delay_seconds / 300) + 1)

  queue_alarms = {
    dead-letters = {
      description = "Events that could not be finished, or not be delivered, lie in the dead-letter queue. They are kept for 14 days from the event."
      namespace   = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", statistic = "Maximum"
      dimensions  = { QueueName = aws_sqs_queue.dead_letters.name }
      # One is one instance whose traces stay.
      threshold = 0, period = 300, periods = 1, datapoints = 1, missing = "notBreaching"
    }
    oldest-message = {
      description = "An event has waited for more than ${var.alarms.oldest_message_age_seconds} seconds to be taken up: the function falls behind, or takes nothing."
      # SQS leaves out what was received three times: the alarm `unfinished` is for what is tried and fails.
      namespace  = "AWS/SQS", metric = "ApproximateAgeOfOldestMessage", statistic = "Maximum"
      dimensions = { QueueName = aws_sqs_queue.events.name }
      threshold  = var.alarms.oldest_message_age_seconds, period = 300, periods = 1, datapoints = 1, missing = "notBreaching"
    }
    unfinished = {
      description = "An event of more than ${var.alarms.oldest_message_age_seconds} seconds ago was tried again, and failed again: a system that the function needs is down, or refuses."
      namespace   = local.metric_namespace, metric = "UnfinishedAge", statistic = "Maximum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      # Over when the longest delay has passed without such a try.
      threshold = var.alarms.oldest_message_age_seconds, period = 300, periods = local.periods_of_the_longest_delay, datapoints = 1, missing = "notBreaching"
    }
    undelivered = {
      description = "EventBridge could not hand an event to the queue, nor to the dead-letter queue: see the queue policies. The event is lost, and the sweep has to find it."
      namespace   = "AWS/Events", metric = "InvocationsFailedToBeSentToDlq", statistic = "Sum"
      dimensions  = { RuleName = aws_cloudwatch_event_rule.instance_state.name }
      threshold   = 0, period = 300, periods = 1, datapoints = 1, missing = "notBreaching"
    }
  }

  function_alarms = {
    errors = {
      description = "The function itself failed three times (a step that fails returns its message and does not count here): a crash, a timeout, or no memory left."
      namespace   = "AWS/Lambda", metric = "Errors", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      # Once is made good by the retry.
      threshold = 0, period = 300, periods = local.periods_of_three_tries, datapoints = 3, missing = "notBreaching"
    }
    throttles = {
      description = "Lambda had no room for the function three times: the account's concurrency is used up, or reserved_concurrent_executions is too low."
      namespace   = "AWS/Lambda", metric = "Throttles", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      threshold   = 0, period = 300, periods = local.periods_of_three_tries, datapoints = 3, missing = "notBreaching"
    }
    configuration = {
      description = "The function is set up wrongly, or lacks a right: no retry helps until somebody mends it. The log names what is missing on what."
      namespace   = local.metric_namespace, metric = "ConfigurationErrors", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      threshold   = 0, period = 300, periods = local.periods_of_the_longest_delay, datapoints = 1, missing = "notBreaching"
    }
  }

  sweep_alarms = {
    sweep-brake = {
      description = "The sweep found more instances gone than one sweep may remove, and removed nothing: somebody has to look at the list."
      namespace   = local.metric_namespace, metric = "SweepBraked", statistic = "Maximum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      # The brake holds until a sweep says otherwise.
      threshold = 0, period = 300, periods = 1, datapoints = 1, missing = "ignore"
    }
    sweep-failed = {
      description = "For two hours every sweep has failed: terminations whose event never came are not found."
      # The smallest value of the hour: one sweep that succeeded, a retry too, makes it 0.
      namespace  = local.metric_namespace, metric = "SweepFailed", statistic = "Minimum"
      dimensions = { FunctionName = aws_lambda_function.this.function_name }
      threshold  = 0, period = 3600, periods = 2, datapoints = 2, missing = "ignore"
    }
  }

  alarms = merge(local.queue_alarms, local.function_alarms, local.sweep_on ? local.sweep_alarms : {})
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = var.alarms.enabled ? local.alarms : {}

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = "${each.value.description} What to do: docs/runbook.md#${each.key}"
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
