output "role_arn" {
  description = "ARN of the reader role, even if the call of another region created it."
  value       = "arn:${local.partition}:iam::${local.account_id}:role/${var.role_name}"
}

output "event_rule_arn" {
  description = "ARN of the EventBridge rule that forwards EC2's state changes."
  value       = aws_cloudwatch_event_rule.instance_state.arn
}

output "undelivered_queue_url" {
  description = "URL of the queue of events that the event bus did not accept."
  value       = aws_sqs_queue.undelivered.url
}

output "undelivered_queue_arn" {
  description = "ARN of the queue of events that the event bus did not accept."
  value       = aws_sqs_queue.undelivered.arn
}
