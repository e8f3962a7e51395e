# Each alarm says that a person is needed.

locals {
  alarms = {
    dead-letters = {
      description = "Events that could not be finished, or not be delivered, lie in the dead-letter queue. They are kept for 14 days from the event."
      namespace   = "AWS/SQS", metric = "ApproximateNumberOfMessagesVisible", statistic = "Maximum"
      dimensions  = { QueueName = aws_sqs_queue.dead_letters.name }
      threshold   = 0, periods = 1
    }
    oldest-message = {
      description = "An event has been waiting for more than ${var.alarms.oldest_message_age_seconds} seconds: a system that the function needs is down, or the function falls behind."
      namespace   = "AWS/SQS", metric = "ApproximateAgeOfOldestMessage", statistic = "Maximum"
      dimensions  = { QueueName = aws_sqs_queue.events.name }
      threshold   = var.alarms.oldest_message_age_seconds, periods = 1
    }
    errors = {
      description = "The function itself failed (a step that fails returns its message and does not count here): three periods in a row."
      namespace   = "AWS/Lambda", metric = "Errors", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      threshold   = 0, periods = 3
    }
    throttles = {
      description = "Lambda had no room for the function: the account's concurrency is used up, or reserved_concurrent_executions is too low."
      namespace   = "AWS/Lambda", metric = "Throttles", statistic = "Sum"
      dimensions  = { FunctionName = aws_lambda_function.this.function_name }
      threshold   = 0, periods = 3
    }
    undelivered = {
      description = "EventBridge could not hand an event to the queue, nor to the dead-letter queue: see the queue policies."
      namespace   = "AWS/Events", metric = "InvocationsFailedToBeSentToDlq", statistic = "Sum"
      dimensions  = { RuleName = aws_cloudwatch_event_rule.instance_state.name }
      threshold   = 0, periods = 1
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = var.alarms.enabled ? local.alarms : {}

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  period              = 300
  evaluation_periods  = each.value.periods
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarms.actions
  ok_actions          = var.alarms.actions

  tags = var.tags
}
