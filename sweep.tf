# The sweep searches for terminations whose event was lost. It goes through the queue like an event.

resource "aws_cloudwatch_event_rule" "sweep" {
  count = local.sweep_on ? 1 : 0

  name                = local.sweep_rule_name
  description         = "Searches for terminated instances whose event was lost"
  schedule_expression = var.sweep.schedule_expression
  # While paused, sweeps would only pile up in the queue.
  state = local.has_work && !var.paused ? "ENABLED" : "DISABLED"

  tags = var.tags
}

resource "aws_cloudwatch_event_target" "sweep" {
  count = local.sweep_on ? 1 : 0

  rule      = aws_cloudwatch_event_rule.sweep[0].name
  target_id = "queue"
  arn       = aws_sqs_queue.events.arn

  input = jsonencode({
    source        = "ec2-decommission"
    "detail-type" = "EC2 Decommission Sweep"
    detail        = {}
  })

  # The next sweep replaces one that was not delivered, so there is no need to retry for a day.
  retry_policy {
    maximum_event_age_in_seconds = 3600
    maximum_retry_attempts       = 185
  }

  dead_letter_config {
    arn = aws_sqs_queue.dead_letters.arn
  }

  depends_on = [aws_sqs_queue_policy.events, aws_sqs_queue_policy.dead_letters]
}
